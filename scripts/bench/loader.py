"""Frames a second and core of the whole path (compose, decode, encode, pack) for every augmentation, and where they go.

    python scripts/bench/loader.py [--workers 1 2] [--kinds plain video_grid mix] [--samples 8] [--json]

The tiny family on a rendered world with some long files, 64 frames at 336x336 a sample. `originals` decodes the clips
themselves, `small` what `vista-train proxies --tiles 48` has made of them. `mix` draws from all augmentations evenly.

First table: frames per CPU second of all processes of a loader, one that only takes rows from it, with so many
workers; and frames per second on the clock, which other work on the machine slows down. Second table: where the CPU
time of one process goes that does all of it itself, in ms a frame; compose is both plans of a sample, of its step and
of its own. wait is when it did not run: for the disk, or for others on its core. Ways take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from augmentations import make_world

from vista_train.augment import REGISTRY
from vista_train.config import parse_recipe
from vista_train.data import dataset as dataset_module
from vista_train.data.collate import PackedCollator
from vista_train.data.dataset import VistaDataset
from vista_train.data.proxies import make_proxies
from vista_train.data.rows import RowBudget, RowPlanner, row_loader
from vista_train.video import renditions
from vista_train.video.decode.pyav import Scaler
from vista_train.video.decode.sizes import Sizes
from vista_train.video.media import Media

MIX = "mix"
STEPS = 2
ROWS_AHEAD = 2
PHASES = ("compose", "decode", "convert", "paint", "encode", "pack", "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=[*REGISTRY, MIX])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=8, help=f"samples a step, of which every run has {STEPS}")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, default=336, help="side of the canvas in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--manifest", type=Path, help="clips beside this file, instead of a rendered world")
    parser.add_argument("--out", type=Path, default=Path("out/bench_clips"), help="where the world is made, and kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    manifest = args.manifest or make_world(args.out)
    proxies = args.out / f"proxies_{manifest.stem}_{args.size}"
    media = Media(manifest.parent, makes_proxies=True)
    print(make_proxies(manifest, media, proxies, Sizes(args.size, 48), workers=1, cache=args.out / "cache"))
    view = {"frames": args.frames, "width": args.size, "height": args.size}
    budget = RowBudget(batch_samples=args.samples)
    ways = {
        (kind, source): made_dataset(kind, manifest, view, args.out / "cache", proxies if source == "small" else None)
        for kind in args.kinds
        for source in ("originals", "small")
    }
    found = [
        {"kind": kind, "source": source, **figures}
        for (kind, source), figures in measure(ways, budget, args.workers, args.repeats).items()
    ]
    print_tables(found, args.workers)
    if args.json:
        print(json.dumps({"repeats": args.repeats, "figures": found}))


def made_dataset(kind: str, manifest: Path, view: Mapping[str, int], cache: Path, proxies: Path | None) -> VistaDataset:
    """A dataset of one augmentation, or of all."""
    patches = (view["width"] // 14) * (view["height"] // 14)
    recipe = parse_recipe(
        {
            "family": {"name": "tiny", "max_tokens": 2048 + view["frames"] * patches},
            "view": {**view, "min_pixels": max(1, view["width"] // 24)},
            "data": {
                "root": str(manifest.parent), "manifests": [{"path": manifest.name}], "isolate": "inline",
                "cache": str(cache), **({"proxies": str(proxies)} if proxies else {}),
            },
            "augment": {kind: {}} if kind != MIX else {name: {} for name, kind in REGISTRY.items() if kind.by_default},
            "train": {"max_row_tokens": 2048 + view["frames"] * patches},
        }
    )  # fmt: skip
    return recipe.make_dataset(recipe.make_family().codec)


def measure(
    ways: Mapping[Any, VistaDataset], budget: RowBudget, workers: Sequence[int], repeats: int
) -> dict[Any, dict[str, float]]:
    """Medians for every kind and source; the first turn, in which files are first read, is left out."""
    spent: dict[Any, dict[str, list[float]]] = {way: defaultdict(list) for way in ways}
    shares = Shares()
    for turn in range(repeats + 1):
        for way, dataset in ways.items():
            found = in_one_process(dataset, budget, turn, shares)
            for number in workers if turn else ():
                found |= with_workers(dataset, budget, turn, number)
            for name, value in found.items() if turn else ():
                spent[way][name].append(value)
    return {way: {name: statistics.median(values) for name, values in found.items()} for way, found in spent.items()}


def num_frames(dataset: VistaDataset, budget: RowBudget, turn: int, workers: int) -> int:
    """Load the turn's steps; the frames in them."""
    planner = RowPlanner(dataset, budget, turn * STEPS, (turn + 1) * STEPS, 0, 1)
    return sum(len(frames) for _, row in row_loader(planner, workers, ROWS_AHEAD, False) for frames in row.frames)


