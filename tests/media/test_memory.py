"""What is remembered of a file changes nothing but the time: every kind of file, with and without."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media.kinds import CRASHED, EXPECTED, MADE, RIGHT
from tests.media.outcome import LIMITS
from tests.media.table import shown
from vista_train.video import decode
from vista_train.video.decode import MediaError, Wanted, indexes, pyav, table
from vista_train.video.decode import source as opening
from vista_train.video.decode.indexes import IndexFile, write
from vista_train.video.decode.packets import Columns, PacketIndex
from vista_train.video.media import Media

SAFE = [key for key in MADE if EXPECTED[key].pyav != CRASHED]
IN_ORDER = {
    *("refreshed_bit_by_bit.mp4", "two_frames.mp4", "three_thousand_per_second.mkv", "same_time_twice.mkv"),
    *("no_first_key.mkv", "lies_order.mp4", "lies_slow.mp4"),
}
"""Files in containers that can seek, which are decoded from their start all the same."""

LIE_OPEN = {"plain.mp4", "hevc.mp4", "av1.mp4", "open_gop.mp4", "keys_only.mp4", "ten_bit.mp4", "full_range.mp4"}
"""Files that are read without their container, once their index is known."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to a container: `opened`, or all of its packets `read`."""
    done: list[str] = []
    container, read = opening._container, opening.read_index
    monkeypatch.setattr(opening, "_container", lambda *given: done.append("opened") or container(*given))
    monkeypatch.setattr(pyav, "read_index", lambda source: done.append("read") or read(source))
    return done


def pictures(path: Path, wanted: list[Wanted], memory: IndexFile) -> tuple[dict[int, np.ndarray], str]:
    """What comes of it, and the error that ended it."""
    try:
        return dict(decode.read(path, wanted, "pyav", LIMITS, memory)), ""
    except MediaError as error:
        return {}, f"{type(error).__name__}: {error.reason}"


def wishes(path: Path) -> list[Wanted]:
    """Times all over the file, some twice, in two sizes."""
    try:
        duration = decode.probe(path, LIMITS).duration
    except MediaError:
        duration = Fraction(1)
    times = [duration * number / 17 for number in (16, 3, 0, 9, 9, 12)]
    return [Wanted(time, *size) for time, size in zip(times, [(64, 48), (20, 30)] * 3, strict=True)]


@pytest.mark.parametrize("key", SAFE, ids=shown)
def test_a_remembered_file_shows_the_same_pictures(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str], key: str
) -> None:
    monkeypatch.setattr(indexes, "MIN_PACKETS", 1)
    path, wanted, place = odd / key, wishes(odd / key), tmp_path / "index"
    cold = IndexFile(place)
    found, error = pictures(path, wanted, cold)
    if cold.kept is None:
        can_seek = EXPECTED[key].pyav == RIGHT and key.endswith((".mp4", ".mkv", ".webm"))
        assert key in IN_ORDER or not can_seek, "it should be remembered"
        return
    write(place, cold.kept)
    index = IndexFile(place).index()
    assert index is not None
    opened.clear()
    again, error_again = pictures(path, wanted, IndexFile(place))
    assert error_again == error
    assert list(again) == list(found)
    assert all(np.array_equal(again[which], found[which]) for which in found)
    assert index.setup is not None or key not in LIE_OPEN
    assert opened == ([] if index.setup is not None else ["opened"]), "all packets were not read again"


