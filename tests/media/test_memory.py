"""What is remembered of a file changes nothing but the time: every kind of file, with and without."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.media.kinds import EXPECTED, RIGHT
from tests.media.table import shown
from tests.media.wishes import LIE_OPEN, SAFE, pictures, windowed, wishes
from vista_train.video.decode import Wanted, indexes
from vista_train.video.decode.indexes import IndexFile, write
from vista_train.video.media import Media

IN_ORDER = {
    *("refreshed_bit_by_bit.mp4", "two_frames.mp4", "three_thousand_per_second.mkv", "same_time_twice.mkv"),
    *("no_first_key.mkv", "lies_order.mp4", "lies_slow.mp4"),
}
"""Files in containers that can seek, which are decoded from their start all the same."""


@pytest.mark.parametrize("key", SAFE, ids=shown)
def test_a_remembered_file_shows_the_same_pictures(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str], key: str
) -> None:
    monkeypatch.setattr(indexes, "MIN_PACKETS", 1)
    path, wanted, place = odd / key, wishes(odd / key), tmp_path / "index"
    cold, standing_in = IndexFile(place), windowed(wanted)
    found, error = pictures(path, wanted, cold)
    found_in, _ = pictures(path, standing_in, IndexFile(tmp_path / "none"))
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
    for _ in range(2):
        # What a table leaves open is learnt the first time that it is asked for.
        again, _ = pictures(path, standing_in, warm := IndexFile(place))
        assert all(np.array_equal(again[which], found_in[which]) for which in found_in)
        write(place, warm.kept or place.read_bytes())


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


def test_files_alike_in_size_and_time_have_indexes_of_their_own(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "MIN_PACKETS", 1)
    (tmp_path / "root").mkdir()
    media = Media(tmp_path / "root", isolate="inline", cache=tmp_path / "cache")
    for name in ("one.mp4", "other.mp4"):
        (tmp_path / "root" / name).write_bytes((odd / "plain.mp4").read_bytes())
        os.utime(tmp_path / "root" / name, ns=(0, 0))
        list(media.pictures(name, [Wanted(Fraction(0), 64, 48)]))
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 2
