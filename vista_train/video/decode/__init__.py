"""The only door to a decoder library: what a file is (`probe`), and pictures of it (`read`).

`auto` is PyAV, whatever is installed. The other readers are wrong on files that cannot be told from good ones without
doing PyAV's work first (their `KNOWN_WRONG` says which), and slower; they are here to be compared with.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vista_train.video.decode.base import (
    MIN_SIDE_PX,
    Header,
    MediaError,
    MediaMissing,
    MediaUnreadable,
    Reader,
    Wanted,
    resolve,
)

__all__ = [
    "MIN_SIDE_PX",
    "READERS",
    "Header",
    "MediaError",
    "MediaMissing",
    "MediaUnreadable",
    "Reader",
    "Wanted",
    "probe",
    "read",
    "resolve",
]

READERS = {"pyav": "PyAVReader", "decord": "DecordReader", "torchcodec": "TorchCodecReader"}
"""Each reader's module here and its class there; a module is imported when its reader is first chosen."""
AUTO = "pyav"


def probe(path: Path) -> Header:
    """The header of the file at `path`. Raises `MediaMissing` or `MediaUnreadable`."""
    from vista_train.video.decode.pyav import header

    return header(path)


def read(path: Path, wanted: Sequence[Wanted], reader: str = "auto") -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index into `wanted`, picture_HWC uint8) for every index, in the order of their times.

    Time 0 is the moment the first frame is shown; a time past the end shows the last frame. A frame that is wanted
    several times is decoded once and scaled once for each size. See `Reader.pictures` for starting over. `ValueError`
    for an unknown reader or an impossible wish, `ImportError` for a reader whose library is not installed, both at
    once; `MediaError` when the file turns out bad.
    """
    for one in wanted:
        if one.time < 0 or min(one.width, one.height) < 1:
            raise ValueError(f"{one} must have a time of at least 0 seconds and at least 1x1 pixels")
    chosen = _reader(AUTO if reader == "auto" else reader)
    return chosen.pictures(Path(path), wanted) if wanted else iter(())


def _reader(name: str) -> Reader:
    if name not in READERS:
        raise ValueError(f"reader {name!r} is unknown; choose one of auto, {', '.join(READERS)}")
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise ImportError(
            f"reader {name!r} cannot be used here ({error}); pip install {name}, or choose auto"
        ) from error
    reader: Reader = getattr(module, READERS[name])()
    return reader