@pytest.mark.parametrize("key", ["plain.mp4", "plain.mkv"])
@pytest.mark.parametrize("harm", ["cut", "grown", "other", "empty", "flipped"])
def test_a_bad_index_costs_time_and_nothing_else(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str], harm: str, key: str
) -> None:
    monkeypatch.setattr(indexes, "MIN_PACKETS", 1)
    path, place = odd / key, tmp_path / "index"
    wanted = wishes(path)
    found, _ = pictures(path, wanted, cold := IndexFile(place))
    _, _ = pictures(odd / "one_key.mp4", wanted, other := IndexFile(place))
    assert cold.kept is not None
    assert other.kept is not None
    numbers = np.frombuffer(cold.kept, np.uint8)
    write(
        place,
        {
            "cut": cold.kept[: len(cold.kept) // 2],
            "grown": cold.kept[:40] + bytes(64) + cold.kept[40:],
            "other": other.kept,
            "empty": b"",
            "flipped": cold.kept[:16] + (255 - numbers[16:]).tobytes(),
        }[harm],
    )
    opened.clear()
    again, error = pictures(path, wanted, warm := IndexFile(place))
    assert error == ""
    assert all(np.array_equal(again[which], found[which]) for which in range(len(wanted)))
    assert [step for step in opened if step == "read"] == ([] if key in LIE_OPEN else ["read"])
    assert warm.kept == cold.kept, "a good one takes its place"


def test_an_index_of_any_bytes_is_survived(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MIN_PACKETS", 1)
    path, place = odd / "plain.mp4", tmp_path / "index"
    wanted, rng = wishes(path), np.random.default_rng(0)
    pictures(path, wanted, cold := IndexFile(place))
    assert cold.kept is not None
    for _ in range(60):
        content = bytearray(cold.kept)
        content[int(rng.integers(16, len(content)))] ^= int(rng.integers(1, 256))
        write(place, bytes(content))
        _, error = pictures(path, wanted, IndexFile(place))
        assert error == "" or error.startswith("Media")


def test_a_file_that_has_changed_is_read_anew(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MIN_PACKETS", 1)
    (tmp_path / "root").mkdir()
    path, wanted = tmp_path / "root" / "a.mp4", [Wanted(Fraction(2), 64, 48)]
    shown = {}
    for number, name in enumerate(("plain.mp4", "keys_only.mp4")):
        path.write_bytes((odd / name).read_bytes())
        os.utime(path, ns=(0, number))
        media = Media(tmp_path / "root", isolate="inline", cache=tmp_path / "cache")
        for visit in ("cold", "warm"):
            ((_, picture_HWC),) = media.pictures("a.mp4", wanted)
            shown[name, visit] = picture_HWC
        ((_, plain_HWC),) = Media(odd, isolate="inline").pictures(name, wanted)
        assert np.array_equal(shown[name, "cold"], plain_HWC)
        assert np.array_equal(shown[name, "warm"], plain_HWC)
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 2


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
    plain = ("time_base", "last_seconds", "by_pts", "can_seek", "duration")
    return differ + [name for name in plain if getattr(found, name) != getattr(expected, name)]


def by_table(path: Path) -> PacketIndex | None:
    found = table.index_by_table(path, LIMITS)
    if found is None:
        with opening.opened(path, LIMITS) as source:
            found = table.index_by_table(path, LIMITS, bool(source.stream.codec_context.has_b_frames))
    return found


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
    wanted = wishes(odd / key)
    found, error = pictures(odd / key, wanted, IndexFile(None))
    monkeypatch.setattr(pyav, "index_by_table", lambda *given: None)
    expected, expected_error = pictures(odd / key, wanted, IndexFile(None))
    assert error == expected_error
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[which], expected[which]) for which in expected)


@pytest.mark.parametrize("key", ["plain.mp4", "hevc.mp4", "open_gop.mp4", "av1.mp4", "starts_late.mp4"])
def test_a_header_of_any_bytes_shows_what_libav_shows(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Bytes of the boxes that the table is made of, changed at random: taken or left, nothing shows the difference."""
    whole, rng, taken = (odd / key).read_bytes(), np.random.default_rng(7), []
    places = [place for name in TABLES for place in inside(whole, name)]
    path, wanted = tmp_path / key, wishes(odd / key)

    def watched(*given: Any) -> PacketIndex | None:
        found = table.index_by_table(*given)
        taken.extend([] if found is None else [found])
        return found

    for _ in range(150):
        content = bytearray(whole)
        for place in rng.choice(places, int(rng.integers(1, 3))):
            content[place] = rng.choice([content[place] ^ 1 << int(rng.integers(8)), int(rng.integers(256)), 0, 255])
        path.write_bytes(content)
        monkeypatch.setattr(pyav, "index_by_table", watched)
        found, error = pictures(path, wanted, IndexFile(None))
        monkeypatch.setattr(pyav, "index_by_table", lambda *given: None)
        expected, expected_error = pictures(path, wanted, IndexFile(None))
        assert error == expected_error
        assert all(np.array_equal(found[which], expected[which]) for which in expected)
    assert len(taken) > 10


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
    assert table.index_by_table(odd / "plain.mp4", LIMITS) is not None
    for name, least in (("max_frames", 10), ("max_pixels", 64)):
        assert table.index_by_table(odd / "plain.mp4", replace(LIMITS, **{name: least})) is None
    assert table.index_by_table(odd / "plain.mp4", replace(LIMITS, containers=("matroska",))) is None
