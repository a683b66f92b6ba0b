"""Plain MP4 files are read by their own tables: the same pictures as by libav, or it is left to libav."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media.kinds import EXPECTED, RIGHT
from tests.media.outcome import LIMITS
from tests.media.table import shown
from tests.media.wishes import LIE_OPEN, SAFE, pictures, windowed, wishes
from vista_train.video import decode
from vista_train.video.decode import MediaError, Wanted, pyav, table
from vista_train.video.decode import source as opening
from vista_train.video.decode.direct import direct
from vista_train.video.decode.indexes import IndexFile
from vista_train.video.decode.packets import Anomaly, Columns, PacketIndex
from vista_train.video.decode.pyav import sparse_frames

TABLED = [key for key in SAFE if key.endswith((".mp4", ".mov", ".m4v"))]
TAKEN = LIE_OPEN | {"one_key.mp4", "starts_late.mp4", "frames_missing.mp4", "odd_size.mp4"}
"""Files, among others, whose own table is taken; the last two of these without delays, so that libav is asked first."""


def differences(found: PacketIndex, expected: PacketIndex) -> list[str]:
    """Where two indexes differ, but that all times of one are shifted against those of the other."""
    shifts = {name: int(getattr(expected, name)[0]) - int(getattr(found, name)[0]) for name in ("pts_P", "dts_P")}
    shifts["shown_F"] = shifts["pts_P"]
    arrays = ("pts_P", "dts_P", "shown_F", "rank_P", "position_F", "keys_K", "stand_ins_K", "offset_P", "size_P")
    differ = [
        name for name in arrays
        if not np.array_equal(getattr(found, name) + shifts.get(name, 0), getattr(expected, name))
    ]  # fmt: skip
    if not len(found.stand_ins_K):
        differ.remove("stand_ins_K")
    plain = ("time_base", "last_seconds", "by_pts", "can_seek", "duration")
    return differ + [name for name in plain if getattr(found, name) != getattr(expected, name)]


def by_table(path: Path) -> PacketIndex | None:
    def reorders() -> bool:
        with opening.opened(path, LIMITS) as source:
            return bool(source.stream.codec_context.has_b_frames)

    return table.index_by_table(path, LIMITS, reorders)


@pytest.mark.parametrize("key", TABLED, ids=shown)
def test_a_table_says_what_the_packets_say_or_nothing(odd: Path, key: str) -> None:
    try:
        decode.probe(odd / key, LIMITS)
        found = by_table(odd / key)
        with opening.opened(odd / key, LIMITS) as source:
            expected = opening.read_index(source)
    except MediaError:
        # Whatever its table says, no picture of it can be had.
        assert EXPECTED[key].pyav != RIGHT
        return
    assert found is not None or key not in TAKEN
    if found is None:
        return
    differ = differences(found, expected)
    # libav looks into packets, too: what is no keyframe there, or no packet, shows when it is decoded.
    lies = EXPECTED[key].pyav != RIGHT or key.startswith("lies_keyframe")
    assert differ == [] or (lies and set(differ) <= {"keys_K", "stand_ins_K", "can_seek"})
    assert found.setup is not None
    if differ == [] and expected.setup is not None and EXPECTED[key].pyav == RIGHT:
        assert found.setup[:2] == expected.setup[:2]


@pytest.mark.parametrize("key", TABLED, ids=shown)
def test_a_file_shows_the_same_pictures_with_and_without_its_table(
    odd: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    assert_as_libav(odd / key, wishes(odd / key), monkeypatch)


def assert_as_libav(path: Path, wanted: list[Wanted], monkeypatch: pytest.MonkeyPatch) -> bool:
    """All together, each alone, and with keyframes that may stand in; whether the table was taken."""
    by_own, taken = table.index_by_table, []

    def watched(*given: Any) -> PacketIndex | None:
        found = by_own(*given)
        taken.extend([] if found is None else [found])
        return found

    for some in (wanted, windowed(wanted), *([one] for one in wanted)):
        monkeypatch.setattr(pyav, "index_by_table", watched)
        found, error = pictures(path, some, IndexFile(None))
        monkeypatch.setattr(pyav, "index_by_table", lambda *given: None)
        expected, expected_error = pictures(path, some, IndexFile(None))
        assert error == expected_error
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[which], expected[which]) for which in expected)
    monkeypatch.undo()
    return bool(taken)


@pytest.mark.parametrize("key", ["plain.mp4", "hevc.mp4", "open_gop.mp4", "av1.mp4", "starts_late.mp4"])
def test_a_header_of_any_bytes_shows_what_libav_shows(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Bytes of the boxes that the table is made of, changed at random: taken or left, nothing shows the difference."""
    whole, rng, taken = (odd / key).read_bytes(), np.random.default_rng(7), []
    places = [place for name in TABLES for place in inside(whole, name)]
    path, wanted = tmp_path / key, wishes(odd / key)[:3]
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.choice(places, int(rng.integers(1, 3))):
            content[place] = rng.choice([content[place] ^ 1 << int(rng.integers(8)), int(rng.integers(256)), 0, 255])
        path.write_bytes(content)
        taken.append(assert_as_libav(path, wanted, monkeypatch))
    assert sum(taken) > 10


