"""Run by `accelerate launch` in each of several processes: trains the recipes of a JSON file, one after another."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vista_train.config import parse_recipe
from vista_train.train import train
from vista_train.training.loop import shut_down


def main(path: str) -> None:
    for data in json.loads(Path(path).read_text()):
        train(parse_recipe(data))
    shut_down()


if __name__ == "__main__":
    main(sys.argv[1])