def with_workers(dataset: VistaDataset, budget: RowBudget, turn: int, workers: int) -> dict[str, float]:
    """Frames per CPU second and per second of a loader that nobody keeps waiting."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    frames = num_frames(dataset, budget, turn, workers)
    wall = time.perf_counter() - wall
    # Workers have ended with the last row, and what they took is known.
    cpu = cpu_seconds() - cpu
    return {f"per_core_{workers}": frames / cpu, f"per_second_{workers}": frames / wall}


def cpu_seconds() -> float:
    """Of this process and of those that it has seen end."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def in_one_process(dataset: VistaDataset, budget: RowBudget, turn: int, shares: Shares) -> dict[str, float]:
    """Milliseconds a frame of every phase, of all of them and of waiting."""
    with shares.watching(type(dataset.codec)):
        wall = time.perf_counter()
        with shares.of("rest"):
            frames = num_frames(dataset, budget, turn, 0)
        wall = time.perf_counter() - wall
    total = sum(shares.seconds.values())
    each = {phase: 1000 * shares.seconds[phase] / frames for phase in PHASES}
    return {**each, "all": 1000 * total / frames, "wait": 1000 * max(0.0, wall - total) / frames}


class Shares:
    """CPU seconds of this thread by phase, of each without what other phases took inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Count what runs within for a phase."""
        since = time.thread_time()
        self._inside.append(0.0)
        try:
            yield
        finally:
            taken = time.thread_time() - since
            self.seconds[phase] += taken - self._inside.pop()
            if self._inside:
                self._inside[-1] += taken

    @contextmanager
    def watching(self, codec: type) -> Iterator[None]:
        """Start anew, and count by what the library calls on its way."""
        self.seconds.clear()
        places: list[tuple[Any, str, str]] = [
            (VistaDataset, "_compose", "compose"),
            (RowPlanner, "rows", "compose"),
            (dataset_module, "render_view", "paint"),
            (Media, "pictures", "decode"),
            (Scaler, "picture", "convert"),
            (renditions, "resized_alike", "convert"),
            (codec, "encode", "encode"),
            (PackedCollator, "__call__", "pack"),
        ]
        originals = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for (owner, name, phase), (_, _, original) in zip(places, originals, strict=True):
            wrap = self._generator if (owner, name) == (Media, "pictures") else self._function
            setattr(owner, name, wrap(original, phase))
        try:
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def _function(self, original: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            with self.of(phase):
                return original(*args, **options)

        return counted

    def _generator(self, original: Callable[..., Iterator[Any]], phase: str) -> Callable[..., Iterator[Any]]:
        def counted(*args: Any, **options: Any) -> Iterator[Any]:
            items, end = original(*args, **options), object()
            while True:
                with self.of(phase):
                    item = next(items, end)
                if item is end:
                    return
                yield item

        return counted


def print_tables(found: Sequence[Mapping[str, Any]], workers: Sequence[int]) -> None:
    heads = [f"{what}, {number} w" for number in workers for what in ("/s/core", "/s")]
    print(f"\nframes\n{'kind':<24}{'from':<11}" + "".join(f"{head:>14}" for head in heads))
    for one in found:
        values = [one[f"{name}_{number}"] for number in workers for name in ("per_core", "per_second")]
        print(f"{one['kind']:<24}{one['source']:<11}" + "".join(f"{value:>14.1f}" for value in values))
    names = (*PHASES, "all", "wait")
    print(f"\nCPU ms a frame\n{'kind':<24}{'from':<11}" + "".join(f"{name:>9}" for name in names))
    for one in found:
        print(f"{one['kind']:<24}{one['source']:<11}" + "".join(f"{one[name]:>9.2f}" for name in names))


if __name__ == "__main__":
    main()
