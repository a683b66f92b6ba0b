"""Write composed videos and their questions to disk, in the layout of VISTA-400K or as the tars of webdataset. Exit
code 1 where some were lost."""

from __future__ import annotations

import argparse
from pathlib import Path

from vista_train.config import load_recipe
from vista_train.data.check import num_cores, shard_of
from vista_train.synthesis.export import Shape, export
from vista_train.video.geometry import exact

SHARD_SIZE = 256


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change")
    parser.add_argument("--out", type=Path, required=True, help="the folder to fill; a later run goes on there")
    parser.add_argument("--count", type=int, default=100, help="how many training positions")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--fps", default="24", help="frames a second, such as 24 or 30000/1001")
    parser.add_argument("--short-edge", type=int, help="shorter side in pixels, at most (default: as composed)")
    parser.add_argument("--webdataset", action="store_true", help="tars with <name>.mp4 and <name>.json side by side")
    parser.add_argument("--shard-size", type=int, help="training positions in a tar (default: 256)")
    parser.add_argument(
        "--shard", default="1/1", help="i/n: only every n-th sample (or tar), from the i-th on, i from 1 to n"
    )
    parser.add_argument("--workers", type=int, help="samples that are made at a time (default: the cores)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.count < 1 or arguments.first < 0:
        raise ValueError(f"--count is {arguments.count}, --first {arguments.first}; they must be 1, and 0 or more")
    if arguments.shard_size is not None and not arguments.webdataset:
        raise ValueError(f"--shard-size is {arguments.shard_size}; it is for --webdataset, which is not given")
    shard_size = SHARD_SIZE if arguments.webdataset and arguments.shard_size is None else arguments.shard_size
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    shape = Shape(exact(arguments.fps), arguments.short_edge)
    workers = num_cores() if arguments.workers is None else arguments.workers
    if workers < 1:
        raise ValueError(f"--workers is {workers}; at least one must do the work")
    dataset = recipe.make_dataset(recipe.make_family().codec)
    positions = range(arguments.first, arguments.first + arguments.count)
    exported = export(dataset, arguments.out, positions, shape, shard_of(arguments.shard), workers, shard_size)
    print(exported)
    return 1 if exported.lost else 0
