"""What one composed video of every kind costs at 64 frames: rendered as asked for, and made in full first.

    python scripts/bench/augmentations.py [--manifest clips.jsonl --root folder] [--repeats 5] [--json]

`ours` is `render`: of every source it decodes what the 64 frames need, at the size they are seen. `usual` decodes every
source from its start to the last frame that is used, at its own size, composes every frame of the video in memory, and
then picks 64 and scales them. Both use one reader and one thread, and take turns; medians of the repeats count.

frames decoded: pictures that come out of a decoder. MB decoded: the packets fed to it. MB read: what the process asked
the system to read, our pass over all packets included. memory: the peak above what was in use before, in a process of
its own; Linux only. difference: mean absolute difference of the two results, in levels of 256; scaling twice blurs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation
from videos import join

from vista_train.augment import REGISTRY, Augment, CannotComposeError, Cast
from vista_train.data.sources import ClipSource
from vista_train.types import Sample
from vista_train.video.composition import Video
from vista_train.video.decode.source import Source, opened
from vista_train.video.geometry import Box
from vista_train.video.media import Media
from vista_train.video.render import render_view, requests
from vista_train.video.sampling import View

VIEW = View(frames=64, width=336, height=336)
SCRIPTS = Path(__file__).parents[1]
WORLD = {"sources": 9, "clips-per-source": 8, "width": 480, "height": 360, "fps": 24}
NUM_LONG = 3
"""So many sources are joined to one long file each, the hosts."""
FIGURES = ("frames_decoded", "mb_decoded", "mb_read", "ms", "cpu_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="clips to compose, instead of a rendered world")
    parser.add_argument(
        "--root", type=Path, help="the folder that the manifest's paths are relative to (default: its own)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/bench_clips"), help="where the world is made, and kept")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="decides clips and parameters")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--memory-of", nargs=2, metavar=("KIND", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    manifest = args.manifest or make_world(args.out)
    root = args.root or manifest.parent
    source = ClipSource(manifest, root, cache=args.out / "cache")
    if args.memory_of:
        kind, way = args.memory_of
        print(peak_mb(WAYS[way], compose(kind, source, args.seed).video, root))
        return
    again = [sys.executable, __file__, f"--manifest={manifest}", f"--root={root}", f"--out={args.out}"]
    again += [f"--seed={args.seed}", "--memory-of"]
    figures = measure(source, root, args.seed, args.repeats, again)
    print_table(figures)
    if args.json:
        print(json.dumps(figures))


def make_world(folder: Path) -> Path:
    """A world of larger clips and a few long files, made once; the path of the manifest."""
    options = [f"--{name}={value}" for name, value in WORLD.items()]
    subprocess.run([sys.executable, str(SCRIPTS / "make_clips.py"), f"--out={folder}", *options], check=True)
    lines = [json.loads(line) for line in (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in sorted({line["source"] for line in lines})[:NUM_LONG]:
        parts = [line for line in lines if line["source"] == name]
        path = folder / f"long_{name}.mp4"
        if not path.exists():
            join([folder / line["video"] for line in parts], path)
        facts = {key: parts[0][key] for key in ("width", "height", "fps")}
        lines.append({"video": path.name, "caption": f"All of {name}.", "source": path.stem, **facts})
    manifest = folder / "with_long.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


def compose(kind: str, source: ClipSource, seed: int) -> Sample:
    """A sample of this kind, as its defaults have it."""
    reason = ""
    for attempt in range(32):
        rng = np.random.default_rng([seed, attempt])
        augment = REGISTRY[kind]()
        try:
            return augment(rng, cast_of(augment, source, rng), VIEW)
        except CannotComposeError as error:
            reason = str(error)
    raise CannotComposeError(f"{kind} cannot be composed of these clips: {reason}")


def cast_of(augment: Augment, source: ClipSource, rng: np.random.Generator) -> Cast:
    """One of the longest clips where a role comes first and is played by one; any of the shorter ones otherwise."""
    by_length = sorted(range(len(source)), key=lambda number: source[number].duration)
    longest, others = by_length[-NUM_LONG:], by_length[:-NUM_LONG] or by_length
    cast = {}
    for order, role in enumerate(augment.roles):
        if role.relation == "same_source_consecutive":
            anchor = others[int(rng.integers(len(others)))]
            numbers = source.run(anchor, role.max_gap_seconds)[: role.count]
        elif order == 0 and role.count == 1:
            numbers = [longest[int(rng.integers(len(longest)))]]
        else:
            numbers = rng.choice(others, size=role.count, replace=role.count > len(others)).tolist()
        cast[role.name] = tuple(source[number] for number in numbers)
    return cast


def ours(video: Video, root: Path) -> np.ndarray:
    """The sampled frames [T, H, W, 3] on the canvas, as the library makes them."""
    times = VIEW.times(video.duration, video.frame_measure)
    return render_view(video, times, VIEW, Media(root, isolate="inline")).permute(0, 2, 3, 1).numpy()


def usual(video: Video, root: Path) -> np.ndarray:
    """The sampled frames [T, H, W, 3], out of a video composed in full."""
    fps = video.clips()[0].fps
    ticks = [Fraction(number) / fps for number in range(-(-(video.duration * fps) // 1))]
    asked = requests(video, ticks, video.size)
    until: dict[str, Fraction] = defaultdict(Fraction)
    for request in asked:
        until[request.clip.path] = max(until[request.clip.path], request.time)
    sources = {path: decode_until(root / path, last) for path, last in until.items()}
    composed_THWC = np.zeros((len(ticks), video.size[1], video.size[0], 3), np.uint8)
    for request in asked:
        times, pictures = sources[request.clip.path]
        picture_HWC = pictures[max(0, bisect_right(times, request.time) - 1)]
        place, window = request.place, request.window
        scaled_HWC = scale(picture_HWC, place.width, place.height)
        composed_THWC[request.frame, window.top : window.bottom, window.left : window.right] = scaled_HWC[
            window.top - place.top : window.bottom - place.top, window.left - place.left : window.right - place.left
        ]
    place = VIEW.pixels(video.size, Box())
    wanted = VIEW.times(video.duration, video.frame_measure)
    out_THWC = np.zeros((len(wanted), VIEW.height, VIEW.width, 3), np.uint8)
    for number, at in enumerate(wanted):
        frame_HWC = scale(composed_THWC[int(at * fps)], place.width, place.height)
        out_THWC[number, place.top : place.bottom, place.left : place.right] = frame_HWC
    return out_THWC


def decode_until(path: Path, last: Fraction) -> tuple[list[Fraction], list[np.ndarray]]:
    """When each frame up to `last` is shown, in seconds after the first, and the frames, uint8 [H, W, 3]."""
    times: list[Fraction] = []
    pictures: list[np.ndarray] = []
    first = Fraction(0)
    with opened(path) as source:
        for frame in source.frames(source.packets()):
            at = frame.pts * source.time_base
            first = first if times else at
            if at - first > last:
                break
            times.append(at - first)
            pictures.append(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
    return times, pictures


def scale(picture_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    if picture_HWC.shape[:2] == (height, width):
        return picture_HWC
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC), format="rgb24")
    return frame.reformat(width, height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1).to_ndarray()


WAYS: dict[str, Callable[[Video, Path], np.ndarray]] = {"ours": ours, "usual": usual}


@dataclass
class Counter:
    """What goes into decoders and comes out of them, while it stands in for `Source.frames`."""

    frames: int = 0
    num_bytes: int = 0

    def install(self) -> None:
        original = Source.frames

        def counted(source: Source, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
            for frame in original(source, self._weighed(packets)):
                self.frames += 1
                yield frame

        Source.frames = counted  # type: ignore[method-assign]

    def _weighed(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        for packet in packets:
            self.num_bytes += packet.size
            yield packet


def measure(
    source: ClipSource, root: Path, seed: int, repeats: int, again: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """For each kind: what is composed, and the figures of each way."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    counter = Counter()
    counter.install()
    for kind in REGISTRY:
        try:
            video = compose(kind, source, seed).video
        except CannotComposeError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            continue
        spent: dict[str, dict[str, list[float]]] = {way: defaultdict(list) for way in WAYS}
        results: dict[str, np.ndarray] = {}
        for _ in range(repeats):
            for way, make in WAYS.items():
                for name, value in cost(make, video, root, counter, results, way).items():
                    spent[way][name].append(value)
        medians = {way: {name: statistics.median(spent[way][name]) for name in FIGURES} for way in WAYS}
        for way in WAYS:
            done = subprocess.run([*again, kind, way], check=True, capture_output=True, text=True)
            medians[way]["memory_mb"] = float(done.stdout.split()[-1])
        difference = np.abs(results["ours"].astype(np.int16) - results["usual"]).mean()
        facts = {"seconds": float(video.duration), "files": len({clip.path for clip in video.clips()})}
        facts |= {"width": video.size[0], "height": video.size[1], "frames_shown": len(results["ours"])}
        figures[kind] = {"composed": facts | {"difference": round(float(difference), 2)}, **medians}
        print(f"{kind} done", file=sys.stderr, flush=True)
    return figures


