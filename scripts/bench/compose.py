"""What composed videos cost: ours, rendered to a file first, by the public loaders, and by the decoder alone.

    python scripts/bench/compose.py [--opponents PYTHON] [--clips FOLDER] [--heights 360 1080] [--json]

`haystack`: a 10 s needle in the middle of 10 minutes of H.264 (a keyframe every 250 frames), 64 frames at 336x336.
`grid`: 64 clips, 8x8, on one canvas of 336x336; they are put into MP4 files, as most public sets are. CPU seconds,
decoding threads included, one thread where a loader can be told so; ways take turns of half a second and more, medians
of the repeats count.
Files are made once and kept in `--out`.

ours: `cold` knows nothing of the files, `warm` has their packet indexes, `process` is warm, in a process that can be
killed, `snap` may show keyframes up to 1 s away, `proxies` and `tiles` have what `vista-train proxies` made, tiles once
as high as a cell is here, once of the usual 48 pixels. (a) writes the composed video to an MP4 file (x264 veryfast) and
reads 64 frames of it. (b) is the fastest of the loaders in opponents.py, on each source, then put together; all of them
have one turn, those that come out fastest have the rest. Without `--opponents` they are those that this interpreter
has. (c) decodes from keyframe to target, as ours does, and does nothing with the pictures. cores: as many as a GPU
needs that takes 3 samples a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from av.video.frame import PictureType
from decode import limit
from videos import encoded, join, looped

from vista_train.data.proxies import make_proxies
from vista_train.data.sources import clip_of
from vista_train.video.composition import Concat, Grid, Video
from vista_train.video.decode import MediaError, Wanted
from vista_train.video.decode.sizes import Sizes
from vista_train.video.decode.source import opened, read_index
from vista_train.video.media import Media
from vista_train.video.render import render_view, requests
from vista_train.video.renditions import PROXY, Renditions
from vista_train.video.sampling import View

SCRIPTS = Path(__file__).parents[1]
FPS, PIECE_SECONDS, NEEDLE_SECONDS = 30, 25, 10
SAMPLES_PER_SECOND = 3
CELL_SIZE, CELL_SECONDS = (240, 135), (2.14, 6.0)
"""A grid's clips last at least and at most so long: 64 frames of 30 a second, and little more than is shown."""
TILE_EDGE, LEAST_TURN_SECONDS = 48, 0.5
Way = Callable[[], float]
"""Makes the sample once; the CPU seconds that it took."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opponents", default=sys.executable, help="an interpreter that has public loaders")
    parser.add_argument("--loaders", nargs="+", help="of them, these alone, by their names in the table")
    parser.add_argument("--once", nargs="+", default=[], help="ways of ours that have one turn, such as cold snap")
    parser.add_argument("--finalists", type=int, default=2, help="loaders that have more than one turn")
    parser.add_argument("--clips", type=Path, help="a folder of short clips for the grid, instead of rendered ones")
    parser.add_argument("--heights", type=int, nargs="*", default=[360, 1080])
    parser.add_argument("--seconds", type=int, default=600, help="of the haystack")
    parser.add_argument("--grid", type=int, default=8, help="rows and columns of the grid; 0 for none")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, default=336, help="side of the canvas in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--renders", type=int, default=5, help="repeats of (a), which takes minutes at 1080p")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "vista_train_bench")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    view = View(frames=args.frames, width=args.size, height=args.size)
    worker = Worker(args.opponents, args.loaders)
    try:
        cases = {f"haystack {height}p": haystack(args.out, height, args.seconds, view) for height in args.heights}
        if args.grid:
            cases[f"grid {args.grid}x{args.grid}"] = grid(args.out, args.clips, args.grid, view)
        figures = {}
        for name, case in cases.items():
            figures[name] = measure(case, worker, args.repeats, args.renders, args.finalists, args.once)
            print_table(name, figures[name], worker)
    finally:
        worker.close()
    if args.json:
        print(json.dumps({"repeats": args.repeats, "loaders": worker.loaders, "cases": figures}))


@dataclass(frozen=True)
class Case:
    """A composed video and its files."""

    root: Path
    video: Video
    view: View
    small: Mapping[str, Path]
    """Where their smaller versions are, by what these are called."""

    @property
    def times(self) -> tuple[Fraction, ...]:
        return self.view.times(self.video.duration, self.video.frame_measure)

    def ours(self, **options: Any) -> Way:
        """Our own way with media of these options; made ready by one turn that nobody counts."""
        media = Media(self.root, **options)

        def way() -> float:
            since = cpu_seconds()
            render_view(self.video, self.times, self.view, media)
            return cpu_seconds() - since

        return way

    def parts(self, renditions: Renditions | None = None) -> list[dict[str, Any]]:
        """What opponents.py is to make: the frames of each file, and where they go."""
        parts: dict[tuple[str, Any], dict[str, Any]] = {}
        for request in requests(self.video, self.times, self.view.canvas_of(self.video), self.view.paint):
            place, clip = request.place, request.clip
            path = renditions.place(clip.path, PROXY) if renditions else self.root / clip.path
            box = (place.left, place.top, place.width, place.height)
            part = parts.setdefault((str(path), box), {"path": str(path), "indices": [], "frames": [], "box": box})
            part["indices"].append(int(request.time * clip.fps))
            part["frames"].append(request.frame)
        return list(parts.values())

    def limits(self) -> Way:
        """(c): decoding alone; what is known of the packets is given."""
        asked: dict[str, list[Wanted]] = defaultdict(list)
        for request in requests(self.video, self.times, self.view.canvas_of(self.video), self.view.paint):
            asked[request.clip.path].append(Wanted(request.time, 1, 1))
        work = []
        for path, wanted in asked.items():
            with opened(self.root / path) as source:
                index = read_index(source)
            work.append((self.root / path, index, list(index.ranks(wanted))))

        def way() -> float:
            since = cpu_seconds()
            for path, index, ranks in work:
                limit(path, index, ranks)
            return cpu_seconds() - since

        return way

    def rendered(self) -> Way:
        """(a): every frame written to a file, then ours from that."""

        def way() -> float:
            with tempfile.TemporaryDirectory(dir=self.root) as folder:
                since = cpu_seconds()
                write_whole(self.video, self.root, Path(folder, "whole.mp4"))
                whole = clip_of(Media(folder, isolate="inline"), "whole.mp4")
                times = self.view.times(whole.duration, whole.frame_measure)
                render_view(whole, times, self.view, Media(folder, isolate="inline"))
                return cpu_seconds() - since

        return way


def haystack(folder: Path, height: int, seconds: int, view: View) -> Case:
    """A needle in the middle of a long file."""
    width = height * 16 // 9 // 2 * 2
    piece = encoded(folder, width, height, FPS, min(PIECE_SECONDS, seconds))
    long = looped(piece, max(1, seconds // PIECE_SECONDS), f"haystack_{height}p_{seconds}s.mp4")
    needle = encoded(folder, width, height, FPS, NEEDLE_SECONDS)
    media = Media(folder, isolate="inline")
    host, inside = clip_of(media, long.name), clip_of(media, needle.name)
    middle = host.duration / 2
    video = Concat((host.subclip(0, middle), inside, host.subclip(middle, host.duration)))
    proxies = made_proxies(folder, [long.name, needle.name], Sizes(view.height))
    return Case(folder, video, view, {"proxies": proxies})


def grid(folder: Path, clips: Path | None, side: int, view: View) -> Case:
    """Many clips side by side, every one a file of its own."""
    root = folder / ("grid_clips" if clips else "grid_rendered")
    if not clips:
        made = [sys.executable, SCRIPTS / "make_clips.py", "--out", root / "world", "--sources", str(side)]
        made += ["--clips-per-source", str(side), "--width", "640", "--height", "360"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        clips = root / "world"
    media, found = Media(clips, isolate="inline"), []
    for path in sorted(clips.rglob("*")):
        if path.suffix in (".mp4", ".mkv", ".webm") and path.is_file():
            try:
                seconds = float(media.probe(path.relative_to(clips).as_posix()).duration)
            except MediaError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            if CELL_SECONDS[0] <= seconds <= (CELL_SECONDS[1] if root.name == "grid_clips" else 60):
                found.append(path)
    names = [f"cell_{number}.mp4" for number in range(side * side)]
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        if not (root / name).exists():
            # No two cells share a file: what is decoded once for both would not be fair.
            join([found[number % len(found)]], root / name)
    media = Media(root, isolate="inline")
    cells = [clip_of(media, name) for name in names]
    seconds = min(Fraction(3), *(cell.duration for cell in cells))
    video = Grid(tuple(cell.subclip(0, seconds) for cell in cells), side, side, tuple(side * n for n in CELL_SIZE))
    # Made for the cell as it is shown here, and for any cell up to the size it would have on a square canvas.
    places = [one.place for one in requests(video, [Fraction(0)], view.canvas_of(video), view.paint)]
    edges = (max(min(place.width, place.height) for place in places), TILE_EDGE)
    made = {edge: made_proxies(root, names, Sizes(view.height, tile_edge=edge)) for edge in edges}
    return Case(root, video, view, {f"tiles of {edge}": folder for edge, folder in made.items()})


def made_proxies(root: Path, names: Sequence[str], sizes: Sizes) -> Path:
    """A folder of the files' proxies, made where they are not there."""
    edge = f"_tiles_{sizes.tile_edge}" if sizes.tile_edge else ""
    out, manifest = root / f"proxies{edge}", root / f"proxies_of_{len(names)}_{names[0]}.jsonl"
    manifest.write_text("".join(json.dumps({"video": name, "caption": name}) + "\n" for name in names))
    made = make_proxies(manifest, Media(root, makes_proxies=True), out, sizes, workers=1, cache=root / "cache")
    print(made, file=sys.stderr, flush=True)
    return out


