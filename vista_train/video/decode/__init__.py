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
    FORGETFUL,
    MIN_SIDE_PX,
    Header,
    Inspected,
    MediaCrashed,
    MediaError,
    MediaMissing,
    MediaTimeout,
    MediaTooLarge,
    MediaUnreadable,
    Memory,
    Reader,
    Wanted,
)
from vista_train.video.decode.door import Door, check_file
from vista_train.video.decode.limits import LIMITS, Limits

__all__ = [
    "AUTO",
    "AUTO_BECAUSE",
    "LIMITS",
    "MIN_SIDE_PX",
    "READERS",
    "Door",
    "Header",
    "Inspected",
    "Limits",
    "MediaCrashed",
    "MediaError",
    "MediaMissing",
    "MediaTimeout",
    "MediaTooLarge",
    "MediaUnreadable",
    "Reader",
    "Wanted",
    "check_reader",
    "inspect",
    "probe",
    "read",
]

READERS = {"pyav": "PyAVReader", "decord": "DecordReader", "torchcodec": "TorchCodecReader"}
"""Each reader's module here and its class there; a module is imported when its reader is first chosen."""
AUTO = "pyav"
AUTO_BECAUSE = (
    "exact on every kind of file that is tested, or it refuses the file; the others show wrong frames of some, and are "
    "slower where few frames of a file are wanted"
)


def probe(path: Path, limits: Limits = LIMITS) -> Header:
    """The header of the file at `path`; `MediaError` if there is none, or beyond the limits."""
    from vista_train.video.decode import header, still

    check_file(path, limits)
    return (still if limits.is_of_pictures else header).header(path, limits)


def inspect(path: Path, limits: Limits = LIMITS) -> Inspected:
    """What the file at `path` turns out to be when all of it is read, and three of its frames are decoded."""
    from vista_train.video.decode import header, still

    check_file(path, limits)
    return (still if limits.is_of_pictures else header).inspected(path, limits)


def read(
    path: Path,
    wanted: Sequence[Wanted],
    reader: str = "auto",
    limits: Limits = LIMITS,
    memory: Memory = FORGETFUL,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index into `wanted`, picture_HWC uint8) for every index, in the order of their times.

    Time 0 is the moment the first frame is shown; a time past the end shows the last frame. A frame that is wanted
    several times is decoded once and scaled once for each size. What is learnt of the file goes to `memory`, and
    what stands there need not be learnt. See `Reader.pictures` for starting over. `ValueError`
    for an unknown reader or an impossible wish, `ImportError` for a reader whose library is not installed, both at
    once; `MediaError` when the file turns out bad, or beyond the limits.
    """
    for one in wanted:
        if one.time < 0 or min(one.width, one.height) < 1:
            raise ValueError(f"{one} must have a time of at least 0 seconds and at least 1x1 pixels")
    chosen = check_reader(reader)
    if limits.is_of_pictures:
        # Whoever reads videos, pictures are read by one.
        from vista_train.video.decode.still import StillReader

        chosen = StillReader()
    return _pictures(chosen, Path(path), wanted, limits, memory) if wanted else iter(())


def check_reader(name: str) -> Reader:
    """The reader of that name; `ValueError` if there is none, `ImportError` if its library is not installed."""
    name = AUTO if name == "auto" else name
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


def _pictures(
    reader: Reader, path: Path, wanted: Sequence[Wanted], limits: Limits, memory: Memory
) -> Iterator[tuple[int, np.ndarray]]:
    check_file(path, limits)
    if reader.name in READERS and reader.name != AUTO:
        # Other libraries open whatever they can, playlists too, and know no limits.
        from vista_train.video.decode.header import admit

        admit(path, limits)
    missing = set(range(len(wanted)))
    for which, picture_HWC in reader.pictures(path, wanted, limits, memory):
        missing.discard(which)
        yield which, picture_HWC
    if missing:
        # Its place may still hold what was shown before.
        raise MediaUnreadable(path, "cannot be decoded: a wanted frame is missing")
