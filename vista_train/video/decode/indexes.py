"""Packet indexes on disk: what a pass over a long file has found, for whoever opens it next."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vista_train.video.decode.packets import Anomaly, DecoderSetup, PacketIndex

MAGIC = b"vistaix3"
HEAD = struct.Struct("<8sII")
"""Magic, bytes of the JSON that follows, bytes of all of it: JSON, then arrays, each on a multiple of 8."""
END = struct.Struct("<Q8s")
"""What ends a file that an index is attached to: where the index starts, and a magic word."""
END_MAGIC = b"vistaend"
MIN_PACKETS = 1024
"""A file of fewer packets has been read through as soon as its index is found."""
SHORT = 8192
"""A column of so few numbers is read at once."""
SHORT_BYTES = 1 << 16
"""What begins an index is read at once, so much of it at least."""
MAX_TEXT_BYTES = 1 << 20
MAX_TICKS = 1 << 62
MAX_BYTES = 128 << 20
ARRAYS = {
    "pts_P": "<i8",
    "dts_P": "<i8",
    "offset_P": "<i8",
    "shown_F": "<i8",
    "rank_P": "<i4",
    "position_F": "<i4",
    "size_P": "<i4",
    "keys_K": "<i4",
    "stand_ins_K": "<i4",
}
"""An index's arrays, in the order in which they lie in its file."""


