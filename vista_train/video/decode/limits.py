"""Limits: how large a media file may be, and how long and in how much memory it may be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from vista_train.video.decode.base import CONTAINERS, STILLS, Wanted

SECONDS_PER_PIXEL = 2.5e-9
"""Of decoding one frame, by one thread: 1.8e-9 (H.264 of 1280x720) to 2.5e-9 (of 854x480) measured on an AMD EPYC."""
FRAMES_PER_WISH = 300
"""Frames on the way to a wanted one, at most: the longest group of pictures that encoders make by default, and some."""
BYTES_PER_SECOND = 20e6
"""Of reading a file from slow storage; all of its packets are read before the first is decoded."""
PATIENCE = 5
"""A file may take this many times as long as predicted: machines are loaded, and codecs differ."""


@dataclass(frozen=True)
class Limits:
    """What a file is refused for. Held against its header, and against what it turns out to be while it is decoded."""

    max_bytes: int = 16 << 30
    """Bytes of the file."""
    max_pixels: int = 8192 * 4608
    """Width x height of a frame."""
    max_frames: int = 2_000_000
    """Frames in the file: nine hours of 60 a second."""
    max_seconds: float = 36_000.0
    """Seconds that the file lasts."""
    deadline_seconds: float = 10.0
    """Wall-clock seconds that reading from one file may always take; five times what its metadata predicts, where that
    is longer. Held only where decoding runs in a process of its own."""
    max_deadline_seconds: float = 180.0
    """... and never more than this. It must stay well below the time after which ranks take each other for lost."""
    max_memory_mib: int = 4096
    """Memory that a decoder may ask for, beyond what its process starts with; in a process of its own."""
    containers: tuple[str, ...] = ("mov", "matroska", "avi", "mpegts", "flv")
    """Kinds of container that are opened, by libav's names; mov is MP4 too, matroska WebM."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_frames", "max_seconds", "deadline_seconds", "max_memory_mib"):
            if not getattr(self, name) > 0:
                raise ValueError(f"limits.{name} is {getattr(self, name)}; it must be above 0")
        if self.max_deadline_seconds < self.deadline_seconds:
            raise ValueError(
                f"limits.max_deadline_seconds is {self.max_deadline_seconds}; it must be at least "
                f"limits.deadline_seconds, {self.deadline_seconds}"
            )
        unknown = [] if self.is_of_pictures else sorted(set(self.containers) - set(CONTAINERS))
        if unknown or not self.containers:
            raise ValueError(
                f"limits.containers has {unknown[0] if unknown else 'nothing'}; choose of {', '.join(CONTAINERS)}"
            )

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Limits:
        """Limits from what JSON keeps of them."""
        return cls(**(plain | {"containers": tuple(plain["containers"])}))

    @property
    def is_of_pictures(self) -> bool:
        """Whether pictures are opened, and nothing else."""
        return self.containers == STILLS

    def of_pictures(self) -> Limits:
        """The same for files that are to be pictures: no video is opened for one, whatever is in it."""
        return replace(self, containers=STILLS)

    def deadline(self, predicted_seconds: float = 0.0) -> float:
        """Wall-clock seconds that a request of so many predicted seconds may take."""
        return min(self.max_deadline_seconds, max(self.deadline_seconds, PATIENCE * predicted_seconds))

    def deadline_with(self, seconds: float, num_bytes: int, passes: int) -> float:
        """A deadline of `seconds`, and the time to read a file of `num_bytes` so many times on top."""
        return max(seconds, min(self.max_deadline_seconds, seconds + passes * max(0, num_bytes) / BYTES_PER_SECOND))


def predicted_seconds(wanted: Sequence[Wanted], width: int, height: int, fps: Fraction, can_seek: bool = True) -> float:
    """Seconds to decode `wanted` of a file of width x height pixels and `fps` in one thread; seeking may save most."""
    # As floats they are compared many times faster, and this is asked for thousands of pictures.
    frames = max((float(one.time) for one in wanted), default=0.0) * float(fps) + 1
    if can_seek and frames > FRAMES_PER_WISH:
        frames = min(frames, FRAMES_PER_WISH * len({one.time for one in wanted}))
    return frames * width * height * SECONDS_PER_PIXEL


LIMITS = Limits()
"""What holds where nobody says otherwise."""
