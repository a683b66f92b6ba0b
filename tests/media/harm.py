"""What befalls files: cut, overwritten, patched so that their headers lie."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

Edit = Callable[[bytearray], bytes | bytearray]


def cut(share: float) -> Edit:
    """Only the first part is left."""
    return lambda data: data[: int(len(data) * share)]


def hole(start: float, size: int) -> Edit:
    """Zeros from a share of the file on."""

    def edit(data: bytearray) -> bytearray:
        at = int(len(data) * start)
        data[at : at + size] = bytes(min(size, len(data) - at))
        return data

    return edit


def flips(num: int, start: float, end: float) -> Edit:
    """Single bits between two shares of the file."""

    def edit(data: bytearray) -> bytearray:
        rng = random.Random(5)
        for _ in range(num):
            data[rng.randrange(int(len(data) * start), int(len(data) * end))] ^= 1 << rng.randrange(8)
        return data

    return edit


def without_box(name: bytes) -> Edit:
    """An MP4 less one of its boxes of the top level."""

    def edit(data: bytearray) -> bytearray:
        at = data.rindex(name) - 4
        (size,) = struct.unpack_from(">I", data, at)
        return data[:at] + data[at + size :]

    return edit


def patched(name: bytes, offset: int, form: str, *values: int) -> Edit:
    """Values written so many bytes behind the last place where a name stands: an MP4's index lies at its end."""

    def edit(data: bytearray) -> bytearray:
        struct.pack_into(form, data, data.rindex(name) + len(name) + offset, *values)
        return data

    return edit


def patched_first(name: bytes, offset: int, form: str, *values: int) -> Edit:
    """The same behind the first place where it stands: an AVI, Matroska or FLV begins with its header."""

    def edit(data: bytearray) -> bytearray:
        struct.pack_into(form, data, data.index(name) + len(name) + offset, *values)
        return data

    return edit


def with_cover(picture: bytes) -> Edit:
    """An MP4 with a cover picture, in the boxes that players keep titles in; they are its last."""

    def edit(data: bytearray) -> bytearray:
        value = struct.pack(">I4sII", len(picture) + 16, b"data", 13, 0) + picture
        cover = struct.pack(">I4s", len(value) + 8, b"covr") + value
        for name in (b"moov", b"udta", b"meta", b"ilst"):
            at = data.rindex(name) - 4
            struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(cover))
        return data + cover

    return edit


def both(*edits: Edit) -> Edit:
    """One after another."""

    def edit(data: bytearray) -> bytes | bytearray:
        for one in edits:
            data = bytearray(one(data))
        return data

    return edit


def spoil(path: Path, edit: Edit) -> None:
    """Change a file's bytes in place."""
    path.write_bytes(edit(bytearray(path.read_bytes())))
