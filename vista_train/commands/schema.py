"""Print the JSON schema of a recipe."""

from __future__ import annotations

import argparse
import json

from vista_train.config import schema


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", default="tiny", help="whose settings stand under `family`")


def run(arguments: argparse.Namespace) -> int:
    print(json.dumps(schema(arguments.family), indent=2))
    return 0
