"""Files in tars show what they show outside, to every way of reading them; and a tar is no way around the door."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.media.outcome import LIMITS
from vista_train.data.manifest import open_manifest
from vista_train.data.proxies import make_proxies
from vista_train.data.reading import Reading
from vista_train.data.sources import ClipSource
from vista_train.video.decode import MediaError, MediaMissing, MediaTooLarge, MediaUnreadable, Wanted
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.members import key_of, members_of, place_in, split
from vista_train.video.decode.sizes import Sizes
from vista_train.video.media import Media

NAMES = ("plain.mp4", "deep/er/uneven.mp4", "x" * 120 + "/long_name.mp4")
TIMES = (Fraction(1, 2), Fraction(0), Fraction(1))


@pytest.fixture(scope="module")
def shelf(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a tar of three videos and a text, and the same videos beside it."""
    root = tmp_path_factory.mktemp("shelf")
    (root / "sub").mkdir()
    for form, file in (
        (tarfile.GNU_FORMAT, "gnu.tar"),
        (tarfile.PAX_FORMAT, "pax.tar"),
        (tarfile.USTAR_FORMAT, "u.tar"),
    ):
        with tarfile.open(root / "sub" / file, "w", format=form) as tar:
            for name in NAMES:
                tar.add(odd / Path(name).name if "long" not in name else odd / "plain.mp4", f"./{name}")
            text = tarfile.TarInfo("notes.txt")
            text.size = 4
            tar.addfile(text, io.BytesIO(b"text"))
    for name in ("plain.mp4", "uneven.mp4"):
        (root / name).write_bytes((odd / name).read_bytes())
    return root


def keys(shelf: Path, tar: str) -> dict[str, str]:
    found = members_of(shelf / "sub" / tar)
    return {name: key_of(f"sub/{tar}", name.removeprefix("./"), offset, size) for name, offset, size in found}


@pytest.fixture(params=["inline", "process"])
def media(request: pytest.FixtureRequest, shelf: Path) -> Iterator[Media]:
    opened = Media(shelf, isolate=request.param, limits=LIMITS)
    yield opened
    opened.close()


def pictures(media: Media, key: str, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    found = {at: picture.copy() for at, picture in media.pictures(key, [Wanted(time, *size) for time in TIMES])}
    return [found[at] for at in range(len(TIMES))]


@pytest.mark.parametrize("tar", ["gnu.tar", "pax.tar", "u.tar"])
def test_a_file_in_a_tar_shows_what_it_shows_outside(shelf: Path, media: Media, tar: str) -> None:
    inside = keys(shelf, tar)
    assert len(inside) == 4
    for name, plain in zip(NAMES, ("plain.mp4", "uneven.mp4", "plain.mp4"), strict=True):
        key = inside[f"./{name}"]
        assert media.probe(key) == media.probe(plain)
        assert media.inspect(key) == media.inspect(plain)
        assert all(
            (one == other).all() for one, other in zip(pictures(media, key), pictures(media, plain), strict=True)
        )
    with pytest.raises(MediaUnreadable):
        media.probe(inside["notes.txt"])


def test_a_member_has_proxies_tiles_and_an_index_of_its_own(shelf: Path, tmp_path: Path) -> None:
    key = keys(shelf, "gnu.tar")["./plain.mp4"]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"video": key, "caption": "A thing."}) + "\n")
    maker = Media(shelf, limits=LIMITS, makes_proxies=True)
    made = make_proxies(manifest, maker, tmp_path / "proxies", Sizes(48, 24), cache=tmp_path / "cache", workers=1)
    assert (made.made, dict(made.failed)) == (1, {})
    small = Media(shelf, limits=LIMITS, proxies=tmp_path / "proxies", cache=tmp_path / "cache")
    pictures(small, key, (24, 20)), pictures(small, key, (48, 40))
    assert small.drawn == {"tiles": 3, "proxy": 3}
    small.close()


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda tar, offset, size: (tar, offset + 512, size), MediaUnreadable, "something else in this place"),
        (lambda tar, offset, size: (tar, offset, size - 1), MediaUnreadable, "something else in this place"),
        (lambda tar, offset, size: (tar, offset, size, "2plain.mp4"), MediaUnreadable, "something else in this place"),
        (
            lambda tar, offset, size: (tar, offset, size, "plain.mp4.bak"),
            MediaUnreadable,
            "something else in this place",
        ),
        (lambda tar, offset, size: (tar, 0, size), MediaUnreadable, "something else in this place"),
        (lambda tar, offset, size: (tar, offset, 1 << 40), MediaTooLarge, "limits.max_bytes is"),
        (lambda tar, offset, size: ("sub/none.tar", offset, size), MediaMissing, "no such file"),
        (lambda tar, offset, size: ("sub", offset, size), MediaMissing, "no such file"),
        (lambda tar, offset, size: ("../sub/gnu.tar", offset, size), MediaMissing, "outside the data root"),
        (lambda tar, offset, size: ("link.tar", offset, size), MediaMissing, "symbolic link"),
        (lambda tar, offset, size: ("folder.tar", offset, size), MediaUnreadable, "not a file"),
    ],
)
def test_a_key_that_lies_is_one_error(shelf: Path, media: Media, change, error, reason: str) -> None:
    (shelf / "folder.tar").mkdir(exist_ok=True)
    if not (shelf / "link.tar").is_symlink():
        os.symlink("sub/gnu.tar", shelf / "link.tar")
    (_, offset, size) = next(member for member in members_of(shelf / "sub/gnu.tar") if "plain" in member[0])
    tar, *place = change("sub/gnu.tar", offset, size)
    name = place[2] if len(place) > 2 else "plain.mp4"
    key = key_of(tar, name, *place[:2])
    if tar == "sub":
        key = key.replace("sub@", "sub.tar@")
    with pytest.raises(error, match=reason):
        pictures(media, key)
    assert len(pictures(media, keys(shelf, "gnu.tar")["./plain.mp4"])) == 3


