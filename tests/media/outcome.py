"""What comes of a file: the right pictures, wrong ones, or an error, told by a plain decode of all of it."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from tests.media.kinds import RIGHT, WRONG
from tests.media.spoilt import WHOLE
from vista_train.video.decode import Limits, MediaError, Wanted
from vista_train.video.media import Media

LIMITS = Limits(deadline_seconds=30, max_bytes=1 << 30, max_pixels=1_500_000, max_frames=1200, max_seconds=7200)
WIDTH, HEIGHT, NUM_TIMES = 80, 48, 20
ALIKE = 12.0
"""Mean difference in brightness up to which two pictures are the same frame: scalers and colour matrices differ."""
TOO_ALIKE = 3.0
"""... and up to which frames that follow each other, in clips that were filmed, cannot be told apart."""
OVERRUN_SECONDS = Fraction(1, 2)
"""How long after its end a file may still show its last frame."""


@dataclass(frozen=True)
class Reference:
    """All frames of a file that PyAV shows, in the order it gives them, which is the order they are shown in."""

    starts: list[Fraction]
    """Seconds after the first frame."""
    pictures_NHWC: np.ndarray
    last_seconds: Fraction
    """How long the last frame is said to last."""

    @property
    def end(self) -> Fraction:
        """When the last frame is gone, at the latest."""
        gaps = [b - a for a, b in pairwise(self.starts)]
        return self.starts[-1] + max(self.last_seconds, *gaps, Fraction(0))

    @classmethod
    def of(cls, path: Path) -> Reference | None:
        """None where not even the first frame can be decoded. What comes after damage counts as not there."""
        scaler, times, pictures, last = VideoReformatter(), [], [], Fraction(0)
        try:
            with av.open(str(path), metadata_errors="replace") as container:
                stream = _video(container)
                for number, frame in enumerate(container.decode(stream) if stream else ()):
                    if frame.is_corrupt:
                        break
                    count = number / (stream.average_rate or Fraction(1))
                    times.append(count if frame.pts is None else frame.pts * stream.time_base)
                    pictures.append(_upright(scaler, frame))
                    last = (frame.duration or 0) * stream.time_base
        except (av.FFmpegError, IndexError):
            # IndexError is how PyAV ends with streams that began late.
            pass
        if not times:
            return None
        # Times that do not rise are made up, as AVI stores none, or lies.
        starts = [time - min(times) for time in sorted(times)]
        return cls(starts, np.stack(pictures), last)

    def is_right(self, time: Fraction, picture_HWC: np.ndarray) -> bool:
        """Whether the picture is the frame shown at `time`, and no other is more like it."""
        if time > self.end + OVERRUN_SECONDS:
            return False
        expected = self.pictures_NHWC[bisect_right(self.starts, time) - 1]
        away = abs(expected.astype(int) - picture_HWC).mean()
        nearest = abs(self.pictures_NHWC.astype(int) - picture_HWC).mean((1, 2, 3)).min()
        return bool(away <= TOO_ALIKE or (away <= ALIKE and away <= nearest + 0.25))


def _video(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video that a player shows: no cover picture, if there is anything else."""
    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return container.streams.best("video") if len(films) != 1 else films[0]


def _upright(scaler: VideoReformatter, frame: av.VideoFrame) -> np.ndarray:
    turns = round(frame.rotation / 90) % 4
    size = (HEIGHT, WIDTH) if turns % 2 else (WIDTH, HEIGHT)
    return np.rot90(scaler.reformat(frame, *size, format="rgb24").to_ndarray(), turns)


@cache
def reference_of(root: Path, key: str) -> Reference | None:
    """What a plain decode of the file shows; None where that is nothing."""
    path = root / key
    return Reference.of(path) if "\0" not in key and os.path.isfile(path) else None


def whole_of(root: Path, key: str) -> Reference | None:
    """The same, but for a file that was damaged on purpose, of what it was before: that it may show, or nothing."""
    return reference_of(root.parent / WHOLE, key) or reference_of(root, key)


def pictures_of(media: Media, key: str) -> tuple[list[Fraction], list[np.ndarray]]:
    """Pictures from all over a file, at times that its header suggests."""
    duration = media.probe(key).duration
    times = [Fraction(2 * at + 1, 2 * NUM_TIMES) * duration for at in range(NUM_TIMES)]
    # Backwards: nobody has promised to ask in order.
    times = [*reversed(times), Fraction(0)]
    got = {which: picture.copy() for which, picture in media.pictures(key, [Wanted(t, WIDTH, HEIGHT) for t in times])}
    return times, [got[which] for which in range(len(times))]


def outcome(media: Media, key: str) -> tuple[str, MediaError | None]:
    """`right`, `wrong`, or the name of the error, and the error itself."""
    try:
        times, pictures = pictures_of(media, key)
    except MediaError as error:
        return type(error).__name__, error
    reference = whole_of(media.root, key)
    if reference is None:
        return WRONG, None
    right = all(reference.is_right(time, picture) for time, picture in zip(times, pictures, strict=True))
    return (RIGHT if right else WRONG), None


def inspected(media: Media, key: str) -> str:
    """The same of `inspect`: whether it tells the number of frames, and how long they last."""
    try:
        found = media.inspect(key)
    except MediaError as error:
        return type(error).__name__
    reference = reference_of(media.root, key)
    if reference is None or found.num_frames != len(reference.starts):
        return WRONG
    most = reference.end + Fraction(1, 10)
    return RIGHT if reference.starts[-1] <= found.duration <= most or len(reference.starts) == 1 else WRONG