def write_whole(video: Video, root: Path, path: Path) -> None:
    """A video of whole clips, one behind the other, decoded and encoded frame by frame."""
    assert isinstance(video, Concat)
    first = video.clips()[0]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=first.fps, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *video.size, "yuv420p"
        stream.codec_context.thread_count = 1
        count = 0
        for clip in video.clips():
            with opened(root / clip.path) as source:
                start = int(clip.start / source.time_base)
                # From the keyframe before it, as an editor does.
                source.container.seek(start, stream=source.stream)
                for frame in source.frames(source.packets()):
                    if frame.pts * source.time_base >= clip.end:
                        break
                    if frame.pts >= start:
                        frame.pts, frame.time_base, frame.pict_type = count, 1 / first.fps, PictureType.NONE
                        output.mux(stream.encode(frame))
                        count += 1
        output.mux(stream.encode(None))


class Worker:
    """opponents.py in an interpreter of its own."""

    def __init__(self, python: str, only: Sequence[str] | None = None) -> None:
        program = [python, str(Path(__file__).with_name("opponents.py"))]
        self._process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        told = json.loads(self._answer())
        self.loaders = [loader for loader in told["loaders"] if only is None or loader in only]
        self.missing: dict[str, str] = told["missing"]

    def way(self, loader: str, parts: Sequence[dict[str, Any]], case: Case) -> Way:
        """One loader's turn; `ValueError` where it fails."""
        request = {"loader": loader, "frames": len(case.times), "parts": parts}
        request |= {"width": case.view.width, "height": case.view.height}

        def way() -> float:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            found = json.loads(self._answer())
            if "error" in found:
                raise ValueError(f"{loader}: {found['error']}")
            return float(found["cpu"])

        return way

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def measure(
    case: Case, worker: Worker, repeats: int, renders: int, finalists: int, once: Sequence[str] = ()
) -> dict[str, Any]:
    """CPU seconds of every way: of all its turns; the fastest loaders and what ours is to them."""
    cache = {"cache": case.root / "cache"}
    ways: dict[str, Way] = {
        "ours cold": case.ours(isolate="inline"),
        "ours warm": case.ours(isolate="inline", **cache),
        "ours process": case.ours(**cache),
        **{f"ours {name}": case.ours(proxies=made, isolate="inline", **cache) for name, made in case.small.items()},
        "ours snap": case.ours(isolate="inline", snap_seconds=1.0, **cache),
        "(c) decoder alone": case.limits(),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        # Files are in the page cache from here on, indexes written, processes started.
        first = way()
        if name.removeprefix("ours ") in once:
            spent[name] = [first]
    failed: dict[str, str] = {}
    proxies = Renditions(str(next(iter(case.small.values()))))
    for kind, parts in (("", case.parts()), (" on proxies", case.parts(proxies))):
        tried: dict[str, float] = {}
        for loader in worker.loaders:
            way = worker.way(loader, parts, case)
            try:
                tried[loader] = way()
            except ValueError as error:
                failed[f"{loader}{kind}"] = str(error)
                continue
            spent[f"{loader}{kind}"] = [tried[loader]]
            print(f"{loader}{kind} {tried[loader]:.2f}", file=sys.stderr, flush=True)
        for loader in sorted(tried, key=tried.__getitem__)[:finalists]:
            ways[f"{loader}{kind}"] = worker.way(loader, parts, case)
            spent[f"{loader}{kind}"] = []
    for _ in range(repeats):
        for name, way in ways.items():
            if name.removeprefix("ours ") not in once:
                spent[name].append(turn(way))
    if isinstance(case.video, Concat):
        spent["(a) to a file"] = [case.rendered()() for _ in range(renders)]
    return judged(case, spent, list(ways), failed)


def turn(way: Way) -> float:
    """CPU seconds of a sample, on the average of as many as take `LEAST_TURN_SECONDS`: what takes a twentieth of a
    second costs half as much again where something else has just filled the processor's caches."""
    spent = [way()]
    while sum(spent) < LEAST_TURN_SECONDS:
        spent.append(way())
    return statistics.mean(spent)


def judged(case: Case, spent: Mapping[str, list[float]], finals: Sequence[str], failed: Any) -> dict[str, Any]:
    """Medians, and the ratios that matter."""
    median = {name: statistics.median(times) for name, times in spent.items() if times}
    loaders = [name for name in finals if not name.startswith(("ours", "(c)"))]
    best = min((name for name in loaders if not name.endswith("on proxies")), key=median.__getitem__)
    small = min((name for name in loaders if name.endswith("on proxies")), key=median.__getitem__)
    ours, alone = median["ours warm"], median["(c) decoder alone"]
    ratios = {"(b) to ours": median[best] / ours, "ours to (c)": ours / alone}
    for name in case.small:
        ratios[f"(b) to ours {name}"] = median[best] / median[f"ours {name}"]
        ratios[f"(b) on proxies to ours {name}"] = median[small] / median[f"ours {name}"]
    if "(a) to a file" in median:
        ratios["(a) to ours"] = median["(a) to a file"] / ours
    return {
        "frames": len(case.times), "files": len({clip.path for clip in case.video.clips()}),
        "seconds": float(case.video.duration), "cpu_seconds": median,
        "turns": {name: len(times) for name, times in spent.items()},
        "least": {name: min(times) for name, times in spent.items() if times},
        "b": best, "b_on_proxies": small, "ratios": ratios, "failed": failed,
    }  # fmt: skip


def cpu_seconds() -> float:
    """Of this process and of those that it has started and that still run."""
    ticks, total = os.sysconf("SC_CLK_TCK"), time.process_time()
    pids = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    for pid in pids:
        stat = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        # A worker of ours is another's: its seconds are its own to tell.
        if "opponents.py" not in Path("/proc", pid, "cmdline").read_text():
            total += (int(stat[11]) + int(stat[12])) / ticks
    return total


def print_table(name: str, found: Mapping[str, Any], worker: Worker) -> None:
    told = f"{found['frames']} frames of {found['seconds']:.0f} s from {found['files']} files"
    print(f"\n{name}: {told}; CPU seconds\n{'way':<36}{'median':>9}{'least':>9}{'turns':>7}{'to (b)':>9}{'cores':>8}")
    median, best = found["cpu_seconds"], found["cpu_seconds"][found["b"]]
    for way in sorted(median, key=median.__getitem__):
        mark = " (b)" if way == found["b"] else ""
        print(
            f"{way + mark:<36}{median[way]:>9.3f}{found['least'][way]:>9.3f}{found['turns'][way]:>7}"
            f"{best / median[way]:>8.2f}x{SAMPLES_PER_SECOND * median[way]:>8.1f}"
        )
    print("; ".join(f"{ratio} {value:.2f}" for ratio, value in found["ratios"].items()))
    for loader, why in [*worker.missing.items(), *found["failed"].items()]:
        print(f"not measured: {loader} ({why})")
    print(end="", flush=True)


if __name__ == "__main__":
    main()
