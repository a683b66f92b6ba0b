"""Decoded pictures that are kept: the same again, no more than there is room for, and never worth an error."""

from __future__ import annotations

import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.video.test_decode import make_video
from vista_train.video.decode import MediaError, Wanted
from vista_train.video.frames import FrameCache, key_of
from vista_train.video.media import Media

NTSC = Fraction(30000, 1001)
GIB = 1 << 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    make_video(folder / "plain.mp4")
    make_video(folder / "plain.mkv")
    make_video(folder / "plain.avi")
    return folder


def media_of(root: Path, folder: Path, isolate: str = "inline", max_bytes: int = GIB, **more: object) -> Media:
    return Media(root, isolate=isolate, cache=folder, frames=FrameCache(folder, max_bytes), **more)  # type: ignore[arg-type]


def pictures(media: Media, key: str, wanted: list[Wanted]) -> list[np.ndarray]:
    media.drawn.clear()
    found = {which: picture_HWC.copy() for which, picture_HWC in media.pictures(key, wanted)}
    return [found[which] for which in range(len(wanted))]


@pytest.mark.parametrize("isolate", ["inline", "process"])
@pytest.mark.parametrize("key", ["plain.mp4", "plain.mkv"])
def test_what_was_decoded_is_not_decoded_again(root: Path, tmp_path: Path, key: str, isolate: str) -> None:
    media = media_of(root, tmp_path, isolate)
    wanted = [Wanted(at / NTSC, 40, 30) for at in (100, 3, 50, 3)]
    first = pictures(media, key, wanted)
    assert media.drawn == {"file": 4}
    again = pictures(media, key, wanted)
    assert media.drawn == {"cache": 4}
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    # A frame is shown until the next: half a frame later it is the same.
    between = pictures(media, key, [Wanted((at + Fraction(1, 2)) / NTSC, 40, 30) for at in (50, 51, 3)])
    assert media.drawn == {"cache": 2, "file": 1}
    assert np.array_equal(between[0], first[2])
    pictures(media, key, [Wanted(50 / NTSC, 44, 30)])
    assert media.drawn == {"file": 1}, "another size is another picture"
    media.close()


def test_files_that_cannot_seek_are_decoded_each_time(root: Path, tmp_path: Path) -> None:
    media = media_of(root, tmp_path)
    for _ in range(2):
        pictures(media, "plain.avi", [Wanted(Fraction(1), 40, 30)])
        assert media.drawn == {"file": 1}


def test_a_file_that_has_changed_is_decoded_anew(root: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    path = tmp_path / "root" / "a.mp4"
    media, wanted = media_of(tmp_path / "root", tmp_path / "cache"), [Wanted(Fraction(2), 40, 30)]
    path.write_bytes((root / "plain.mp4").read_bytes())
    (before,) = pictures(media, "a.mp4", wanted)
    path.write_bytes((root / "plain.mp4").read_bytes() + bytes(8))
    (after,) = pictures(media, "a.mp4", wanted)
    assert media.drawn == {"file": 1}
    assert np.array_equal(before, after)


def test_a_frame_beyond_the_end_is_the_files_own_error(root: Path, tmp_path: Path) -> None:
    media = media_of(root, tmp_path)
    pictures(media, "plain.mp4", [Wanted(Fraction(1), 40, 30)])
    with pytest.raises(MediaError, match="before the frame wanted"):
        pictures(media, "plain.mp4", [Wanted(Fraction(1), 40, 30), Wanted(Fraction(100), 40, 30)])


def content(number: int, size: int) -> bytes:
    return bytes([number % 256]) * size


def test_no_more_is_kept_than_there_is_room_for_and_the_least_used_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("vista_train.video.frames.time.time", lambda: now[0])
    cache = FrameCache(tmp_path, 100_000)
    names = [key_of([number]) for number in range(60)]
    for number, name in enumerate(names):
        now[0] += 100
        cache.put({name: content(number, 5000)})
        if number >= 2:
            assert cache.get([names[0]]), "it is used all the time"
    kept = [number for number, name in enumerate(names) if cache.get([name])]
    assert 0 in kept
    assert kept[1:] == list(range(60 - len(kept) + 1, 60)), "and otherwise the newest"
    assert 9 <= len(kept) <= 11
    assert all(cache.get([names[number]]) == {names[number]: content(number, 5000)} for number in kept)
    cache.put({key_of(["too large"]): content(0, 100_001)})
    assert len([name for name in names if cache.get([name])]) == len(kept)
    cache.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200_000


WRITER = """
import sys
from vista_train.video.frames import FrameCache, key_of
cache, own = FrameCache(sys.argv[1], 2_000_000), int(sys.argv[2])
for number in range(300):
    cache.put({key_of([own, number]): bytes([number % 256]) * 10_000})
    for back in range(0, number, 37):
        found = cache.get([key_of([own, back])])
        assert not found or set(found.values()) == {bytes([back % 256]) * 10_000}
"""


def test_several_processes_write_and_read_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen([*command, str(own)]) for own in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    cache = FrameCache(tmp_path, 2_000_000)
    names = {key_of([own, number]) for own in range(3) for number in range(300)}
    assert 120 <= len(cache.get(sorted(names))) <= 142, "two million bytes in all"


@pytest.mark.parametrize("harm", ["noise", "a folder", "read-only"])
def test_a_cache_that_cannot_be_used_costs_nothing_but_time(root: Path, tmp_path: Path, harm: str) -> None:
    media = media_of(root, tmp_path)
    wanted = [Wanted(Fraction(1), 40, 30)]
    (expected,) = pictures(media, "plain.mp4", wanted)
    assert media._frames is not None
    media._frames.close()
    path = media._frames.path
    for part in tmp_path.glob("frames.sqlite*"):
        part.unlink()
    if harm == "noise":
        path.write_bytes(np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes())
    elif harm == "a folder":
        path.mkdir()
    else:
        media._frames.path = Path("/proc/no/such/place/frames.sqlite")
    for _ in range(2):
        (found,) = pictures(media, "plain.mp4", wanted)
        assert np.array_equal(found, expected)
    assert media.drawn == ({"cache": 1} if harm == "noise" else {"file": 1}), "a damaged one is begun anew"


def test_it_travels_to_data_workers_and_checks_its_size(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, 100_000)
    cache.put({b"a": b"content"})
    assert pickle.loads(pickle.dumps(cache)).get([b"a"]) == {b"a": b"content"}
    with pytest.raises(ValueError, match="frame_cache_gib is 0; it must be above 0"):
        FrameCache(tmp_path, 0)
    with pytest.raises(ValueError, match="needs a cache as well"):
        Media(tmp_path, isolate="inline", frames=cache)


def test_one_that_snaps_keeps_the_keyframe(root: Path, tmp_path: Path) -> None:
    media = media_of(root, tmp_path)
    window = (Fraction(0), Fraction(1))
    (first,) = pictures(media, "plain.mp4", [Wanted(25 / NTSC, 40, 30, window)])
    (again,) = pictures(media, "plain.mp4", [Wanted(24 / NTSC, 40, 30)])
    assert media.drawn == {"cache": 1}
    assert np.array_equal(first, again)
