"""What a large data set costs to open: the first time, when it is read and checked, and every time after.

    python scripts/bench/sources.py [--rows 10000000] [--format manifest columns] [--json]

Clips are made up, ten of each source, as a manifest and as a CSV table. Their files are not there: all that a header
would tell stands in the rows. Each opening is a process of its own: wall seconds from nothing imported to a hundred
clips and their neighbours looked at; the memory that it holds then, its own (libraries and all) and pages of files that
are mapped (the system can take them back, and processes share them); and what both were at most.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLIPS_PER_SOURCE = 10
KEYS = ("video", "caption", "start", "end", "duration", "width", "height", "fps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", nargs="+", default=["manifest", "columns"], choices=("manifest", "columns"))
    parser.add_argument("--opens", type=int, default=3, help="how often it is opened once it has been read")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "vista_train_bench" / "sources")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--open", nargs=3, metavar=("PATH", "FORMAT", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        print(json.dumps(opened(Path(args.open[0]), args.open[1], Path(args.open[2]))))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    figures = []
    print(
        f"{'format':<12}{'rows':>12}{'file MB':>10}{'':>8}{'seconds':>10}{'own MB':>9}{'mapped MB':>11}{'peak MB':>9}"
    )
    for layout in args.format:
        path = args.out / f"{args.rows}.{'jsonl' if layout == 'manifest' else 'csv'}"
        if not path.exists():
            write(path, layout == "manifest", args.rows)
        with tempfile.TemporaryDirectory(dir=args.out) as cache:
            for number in range(1 + args.opens):
                found = in_a_process(path, layout, cache)
                figures.append({"format": layout, "rows": args.rows, "open": number} | found)
                kind = "first" if number == 0 else "later"
                print(
                    f"{layout:<12}{args.rows:>12,}{path.stat().st_size / 1e6:>10.0f}{kind:>8}{found['seconds']:>10.2f}"
                    f"{found['own_mb']:>9.0f}{found['mapped_mb']:>11.0f}{found['peak_mb']:>9.0f}",
                    flush=True,
                )
    if args.json:
        print(json.dumps({"figures": figures}))


def in_a_process(path: Path, layout: str, cache: str) -> dict[str, float]:
    """What one opening costs."""
    since = time.perf_counter()
    command = [sys.executable, __file__, "--open", str(path), layout, cache]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"seconds": time.perf_counter() - since} | json.loads(told.splitlines()[-1])


def opened(path: Path, layout: str, cache: Path) -> dict[str, float]:
    """Open it and look at a hundred clips and their neighbours."""
    from vista_train.data.reading import Reading
    from vista_train.data.sources import ClipSource
    from vista_train.video.media import Media

    reading = Reading(layout, {} if layout == "manifest" else {key: key for key in KEYS})
    source = ClipSource(path, Media(path.parent, isolate="inline"), cache, reading=reading)
    for index in range(0, len(source), max(1, len(source) // 100)):
        assert source[index].caption
        source.run(index, 5.0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"own_mb": own / 1e6, "mapped_mb": mapped / 1e6, "peak_mb": peak / 1e6, "clips": len(source)}


def write(path: Path, is_plain: bool, rows: int) -> None:
    """Made-up clips as a manifest, or as a table."""
    with path.open("w", encoding="utf-8") as stream:
        if not is_plain:
            stream.write(",".join(KEYS) + "\n")
        for number in range(rows):
            source, at = divmod(number, CLIPS_PER_SOURCE)
            said = f"Clip {number} of a person who does one thing after another."
            values = (f"{source:08d}.mp4", said, 5 * at, 5 * at + 5, 60, 640, 360, 30)
            if is_plain:
                stream.write(json.dumps(dict(zip(KEYS, values, strict=True))) + "\n")
            else:
                stream.write(",".join(map(str, values)) + "\n")


if __name__ == "__main__":
    main()
