"""Tars of webdataset and video2dataset become manifests: what lies side by side under one name is a sample."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from vista_train.data.manifest import open_manifest
from vista_train.data.reading import Reading
from vista_train.data.shards import MAX_SAID_BYTES, named
from vista_train.video.decode.members import split

TALK = [{"from": "human", "value": "<video>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]


def packed(tar: Path, files: dict[str, bytes | str]) -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as opened:
        for name, content in files.items():
            text = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(text)
            opened.addfile(member, io.BytesIO(text))
    return tar


def read(path: Path, root: Path, reading: Reading = Reading("webdataset")) -> tuple[list[dict], list[str]]:  # noqa: B008
    manifest = open_manifest(path, reading=reading, root=root)
    return manifest.rows().data.table.to_pylist(), [reason for _, reason in manifest.refused]


def test_what_video2dataset_downloads_and_what_we_export(tmp_path: Path) -> None:
    packed(
        tmp_path / "set/00000.tar",
        {
            "000000000.mp4": b"1" * 600,
            "000000000.txt": "A dog runs.\n",
            "000000000.json": json.dumps({"caption": "other", "video": "elsewhere", "source": "web", "url": "x"}),
            "./000000001.json": json.dumps({"caption": "A cat sleeps."}),
            "./000000001.webm": b"22",
        },
    )
    packed(tmp_path / "set/00001.tar", {"000000000.MP4": b"3", "000000000.json": json.dumps({"conversations": TALK})})
    rows, refused = read(tmp_path / "set", tmp_path)
    assert refused == []
    assert [row["caption"] for row in rows] == ["A dog runs.", "A cat sleeps.", ""]
    assert json.loads(rows[2]["qa"])[0]["question"] == "What is it?"
    # The same name in another tar is another recording.
    assert [row["source"] for row in rows] == [
        "set/00000.tar/000000000",
        "set/00000.tar/000000001",
        "set/00001.tar/000000000",
    ]
    for row, content in zip(rows, (b"1" * 600, b"22", b"3"), strict=True):
        tar, place, _ = split(row["video"])
        assert (tmp_path / tar).read_bytes()[place.offset : place.offset + place.size] == content


def test_names_end_at_the_first_dot_after_the_folders(tmp_path: Path) -> None:
    assert named("a.b/c.d.MP4") == ("a.b/c", "d.mp4")
    assert named("./x/000.mp4") == ("x/000", "mp4")
    assert named("._000.mp4")[0] == ""
    packed(
        tmp_path / "t.tar",
        {
            "one/0.mp4": b"1",
            "one/0.txt": "One.",
            "two/0.mp4": b"2",
            "two/0.seg.png": b"not what is shown",
            "two/0.txt": "Two.",
            "._0.mp4": b"rubbish",
            "3.jpg": b"3",
            "3.txt": "A picture.",
            "4.mp4": b"4",
            "4.jpg": b"its cover",
            "4.txt": "A video.",
        },
    )
    rows, refused = read(tmp_path / "t.tar", tmp_path)
    assert [(row["video"].rpartition("/")[2], row["caption"]) for row in rows] == [
        ("0.mp4", "One."),
        ("0.mp4", "Two."),
        ("3.jpg", "A picture."),
        ("4.mp4", "A video."),
    ]
    assert refused == []


def test_what_cannot_be_a_sample_is_left_out_and_told(tmp_path: Path) -> None:
    packed(
        tmp_path / "t.tar",
        {
            "0.mp4": b"0",
            "1.mp4": b"1",
            "1.json": "[1]",
            "2.mp4": b"2",
            "2.json": "{",
            "3.json": json.dumps({"caption": "Nothing to see."}),
            "4.mp4": b"4",
            "4.mkv": b"4",
            "4.txt": "Two.",
            "5.mp4": b"5",
            "5.txt": b"\xff",
            "6.mp4": b"6",
            "6.json": json.dumps({"caption": "x" * MAX_SAID_BYTES}),
            "7.mp4": b"7",
            "7.json": "[" * 100_000,
            "8.mp4": b"8",
            "8.txt": "Right.",
            # What does not stand beside it does not belong to it.
            "0.txt": "Too late.",
        },
    )
    rows, refused = read(tmp_path / "t.tar", tmp_path)
    assert [row["caption"] for row in rows] == ["Right."]
    parts = (
        "caption is missing", "must be an object", "property name", "no video and no picture, only .json",
        "which one is meant", "decode byte", f"{MAX_SAID_BYTES} are the most", "", "only .txt",
    )  # fmt: skip
    assert len(refused) == len(parts)
    assert all(part in reason for part, reason in zip(parts, refused, strict=True))


def test_other_columns_and_parts_of_a_set(tmp_path: Path) -> None:
    for number in range(2):
        samples = {f"{at}.mp4": b"x" for at in range(2)} | {}
        files = {}
        for name, content in samples.items():
            at = name[0]
            files |= {name: content, f"{at}.json": json.dumps({"text": f"Clip {number}{at}", "film": f"f{number}"})}
        packed(tmp_path / f"{number}.tar", files)
    rows, _ = read(tmp_path / "*.tar", tmp_path, Reading("webdataset", {"caption": "text", "source": "film"}, limit=3))
    assert [(row["caption"], row["source"]) for row in rows] == [
        ("Clip 00", "f0"),
        ("Clip 01", "f0"),
        ("Clip 10", "f1"),
    ]


def test_only_whole_tars_below_the_root(tmp_path: Path) -> None:
    files = {"0.mp4": b"0" * 2000, "0.txt": "A dog."}
    root = tmp_path / "root"
    packed(root / "a.tar", files)
    packed(tmp_path / "b.tar", files)
    (root / "out.tar").symlink_to(tmp_path / "b.tar")
    for path, message in (
        (tmp_path / "b.tar", "below the data root"),
        (root / "out.tar", "below the data root"),
        (root / "none", "must be .tar files"),
        (tmp_path / "nothing*", "must be .tar files"),
    ):
        with pytest.raises(ValueError, match=message):
            read(path, root)
    (root / "out.tar").unlink()
    assert len(read(root, root)[0]) == 1
    (root / "a.tar").write_bytes((root / "a.tar").read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"a\.tar: no tar, or a damaged one"):
        read(root, root)
    with pytest.raises(ValueError, match="tars are given, but format is 'webdataset'"):
        Reading("webdataset", tars="*.tar")


def test_names_that_come_twice_are_refused(tmp_path: Path) -> None:
    """As in a tar that others were put behind: which words belong to which video cannot be told."""
    two = [("0.txt", b"one"), ("0.mp4", b"1" * 600), ("0.mp4", b"2" * 600), ("1.mp4", b"3" * 600), ("1.txt", b"three")]
    for number, files in enumerate((two, [*two[3:], *two[:2], *two[3:]], [("0.MP4", b"1" * 600), *two[:2], *two[3:]])):
        tar = tmp_path / str(number) / "0.tar"
        tar.parent.mkdir()
        with tarfile.open(tar, "w") as opened:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
        rows, refused = read(tar, tar.parent)
        assert len(rows) == (1 if number != 1 else 2)
        assert rows[0]["caption"] == "three"
        assert ["twice; what belongs together cannot be told" in reason for reason in refused] == [True]


def test_files_that_a_mac_puts_between_are_passed_over(tmp_path: Path) -> None:
    tar = packed(tmp_path / "0.tar", {"._0.mp4": b"x", "0.mp4": b"1" * 600, "._0.txt": b"x", "0.txt": "zero"})
    rows, refused = read(tar, tmp_path)
    assert ([row["caption"] for row in rows], refused) == (["zero"], [])