TABLES = (b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"elst", b"mdhd", b"mvhd", b"tkhd")


def inside(content: bytes, name: bytes) -> range:
    """Where the bytes lie that are in a box; none where there is no such box."""
    at = content.find(name)
    return range(at + 4, at - 4 + int.from_bytes(content[at - 4 : at], "big")) if at > 0 else range(0)


def test_a_plain_file_is_read_without_its_container_unless_its_table_lies(
    odd: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    wanted = wishes(odd / "plain.mp4")
    opened.clear()
    expected = dict(decode.read(odd / "plain.mp4", wanted))
    assert opened == []
    columns = table._Track.columns

    def lying(*given: Any) -> Columns:
        found = columns(*given)
        return found._replace(offset_P=found.offset_P[::-1].copy())

    monkeypatch.setattr(table._Track, "columns", lying)
    found = dict(decode.read(odd / "plain.mp4", wanted))
    assert opened == ["opened", "read"]
    assert all(np.array_equal(found[which], expected[which]) for which in expected)


def test_a_table_without_end_is_not_read(odd: Path) -> None:
    """Limits are held against what it says before anything is made of it."""
    assert by_table(odd / "plain.mp4") is not None
    for name, least in (("max_frames", 10), ("max_pixels", 64)):
        assert table.index_by_table(odd / "plain.mp4", replace(LIMITS, **{name: least}), pytest.fail) is None
    assert table.index_by_table(odd / "plain.mp4", replace(LIMITS, containers=("matroska",)), pytest.fail) is None


Boxes = dict[tuple[bytes, ...], bytes]
"""What is in the boxes of a header that have no boxes in them, by the names that lead there, in their order."""
HOLDERS = (b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta")
TRACK, MEDIA = (b"trak",), (b"trak", b"mdia")
TABLE, EDITS = (*MEDIA, b"minf", b"stbl"), (b"trak", b"edts", b"elst")


def taken_apart(content: bytes, way: tuple[bytes, ...] = ()) -> Boxes:
    """The boxes of what is in a header."""
    found: Boxes = {}
    while content:
        size, name = struct.unpack_from(">I4s", content)
        inside = content[8:size]
        found |= taken_apart(inside, (*way, name)) if name in HOLDERS else {(*way, name): inside}
        content = content[size:]
    return found


def put_together(boxes: Boxes, depth: int = 0) -> bytes:
    """What `taken_apart` has taken apart."""
    out, names = b"", list(dict.fromkeys(way[depth] for way in boxes))
    for name in names:
        part = {way: content for way, content in boxes.items() if way[depth] == name}
        inside = next(iter(part.values())) if len(next(iter(part))) == depth + 1 else put_together(part, depth + 1)
        # A name of more than four letters is that of a second box of its kind.
        out += struct.pack(">I4s", 8 + len(inside), name[:4]) + inside
    return out


def remade(source: Path, target: Path, edit: Callable[[Boxes], Boxes | None]) -> Path:
    """A file with another header, which is put behind all else, where it is in `source`."""
    whole = source.read_bytes()
    start = whole.rindex(b"moov") - 4
    boxes = taken_apart(whole[start + 8 :])
    content = put_together(edit(boxes) or boxes)
    target.write_bytes(whole[:start] + struct.pack(">I4s", 8 + len(content), b"moov") + content)
    return target


def runs(kind: str, *entries: tuple[int, int]) -> bytes:
    return bytes(4) + struct.pack(">I", len(entries)) + b"".join(struct.pack(f">I{kind}", *entry) for entry in entries)


def edits(*entries: tuple[int, int], num: int | None = None, version: int = 0) -> bytes:
    listed = b"".join(struct.pack(">IiI", *entry, 1 << 16) for entry in entries)
    return struct.pack(">B3xI", version, len(entries) if num is None else num) + listed


def second_track(boxes: Boxes) -> Boxes:
    """A copy of the track that calls itself a depth track, in front."""
    copy = {(b"trak again", *way[1:]): content for way, content in boxes.items() if way[0] == b"trak"}
    handler = (b"trak again", b"mdia", b"hdlr")
    copy[handler] = copy[handler][:8] + b"auxv" + copy[handler][12:]
    copy[b"trak again", b"mdia", b"minf", b"stbl", b"stts"] = runs("I", (40, 100))
    header = {way: content for way, content in boxes.items() if way[0] == b"mvhd"}
    return header | copy | boxes


def mvhd_behind(boxes: Boxes) -> Boxes:
    header = {way: boxes.pop(way) for way in [(b"mvhd",)]}
    return boxes | header


def baseline_lie(boxes: Boxes) -> None:
    del boxes[*TABLE, b"ctts"]
    described = bytearray(boxes[*TABLE, b"stsd"])
    described[described.index(b"avcC") + 5] = 66
    boxes[*TABLE, b"stsd"] = bytes(described)


def palette(boxes: Boxes) -> None:
    described = bytearray(boxes[*TABLE, b"stsd"])
    struct.pack_into(">Hh", described, 16 + 74, 8, 0)
    boxes[*TABLE, b"stsd"] = bytes(described)


def late_delays(boxes: Boxes) -> None:
    boxes[*TABLE, b"stts"] = runs("I", (20, 512), (1, 8000), (19, 512))
    boxes[*TABLE, b"ctts"] = runs("i", (38, 0), (1, -512), (1, -512))


def huge_packet(boxes: Boxes) -> None:
    sizes = boxes[*TABLE, b"stsz"]
    boxes[*TABLE, b"stsz"] = sizes[:-4] + struct.pack(">I", 0x3FFFFFFA)


SAID_OTHERWISE: dict[str, Callable[[Boxes], Boxes | None]] = {
    "a depth track": second_track,
    "a chapter track of itself": lambda boxes: boxes.update({(*TRACK, b"tref"): struct.pack(">I4sI", 12, b"chap", 1)}),
    "times of decoding that libav shifts": late_delays,
    "more edits than are counted": lambda boxes: boxes.update({EDITS: edits((1700, 1024), (300, 11264), num=1)}),
    "edits of a later version": lambda boxes: boxes.update({EDITS: edits((1700, 1024), version=2)}),
    "media of a later version": lambda boxes: boxes.update({(*MEDIA, b"mdhd"): b"\2" + boxes[*MEDIA, b"mdhd"][1:]}),
    "a header behind its tracks": mvhd_behind,
    "edits in what is told": lambda boxes: {
        (b"mvhd",): boxes[b"mvhd",],
        (b"udta", b"elst"): edits((300, 11264)),
        **boxes,
    },
    "a table beside the table": lambda boxes: boxes.update({(*MEDIA, b"minf", b"stts"): runs("I", (40, 100))}),
    "two tables": lambda boxes: boxes.update({(*MEDIA, b"minf", b"stbl again", b"stts"): runs("I", (40, 100))}),
    "a palette": palette,
    "a profile that it does not have": baseline_lie,
    "a packet of a gigabyte": huge_packet,
    "flags for more packets": lambda boxes: boxes.update({(*TABLE, b"sdtp"): bytes(3)}),
}
"""What libav makes something else of than the table says, or nothing at all."""


@pytest.mark.parametrize("lie", SAID_OTHERWISE)
def test_what_libav_reads_otherwise_is_left_to_it(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    path = remade(odd / "plain.mp4", tmp_path / "lie.mp4", SAID_OTHERWISE[lie])
    if lie == "a packet of a gigabyte":
        os.truncate(path, 0x3FFFFFFA + path.stat().st_size)
    assert by_table(path) is None
    wanted = wishes(odd / "plain.mp4") if lie != "a packet of a gigabyte" else []
    assert not wanted or not assert_as_libav(path, wanted, monkeypatch)


def test_a_header_that_is_put_together_again_is_taken(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is left above would be left for any reason."""
    path = remade(odd / "plain.mp4", tmp_path / "same.mp4", lambda boxes: None)
    assert path.read_bytes() == (odd / "plain.mp4").read_bytes()
    told = {(b"udta", b"meta"): (odd / "plain.mp4").read_bytes().rpartition(b"meta")[2]}
    path = remade(odd / "plain.mp4", tmp_path / "again.mp4", lambda boxes: boxes | told)
    assert assert_as_libav(path, wishes(path), monkeypatch)


def test_keyframes_that_its_table_does_not_name_may_stand_in(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libav finds them in the packets."""
    path = remade(
        odd / "plain.mp4",
        tmp_path / "keys.mp4",
        lambda boxes: boxes.update({(*TABLE, b"stss"): runs("I", (1, 0))[:12]}),
    )
    assert assert_as_libav(path, wishes(path), monkeypatch)
    found = by_table(path)
    assert found is not None
    assert (len(found.keys_K), len(found.stand_ins_K)) == (1, 0)


@pytest.mark.parametrize("size", [(64, 48), (168, 96)])
def test_frames_of_another_size_than_the_file_says_are_left_to_libav(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    def edit(boxes: Boxes) -> None:
        described = bytearray(boxes[*TABLE, b"stsd"])
        struct.pack_into(">HH", described, 16 + 24, *size)
        boxes[*TABLE, b"stsd"] = bytes(described)

    path = remade(odd / "plain.mp4", tmp_path / "size.mp4", edit)
    index = by_table(path)
    assert index is not None
    with pytest.raises(Anomaly, match="another size"), direct(path, index, LIMITS) as bare:
        list(sparse_frames(bare, index, [0]))
    assert_as_libav(path, wishes(path), monkeypatch)