def place_of(folder: str | Path, rules: str, key: str, stamp: Sequence[int]) -> Path:
    """Where under `folder` the index of a media file stands, whose size and time of change are `stamp`; `rules` name
    its root and what it may be like."""
    name = hashlib.sha256(json.dumps([rules, key, *stamp]).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return Path(folder, name[:2], name)


def stamp_of(status: os.stat_result) -> tuple[int, int]:
    """What tells a media file from what it was: its size and time of change."""
    return status.st_size, status.st_mtime_ns


class IndexFile:
    """The memory of one media file (decode/base.py, Memory): its index at `path`, if there is one."""

    is_all = False

    def __init__(self, path: Path | None, least_packets: int | None = None) -> None:
        self.path = path
        self.least_packets = MIN_PACKETS if least_packets is None else least_packets
        self.kept: bytes | None = None
        """What has been learnt and is worth writing to `path`; who may write must do so."""

    def index(self) -> PacketIndex | None:
        """What stands in the file; None where there is none, or none that is whole."""
        if self.path is None:
            return None
        with suppress(OSError, ValueError):
            return read(self.path).index
        return None

    def keep(self, index: PacketIndex) -> None:
        """Make ready what is to be written."""
        if self.path is not None and index.num_packets >= self.least_packets:
            content = to_bytes(index)
            self.kept = content if len(content) <= MAX_BYTES else None


class Attached(IndexFile):
    """The memory of a file that ends with its index, whose times are those of another file."""

    is_all = True

    def index(self) -> PacketIndex | None:
        """What stands at its end."""
        with suppress(OSError, ValueError):
            return read_attached(self.path).index if self.path is not None else None
        return None

    def keep(self, index: PacketIndex) -> None:
        """It stands there already."""


def write(path: Path, content: bytes) -> None:
    """Put an index where it is looked for, whole or not at all; a full or read-only disk costs nothing but time."""
    building = path.with_name(f".building-{secrets.token_hex(8)}")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            building.write_bytes(content)
            building.replace(path)
        finally:
            building.unlink(missing_ok=True)


def to_bytes(index: PacketIndex, about: dict[str, Any] | None = None) -> bytes:
    """An index that can seek, as it stands in a file, and what else is to be known with it."""
    facts: dict[str, Any] = {
        "about": about or {},
        "time_base": list(index.time_base.as_integer_ratio()),
        "last_seconds": list(index.last_seconds.as_integer_ratio()),
        "lengths": [len(getattr(index, name)) for name in ARRAYS],
        "setup": None,
    }
    if index.setup is not None:
        facts["setup"] = index.setup._asdict() | {"extradata": b64encode(index.setup.extradata).decode()}
    text = json.dumps(facts).encode()
    parts = [HEAD.pack(MAGIC, len(text), 0), text]
    parts += [np.ascontiguousarray(getattr(index, name)[:], dtype=kind).tobytes() for name, kind in ARRAYS.items()]
    content = b"".join(part + bytes(-len(part) % 8) for part in parts)
    return HEAD.pack(MAGIC, len(text), len(content)) + content[HEAD.size :]


class Stored:
    """A column of numbers in a file, read where they are looked at: of an index of hours little is ever needed.

    Mapped into memory instead, all of it would soon count as this process's.
    """

    def __init__(self, file: BinaryIO, kind: str, length: int, start: int) -> None:
        self._file, self._kind, self._length, self._start = file, np.dtype(kind), length, start

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            first, last, _ = at.indices(self._length)
            return self._read(first, max(0, last - first))
        at = at + self._length if at < 0 else at
        if not 0 <= at < self._length:
            raise IndexError(at)
        return self._read(at, 1)[0]

    def _read(self, first: int, num: int) -> np.ndarray:
        size = self._kind.itemsize
        content = os.pread(self._file.fileno(), num * size, self._start + first * size)
        if len(content) != num * size:
            raise Anomaly("its index has become shorter")
        return np.frombuffer(content, self._kind)


@dataclass(frozen=True)
class Known:
    """An index, and what else is to be known with it."""

    index: PacketIndex
    about: dict[str, Any]
    file: BinaryIO
    """Open, as long as the index is in use."""


def read_attached(path: Path) -> Known:
    """The index at the end of a file. `ValueError` where there is none, or not a whole one."""
    return _read(path, attached=True)


def read(path: Path) -> Known:
    """The index that a file is. `ValueError` unless it is whole, and whatever stands there: a file that has taken over
    its decoder may have made it up."""
    return _read(path, attached=False)


def _read(path: Path, attached: bool) -> Known:
    file = path.open("rb", buffering=0)
    try:
        return _parsed(file, _start(file) if attached else 0)
    except (KeyError, TypeError, ArithmeticError, RecursionError, MemoryError, Anomaly, struct.error) as error:
        raise ValueError(f"no index ({type(error).__name__})") from error


def _start(file: BinaryIO) -> int:
    """Where the index at the end of a file starts."""
    size = os.fstat(file.fileno()).st_size
    start, magic = END.unpack(os.pread(file.fileno(), END.size, max(0, size - END.size)).ljust(END.size))
    if magic != END_MAGIC or start > size:
        raise ValueError("no index at its end")
    return int(start)


def _parsed(file: BinaryIO, start: int) -> Known:
    size = os.fstat(file.fileno()).st_size
    magic, text_bytes, all_bytes = HEAD.unpack(os.pread(file.fileno(), HEAD.size, start).ljust(HEAD.size))
    if magic != MAGIC or start + all_bytes > size or all_bytes > MAX_BYTES or text_bytes > MAX_TEXT_BYTES:
        raise ValueError("no index, or not a whole one")
    at = HEAD.size + text_bytes
    begins = os.pread(file.fileno(), max(at, min(all_bytes, SHORT_BYTES)), start)
    facts = json.loads(begins[HEAD.size : at])
    columns: dict[str, Any] = {}
    for (name, kind), length in zip(ARRAYS.items(), facts["lengths"], strict=True):
        at += -at % 8
        column = Stored(file, kind, whole(length, 0, MAX_BYTES), start + at)
        first, at = at, at + length * np.dtype(kind).itemsize
        if at > all_bytes:
            raise ValueError("an index that is longer than it says")
        if at <= len(begins):
            columns[name] = np.frombuffer(begins, kind, length, first)
        else:
            columns[name] = column[:] if length <= SHORT else column
    lengths = {name: len(column) for name, column in columns.items()}
    of_packets = {lengths[name] for name in ("pts_P", "dts_P", "rank_P")}
    of_places = {lengths[name] for name in ("offset_P", "size_P")}
    if len(of_packets) > 1 or not (of_places == {0} or of_places == of_packets) or lengths["shown_F"] < 1:
        raise ValueError("an index whose parts do not belong together")
    if lengths["position_F"] != lengths["shown_F"] or max(lengths["keys_K"], lengths["stand_ins_K"]) > max(of_packets):
        raise ValueError("an index whose parts do not belong together")
    index = PacketIndex(
        pts_P=columns["pts_P"],
        dts_P=columns["dts_P"],
        rank_P=columns["rank_P"],
        position_F=columns["position_F"],
        shown_F=columns["shown_F"],
        keys_K=columns["keys_K"],
        stand_ins_K=columns["stand_ins_K"],
        time_base=_ratio(facts["time_base"], 1),
        by_pts=True,
        can_seek=True,
        last_seconds=_ratio(facts["last_seconds"], 0),
        offset_P=columns["offset_P"],
        size_P=columns["size_P"],
        setup=None if facts["setup"] is None else _setup(facts["setup"]),
    )
    if not isinstance(facts["about"], dict):
        raise ValueError("an index that says nothing of what it is about")
    return Known(index, facts["about"], file)


def whole(number: Any, least: int, most: int) -> int:
    """A number as it stands in a file; `ValueError` unless it is whole and within bounds."""
    if type(number) is not int or not least <= number <= most:
        raise ValueError(f"{str(number)[:40]} is no number from {least} to {most}")
    return number


def _ratio(pair: Any, least: int) -> Fraction:
    num, den = pair
    return Fraction(whole(num, least, MAX_TICKS), whole(den, 1, MAX_TICKS))


def _setup(facts: dict[str, Any]) -> DecoderSetup:
    return DecoderSetup(
        codec=str(facts["codec"]),
        extradata=b64decode(facts["extradata"]),
        width=whole(facts["width"], 1, 1 << 20),
        height=whole(facts["height"], 1, 1 << 20),
        pix_fmt=str(facts["pix_fmt"]),
        colors=tuple(whole(color, 0, 1 << 20) for color in facts["colors"]),
        turns=whole(facts["turns"], 0, 3),
    )
