"""Exported samples show what they were composed of, say what they said, and can be trained on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vista_train.cli import main
from vista_train.config import load_recipe
from vista_train.data.reading import Reading
from vista_train.data.sources import ClipSource
from vista_train.synthesis import export as module
from vista_train.synthesis.export import Shape
from vista_train.train import train
from vista_train.types import Sample
from vista_train.video.decode import Wanted
from vista_train.video.media import Media
from vista_train.video.render import render

KINDS = ("temporal_needle", "spatial_needle", "video_grid", "plain")
COUNT = 8
ROOMS = ["--fps", "8", "--short-edge", "64", "--workers", "2"]


@pytest.fixture(scope="module")
def recipe(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("recipe") / "export.yaml", world)


def written(path: Path, world: Path) -> Path:
    """A small recipe over the world's clips."""
    path.write_text(
        f"output: {path.parent / 'run'}\n"
        f"data: {{root: {world}, cache: {path.parent / 'cache'}}}\n"
        "view: {frames: 4, width: 56, height: 56, min_pixels: 7}\n"
        "family: {name: tiny, vision_width: 32, language_width: 64, language_layers: 1}\n"
        "augment: {temporal_needle: {}, spatial_needle: {}, video_grid: {rows: 2, columns: 2}, plain: {}}\n"
        "train: {steps: 2, batch_samples: 2, max_row_tokens: 4096, workers: 0}\n"
    )
    return path


