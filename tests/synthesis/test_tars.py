"""Exported tars are webdataset's, hold what the other layout holds, and are read in place by our own reader."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.synthesis.test_export import ROOMS, killed_amid, written
from vista_train.cli import main
from vista_train.config import load_recipe
from vista_train.data.reading import Reading
from vista_train.data.sources import ClipSource
from vista_train.synthesis import layouts
from vista_train.train import train
from vista_train.types import Sample
from vista_train.video.decode import Wanted
from vista_train.video.decode.members import key_of
from vista_train.video.media import Media
from vista_train.video.render import render

COUNT, SIZE = 6, 4
TARS = ["--webdataset", "--shard-size", str(SIZE), *ROOMS]


@pytest.fixture(scope="module")
def recipe(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("recipe") / "export.yaml", world)


@pytest.fixture(scope="module")
def exported(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    assert main(["export", str(recipe), "--out", str(out), "--count", str(COUNT), *TARS]) == 0
    return out


def members(tar: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(tar, "r:") as opened:
        return [(member, opened.extractfile(member).read()) for member in opened]


def told(out: Path) -> dict[str, list[tuple[str, str]]]:
    """By tar, its names in order, with what the JSON among them holds; videos are not the same to the byte."""
    return {
        tar.name: [(one.name, text.decode() if one.name.endswith(".json") else "") for one, text in members(tar)]
        for tar in sorted(out.glob("*.tar"))
    }


def test_a_tar_is_one_of_webdatasets_and_says_all_there_is_to_say(exported: Path, recipe: Path) -> None:
    assert sorted(path.name for path in exported.iterdir() if not path.name.startswith(".export")) == [
        "000000.tar",
        "000001.tar",
        "lost.jsonl",
    ]
    dataset = load_recipe(recipe).make_dataset(load_recipe(recipe).make_family().codec)
    position = 0
    for tar, count in (("000000.tar", SIZE), ("000001.tar", COUNT - SIZE)):
        found = members(exported / tar)
        assert len(found) == 2 * count
        for (video, _), (words, text) in zip(found[::2], found[1::2], strict=True):
            key, dot, ending = video.name.partition(".")
            assert (dot, ending, words.name) == (".", "mp4", f"{key}.json")
            assert re.fullmatch(rf"{position:08d}-[0-9a-f]{{12}}", key)
            assert all(
                one.isreg() and not one.pax_headers and (one.mtime, one.uid, one.uname) == (0, 0, "")
                for one in (video, words)
            )
            entry, sample = json.loads(text), dataset.sample(position)
            assert (entry["position"], entry["kind"]) == (position, sample.kind)
            assert Sample.from_json(entry["sample"]) == sample
            assert [turn["value"] for turn in entry["conversations"]] == [one.content for one in sample.messages]
            assert entry["evidence"][0]["start"] == float(sample.evidence[0].span.start)
            assert not entry.keys() & {"image", "psnr_db"}
            position += 1
    assert position == COUNT
    # Plain heads, which any reader of tars knows.
    assert (exported / "000000.tar").read_bytes()[257:263] == b"ustar\0"


def test_videos_in_tars_are_what_was_composed(exported: Path, world: Path) -> None:
    media = Media(exported, isolate="inline")
    for tar in ("000000.tar", "000001.tar"):
        found = members(exported / tar)
        for (video, _), (_, text) in zip(found[::2], found[1::2], strict=True):
            entry = json.loads(text)
            composed, size = Sample.from_json(entry["sample"]).shown, tuple(entry["size"])
            times = [Fraction(at, 8) for at in range(0, entry["num_frames"], 5)]
            frames = render(composed, times, size, "squash", world).permute(0, 2, 3, 1).numpy()
            key = key_of(tar, video.name, video.offset_data, video.size)
            pictures = media.pictures(key, [Wanted(time, *size) for time in times])
            error = max(((picture - frames[at].astype(float)) ** 2).mean() for at, picture in pictures)
            assert 10 * np.log10(255**2 / error) >= 30, key


def test_our_own_reader_takes_the_folder_and_it_trains(exported: Path, recipe: Path, tmp_path: Path) -> None:
    source = ClipSource(exported, exported, tmp_path / "cache", reading=Reading("webdataset"))
    assert (len(source), source.unusable) == (COUNT, ())
    first = json.loads(members(exported / "000000.tar")[1][1])
    clip = source[0]
    assert clip.path.startswith("000000.tar@")
    assert [clip.width, clip.height] == first["size"]
    assert (clip.qa[0].question, clip.qa[0].answer) == tuple(turn["value"] for turn in first["conversations"][:2])
    read = load_recipe(
        recipe,
        [
            f"data.root={exported}", f"output={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}",
            "augment={plain: {turns: all}}", 'data.manifests=[{path: "*.tar", format: webdataset, name: ours}]',
        ],
    )  # fmt: skip
    assert train(read).step_number == 2
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert all(line["grad_norm"] > 0 and line["labels"] > 0 and not line["failed"] for line in log)


def test_machines_make_the_same_tars(exported: Path, recipe: Path, tmp_path: Path, capsys) -> None:
    arguments = ["export", str(recipe), "--out", str(tmp_path), "--count", str(COUNT), *TARS]
    assert main([*arguments, "--shard", "2/2"]) == 0
    assert [path.name for path in sorted(tmp_path.glob("*.tar"))] == ["000001.tar"]
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert told(tmp_path) == told(exported)
    # Alone it does not know what the two have made, and would pack without it.
    capsys.readouterr()
    assert main(arguments) == 2
    assert "which this export has not made" in capsys.readouterr().err
    assert told(tmp_path) == told(exported)


def test_later_positions_join_earlier_ones(exported: Path, recipe: Path, tmp_path: Path, capsys) -> None:
    arguments = ["export", str(recipe), "--out", str(tmp_path), *TARS]
    assert main([*arguments, "--count", "2"]) == 0
    before = members(tmp_path / "000000.tar")
    assert main([*arguments, "--first", "3", "--count", str(COUNT - 3)]) == 0
    assert main([*arguments, "--count", str(COUNT)]) == 0
    assert "6 samples" in (said := capsys.readouterr().out)
    assert [int(made) for made in re.findall(r"(\d+) of them made now", said)] == [2, 3, 1]
    assert told(tmp_path) == told(exported)
    # Not made again, but moved over.
    digests = [hashlib.sha256(content).digest() for _, content in before]
    assert digests == [hashlib.sha256(content).digest() for _, content in members(tmp_path / "000000.tar")[:4]]
    stamp = (tmp_path / "000000.tar").stat().st_mtime_ns
    assert main([*arguments, "--count", "1"]) == 0
    assert (tmp_path / "000000.tar").stat().st_mtime_ns == stamp


def test_what_is_torn_is_made_again_and_nothing_else(exported: Path, recipe: Path, tmp_path: Path, capsys) -> None:
    arguments = ["export", str(recipe), "--out", str(tmp_path), "--count", str(COUNT), *TARS]
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    second = tmp_path / "000001.tar"
    whole, stamp = second.read_bytes(), second.stat().st_mtime_ns
    first = tmp_path / "000000.tar"
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    (tmp_path / ".000000.tar.part").write_bytes(b"half a tar")
    capsys.readouterr()
    assert main(arguments) == 0
    assert f"{SIZE} of them made now" in capsys.readouterr().out
    assert told(tmp_path) == told(exported)
    assert (second.read_bytes(), second.stat().st_mtime_ns) == (whole, stamp)
    assert {path.name for path in tmp_path.iterdir()} == {"000000.tar", "000001.tar", "lost.jsonl", ".export.jsonl"}


def test_a_tar_that_does_not_read_back_gets_no_name(recipe: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    add = layouts._add

    def spoilt(tar: tarfile.TarFile, name: str, stream, size: int) -> str:
        digest = add(tar, name, stream, size)
        return digest if name.endswith(".json") else hashlib.sha256(b"what was meant").hexdigest()

    monkeypatch.setattr(layouts, "_add", spoilt)
    assert main(["export", str(recipe), "--out", str(tmp_path), "--count", "1", *TARS]) == 2
    assert "does not hold what was written into it" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tar"))
    monkeypatch.undo()
    assert main(["export", str(recipe), "--out", str(tmp_path), "--count", "1", *TARS]) == 0
    assert "0 of them made now" in capsys.readouterr().out
    assert [name[8:9] for name, _ in told(tmp_path)["000000.tar"]] == ["-", "-"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--webdataset", "--shard-size", "0"], "--shard-size is 0; at least 1"),
        (["--shard-size", "4"], "it is for --webdataset"),
        ([], "or in another layout"),
        (["--webdataset", "--shard-size", "5"], "or in another layout"),
    ],
)
def test_another_layout_does_not_go_on_in_the_same_folder(
    exported: Path, recipe: Path, options, message, capsys
) -> None:
    before = told(exported)
    assert main(["export", str(recipe), "--out", str(exported), "--count", "2", *ROOMS, *options]) == 2
    assert message in capsys.readouterr().err
    assert told(exported) == before


@pytest.mark.slow
def test_a_killed_export_goes_on_to_the_same_tars(exported: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["export", str(recipe), "--out", str(tmp_path), "--count", str(COUNT), *TARS]
    killed_amid(arguments, tmp_path)
    assert main(arguments) == 0
    assert told(tmp_path) == told(exported)
    assert not (tmp_path / ".made").exists()
