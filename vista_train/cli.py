"""`vista-train`: the small commands beside training."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vista_train.config import schema
from vista_train.data import ledger
from vista_train.data.check import Interrupted, check_manifest, shard_of
from vista_train.data.proxies import make_proxies
from vista_train.doctor import report
from vista_train.merge import DTYPES, LAYOUTS, merge
from vista_train.video.decode.sizes import Sizes
from vista_train.video.media import ISOLATION, Media


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit code 2 and one sentence for what the user can mend.

    `check`, `proxies` and `doctor` have 1 besides, for what they found, and the first two 130."""
    parser = argparse.ArgumentParser(prog="vista-train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    printing = commands.add_parser("schema", help="print the JSON schema of a recipe")
    printing.add_argument("--family", default="tiny", help="whose settings stand under `family`")
    _describe_check(commands.add_parser("check", help="look into every file that a manifest names, and clean it"))
    _describe_proxies(commands.add_parser("proxies", help="make small, quick versions of a manifest's files"))
    _describe_ledger(commands.add_parser("ledger", help="what a run has lost, by reason and source"))
    commands.add_parser("doctor", help="versions, known holes, and what protection this machine can give")
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
        if arguments.command == "ledger":
            return _ledger(arguments)
        if arguments.command == "doctor":
            told, num_warnings = report()
            print(told)
            return 1 if num_warnings else 0
        return _proxies(arguments) if arguments.command == "proxies" else _check(arguments)
    except Interrupted as error:
        print(f"vista_train: {error}", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"vista_train: {error}", file=sys.stderr)
        return 2


def _describe_ledger(showing: argparse.ArgumentParser) -> None:
    showing.add_argument("run", type=Path, help="the output folder of a run, or a ledger")
    showing.add_argument("--reason", help="only losses of this kind, such as MediaTimeout")
    showing.add_argument("--source", help="only losses of this manifest, by its name")
    showing.add_argument("--json", action="store_true", help="one JSON object a loss")


def _ledger(arguments: argparse.Namespace) -> int:
    path = arguments.run / ledger.NAME if arguments.run.is_dir() else arguments.run
    # A run that has lost nothing has no ledger, but a lock from its first moment on.
    if not path.exists() and not (arguments.run / ".lock").exists():
        raise ValueError(f"{arguments.run}: there is no run here; name the output folder of one")
    losses = ledger.read(path)
    if arguments.reason:
        losses = [loss for loss in losses if loss.kind == arguments.reason]
    if arguments.source:
        losses = [loss for loss in losses if loss.source == arguments.source]
    if arguments.json:
        for loss in losses:
            print(json.dumps({"kind": loss.kind, **dataclasses.asdict(loss)}))
    else:
        print(ledger.table(losses))
    return 0


def _describe_check(checking: argparse.ArgumentParser) -> None:
    _describe_files(checking, "files that are looked into at a time")
    checking.add_argument("--out", help="the clean manifest to write (default: <name>.clean.jsonl beside the manifest)")
    checking.add_argument("--retry", action="store_true", help="look again into files that failed in a run before")


def _describe_proxies(making: argparse.ArgumentParser) -> None:
    _describe_files(making, "files that are worked on at a time")
    making.add_argument("--out", required=True, help="the folder to fill, data.proxies in recipes")
    making.add_argument("--short-edge", type=int, default=336, help="shorter side of the small videos, in pixels")
    making.add_argument(
        "--tiles", type=int, nargs="?", const=48, metavar="PX",
        help="beside them, all pictures as plain bytes, their shorter side so many pixels (48 if not said)",
    )  # fmt: skip
    making.add_argument("--tile-fps", type=float, help="tiles a second, at most (default: every frame)")


def _describe_files(parser: argparse.ArgumentParser, at_a_time: str) -> None:
    parser.add_argument("manifest", help="a JSONL manifest")
    parser.add_argument("--root", default=".", help="the folder its paths are relative to")
    parser.add_argument("--workers", type=int, help=f"{at_a_time} (default: the cores)")
    parser.add_argument("--shard", default="1/1", help="i/n: only every n-th file, from the i-th on, i from 1 to n")
    parser.add_argument("--cache", help="where indexes are kept (default: $VISTA_TRAIN_CACHE or ~/.cache/vista_train)")
    parser.add_argument("--allow-symlinks", action="store_true", help="as data.allow_symlinks")
    parser.add_argument("--allow-absolute", action="store_true", help="as data.allow_absolute")
    parser.add_argument("--isolate", choices=ISOLATION, default="process", help="as data.isolate")


def _media(arguments: argparse.Namespace, makes_proxies: bool = False) -> Media:
    return Media(
        arguments.root,
        isolate=arguments.isolate,
        allow_symlinks=arguments.allow_symlinks,
        allow_absolute=arguments.allow_absolute,
        makes_proxies=makes_proxies,
    )


def _proxies(arguments: argparse.Namespace) -> int:
    made = make_proxies(
        arguments.manifest,
        _media(arguments, makes_proxies=True),
        arguments.out,
        Sizes(arguments.short_edge, arguments.tiles, arguments.tile_fps),
        shard=shard_of(arguments.shard),
        workers=arguments.workers,
        cache=arguments.cache,
    )
    print(made)
    return 1 if made.failed else 0


def _check(arguments: argparse.Namespace) -> int:
    outcome = check_manifest(
        arguments.manifest,
        _media(arguments),
        out=arguments.out,
        shard=shard_of(arguments.shard),
        workers=arguments.workers,
        cache=arguments.cache,
        retry=arguments.retry,
    )
    print(outcome)
    return 1 if outcome.refused else 0


if __name__ == "__main__":
    sys.exit(main())