def test_a_cut_tar_and_limits(shelf: Path, tmp_path: Path) -> None:
    whole = (shelf / "sub/gnu.tar").read_bytes()
    (_, offset, size) = next(member for member in members_of(shelf / "sub/gnu.tar") if "plain" in member[0])
    (tmp_path / "cut.tar").write_bytes(whole[: offset + size // 2])
    key = key_of("cut.tar", "plain.mp4", offset, size)
    for isolate in ("inline", "process"):
        media = Media(tmp_path, isolate=isolate, limits=LIMITS)  # type: ignore[arg-type]
        with pytest.raises(MediaMissing, match="its tar ends before it does"):
            pictures(media, key)
        media.close()
        media = Media(shelf, isolate=isolate, limits=Limits(max_bytes=1000))  # type: ignore[arg-type]
        with pytest.raises(MediaTooLarge, match=f"has {size} bytes, and limits.max_bytes is 1000"):
            pictures(media, keys(shelf, "gnu.tar")["./plain.mp4"])
        media.close()


def test_where_a_member_is_stands_in_its_key() -> None:
    key = key_of("a/b.tar", "c/d.mp4", 1536, 99)
    assert key == "a/b.tar@1536+99/c/d.mp4"
    assert split(key) == ("a/b.tar", ("b.tar", 1536, 99), "c/d.mp4")
    assert split("a/b.tar@1536+99") is None, "a file may be called so"
    assert split("a/b.mp4") is None
    assert place_in("b.tar@-1+99") is None


def conversations(path: Path, names: list[str]) -> Path:
    talk = [{"from": "human", "value": "What is shown?"}, {"from": "gpt", "value": "Bars."}]
    path.write_text(json.dumps([{"image": name, "conversations": talk} for name in names]))
    return path


def test_vista400k_is_read_in_its_tars(shelf: Path, tmp_path: Path) -> None:
    path = conversations(tmp_path / "temporal_niah_qa.json", ["plain.mp4", "uneven.mp4", "gone.mp4"])
    reading = Reading("vista400k", tars="sub/gnu.tar")
    source = ClipSource(path, Media(shelf, limits=LIMITS), tmp_path / "cache", reading=reading)
    inside = keys(shelf, "gnu.tar")
    assert [clip.path for clip in source] == [inside["./plain.mp4"], inside["./deep/er/uneven.mp4"]]
    assert [clip.qa[0].answer for clip in source] == ["Bars.", "Bars."]
    assert source[0].width > 0
    ((where, reason),) = source.unusable
    assert where == f"{path}:2"
    assert reason == "video is 'gone.mp4'; it is not in the 1 tars"


def test_a_name_in_several_tars_says_which(shelf: Path, tmp_path: Path) -> None:
    names = ["plain.mp4", "gnu/plain.mp4", "deep/er/uneven.mp4"]
    path = conversations(tmp_path / "all.json", names)
    opened = open_manifest(path, tmp_path / "cache", reading=Reading("vista400k", tars="sub/[gp]*.tar"), root=shelf)
    assert opened.rows()["video"][:] == [keys(shelf, "gnu.tar")["./plain.mp4"]]
    assert [reason for _, reason in opened.refused] == [
        "video is 'plain.mp4'; it is in 2 places in the 2 tars",
        "video is 'deep/er/uneven.mp4'; it is in 2 places in the 2 tars",
    ]


def test_a_file_of_another_folder_is_never_taken_for_it(tmp_path: Path) -> None:
    """Half of a data set may be there: then what is missing is told, whatever else has its name."""
    for tar, name in (("v10.tar", "a.mp4"), ("v2.tar", "X/b.mp4"), ("v2.tar", "c.mp4")):
        with tarfile.open(tmp_path / tar, "a") as opened:
            member = tarfile.TarInfo(name)
            member.size = 1
            opened.addfile(member, io.BytesIO(b"x"))
    path = conversations(tmp_path / "a.json", ["v1/a.mp4", "Y/b.mp4", "X/b.mp4", "v2/c.mp4", "v2/X/b.mp4", "v10/c.mp4"])
    opened = open_manifest(path, tmp_path / "cache", reading=Reading("vista400k", tars="*.tar"), root=tmp_path)
    assert [video.split("@")[0] + ":" + video.split("/", 1)[1] for video in opened.rows()["video"][:]] == [
        "v2.tar:X/b.mp4", "v2.tar:c.mp4", "v2.tar:X/b.mp4",
    ]  # fmt: skip
    assert [where.rsplit(":", 1)[1] for where, _ in opened.refused] == ["0", "1", "5"]


def test_heads_without_bounds_are_told(tmp_path: Path) -> None:
    head = bytearray(tarfile.TarInfo("././@LongLink").tobuf(tarfile.GNU_FORMAT))
    head[156:157] = b"L"
    many = b"".join(bytes(head) for _ in range(3000))
    huge = tarfile.TarInfo("././@LongLink")
    huge.size, huge.type = 4 << 30, b"L"
    for content in (many, huge.tobuf(tarfile.GNU_FORMAT)):
        (tmp_path / "x.tar").write_bytes(content)
        os.truncate(tmp_path / "x.tar", 5 << 30)
        with pytest.raises(ValueError, match=r"x\.tar: no tar"):
            list(members_of(tmp_path / "x.tar"))


@pytest.mark.parametrize("pattern", ["/etc/*.tar", "../*.tar", "none/*.tar", "*.mp4"])
def test_tars_lie_below_the_root(shelf: Path, tmp_path: Path, pattern: str) -> None:
    path = conversations(tmp_path / "a.json", ["plain.mp4"])
    with pytest.raises(ValueError, match="tars is "):
        open_manifest(path, tmp_path / "cache", reading=Reading("vista400k", tars=pattern), root=shelf)


def test_a_tar_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    path = conversations(tmp_path / "a.json", ["plain.mp4"])
    with pytest.raises(ValueError, match=r"bad\.tar: no tar"):
        open_manifest(path, tmp_path / "cache", reading=Reading("vista400k", tars="*.tar"), root=tmp_path)


def test_nothing_of_a_member_stays_open(shelf: Path, media: Media) -> None:
    key = keys(shelf, "gnu.tar")["./plain.mp4"]
    pictures(media, key)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        pictures(media, key)
        with pytest.raises(MediaError):
            pictures(media, key.replace("+", "+1"))
    assert len(os.listdir("/proc/self/fd")) == before
