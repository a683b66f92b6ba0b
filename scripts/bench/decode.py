"""CPU seconds that 32 uniform frames of a 5-minute 480p video cost: our reader, decord, and the limits of both.

    python scripts/bench/decode.py [--repeats 5] [--video some.mp4] [--out folder] [--json]

The methods take turns in one process, each on one decoding thread; the median of the repeats counts. User and system
time of the process are counted, not the wall clock, so that a busy machine changes little. `limit` decodes the very
packets that our reader decodes, with the same seeks and the same pictures passed over, and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
from videos import encoded

from vista_train.video.decode import Wanted, probe, read
from vista_train.video.decode.packets import PacketIndex, plan_gops
from vista_train.video.decode.pyav import Scaler
from vista_train.video.decode.source import opened, read_index

WIDTH, HEIGHT, FPS, SECONDS, GOP = 854, 480, 24, 300, 250
NUM_FRAMES, SIDE_PX = 32, 336


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each method")
    parser.add_argument("--video", type=Path, help="measure this MP4 or Matroska file instead of the made one")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "vista_train_bench")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    path = args.video or encoded(args.out, WIDTH, HEIGHT, FPS, SECONDS, GOP)
    figures = measure(path, args.repeats)
    print_table(figures)
    if args.json:
        print(json.dumps(figures))


def measure(path: Path, repeats: int) -> dict[str, object]:
    """Median CPU seconds of each method on the file, and what they are to each other."""
    duration = probe(path).duration
    times = [(i + Fraction(1, 2)) * duration / NUM_FRAMES for i in range(NUM_FRAMES)]
    wanted = [Wanted(at, SIDE_PX, SIDE_PX) for at in times]
    with opened(path) as source:
        index = read_index(source)
    ranks = list(index.ranks(wanted))
    methods: dict[str, Callable[[], object]] = {
        "ours": lambda: dict(read(path, wanted)),
        "decord": lambda: _decord(path, ranks),
        "limit": lambda: limit(path, index, ranks),
        "sequential": lambda: _sequential(path, index, ranks),
    }
    assert all(np.array_equal(a, b) for a, b in zip(_ours(path, wanted), _sequential(path, index, ranks), strict=True))
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            began = time.process_time()
            method()
            spent[name].append(time.process_time() - began)
    median = {name: statistics.median(seconds) for name, seconds in spent.items()}
    return {
        "video": path.name,
        "frames_in_file": len(index),
        "packets_decoded": sum(run.end - run.start + 1 for run in plan_gops(index, ranks)),
        "cpu_seconds": {name: round(seconds, 4) for name, seconds in median.items()},
        "cpu_seconds_least": {name: round(min(seconds), 4) for name, seconds in spent.items()},
        "ours_to_decord": round(median["ours"] / median["decord"], 3),
        "ours_to_limit": round(median["ours"] / median["limit"], 3),
        "repeats": repeats,
        "versions": {"av": av.__version__, "decord": decord.__version__},
    }


def _ours(path: Path, wanted: list[Wanted]) -> list[np.ndarray]:
    pictures = dict(read(path, wanted))
    return [pictures[which] for which in range(len(wanted))]


def _decord(path: Path, ranks: list[int]) -> np.ndarray:
    video = decord.VideoReader(str(path), width=SIDE_PX, height=SIDE_PX, num_threads=1)
    return video.get_batch(ranks).asnumpy()


def limit(path: Path, index: PacketIndex, ranks: Iterable[int]) -> int:
    """Decode from keyframe to target and convert nothing; how many frames came out."""
    count = 0
    with opened(path) as source:
        container, stream = source.container, source.stream
        for run in plan_gops(index, ranks):
            container.seek(index.stamps(run.start).pts or 0, stream=stream)
            for position, packet in enumerate(container.demux(stream), run.start):
                stream.codec_context.skip_frame = "DEFAULT" if position in run.wanted else "NONREF"
                count += len(stream.decode(packet))
                if position == run.end:
                    break
            count += len(stream.decode(None))
    return count


def _sequential(path: Path, index: PacketIndex, ranks: list[int]) -> list[np.ndarray]:
    left, scaler, pictures = {int(index.shown_F[rank]) for rank in ranks}, Scaler(), []
    with opened(path) as source:
        for frame in source.container.decode(source.stream):
            if frame.pts in left:
                left.remove(frame.pts)
                pictures.append(scaler.picture(frame, SIDE_PX, SIDE_PX))
                if not left:
                    break
    return pictures


def print_table(figures: dict[str, object]) -> None:
    seconds, least = figures["cpu_seconds"], figures["cpu_seconds_least"]
    assert isinstance(seconds, dict)
    assert isinstance(least, dict)
    print(f"{figures['video']}: {NUM_FRAMES} of {figures['frames_in_file']} frames at {SIDE_PX}x{SIDE_PX},")
    print(f"{figures['packets_decoded']} packets decoded or passed over; CPU seconds, {figures['repeats']} repeats\n")
    print(f"{'method':<12}{'median':>8}{'least':>8}{'to decord':>11}{'to limit':>10}")
    for name, median in seconds.items():
        ratios = f"{median / seconds['decord']:>11.3f}{median / seconds['limit']:>10.3f}"
        print(f"{name:<12}{median:>8.3f}{least[name]:>8.3f}{ratios}")


if __name__ == "__main__":
    main()