@pytest.fixture(scope="module")
def exported(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    assert main(["export", str(recipe), "--out", str(out), "--count", str(COUNT), *ROOMS]) == 0
    return out


def entries(out: Path) -> dict[int, tuple[str, dict]]:
    found = [(path.stem, entry) for path in sorted(out.glob("*.json")) for entry in json.loads(path.read_text())]
    # Encoders do not write the same bytes twice, and so are not equally far off.
    kept = [(kind, {key: value for key, value in entry.items() if key != "psnr_db"}) for kind, entry in found]
    return {entry["position"]: (kind.split("-")[0], entry) for kind, entry in kept}


def test_every_position_is_there_and_says_what_it_says(exported: Path, recipe: Path) -> None:
    found = entries(exported)
    assert sorted(found) == list(range(COUNT))
    dataset = load_recipe(recipe).make_dataset(load_recipe(recipe).make_family().codec)
    for position, (kind, entry) in found.items():
        sample = dataset.sample(position)
        assert kind == sample.kind
        assert Sample.from_json(entry["sample"]) == sample
        said = [message.content for message in sample.messages]
        assert [turn["value"] for turn in entry["conversations"]] == said
        assert [turn["from"] for turn in entry["conversations"]] == ["human", "gpt"] * (len(said) // 2)
        assert entry["evidence"][0]["start"] == float(sample.evidence[0].span.start)
    assert len({kind for kind, _ in found.values()}) >= 3


def test_files_are_what_was_composed(exported: Path, world: Path) -> None:
    media = Media(exported, isolate="inline")
    for kind, entry in entries(exported).values():
        key = f"{kind}/{entry['image']}"
        video = Sample.from_json(entry["sample"]).shown
        there = media.inspect(key)
        assert (there.width, there.height) == tuple(entry["size"])
        assert min(entry["size"]) <= 64
        assert there.num_frames == entry["num_frames"]
        assert abs(there.duration - video.duration) <= Fraction(1, 8)
        times = [Fraction(at, 8) for at in range(entry["num_frames"])]
        frames = render(video, times, (there.width, there.height), "squash", world).permute(0, 2, 3, 1).numpy()
        wanted = [Wanted(at, there.width, there.height) for at in times]
        error = [((picture - frames[at].astype(float)) ** 2).mean() for at, picture in media.pictures(key, wanted)]
        assert 10 * np.log10(255**2 / max(error)) >= 30, key


def test_the_same_again_is_no_work_and_other_shapes_are_refused(exported: Path, recipe: Path, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*.mp4")}
    arguments = ["export", str(recipe), "--out", str(exported), "--count", str(COUNT)]
    assert main([*arguments, *ROOMS]) == 0
    assert "0 of them made now" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*.mp4")} == before
    assert main([*arguments, "--fps", "12", "--short-edge", "64"]) == 2
    assert "another recipe, fps or size" in capsys.readouterr().err
    assert main([*arguments, *ROOMS, "seed=1"]) == 2
    assert main([*arguments, "--fps", "0"]) == 2
    assert "fps is 0" in capsys.readouterr().err


def test_shards_make_what_one_makes(exported: Path, recipe: Path, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        shared = ["export", str(recipe), "--out", str(tmp_path), "--count", str(COUNT), *ROOMS, "--shard", shard]
        assert main(shared) == 0
    assert entries(tmp_path) == entries(exported)
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.mp4")}
    assert names == {path.relative_to(exported) for path in exported.rglob("*.mp4")}


def test_what_another_recipe_made_stays_under_its_own_words(exported: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["export", str(recipe), "--out", str(tmp_path), *ROOMS]
    assert main([*arguments, "--count", "2"]) == 0
    assert main([*arguments, "--count", "2", "--shard", "1/2", "seed=7"]) == 0
    media = Media(tmp_path, isolate="inline")
    checked = 0
    for path in tmp_path.glob("*.json"):
        for entry in json.loads(path.read_text()):
            kind = path.stem.split("-")[0]
            video, size = Sample.from_json(entry["sample"]).shown, tuple(entry["size"])
            frame = render(video, [Fraction(0)], size, "squash", load_recipe(recipe).data.root)[0]
            ((_, picture),) = media.pictures(f"{kind}/{entry['image']}", [Wanted(Fraction(0), *size)])
            error = ((picture - frame.permute(1, 2, 0).numpy().astype(float)) ** 2).mean()
            assert 10 * np.log10(255**2 / max(error, 1e-9)) > 30
            checked += 1
    assert checked == 3


def test_later_positions_join_earlier_ones(exported: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["export", str(recipe), "--out", str(tmp_path), *ROOMS]
    assert main([*arguments, "--first", "4", "--count", "4"]) == 0
    assert main([*arguments, "--count", "4"]) == 0
    assert entries(tmp_path) == entries(exported)
    assert main([*arguments, "--count", "1"]) == 0
    assert entries(tmp_path) == entries(exported)


def killed_amid(arguments: list[str], out: Path) -> Path:
    """The journal of an export in a process of its own, killed once two samples stand there."""
    command, quiet = [sys.executable, "-m", "vista_train.cli", *arguments], subprocess.DEVNULL
    run = subprocess.Popen(command, stderr=quiet, stdout=quiet, start_new_session=True)
    journal = out / ".export.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert run.poll() in (None, 0)
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return journal


def test_a_killed_export_goes_on_to_the_same(exported: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["export", str(recipe), "--out", str(tmp_path), "--count", str(COUNT), *ROOMS]
    journal = killed_amid(arguments, tmp_path)
    # What a kill leaves: half a line, and a file without its record.
    with journal.open("ab") as stream:
        stream.write(b'{"position": 99')
    made = next(tmp_path.rglob("*.mp4"))
    made.unlink()
    assert main(arguments) == 0
    assert entries(tmp_path) == entries(exported)
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.mp4") if not path.name.startswith(".")}
    assert names == {path.relative_to(exported) for path in exported.rglob("*.mp4")}


def test_a_sample_whose_files_are_gone_is_replaced_or_told(recipe: Path, world: Path, tmp_path: Path, capsys) -> None:
    lines = [json.loads(line) for line in (world / "clips.jsonl").read_text().splitlines()]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    videos = sorted({line["video"] for line in lines})
    for number, video in enumerate(videos):
        target = tmp_path / video
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = (world / video).read_bytes()
        # Its header and the table of its packets are whole, so nothing is known of it beforehand.
        target.write_bytes(whole if number % 2 else whole[:200] + bytes(len(whole) - 2400) + whole[-2200:])
    out = tmp_path / "out"
    code = main(["export", str(recipe), "--out", str(out), "--count", "4", *ROOMS, f"data.root={tmp_path}"])
    lost = [json.loads(line) for line in (out / "lost.jsonl").read_text().splitlines()]
    found = entries(out)
    assert len(found) + len([one for one in lost if one["position"] not in found]) == 4
    assert code == (0 if len(found) == 4 else 1)
    assert lost, "half of the files are spoilt"
    assert all("attempt 0: " in one["attempts"][0] for one in lost)
    assert any(entry["attempt"] > 0 for _, entry in found.values())


def test_a_file_that_shows_something_else_is_no_sample(recipe: Path, tmp_path: Path, monkeypatch) -> None:
    write = module.write_mp4

    def darker(file, frames, *more):
        return write(file, (frame // 2 for frame in frames), *more)

    monkeypatch.setattr(module, "write_mp4", darker)
    assert main(["export", str(recipe), "--out", str(tmp_path), "--count", "1", *ROOMS]) == 1
    assert not list(tmp_path.rglob("*.mp4"))
    (lost,) = [json.loads(line) for line in (tmp_path / "lost.jsonl").read_text().splitlines()]
    assert "dB away from the frames that were written" in lost["attempts"][0]


def test_our_own_reader_takes_it_and_it_trains(exported: Path, recipe: Path, tmp_path: Path) -> None:
    kinds = sorted({kind for kind, _ in entries(exported).values()})
    layout = {"format": "vista400k"}
    manifests = [
        layout | {"path": str(exported / f"{kind}.json"), "name": kind, "columns": {"video": kind + "/{image}"}}
        for kind in kinds
    ]
    source = ClipSource(
        exported / f"{kinds[0]}.json", exported, tmp_path / "cache",
        reading=Reading("vista400k", {"video": kinds[0] + "/{image}"}),
    )  # fmt: skip
    assert source.unusable == ()
    read = load_recipe(
        recipe,
        [
            f"data.root={exported}", f"data.manifests={json.dumps(manifests)}", f"output={tmp_path / 'run'}",
            "augment={plain: {turns: all}}", f"data.cache={tmp_path / 'cache'}",
        ],
    )  # fmt: skip
    trainer = train(read)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert all(line["grad_norm"] > 0 and line["labels"] > 0 for line in log)
    assert trainer.step_number == 2


def test_sizes_are_even_and_never_enlarged() -> None:
    class Sized:
        size, duration = (1919, 1081), Fraction(1, 100)

    assert Shape().size_of(Sized()) == (1920, 1080)  # type: ignore[arg-type]
    assert Shape(short_edge=540).size_of(Sized()) == (958, 540)  # type: ignore[arg-type]
    assert Shape(short_edge=2160).size_of(Sized()) == (1920, 1080)  # type: ignore[arg-type]
    assert Shape().times_of(Sized()) == [0]  # type: ignore[arg-type]
