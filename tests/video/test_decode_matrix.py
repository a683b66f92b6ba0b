"""Each reader on 240 numbered frames in 16 containers and codings: right, or wrong as its `KNOWN_WRONG` says."""

from __future__ import annotations

import bisect
import importlib
import random
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

from vista_train.video import decode
from vista_train.video.decode import MediaError, MediaMissing, MediaUnreadable, Wanted

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


def load(reader: str) -> ModuleType:
    try:
        return importlib.import_module(f"vista_train.video.decode.{reader}")
    except ImportError as error:
        pytest.skip(f"{reader} cannot be used here: {error}")


@pytest.mark.parametrize("reader", sorted(decode.READERS))
def test_each_reader_is_wrong_on_what_it_says_and_on_nothing_else(shared: Path, reader: str) -> None:
    module = load(reader)
    files = sorted((shared / "odd_media" / "barcode").iterdir())
    assert [path.name for path in files] == sorted(KINDS)
    misses = {KINDS[path.name]: wrong_frames(path, reader) for path in files}
    wrong = {kind: "refused" if miss == [999] else "wrong frames" for kind, miss in misses.items() if miss}
    assert wrong == module.KNOWN_WRONG


@pytest.mark.parametrize("reader", sorted(decode.READERS))
def test_each_reader_keeps_the_promises_of_the_door(tmp_path: Path, reader: str) -> None:
    load(reader)
    path = tmp_path / "shades.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"g": "10", "bf": "2", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            shade = np.full((72, 64), 128, np.uint8)
            shade[:48] = 30 + 6 * number
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="yuv420p")))
        out.mux(stream.encode(None))
    times = [Fraction(25, 10), Fraction(0), Fraction(34, 10), Fraction(119, 100), Fraction(25, 10)]
    for sizes in ([(64, 48)] * 5, [(32, 24), (64, 48), (16, 40), (64, 48), (64, 48)]):
        order, frames = [], [0] * 5
        wanted = [Wanted(time, *size) for time, size in zip(times, sizes, strict=True)]
        for which, picture in decode.read(path, wanted, reader):
            assert picture.shape == (*sizes[which][::-1], 3)
            assert (picture.dtype, picture.flags["C_CONTIGUOUS"]) == (np.uint8, True)
            order.append(which)
            frames[which] = round((picture.mean() * 219 / 255 + 16 - 30) / 6)
        assert frames == [25, 0, 29, 11, 25]
        assert [times[which] for which in order] == sorted(times)
    (tmp_path / "text.mp4").write_text("no video at all")
    for bad, kind in (("absent.mp4", MediaMissing), ("text.mp4", MediaUnreadable)):
        with pytest.raises(kind) as refused:
            list(decode.read(tmp_path / bad, wanted, reader))
        assert str(tmp_path) not in refused.value.reason
