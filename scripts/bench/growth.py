"""Whether the price of a composed video depends on how long it is: 64 frames of a haystack of minutes to hours.

    python scripts/bench/growth.py [--minutes 1 10 60 600] [--matroska] [--json]

A 10 s needle in the middle of a haystack of H.264 (360p, a keyframe every 250 frames), 64 frames at 336x336. CPU
seconds of one thread and medians, durations in turns, as compose.py. `warm` has the packet index at hand, as every
composition but the first has. `index` is what the first pays on top to learn it: from the file's own table where there
is one (`mp4`), else from all of its packets (`--matroska`, which copies every file). A minute of 64 frames needs less
than each a group of pictures of its own, and is cheaper; from 10 minutes on, every frame does.

memory: the most that is resident above what was in use before, each in a process of its own; Linux only. Files are made
once, of whole pieces of 25 s, and kept in `--out`: ten hours take 4.5 GB, and as much again for Matroska.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from side_by_side import resident_mb
from videos import encoded, looped

from vista_train.data.sources import clip_of
from vista_train.video.composition import Concat
from vista_train.video.decode import Limits
from vista_train.video.media import Media
from vista_train.video.render import render_view
from vista_train.video.sampling import View

FPS, PIECE_SECONDS, NEEDLE_SECONDS = 30, 25, 10
WARM, COLD = "warm", "cold"
LONG = Limits(max_seconds=40_000)
"""Ten hours in Matroska, whose times are rounded, last a little longer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60, 600])
    parser.add_argument("--matroska", action="store_true", help="also what has no table of its packets")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, default=336, help="side of the canvas in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "vista_train_bench")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--memory-of", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    view = View(frames=args.frames, width=args.size, height=args.size)
    width = args.height * 16 // 9 // 2 * 2
    needle = encoded(args.out, width, args.height, FPS, NEEDLE_SECONDS)
    if args.memory_of:
        print(peak_mb(args.out, args.memory_of[0], needle.name, view, args.memory_of[1]))
        return
    piece, files = encoded(args.out, width, args.height, FPS, PIECE_SECONDS), {}
    for minutes in args.minutes:
        times = math.ceil(60 * minutes / PIECE_SECONDS)
        for suffix in (".mp4", ".mkv") if args.matroska else (".mp4",):
            name = f"haystack_{args.height}p_{times * PIECE_SECONDS}s{suffix}"
            files[times * PIECE_SECONDS / 60, suffix] = looped(piece, times, name).name
    again = [sys.executable, __file__, f"--out={args.out}", f"--height={args.height}", f"--frames={args.frames}"]
    again += [f"--size={args.size}", "--memory-of"]
    figures = measure(args.out, files, needle.name, view, args.repeats, again)
    print_table(figures)
    if args.json:
        print(json.dumps({"repeats": args.repeats, "figures": figures}))


def composition(media: Media, host: str, needle: str) -> Concat:
    """The needle in the middle of the host."""
    long, inside = clip_of(media, host), clip_of(media, needle)
    middle = long.duration / 2
    return Concat((long.subclip(0, middle), inside, long.subclip(middle, long.duration)))


def way_of(folder: Path, host: str, needle: str, view: View, cache: Path | None) -> Callable[[], object]:
    """Composes it, with what the cache knows of the files."""
    video = composition(Media(folder, isolate="inline", limits=LONG), host, needle)
    times = view.times(video.duration, video.frame_measure)
    media = Media(folder, isolate="inline", cache=cache, limits=LONG)
    return lambda: render_view(video, times, view, media)


def measure(
    folder: Path,
    files: Mapping[tuple[float, str], str],
    needle: str,
    view: View,
    repeats: int,
    again: Sequence[str],
) -> list[dict[str, Any]]:
    """Medians for every file: seconds with and without its index, and the memory of both."""
    ways = {
        (key, way): way_of(folder, host, needle, view, folder / "cache" if way == WARM else None)
        for key, host in files.items()
        for way in (WARM, COLD)
    }
    spent: dict[Any, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            since = time.process_time()
            way()
            # In the first turn files come into the page cache, and indexes are learnt.
            spent[name] += [time.process_time() - since] if turn else []
    figures = []
    for key, host in files.items():
        memory = {}
        for way in (WARM, COLD):
            done = subprocess.run([*again, host, way], check=True, capture_output=True, text=True)
            memory[way] = float(done.stdout.split()[-1])
        warm, cold = (statistics.median(spent[key, way]) for way in (WARM, COLD))
        figures.append(
            {
                "minutes": key[0], "kind": key[1][1:], "packets": round(60 * key[0] * FPS),
                "warm": warm, "cold": cold, "index": cold - warm,
                "warm_mb": memory[WARM], "cold_mb": memory[COLD],
            }
        )  # fmt: skip
    return figures


def peak_mb(folder: Path, host: str, needle: str, view: View, way: str) -> float:
    """The most memory in use while it is composed, above what was in use before; the code is loaded before."""
    # The needle alone first: libraries, scalers and decoders are then there.
    short = Media(folder, isolate="inline", limits=LONG)
    clip = clip_of(short, needle)
    render_view(clip, [Fraction(number, 10) for number in range(view.frames)], view, short)
    compose = way_of(folder, host, needle, view, folder / "cache" if way == WARM else None)
    return resident_mb(compose)


def print_table(figures: Sequence[Mapping[str, Any]]) -> None:
    names = ("minutes", "kind", "packets", "warm s", "to 10 min", "warm MB", "index s", "cold MB")
    print("".join(f"{name:>12}" for name in names))
    for found in figures:
        same = [other for other in figures if other["kind"] == found["kind"] and other["minutes"] >= 10]
        ratio = found["warm"] / (same or [found])[0]["warm"]
        print(
            f"{found['minutes']:>12g}{found['kind']:>12}{found['packets']:>12,}{found['warm']:>12.3f}{ratio:>12.3f}"
            f"{found['warm_mb']:>12.1f}{found['index']:>12.3f}{found['cold_mb']:>12.1f}"
        )


if __name__ == "__main__":
    main()
