"""`vista-train`: the small commands beside training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vista_train.config import schema
from vista_train.data.sources import check
from vista_train.merge import DTYPES, LAYOUTS, merge


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit code 2 and one sentence for what the user can mend."""
    parser = argparse.ArgumentParser(prog="vista-train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    printing = commands.add_parser("schema", help="print the JSON schema of a recipe")
    printing.add_argument("--family", default="tiny", help="whose settings stand under `family`")
    checking = commands.add_parser("check", help="validate a manifest and probe every file it names")
    checking.add_argument("manifest", help="a JSONL manifest")
    checking.add_argument("--root", default=".", help="the folder its paths are relative to")
    checking.add_argument(
        "--cache", help="where indexes are kept (default: $VISTA_TRAIN_CACHE or ~/.cache/vista_train)"
    )
    merging = commands.add_parser("merge", help="make a plain checkpoint of one that a run wrote, adapters and all")
    merging.add_argument("checkpoint", type=Path, help="a folder step-* with its recipe.yaml")
    merging.add_argument("out", type=Path, help="the folder to write; it must be empty or not there")
    merging.add_argument("--base", help="where the recipe's family.path lies now, if it was moved")
    merging.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the base checkpoint's, or float32)")
    merging.add_argument(
        "--layout", choices=LAYOUTS, default="hub", help="the Hub's, or the one the model was published in"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "schema":
            print(json.dumps(schema(arguments.family), indent=2))
            return 0
        if arguments.command == "merge":
            merge(arguments.checkpoint, arguments.out, arguments.dtype, arguments.layout, arguments.base)
            print(f"checkpoint {arguments.out}")
            return 0
        source = check(arguments.manifest, arguments.root, arguments.cache)
    except ValueError as error:
        print(f"vista_train: {error}", file=sys.stderr)
        return 2
    for key, reason in source.unusable:
        print(f"left out: {key}: {reason}")
    print(f"{len(source)} clips can be used, {len(source.unusable)} cannot")
    return 0


if __name__ == "__main__":
    sys.exit(main())
