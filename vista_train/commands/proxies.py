"""Make small, quick versions of a manifest's files. Exit code 1 where files could not be had."""

from __future__ import annotations

import argparse

from vista_train.commands.files import describe_files, media_of
from vista_train.data.check import shard_of
from vista_train.data.proxies import make_proxies
from vista_train.video.decode.sizes import Sizes


def describe(parser: argparse.ArgumentParser) -> None:
    describe_files(parser, "files that are worked on at a time")
    parser.add_argument("--out", required=True, help="the folder to fill, data.proxies in recipes")
    parser.add_argument("--short-edge", type=int, default=336, help="shorter side of the small videos, in pixels")
    parser.add_argument(
        "--tiles", type=int, nargs="?", const=48, metavar="PX",
        help="beside them, all pictures as plain bytes, their shorter side so many pixels (48 if not said)",
    )  # fmt: skip
    parser.add_argument("--tile-fps", type=float, help="tiles a second, at most (default: every frame)")


def run(arguments: argparse.Namespace) -> int:
    made = make_proxies(
        arguments.manifest,
        media_of(arguments, makes_proxies=True),
        arguments.out,
        Sizes(arguments.short_edge, arguments.tiles, arguments.tile_fps),
        shard=shard_of(arguments.shard),
        workers=arguments.workers,
        cache=arguments.cache,
    )
    print(made)
    return 1 if made.failed else 0
