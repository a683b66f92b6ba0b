"""What goes wrong in a real run: bad files cost a sample each and are named; what the user can mend is one sentence."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from vista_train import train
from vista_train.config import load_recipe
from vista_train.data import ledger
from vista_train.data.ledger import NO_POSITION
from vista_train.training.checkpoint import published
from vista_train.video.render import requests

REPO = Path(__file__).parents[1]
KNOWN = ("start", "end", "duration", "width", "height", "fps")
HARMS = ("gone", "empty", "cut", "text")


class Place(NamedTuple):
    """Clips, a manifest and a recipe for them."""

    root: Path
    recipe: Path
    output: Path

    def change(self, **sections: dict[str, Any]) -> None:
        """Lay keys over the recipe's."""
        data = yaml.safe_load(self.recipe.read_text())
        for name, section in sections.items():
            data[name] = data.get(name, {}) | section
        self.recipe.write_text(yaml.safe_dump(data))


def lines_of(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def write_lines(manifest: Path, lines: list[dict[str, Any]]) -> None:
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))


def damage(path: Path, harm: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if harm == "empty":
        path.write_bytes(b"")
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "text":
        path.write_text("<html><body>404 Not Found</body></html>\n" * 50)


@pytest.fixture
def place(world, tmp_path) -> Place:
    """A copy of the world, and a recipe of three steps of four samples on it."""
    root = tmp_path / "clips"
    shutil.copytree(world, root)
    recipe = {
        "output": str(tmp_path / "run"),
        "seed": 3,
        "family": {"name": "tiny", "vision_width": 32, "language_width": 64, "language_layers": 2, "max_tokens": 2048},
        "view": {"frames": 4, "width": 56, "height": 56, "min_pixels": 7},
        "data": {"root": str(root), "cache": str(tmp_path / "cache")},
        "augment": {"temporal_needle": {}, "video_grid": {"rows": 2, "columns": 2}, "plain": {}},
        "train": {"steps": 3, "batch_samples": 4, "max_row_tokens": 2048, "workers": 1, "max_failed_share": 1.0},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return Place(root, path, tmp_path / "run")


@pytest.fixture
def damaged(place) -> tuple[Place, dict[str, str], dict[str, str]]:
    """The place with eight bad files: four that the manifest describes, and four that have to be probed."""
    manifest = place.root / "clips.jsonl"
    lines = lines_of(manifest)
    described = {line["video"]: harm for line, harm in zip(lines[1::4], HARMS, strict=True)}
    probed = {line["video"]: harm for line, harm in zip(lines[2::4], HARMS, strict=True)}
    for video, harm in (described | probed).items():
        damage(place.root / video, harm)
    write_lines(manifest, [bare(line) if line["video"] in probed else line for line in lines])
    return place, described, probed


def bare(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in KNOWN}


def launch(*arguments: object) -> subprocess.CompletedProcess:
    """`python -m vista_train.train`, as a person would start it."""
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "vista_train.train", *map(str, arguments)]
    env = {**os.environ, **quiet}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=240, cwd=REPO)


