"""The packets of a long MP4 file out of its own table, checked against some of them; the rest need not be read.

libav has the table of a file it has opened, but for the time between decoding and showing (the `ctts` box of ISO/IEC
14496-12, 8.6.1.3), which is read here. Edit lists shift all times alike, or change the table; in the second case, and
wherever a packet is not what the table says, all packets have to be read.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from typing import BinaryIO

import av
import numpy as np

from vista_train.video.decode.packets import IS_KEY, IS_SHOWN, Anomaly, Columns, PacketIndex, Stamps
from vista_train.video.decode.source import Source, setup_of

MIN_PACKETS = 1024
"""Shorter files are read through as fast."""
NUM_CHECKED = 16
"""So many groups of pictures all over the file are looked at."""
PACKETS_CHECKED = 64
"""Packets looked at in each of them; of the last, all."""
LONGEST_LAST = 4096
MAX_TABLE_BYTES = 64 << 20


def is_tabled(source: Source) -> bool:
    """Whether the file is one whose table is worth looking at."""
    entries = source.stream.index_entries
    return "mov" in source.formats and len(entries) >= MIN_PACKETS and source.stream.frames == len(entries)


def index_by_table(source: Source) -> PacketIndex | None:
    """The index of a file just opened; None where its table cannot tell. Leaves the file anywhere."""
    with suppress(Anomaly, av.FFmpegError):
        return _index(source)
    return None


def _index(source: Source) -> PacketIndex | None:
    source.check(0, 0, len(source.stream.index_entries), Fraction(0))
    with open(source.path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        columns = _columns(source, size)
        delay_P = _delays(file, source.stream.id, len(source.stream.index_entries))
        if columns is None or delay_P is None:
            return None
        columns = _checked(source, columns._replace(pts_P=columns.dts_P + delay_P))
    if columns is None:
        return None
    reorders = bool(source.stream.codec_context.has_b_frames)
    index = PacketIndex.of_columns(columns, source.time_base, can_seek=True, reorders=reorders)
    source.check(0, 0, 0, index.duration or Fraction(0))
    return replace(index, setup=setup_of(source.stream.codec_context))


def _columns(source: Source, size: int) -> Columns | None:
    """What libav has of the table, pts left open; None where it hides packets, or some end behind the file's."""
    dts, offsets, sizes, flags = array("q"), array("q"), array("i"), array("B")
    for entry in source.stream.index_entries:
        if entry.is_discard or entry.pos < 0 or entry.size <= 0 or entry.pos + entry.size > size:
            return None
        dts.append(entry.timestamp)
        offsets.append(entry.pos)
        sizes.append(entry.size)
        flags.append(IS_SHOWN | entry.is_keyframe * IS_KEY)
    dts_P = np.array(dts)
    return Columns(dts_P, dts_P, np.zeros_like(dts_P), np.array(offsets), np.array(sizes), np.array(flags))


def _checked(source: Source, columns: Columns) -> Columns | None:
    """The columns with all pts shifted as those of the packets that are read; None where one of these differs."""
    num, keys = len(columns.dts_P), np.flatnonzero(columns.flags_P & IS_KEY)
    if not len(keys) or keys[0] != 0 or num - keys[-1] > LONGEST_LAST:
        return None
    first = next(iter(source.stamps()), None)
    if first is None or first.pts is None:
        return None
    pts_P = columns.pts_P + (first.pts - int(columns.pts_P[0]))
    duration_P = columns.duration_P.copy()
    for start in sorted({int(keys[number * (len(keys) - 1) // NUM_CHECKED]) for number in range(NUM_CHECKED + 1)}):
        end = num if start == keys[-1] else min(num, start + PACKETS_CHECKED)
        source.container.seek(int(pts_P[start]), stream=source.stream)
        found = list(islice(source.stamps(), end - start))
        parts = (pts_P, columns.dts_P, columns.offset_P, columns.size_P, columns.flags_P)
        expected = [
            Stamps(pts, dts, bool(flags & IS_KEY), True, 0, False, offset, size)
            for pts, dts, offset, size, flags in zip(*(part[start:end].tolist() for part in parts), strict=True)
        ]
        if [packet._replace(duration=0) for packet in found] != expected:
            return None
        duration_P[start:end] = [packet.duration for packet in found]
    return columns._replace(pts_P=pts_P, duration_P=duration_P)


def _delays(file: BinaryIO, track: int, num: int) -> np.ndarray | None:
    """From decoding to showing each of `num` packets, in ticks: int64 [num]; None where the file does not say."""
    boxes = dict(_boxes(file, 0, os.fstat(file.fileno()).st_size))
    if b"moov" not in boxes:
        return None
    for name, (start, end) in _boxes(file, *boxes[b"moov"]):
        if name != b"trak":
            continue
        inside = dict(_boxes(file, start, end))
        if b"tkhd" not in inside or _track_number(file, inside[b"tkhd"][0]) != track:
            continue
        for step in (b"mdia", b"minf", b"stbl"):
            if step not in inside:
                return None
            inside = dict(_boxes(file, *inside[step]))
        # With several, packets may need one decoder or another.
        if b"stsd" not in inside or _number(file, inside[b"stsd"][0] + 4) != 1:
            return None
        if b"ctts" not in inside:
            return np.zeros(num, np.int64)
        return _expanded(file, *inside[b"ctts"], num)
    return None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The boxes between two places of a file: name, and where what is in it starts and ends."""
    while start + 8 <= end:
        head = os.pread(file.fileno(), 16, start)
        if len(head) < 8:
            return
        size, name = struct.unpack_from(">I4s", head)
        inside = start + 8
        if size == 1 and len(head) == 16:
            (size,), inside = struct.unpack_from(">Q", head, 8), start + 16
        size = end - start if size == 0 else size
        if size < inside - start or start + size > end:
            return
        yield name, (inside, start + size)
        start += size


def _number(file: BinaryIO, start: int) -> int:
    return int(struct.unpack(">I", os.pread(file.fileno(), 4, start).ljust(4, b"\0"))[0])


def _track_number(file: BinaryIO, start: int) -> int:
    """The track's number, which follows two times of 4 or 8 bytes."""
    head = os.pread(file.fileno(), 24, start).ljust(24, b"\0")
    return int(struct.unpack_from(">I", head, 20 if head[0] == 1 else 12)[0])


def _expanded(file: BinaryIO, start: int, end: int, num: int) -> np.ndarray | None:
    """Runs of equal delays, one by one; None unless they are `num`."""
    if end - start > MAX_TABLE_BYTES:
        return None
    table = os.pread(file.fileno(), end - start, start)
    if len(table) < 8:
        return None
    (num_runs,) = struct.unpack_from(">I", table, 4)
    if len(table) < 8 + 8 * num_runs:
        return None
    runs_R2 = np.frombuffer(table, ">i4", 2 * num_runs, 8).reshape(-1, 2).astype(np.int64)
    counts = runs_R2[:, 0]
    if (counts < 0).any() or counts.sum() != num:
        return None
    return np.repeat(runs_R2[:, 1], counts)
