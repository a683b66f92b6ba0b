"""What decoding in a process of its own costs: the same 64 frames of each file, apart and in this process, in turns.

`python scripts/bench/isolate.py --root CLIPS [--json]`; without `--root`, clips are rendered. A request is 64 frames
spread over a file, scaled to a square. Also what a process costs to start, and to start again after it was killed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from vista_train.video.decode import MediaError, Wanted
from vista_train.video.media import Media

SCRIPTS = Path(__file__).parents[1]
MODES = ("inline", "process")
BIGGEST = 8
"""Files measured, the longest first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table; with --json the figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="a folder of videos")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, default=336, help="side of a picture in pixels")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or _rendered(Path(folder))
        figures = measure(root, arguments.frames, arguments.size, arguments.repeats)
    print(f"{arguments.frames} frames of {arguments.size}x{arguments.size}; ms, medians of {arguments.repeats}")
    print(f"{'file':<34}{'inline':>10}{'process':>10}{'ratio':>8}")
    for key, both in figures["files"].items():
        print(f"{key:<34}{both['inline']:>10.1f}{both['process']:>10.1f}{both['process'] / both['inline']:>8.3f}")
    print(f"median ratio {figures['ratio']:.3f}; a process starts in {figures['start_ms']:.0f} ms")
    if arguments.json:
        print(json.dumps(figures))
    return 0


def measure(root: Path, frames: int, size: int, repeats: int) -> dict:
    """Milliseconds of a request by file and mode, the median ratio, and those of a start."""
    media = {"inline": Media(root, isolate="inline"), "process": Media(root)}
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix in (".mp4", ".mkv", ".webm", ".avi") and path.is_file():
            key = path.relative_to(root).as_posix()
            try:
                found.append((media["process"].inspect(key).duration, key))
            except MediaError as error:
                print(f"left out: {error}", file=sys.stderr)
    files = {}
    for seconds, key in sorted(found, reverse=True)[:BIGGEST]:
        wanted = [Wanted(Fraction(2 * at + 1, 2 * frames) * seconds, size, size) for at in range(frames)]
        taken: dict[str, list[float]] = {mode: [] for mode in MODES}
        for turn in range(repeats + 1):
            # Whoever goes second finds the file in the page cache, warm from the first.
            for mode in MODES if turn % 2 else MODES[::-1]:
                since = time.perf_counter()
                for _ in media[mode].pictures(key, wanted, 60.0):
                    pass
                if turn:
                    taken[mode].append(1000 * (time.perf_counter() - since))
        files[key] = {mode: statistics.median(times) for mode, times in taken.items()}
    starts = []
    for _ in range(repeats):
        media["process"].close()
        since = time.perf_counter()
        media["process"].confined()
        starts.append(1000 * (time.perf_counter() - since))
    ratio = statistics.median(both["process"] / both["inline"] for both in files.values())
    return {"files": files, "ratio": ratio, "start_ms": statistics.median(starts)}


def _rendered(folder: Path) -> Path:
    made = [sys.executable, SCRIPTS / "make_clips.py", "--out", folder / "clips", "--sources", "2"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    return folder / "clips"


if __name__ == "__main__":
    sys.exit(main())
