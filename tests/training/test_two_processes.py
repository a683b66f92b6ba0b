"""One rank = two ranks, and a run goes on in a world of another size; all cases share one launch of two processes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.launching import command, environment, launch
from vista_train.config import parse_recipe
from vista_train.train import train
from vista_train.training import checkpoint

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("launches")]
SCRIPT = Path(__file__).with_name("two_ranks.py")
TOLERANCE = 1e-5


def recipe_data(world: Path, folder: Path, output: str, **train: Any) -> dict[str, Any]:
    return {
        "output": str(folder / output),
        "seed": 3,
        "family": {
            "name": "tiny",
            "vision_width": 32,
            "language_width": 64,
            "language_layers": 2,
            "seed": 1,
            "max_tokens": 800,
        },
        "view": {"frames": 4, "width": 56, "height": 56, "min_pixels": 7},
        "data": {"root": str(world), "cache": str(folder / "cache")},
        "augment": {"temporal_needle": {}, "spatio_temporal_needle": {}, "video_grid": {"rows": 2, "columns": 2}},
        "train": {"steps": 6, "batch_samples": 6, "workers": 0, "save_every": 3, "lr": 1e-3, **train},
    }


@dataclass(frozen=True)
class Runs:
    """The folder that holds every run's output."""

    folder: Path

    def log(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name / "log.jsonl").read_text().splitlines()]

    def trajectory(self, name: str) -> list[tuple[float, float]]:
        return [(entry["loss"], entry["grad_norm"]) for entry in self.log(name)]

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(checkpoint.published(self.folder / name)[-1] / "model.safetensors")


def cut_back(folder: Path, name: str, copy: str) -> None:
    """Copy a run as it lay on the disk at its middle checkpoint."""
    shutil.copytree(folder / name, folder / copy)
    shutil.rmtree(folder / copy / "step-000006")


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("worlds")

    def data(output: str, **settings: Any) -> dict[str, Any]:
        return recipe_data(world, folder, output, **settings)

    train(parse_recipe(data("one", expected_world=1)))
    train(parse_recipe(data("one_narrow", max_row_tokens=800)))
    cut_back(folder, "one", "one_then_two")
    recipes = [
        data("two", expected_world=2),
        data("two_narrow", max_row_tokens=800),
        data("one_then_two"),
        data("two_workers", workers=2),
    ]
    (folder / "recipes.json").write_text(json.dumps(recipes))
    launch(command(SCRIPT, folder / "recipes.json"), environment(ACCELERATE_USE_CPU="1"))
    cut_back(folder, "two", "two_then_one")
    cut_back(folder, "two", "two_again")
    train(parse_recipe(data("two_then_one")))
    (folder / "recipes.json").write_text(json.dumps([data("two_again")]))
    launch(command(SCRIPT, folder / "recipes.json"), environment(ACCELERATE_USE_CPU="1"))
    return Runs(folder)


@pytest.mark.parametrize("name", ["two", "two_narrow", "one_narrow", "one_then_two", "two_then_one", "two_workers"])
def test_world_size_and_rows_change_nothing(runs: Runs, name: str) -> None:
    one, other = runs.trajectory("one"), runs.trajectory(name)
    assert len(one) == len(other) == 6
    for (loss, norm), (other_loss, other_norm) in zip(one, other, strict=True):
        assert other_loss == pytest.approx(loss, rel=TOLERANCE)
        assert other_norm == pytest.approx(norm, rel=TOLERANCE)


def test_the_runs_differed_in_what_they_should(runs: Runs) -> None:
    states = {
        name: checkpoint.read_state(checkpoint.published(runs.folder / name)[-1]).world_size
        for name in ("one", "two", "one_then_two", "two_then_one")
    }
    assert states == {"one": 1, "two": 2, "one_then_two": 2, "two_then_one": 1}
    rows = {name: max(entry["rows"] for entry in runs.log(name)) for name in ("one", "two", "one_narrow", "two_narrow")}
    assert rows["one"] == rows["two"] == 1
    assert rows["one_narrow"] >= 3
    assert rows["two_narrow"] >= 2


def test_resumed_in_the_same_world_of_two_is_bit_equal(runs: Runs) -> None:
    assert runs.trajectory("two_again") == runs.trajectory("two")
    first, again = runs.weights("two"), runs.weights("two_again")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_totals_are_those_of_all_ranks(runs: Runs) -> None:
    for name in ("two", "two_narrow"):
        for one, two in zip(runs.log("one"), runs.log(name), strict=True):
            assert (one["tokens"], one["labels"], one["frames"]) == (two["tokens"], two["labels"], two["frames"])


def test_an_unexpected_world_is_an_error(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected_world is 2, but 1 process run"):
        train(parse_recipe(recipe_data(world, tmp_path, "run", expected_world=2)))