def cost(
    make: Callable[[Video, Path], np.ndarray],
    video: Video,
    root: Path,
    counter: Counter,
    results: dict[str, np.ndarray],
    way: str,
) -> dict[str, float]:
    """Make it once; the result goes to `results`."""
    counter.frames = counter.num_bytes = 0
    read, cpu, wall = bytes_read(), time.process_time(), time.perf_counter()
    results[way] = make(video, root)
    return {
        "ms": 1000 * (time.perf_counter() - wall),
        "cpu_ms": 1000 * (time.process_time() - cpu),
        "mb_read": (bytes_read() - read) / 1e6,
        "frames_decoded": counter.frames,
        "mb_decoded": counter.num_bytes / 1e6,
    }


def bytes_read() -> int:
    """What this process has read so far, from the page cache or the disk."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def peak_mb(make: Callable[[Video, Path], np.ndarray], video: Video, root: Path) -> float:
    """The most memory in use while it is made, above what was in use before."""
    status = Path("/proc/self/status")
    # Sets the recorded peak back to what is in use now.
    Path("/proc/self/clear_refs").write_text("5")
    before = int(status.read_text().split("VmHWM:")[1].split()[0])
    make(video, root)
    return (int(status.read_text().split("VmHWM:")[1].split()[0]) - before) / 1024


def print_table(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    names = (*FIGURES, "memory_mb")
    print(f"{VIEW.frames} frames at {VIEW.width}x{VIEW.height}; {os.cpu_count()} cores, one thread used")
    print(f"{'kind':<24}{'way':<8}" + "".join(f"{name:>16}" for name in names))
    for kind, found in figures.items():
        facts = found["composed"]
        for way in WAYS:
            print(f"{kind if way == 'ours' else '':<24}{way:<8}" + "".join(f"{found[way][n]:>16.1f}" for n in names))
        ratios = (found["usual"][name] / max(found["ours"][name], 1e-9) for name in names)
        print(f"{'':<24}{'ratio':<8}" + "".join(f"{ratio:>15.1f}x" for ratio in ratios))
        print(
            f"{'':<24}{facts['frames_shown']:.0f} frames of {facts['seconds']:.1f} s at {facts['width']:.0f}x"
            f"{facts['height']:.0f} from {facts['files']:.0f} files; difference {facts['difference']}"
        )


if __name__ == "__main__":
    main()
