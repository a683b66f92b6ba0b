"""What a reader is, what it is asked for, and how it fails."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

MIN_SIDE_PX = 8
"""Pictures smaller than this a side are refused: no model can use them, and few scalers are right on them."""


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
class Wanted:
    """One picture: the frame shown at `time` seconds after the first frame, scaled to width x height pixels."""

    time: Fraction
    width: int
    height: int


class Reader(Protocol):
    """One decoder library behind one call."""

    name: str

    def pictures(self, path: Path, wanted: Sequence[Wanted]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index into `wanted`, picture_HWC uint8) for every index, each source frame decoded once.

        Pictures come in the order of their times, whatever the order of `wanted`. After an anomaly the reader may
        start over, and yield an index again with the right picture; the last one counts. Raises `MediaError`.
        """
        ...


def resolve(root: str | Path, path: str) -> Path:
    """The file `path` names under `root`; `MediaMissing` where it would leave the root."""
    try:
        base = Path(root).resolve()
        full = (base / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise MediaMissing(path, f"is no path that can be followed ({type(error).__name__})") from error
    if not full.is_relative_to(base):
        raise MediaMissing(path, f"leads outside the data root {base}")
    return full


def check_file(path: Path) -> None:
    """`MediaMissing` where nothing is at `path`, `MediaUnreadable` where it is no regular file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise MediaMissing(path, "no such file") from None
    except (OSError, ValueError) as error:
        raise MediaMissing(path, f"cannot be reached ({type(error).__name__})") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaUnreadable(path, "not a file")


def resized(picture_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """picture_HWC uint8 at height x width pixels, bilinear with antialiasing; for readers that do not scale."""
    if picture_HWC.shape[:2] == (height, width):
        return np.ascontiguousarray(picture_HWC)
    picture_1CHW = torch.from_numpy(np.ascontiguousarray(picture_HWC)).permute(2, 0, 1)[None]
    scaled_1CHW = torch.nn.functional.interpolate(picture_1CHW, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(scaled_1CHW[0].permute(1, 2, 0).numpy())
