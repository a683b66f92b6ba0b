"""The boxes that an MP4 file is made of (ISO/IEC 14496-12, 4.2), and the tables in them. Bytes only, no decoder.

Whatever is not plain is `Unplain`: whoever reads here leaves such files to libav.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator

import numpy as np

MOST_BOXES = 256
TOLD = (b"desc", b"ldes", b"cprt", b"keyw")
"""Items that writers tell beside those whose names begin with a copyright sign: words, all of them."""
MAX_HEADER_BYTES = 128 << 20
"""Of the box that holds all tables: a day of 60 frames a second has less."""
SIZE_AND_NAME = struct.Struct(">I4s")
LARGE_SIZE = struct.Struct(">Q")


class Unplain(Exception):
    """Not one of the plain files whose table is sure to say all."""


class Box:
    """What is in a box."""

    def __init__(self, content: memoryview) -> None:
        self.content = content

    def __len__(self) -> int:
        return len(self.content)

    def unpack(self, layout: str, start: int = 0) -> tuple[int, ...]:
        """Numbers from `start` on, as `struct` has them."""
        try:
            return struct.unpack_from(layout, self.content, start)
        except struct.error:
            raise Unplain("a box is too short") from None

    @property
    def version(self) -> int:
        """Of a box that has one, 0 or 1; the layout goes by it."""
        (version,) = self.unpack(">B")
        if version > 1:
            raise Unplain("a box of a later version")
        return version

    def array(self, kind: str, num: int, start: int) -> np.ndarray:
        """`num` numbers from `start` on, int64."""
        if num * np.dtype(kind).itemsize > len(self) - start:
            raise Unplain("a table is too short")
        return np.frombuffer(self.content, kind, num, start).astype(np.int64)

    def count(self, most: int) -> int:
        """How many entries a table says that it has."""
        (num,) = self.unpack(">I", 4)
        if num > most:
            raise Unplain("more entries than there is use for")
        return num

    def runs(self, kind: str, num: int) -> np.ndarray:
        """A table of runs, each a count and a value of `kind`, written out: int64 [num]."""
        num_runs = self.count(num)
        layout = np.dtype([("count", ">u4"), ("value", kind)])
        if num_runs * layout.itemsize > len(self) - 8:
            raise Unplain("a table is too short")
        found = np.frombuffer(self.content, layout, num_runs, 8)
        counts = found["count"].astype(np.int64)
        if int(counts.sum()) != num:
            raise Unplain("a table of more or fewer packets than there are")
        return np.repeat(found["value"].astype(np.int64), counts)

    def parts(self, known: Collection[bytes], start: int = 0) -> dict[bytes, Box]:
        """The boxes in this one, by name. Others than `known` are `Unplain`, and so is one that comes twice."""
        found: dict[bytes, Box] = {}
        for name, box in self.each(start):
            if name not in known or name in found:
                raise Unplain("a box that is not expected")
            found[name] = box
        return found

    def each(self, start: int = 0) -> Iterator[tuple[bytes, Box]]:
        """The boxes in this one, in their order."""
        for _ in range(MOST_BOXES):
            if start == len(self):
                return
            size, inside, name = _head(bytes(self.content[start : start + 16]))
            if start + size > len(self):
                raise Unplain("a box overhangs the one that it is in")
            yield name, Box(self.content[start + inside : start + size])
            start += size
        raise Unplain("too many boxes")


def check_told(box: Box) -> None:
    """`Unplain` unless what a file tells of itself is laid out as most writers do: libav goes by names at any depth."""
    for told in box.parts((b"meta",)).values():
        parts = told.parts((b"hdlr", b"ilst", b"free"), 4)
        for name, item in parts[b"ilst"].each() if b"ilst" in parts else ():
            if name[:1] != b"\xa9" and name not in TOLD:
                raise Unplain("something that is told in another way")
            item.parts((b"data",))


def movie(descriptor: int, known: Collection[bytes]) -> tuple[Box, int]:
    """The header of an open file, which must have only boxes of `known` names, and how large the file is."""
    size, start, found = os.fstat(descriptor).st_size, 0, None
    for _ in range(MOST_BOXES):
        if start == size:
            break
        length, inside, name = _head(os.pread(descriptor, 16, start))
        is_first = start == 0
        if name not in known or (name == b"ftyp") != is_first or start + length > size or (is_first and length < 16):
            raise Unplain("a box that is not expected, or not all there")
        if name == b"moov":
            if found is not None or length > MAX_HEADER_BYTES:
                raise Unplain("two headers, or one without end")
            content = os.pread(descriptor, length - inside, start + inside)
            if len(content) != length - inside:
                raise Unplain("the header ends too early")
            found = Box(memoryview(content))
        start += length
    else:
        raise Unplain("too many boxes")
    if found is None:
        raise Unplain("no header")
    return found, size


def _head(head: bytes) -> tuple[int, int, bytes]:
    """How long a box is, all in all, where what is in it begins, and its name."""
    if len(head) < 8:
        raise Unplain("a box is too short")
    size, name = SIZE_AND_NAME.unpack_from(head)
    inside = 8
    if size == 1 and len(head) == 16:
        (size,), inside = LARGE_SIZE.unpack_from(head, 8), 16
    # One that goes on to the end of the file says 0.
    if size < inside:
        raise Unplain("a box that does not say how long it is")
    return size, inside, name
