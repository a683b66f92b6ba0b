"""What a reader is, what it is asked for, and how it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from vista_train.video.decode.limits import Limits
    from vista_train.video.decode.packets import PacketIndex

MIN_SIDE_PX = 8
"""Pictures smaller than this a side are refused: no model can use them, and few scalers are right on them."""
CONTAINERS = ("mov", "matroska", "avi", "flv", "mpegts", "mpeg", "asf", "ogg", "gif", "ivf", "mxf", "nut", "rm")
"""What may be opened at all, by libav's names: no playlists and image sequences, which open further files, and no raw
streams, which carry no times."""
STILLS = ("jpeg", "png", "webp")
"""What is opened instead where a file's name is a picture's."""


class MediaError(Exception):
    """A media file that cannot be shown. `path` is the file, `reason` one clear phrase."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (type(self), (self.path, self.reason))


class MediaMissing(MediaError):
    """No file is there."""


class MediaUnreadable(MediaError):
    """A file is there, but it is not (or no longer) a video that can be decoded."""


class MediaTooLarge(MediaError):
    """A file goes beyond the limits: more bytes, pixels, frames, seconds or memory than were allowed."""


class MediaTimeout(MediaError):
    """A file was not decoded in time, and the process that tried is dead."""


class MediaCrashed(MediaError):
    """The process that decoded the file died of it."""


KINDS = {kind.__name__: kind for kind in (MediaMissing, MediaUnreadable, MediaTooLarge, MediaTimeout, MediaCrashed)}
"""The ways to fail, by name."""


@dataclass(frozen=True)
class Header:
    """What a file says of its best video stream, as displayed (rotation applied)."""

    duration: Fraction
    width: int
    height: int
    fps: Fraction
    num_frames: int | None
    codec: str
    container: str


@dataclass(frozen=True)
class Inspected:
    """What a file turned out to be, all of its packets read, its first, middle and last frame decoded."""

    duration: Fraction
    """From the first frame to the end of the last."""
    width: int
    height: int
    fps: Fraction
    num_frames: int


class Wanted(NamedTuple):
    """One picture: the frame shown at `time` seconds after the first frame, scaled to width x height pixels."""

    time: Fraction
    width: int
    height: int
    window: tuple[Fraction, Fraction] | None = None
    """From when until before when a frame must begin to stand in for it, if that one costs less; default, none may."""

    def to_json(self) -> list[Any]:
        """As JSON takes it."""
        times = [self.time, *(self.window or ())]
        return [self.width, self.height, *(part for time in times for part in time.as_integer_ratio())]

    @classmethod
    def from_json(cls, plain: list[int]) -> Wanted:
        """What `to_json` has made."""
        width, height, *parts = plain
        time, *window = (Fraction(num, den) for num, den in zip(parts[::2], parts[1::2], strict=True))
        return cls(time, width, height, (window[0], window[1]) if window else None)


class Memory(Protocol):
    """What is remembered of one file, as it is now."""

    is_all: bool
    """Whether its times are known from memory alone: what the file says of itself does not count."""

    def index(self) -> PacketIndex | None:
        """Its packet index, if there is one."""
        ...

    def keep(self, index: PacketIndex) -> None:
        """Remember its packet index."""
        ...


class Forgetful:
    """No memory."""

    is_all = False

    def index(self) -> None:
        """None is known."""

    def keep(self, index: PacketIndex) -> None:
        """It is not kept."""


FORGETFUL = Forgetful()


class Reader(Protocol):
    """One decoder library behind one call."""

    name: str

    def pictures(
        self, path: Path, wanted: Sequence[Wanted], limits: Limits, memory: Memory
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index into `wanted`, picture_HWC uint8) for every index, each source frame decoded once.

        Pictures come in the order of their times, whatever the order of `wanted`. After an anomaly the reader may
        start over, and yield an index again with the right picture; the last one counts. Raises `MediaError`.
        """
        ...
