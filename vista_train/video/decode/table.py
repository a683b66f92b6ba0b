"""The packets of a plain MP4 file out of its own table (ISO/IEC 14496-12, 8.6 and 8.7): no container is opened.

libav takes milliseconds to open a short file and reads all packets of a long one; its own table says the same in less.
It is taken only where all that a file has is understood: one track of pictures, in one piece, with at most an edit that
hides none of it, and nothing in whose place libav would read something else. Every other file is left to libav, and so
is one whose packets turn out otherwise. What is damaged in the sound beside the pictures alone is not looked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from struct import Struct

import numpy as np

from vista_train.video.decode.base import MIN_SIDE_PX
from vista_train.video.decode.boxes import Box, Unplain, check_told, movie
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.packets import IS_KEY, IS_SHOWN, Anomaly, Columns, DecoderSetup, PacketIndex

OF_FILE = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
OF_MOVIE = (b"mvhd", b"trak", b"udta", b"free")
OF_TRACK = (b"tkhd", b"edts", b"mdia")
OF_MEDIA = (b"mdhd", b"hdlr", b"minf")
OF_INFORMATION = (b"vmhd", b"smhd", b"dinf", b"stbl", b"hdlr")
OF_TABLE = (b"stsd", b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"co64", b"sdtp")
OF_ENTRY = (b"avcC", b"hvcC", b"av1C", b"colr", b"pasp", b"btrt")
CODECS = {
    b"avc1": ("h264", b"avcC"), b"hvc1": ("hevc", b"hvcC"), b"hev1": ("hevc", b"hvcC"), b"av01": ("libdav1d", b"av1C"),
}  # fmt: skip
"""By the kind of entry: the decoder, and the box that holds what it must be told before the first packet."""
PIXELS_OF_ENTRY = 78
"""Bytes of an entry of pictures before the boxes in it."""
NO_PALETTE = bytes.fromhex("0018 ffff")
"""How these end: pictures of 24 bits and no table of colours."""
ONE = 1 << 16
UPRIGHT = (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
TURNED = {(ONE, 0, 0, ONE): 0, (0, ONE, -ONE, 0): 3, (-ONE, 0, 0, -ONE): 2, (0, -ONE, ONE, 0): 1}
"""Quarter turns that undo what a matrix does to pictures, by its first and second row, two numbers of each."""
ONE_REFERENCE = bytes.fromhex("00000001 0000000c 75726c20 00000001")
"""To where the packets are: one, of kind `url `, that says by its flag that all are in this file."""
MOST_DELAY = 1 << 28
MOST_PACKET_BYTES = 64 << 20
MOST_DURATION = 1 << 32
MOST_COLORS = (12, 18, 14)
"""The last number that libav knows of primaries, transfer and matrix (ISO/IEC 23091-2)."""
LIMITED, FULL = 1, 2


def index_by_table(path: Path, limits: Limits, reorders: Callable[[], bool]) -> PacketIndex | None:
    """The index of the file at `path`, for a decoder that gets its packets directly; None where its table cannot tell.

    `reorders`: as in `PacketIndex.of`; asked where the file depends on it. Times may all be shifted against those that
    libav has.
    """
    if "mov" not in limits.containers:
        return None
    with suppress(Unplain, Anomaly, OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header, size = movie(descriptor, OF_FILE)
        finally:
            os.close(descriptor)
        return _index(header, size, limits, reorders)
    return None


def _index(header: Box, file_bytes: int, limits: Limits, reorders: Callable[[], bool]) -> PacketIndex:
    boxes, tracks = list(header.each()), []
    if not boxes or boxes[0][0] != OF_MOVIE[0]:
        raise Unplain("no header, or not in front of all that goes by it")
    mvhd = boxes[0][1]
    for name, box in boxes[1:]:
        if name not in OF_MOVIE[1:]:
            # Among others those of files in fragments, whose table is elsewhere.
            raise Unplain("a box that is not expected")
        if name == b"udta":
            check_told(box)
        if name == b"trak" and (track := _Track.of(box)) is not None:
            tracks.append(track)
    if len(tracks) != 1 or _matrix(mvhd, 36) != UPRIGHT:
        raise Unplain("no track of pictures, or several, or all of them turned")
    (track,) = tracks
    setup = track.setup()
    if setup.width * setup.height > limits.max_pixels:
        raise Unplain("too large, or so it says")
    columns = track.columns(file_bytes, limits.max_frames)
    track.check_edits(columns, mvhd.unpack(">I", 20 if mvhd.version else 12)[0])
    # Times that rise may be made up, but those of AV1 are not, which alone says itself when its frames are shown.
    asks = setup.codec != "libdav1d" and bool((np.diff(columns.pts_P) > 0).all())
    index = PacketIndex.of_columns(columns, Fraction(1, track.ticks_a_second), True, asks and reorders())
    if not index.can_seek or not len(index.offset_P):
        raise Unplain("no frame is sure to be found")
    # libav looks for more keyframes in the packets: which of them may stand in for others is not known here.
    stand_ins_K = index.stand_ins_K[: 0 if track.names_keys else None]
    return replace(index, setup=setup, stand_ins_K=stand_ins_K)


class _Track:
    """A track of pictures."""

    def __init__(self, table: dict[bytes, Box], edits: Box | None, ticks_a_second: int, turns: int) -> None:
        self.table, self.edits, self.ticks_a_second, self.turns = table, edits, ticks_a_second, turns

    @classmethod
    def of(cls, box: Box) -> _Track | None:
        """None where it is one of sound, or of anything else."""
        parts = box.parts(OF_TRACK)
        media = _part(parts, b"mdia").parts(OF_MEDIA)
        kind = bytes(_part(media, b"hdlr").content[8:12])
        if kind == b"soun":
            return None
        if kind != b"vide":
            # What is in some of these are pictures to libav.
            raise Unplain("a track of another kind")
        mdhd = _part(media, b"mdhd")
        (ticks_a_second,) = mdhd.unpack(">I", 20 if mdhd.version else 12)
        if not 0 < ticks_a_second < 1 << 31:
            raise Unplain("no time base")
        inside = _part(media, b"minf").parts(OF_INFORMATION)
        if b"hdlr" in inside and bytes(inside[b"hdlr"].content[8:12]) not in (b"url ", b"alis"):
            raise Unplain("a track of two kinds")
        references = _part(inside, b"dinf").parts((b"dref",)).get(b"dref")
        if references is None or bytes(references.content[4:]) != ONE_REFERENCE:
            raise Unplain("what it shows may be in other files")
        edits = _part(parts, b"edts").parts((b"elst",)).get(b"elst") if b"edts" in parts else None
        table = _part(inside, b"stbl").parts(OF_TABLE)
        return cls(table, edits, ticks_a_second, _turns(_matrix(_part(parts, b"tkhd"), 40)))

    @property
    def names_keys(self) -> bool:
        """Whether not every packet is a keyframe."""
        return b"stss" in self.table

    def setup(self) -> DecoderSetup:
        """What its decoder is to be told."""
        described = _part(self.table, b"stsd")
        entries = dict(described.each(8))
        if described.unpack(">I", 4) != (1,) or len(entries) != 1:
            raise Unplain("several decoders")
        ((kind, entry),) = entries.items()
        is_plain = bytes(entry.content[PIXELS_OF_ENTRY - 4 : PIXELS_OF_ENTRY]) == NO_PALETTE
        if kind not in CODECS or entry.unpack(">H", 6) != (1,) or not is_plain:
            raise Unplain("another codec")
        codec, box = CODECS[kind]
        parts = entry.parts(OF_ENTRY, PIXELS_OF_ENTRY)
        width, height = entry.unpack(">HH", 24)
        if min(width, height) < MIN_SIDE_PX or not len(_part(parts, box)):
            raise Unplain("too small, or not said how to be decoded")
        colors = _colors(parts[b"colr"]) if b"colr" in parts else (0, 2, 2, 2)
        return DecoderSetup(codec, bytes(parts[box].content), width, height, "", colors, self.turns)

    def columns(self, file_bytes: int, most: int) -> Columns:
        """What the table has of each packet."""
        sizes = _part(self.table, b"stsz")
        size, num = sizes.unpack(">II", 4)
        if not 0 < num <= most or (b"sdtp" in self.table and len(self.table[b"sdtp"]) != 4 + num):
            raise Unplain("no packets, or too many")
        size_P = np.full(num, size, np.int64) if size else sizes.array(">u4", num, 12)
        duration_P = _part(self.table, b"stts").runs(">u4", num)
        if duration_P.min() < 1 or duration_P.max() > MOST_DELAY:
            raise Unplain("packets of no duration, or without end")
        if size_P.min() < 1 or size_P.max() > MOST_PACKET_BYTES:
            raise Unplain("packets of no length, or without end")
        dts_P = np.cumsum(duration_P) - duration_P
        delay_P = self.table[b"ctts"].runs(">i4", num) if b"ctts" in self.table else np.zeros(num, np.int64)
        if delay_P.min() < 0 or delay_P.max() > MOST_DELAY:
            # Where some are negative libav shifts the times of decoding.
            raise Unplain("shown before it is decoded, or long after")
        offset_P = self._offsets(size_P)
        if offset_P.min() < 0 or int((offset_P + size_P).max()) > file_bytes:
            raise Unplain("packets that are not in the file")
        flags_P = np.full(num, IS_SHOWN | IS_KEY, np.uint8)
        pts_P = dts_P + delay_P
        if self.names_keys:
            keys = self.table[b"stss"]
            keys_K = keys.array(">u4", keys.count(num), 8) - 1
            if not len(keys_K) or keys_K[0] != 0 or keys_K[-1] >= num or (np.diff(keys_K) < 1).any():
                raise Unplain("keyframes that are not there")
            if (pts_P[keys_K[:-1]] >= dts_P[keys_K[1:]]).any():
                raise Unplain("a seek to a keyframe may lead to the next one")
            flags_P[:] = IS_SHOWN
            flags_P[keys_K] |= IS_KEY
        return Columns(pts_P, dts_P, duration_P, offset_P, size_P, flags_P)

    def _offsets(self, size_P: np.ndarray) -> np.ndarray:
        """Where packets lie: chunks say where they begin, and how many lie in each, one behind the other."""
        large = b"co64" in self.table
        chunks = _part(self.table, b"co64" if large else b"stco")
        starts_C = chunks.array(">i8" if large else ">u4", chunks.count(len(size_P)), 8)
        runs = _part(self.table, b"stsc")
        first_R, each_R, entry_R = runs.array(">u4", 3 * runs.count(len(starts_C)), 8).reshape(-1, 3).T
        lengths = np.diff(first_R, append=len(starts_C) + 1)
        if not len(first_R) or first_R[0] != 1 or (lengths < 1).any() or (entry_R != 1).any() or (each_R < 1).any():
            raise Unplain("chunks that do not follow each other")
        each_C = np.repeat(each_R, lengths)
        if int(each_C.sum()) != len(size_P):
            raise Unplain("chunks of more or fewer packets than there are")
        before_P = np.cumsum(size_P) - size_P
        first_C = np.cumsum(each_C) - each_C
        return np.repeat(starts_C - before_P[first_C], each_C) + before_P

    def check_edits(self, columns: Columns, ticks_of_movie: int) -> None:
        """`Unplain` unless all of it is shown, once and at its speed. It may be shown some time after the sound."""
        if self.edits is None:
            return
        entry = Struct(">QqI" if self.edits.version else ">IiI")
        num = self.edits.count(2)
        edits = [self.edits.unpack(entry.format, 8 + number * entry.size) for number in range(num)]
        if len(self.edits) != 8 + num * entry.size or any(duration > MOST_DURATION for duration, _, _ in edits):
            raise Unplain("edits of which libav makes something else")
        if num == 2 and edits[0][1] == -1:
            del edits[0]
        if len(edits) != 1:
            raise Unplain("cut in pieces")
        duration, start, rate = edits[0]
        end = start + duration * self.ticks_a_second // max(1, ticks_of_movie)
        pts_P, duration_P = columns.pts_P, columns.duration_P
        last = int(pts_P.argmax())
        is_whole = 0 <= start <= pts_P.min() and pts_P[last] + duration_P[last] // 2 < end
        if rate != ONE or not is_whole:
            raise Unplain("cut")
        late_P = (columns.flags_P[:-1] & IS_KEY != 0) & (pts_P[:-1] + duration_P[:-1] >= end)
        if late_P.sum() > 1:
            raise Unplain("cut, to libav, which looks no further than a second such keyframe")


def _part(parts: dict[bytes, Box], name: bytes) -> Box:
    if name not in parts:
        raise Unplain("a box is missing")
    return parts[name]


def _matrix(box: Box, start: int) -> tuple[int, ...]:
    """How what is in a box is turned and moved to be shown."""
    return box.unpack(">9i", start + 12 * (box.version == 1))


def _turns(matrix: tuple[int, ...]) -> int:
    a, b, u, c, d, v, _, _, w = matrix
    if (u, v, w) != (0, 0, 1 << 30) or (a, b, c, d) not in TURNED:
        raise Unplain("mirrored, or turned by less than a quarter")
    return TURNED[a, b, c, d]


def _colors(box: Box) -> tuple[int, ...]:
    """What it says of colours, in the order and with the numbers of `DecoderSetup`."""
    if bytes(box.content[:4]) != b"nclx":
        raise Unplain("colours of another kind")
    *colors, is_full = box.unpack(">HHHB", 4)
    if not all(0 < color <= most for color, most in zip(colors, MOST_COLORS, strict=True)):
        raise Unplain("colours of another kind")
    primaries, transfer, matrix = colors
    return (FULL if is_full >> 7 else LIMITED, matrix, primaries, transfer)