def refused(capsys: pytest.CaptureFixture, place: Place, *overrides: str) -> str:
    """What is said of a run that cannot begin, which leaves nothing behind."""
    before = sorted(place.root.rglob("*"))
    assert train.main([str(place.recipe), *overrides]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert not place.output.exists()
    assert sorted(place.root.rglob("*")) == before
    return line


def test_a_run_over_bad_files_ends_well_and_names_them(damaged):
    place, described, probed = damaged
    finished = launch(place.recipe)
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    (newest,) = published(place.output)
    assert (newest.name, str(newest) in finished.stdout) == ("step-000003", True)

    log = [json.loads(line) for line in (place.output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) and line["labels"] > 0 for line in log)

    told = ledger.read(place.output / "ledger.jsonl")
    left_out = {failure.key: failure.reason for failure in told if failure.position == NO_POSITION}
    assert set(left_out) == set(probed)
    assert left_out[next(key for key, harm in probed.items() if harm == "gone")] == (
        "cannot be opened: No such file or directory"
    )
    lost = [failure for failure in told if failure.position != NO_POSITION]
    check_losses(place, lost, described)
    assert sum(line["failed"] for line in log) == len({failure.position for failure in lost}) >= 3


def check_losses(place: Place, lost: list, described: dict[str, str]) -> None:
    """The ledger holds what the plan says must have failed, whatever was replaced by what."""
    recipe = load_recipe(place.recipe)
    dataset = recipe.make_dataset(recipe.make_family().codec)
    assert {failure.key for failure in lost} <= set(described)
    for position in range(12):
        sample, view = dataset.sample(position), dataset.codec.view
        wanted = requests(sample.video, dataset.plan(position).times, (view.width, view.height), view.fit)
        bad = {request.clip.path for request in wanted} & set(described)
        first = [failure for failure in lost if (failure.position, failure.attempt) == (position, 0)]
        assert len(first) == bool(bad)
        assert all(failure.key in bad for failure in first)
    # The same again, in this process: as many lines as there were attempts, in the order of positions.
    again = [failure for position in range(12) for failure in dataset[position].failures]
    assert sorted(lost, key=lambda failure: (failure.position, failure.attempt)) == again


def test_too_many_losses_stop_the_run_in_one_sentence(damaged):
    place, *_ = damaged
    place.change(train={"max_failed_share": 0.01})
    stopped = launch(place.recipe)
    assert stopped.returncode == 2
    assert "Traceback" not in stopped.stderr
    lost = ledger.read(place.output / "ledger.jsonl")
    positions = {failure.position for failure in lost} - {NO_POSITION}
    log = place.output / "log.jsonl"
    # The step that lost too much is not taken.
    steps = (log.read_text().count("\n") if log.exists() else 0) + 1
    # Of at least 100 samples: the first loss is no more than a hundredth.
    assert len(positions) >= 2
    assert stopped.stderr.splitlines()[-1] == (
        f"vista_train: {len(positions)} of {4 * steps} samples were lost, more than train.max_failed_share 0.01 "
        f"allows; {place.output / 'ledger.jsonl'} names each file and reason"
    )
    assert published(place.output) == []


def test_a_run_that_lost_its_disk_stops_and_goes_on_when_it_is_back(place, capsys):
    """What it lost meanwhile is tried again: the checkpoint knows nothing of it."""
    place.change(train={"workers": 0, "steps": 2, "save_every": 1, "max_consecutive_failures": 6})
    assert train.main([str(place.recipe)]) == 0
    away = place.root.with_name("away")
    place.root.rename(away)
    place.root.mkdir()
    shutil.copy(away / "clips.jsonl", place.root / "clips.jsonl")
    os.utime(place.root / "clips.jsonl", ns=(0, (away / "clips.jsonl").stat().st_mtime_ns))
    place.change(train={"steps": 6, "save_every": 10})
    assert train.main([str(place.recipe)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "samples in a row were lost, and train.max_consecutive_failures is 6; is data.root still there?" in said
    assert {failure.kind for failure in ledger.read(place.output / "ledger.jsonl")} == {"MediaMissing"}
    shutil.rmtree(place.root)
    away.rename(place.root)
    assert train.main([str(place.recipe)]) == 0
    assert ledger.read(place.output / "ledger.jsonl") == []
    assert published(place.output)[-1].name == "step-000006"


def test_a_wrong_recipe_is_one_line_and_nothing_else(place):
    place.change(train={"stepz": 3})
    refused_run = launch(place.recipe)
    assert refused_run.returncode == 2
    assert refused_run.stderr == f"vista_train: {place.recipe}: train.stepz: unknown key; did you mean 'steps'?\n"
    assert refused_run.stdout == ""
    assert not place.output.exists()


def test_one_loss_among_few_samples_does_not_stop_a_run(place, capsys):
    """Judged on twelve samples alone, one would be more than a twentieth."""
    video = lines_of(place.root / "clips.jsonl")[5]["video"]
    damage(place.root / video, "text")
    place.change(train={"max_failed_share": 0.05, "workers": 0}, augment={"video_grid": {"weight": 0}})
    assert train.main([str(place.recipe)]) == 0
    lost = ledger.read(place.output / "ledger.jsonl")
    assert 1 <= len({failure.position for failure in lost}) <= 5
    assert {failure.key for failure in lost} == {video}
    assert "checkpoint " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["view.frames=0"], "view.frames is 0; it must be at least 1"),
        (["family.name=tinny"], "family.name: unknown family 'tinny'; did you mean 'tiny'?"),
        (["train.steps=[1"], "the value is not YAML"),
        (["view.width=60"], "view.width x view.height is 60x56; tiny needs a square"),
        (["data.reader=ffmpeg"], "data.reader: reader 'ffmpeg' is unknown; choose one of auto, pyav"),
        (["data.manifests=[{path: gone.jsonl}]"], "gone.jsonl is not a file"),
        (["train.expected_world=2"], "train.expected_world is 2, but 1 process run"),
        (["augment.plain.weight=0", "augment.temporal_needle.weight=0", "augment.video_grid.weight=0"], "above 0"),
        (
            ["train.max_row_tokens=100"],
            "family.max_tokens is 2048, train.max_row_tokens 100; a sample must fit into a row",
        ),
        (["train.max_row_patches=10"], "over max_row_tokens 2048 or max_row_patches 10"),
    ],
)
def test_a_wrong_setting_is_one_sentence(place, capsys, overrides, said):
    line = refused(capsys, place, *overrides)
    assert line.startswith("vista_train: ")
    assert said in line


def test_a_wrong_line_of_a_manifest_is_told_by_its_number(place, capsys):
    manifest = place.root / "clips.jsonl"
    lines = lines_of(manifest)
    lines[6]["duration"] = -3
    write_lines(manifest, lines)
    assert refused(capsys, place) == f"vista_train: {manifest}:7: duration is -3; it must be a number, above 0"


def test_a_manifest_without_clips_is_told(place, capsys):
    (place.root / "clips.jsonl").write_text("\n\n")
    assert f"{place.root / 'clips.jsonl'}: no clips" in refused(capsys, place)


def test_a_manifest_of_nothing_but_bad_files_is_told(place, capsys):
    manifest = place.root / "clips.jsonl"
    lines = lines_of(manifest)
    for line in lines:
        (place.root / line["video"]).write_text("not a video")
    write_lines(manifest, [bare(line) for line in lines])
    line = refused(capsys, place)
    assert f"{manifest}: no usable clips; the first, {lines[0]['video']}: " in line


def test_clips_shorter_than_a_needle_are_told(place, capsys):
    """Cut to one second each, no clip can stand inside another."""
    manifest = place.root / "clips.jsonl"
    write_lines(manifest, [line | {"end": 1, "duration": 1} for line in lines_of(manifest)])
    line = refused(capsys, place)
    assert line.startswith("vista_train: augment.temporal_needle: no sample can be made (haystack from clips, ")
    assert "lasts 1.00 s, not longer than its needle" in line
