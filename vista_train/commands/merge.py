"""Make a plain checkpoint of one that a run wrote, adapters and all."""

from __future__ import annotations

import argparse
from pathlib import Path

from vista_train.merge import DTYPES, LAYOUTS, merge


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a folder step-* with its recipe.yaml")
    parser.add_argument("out", type=Path, help="the folder to write; it must be empty or not there")
    parser.add_argument("--base", help="where the recipe's family.path lies now, if it was moved")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the base checkpoint's, or float32)")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="hub", help="the Hub's, or the one the model was published in"
    )


def run(arguments: argparse.Namespace) -> int:
    merge(arguments.checkpoint, arguments.out, arguments.dtype, arguments.layout, arguments.base)
    print(f"checkpoint {arguments.out}")
    return 0
