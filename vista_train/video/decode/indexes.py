"""Packet indexes on disk: what a pass over a long file has found, for whoever opens it next."""

from __future__ import annotations

import hashlib
import json
import mmap
import secrets
import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vista_train.video.decode.packets import DecoderSetup, PacketIndex

MAGIC = b"vistaix1"
HEAD = struct.Struct("<8sII")
"""Magic, bytes of the JSON that follows, bytes of all of it: JSON, then arrays, each on a multiple of 8."""
MIN_PACKETS = 1024
"""A file of fewer packets has been read through as soon as its index is found."""
MAX_BYTES = 128 << 20
ARRAYS = {
    "pts_P": "<i8",
    "dts_P": "<i8",
    "offset_P": "<i8",
    "shown_F": "<i8",
    "rank_P": "<i4",
    "position_F": "<i4",
    "size_P": "<i4",
    "is_key_P": "|b1",
}
"""An index's arrays, in the order in which they lie in its file."""


def place_of(folder: str | Path, root: str, key: str, stamp: Sequence[int]) -> Path:
    """Where under `folder` the index of a media file stands, whose size and time of change are `stamp`."""
    name = hashlib.sha256(json.dumps([root, key, *stamp]).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return Path(folder, name[:2], name)


class IndexFile:
    """The memory of one media file (decode/base.py, Memory): its index at `path`, if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.kept: bytes | None = None
        """What has been learnt and is worth writing to `path`; who may write must do so."""

    def index(self) -> PacketIndex | None:
        """What stands in the file; None where there is none, or none that is whole."""
        if self.path is None:
            return None
        with suppress(OSError, ValueError, TypeError, KeyError), self.path.open("rb") as file:
            return from_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return None

    def keep(self, index: PacketIndex) -> None:
        """Make ready what is to be written."""
        if self.path is not None and index.num_packets >= MIN_PACKETS:
            content = to_bytes(index)
            self.kept = content if len(content) <= MAX_BYTES else None


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


def to_bytes(index: PacketIndex) -> bytes:
    """An index that can seek, as it stands in a file."""
    facts: dict[str, Any] = {
        "time_base": list(index.time_base.as_integer_ratio()),
        "last_seconds": list(index.last_seconds.as_integer_ratio()),
        "lengths": [len(getattr(index, name)) for name in ARRAYS],
        "setup": None,
    }
    if index.setup is not None:
        facts["setup"] = index.setup._asdict() | {"extradata": b64encode(index.setup.extradata).decode()}
    text = json.dumps(facts).encode()
    parts = [HEAD.pack(MAGIC, len(text), 0), text]
    parts += [np.ascontiguousarray(getattr(index, name), dtype=kind).tobytes() for name, kind in ARRAYS.items()]
    content = b"".join(part + bytes(-len(part) % 8) for part in parts)
    return HEAD.pack(MAGIC, len(text), len(content)) + content[HEAD.size :]


def from_buffer(buffer: mmap.mmap, start: int = 0) -> PacketIndex:
    """The index whose bytes begin at `start`; its arrays lie in the buffer. `ValueError` unless it is whole."""
    if len(buffer) < start + HEAD.size:
        raise ValueError("too short for an index")
    magic, text_bytes, all_bytes = HEAD.unpack_from(buffer, start)
    if magic != MAGIC or start + all_bytes > len(buffer):
        raise ValueError("no index, or not a whole one")
    facts = json.loads(buffer[start + HEAD.size : start + HEAD.size + text_bytes])
    at = start + HEAD.size + text_bytes
    arrays: dict[str, np.ndarray] = {}
    for (name, kind), length in zip(ARRAYS.items(), facts["lengths"], strict=True):
        at += -(at - start) % 8
        arrays[name] = np.frombuffer(buffer, kind, length, at)
        at += arrays[name].nbytes
    num_packets, num_frames = len(arrays["pts_P"]), len(arrays["shown_F"])
    of_packets = {len(arrays[name]) for name in ("dts_P", "rank_P", "is_key_P")}
    of_places = {len(arrays[name]) for name in ("offset_P", "size_P")}
    if not num_frames or of_packets != {num_packets} or of_places not in ({0}, {num_packets}):
        raise ValueError("an index whose parts do not belong together")
    if len(arrays["position_F"]) != num_frames or at - start > all_bytes:
        raise ValueError("an index whose parts do not belong together")
    setup = facts["setup"]
    return PacketIndex(
        pts_P=arrays["pts_P"],
        dts_P=arrays["dts_P"],
        is_key_P=arrays["is_key_P"],
        rank_P=arrays["rank_P"],
        position_F=arrays["position_F"],
        shown_F=arrays["shown_F"],
        time_base=Fraction(*facts["time_base"]),
        by_pts=True,
        can_seek=True,
        last_seconds=Fraction(*facts["last_seconds"]),
        offset_P=arrays["offset_P"],
        size_P=arrays["size_P"],
        setup=setup and _setup(setup),
    )


def _setup(facts: dict[str, Any]) -> DecoderSetup:
    return DecoderSetup(**facts | {"extradata": b64decode(facts["extradata"]), "colors": tuple(facts["colors"])})
