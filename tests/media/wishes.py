"""What is asked of every kind of file, and what comes of it: pictures, or an error."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.media.kinds import CRASHED, EXPECTED, MADE
from tests.media.outcome import LIMITS
from vista_train.video import decode
from vista_train.video.decode import MediaError, Wanted
from vista_train.video.decode.indexes import IndexFile

SAFE = [key for key in MADE if EXPECTED[key].pyav != CRASHED]
LIE_OPEN = {"plain.mp4", "hevc.mp4", "av1.mp4", "open_gop.mp4", "keys_only.mp4", "ten_bit.mp4", "full_range.mp4"}
"""Files that are read without their container, once their index is known."""


def pictures(path: Path, wanted: list[Wanted], memory: IndexFile) -> tuple[dict[int, np.ndarray], str]:
    """What comes of it, and the error that ended it."""
    try:
        return dict(decode.read(path, wanted, "pyav", LIMITS, memory)), ""
    except MediaError as error:
        return {}, f"{type(error).__name__}: {error.reason}"


def wishes(path: Path) -> list[Wanted]:
    """Times all over the file, some twice, in two sizes."""
    try:
        duration = decode.probe(path, LIMITS).duration
    except MediaError:
        duration = Fraction(1)
    times = [duration * number / 17 for number in (16, 3, 0, 9, 9, 12)]
    return [Wanted(time, *size) for time, size in zip(times, [(64, 48), (20, 30)] * 3, strict=True)]


def windowed(wanted: list[Wanted]) -> list[Wanted]:
    """The same, where a keyframe may stand in that begins up to a second before or after."""
    return [one._replace(window=(max(Fraction(0), one.time - 1), one.time + 1)) for one in wanted]
