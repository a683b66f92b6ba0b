"""Each reader on 240 numbered frames in 16 containers and codings: right, or wrong as its `KNOWN_WRONG` says."""

from __future__ import annotations

import bisect
import importlib
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vista_train.video import decode
from vista_train.video.decode import MediaError, Wanted

KINDS = {
    "b3.flv": "FLV with B-frames",
    "cfr_b0.mp4": "constant rate",
    "cfr_b3.mp4": "constant rate with B-frames",
    "editcut.mp4": "edit list",
    "frag.mp4": "fragmented MP4",
    "hevc.mp4": "HEVC with open GOP",
    "intra.mp4": "keyframes only",
    "mpeg4_b.avi": "AVI with B-frames",
    "offset5.mp4": "first pts not 0",
    "offset5.ts": "MPEG-TS",
    "opengop.mkv": "open GOP in Matroska",
    "opengop.mp4": "open GOP in MP4",
    "singlekey.mp4": "one keyframe",
    "vfr.mkv": "variable rate in Matroska",
    "vfr.mp4": "variable rate in MP4",
    "vp9.webm": "VP9",
}


def number_of(picture_HWC: np.ndarray) -> int:
    """The frame's number: ten blocks, least bit first, white for 1."""
    assert picture_HWC.shape == (240, 320, 3)
    return sum(int(picture_HWC[108:124, 32 * bit + 10 : 32 * bit + 22].mean() > 128) << bit for bit in range(10))


def wrong_frames(path: Path, reader: str) -> list[int]:
    """By how many frames the reader misses at each of 200 random times, where it does; [999] where it refuses."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        shown = [(frame.pts, number_of(frame.to_ndarray(format="rgb24"))) for frame in container.decode(stream)]
        starts = [(pts - shown[0][0]) * stream.time_base for pts, _ in shown]
    assert [number for _, number in shown] == list(range(shown[0][1], shown[0][1] + len(shown)))
    rng = random.Random(path.name)
    times = [Fraction(rng.random()) * (starts[-1] + Fraction(1, 24)) for _ in range(200)]
    try:
        got = dict(decode.read(path, [Wanted(time, 320, 240) for time in times], reader))
    except MediaError:
        return [999]
    assert sorted(got) == list(range(200))
    misses = [
        number_of(got[which]) - shown[bisect.bisect_right(starts, time) - 1][1] for which, time in enumerate(times)
    ]
    return [miss for miss in misses if miss]


@pytest.mark.parametrize("reader", sorted(decode.READERS))
def test_each_reader_is_wrong_on_what_it_says_and_on_nothing_else(shared: Path, reader: str) -> None:
    module_name = f"vista_train.video.decode.{reader}"
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        pytest.skip(f"{reader} cannot be used here: {error}")
    files = sorted((shared / "odd_media" / "barcode").iterdir())
    assert [path.name for path in files] == sorted(KINDS)
    wrong = {}
    for path in files:
        misses = wrong_frames(path, reader)
        if misses:
            wrong[KINDS[path.name]] = "refused" if misses == [999] else "wrong frames"
    assert wrong == module.KNOWN_WRONG
