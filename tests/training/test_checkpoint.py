"""Resumed = uninterrupted, bit by bit; and whatever goes wrong in a save, an older checkpoint stays whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from vista_train.config import Recipe
from vista_train.data import ledger
from vista_train.train import train
from vista_train.training import checkpoint
from vista_train.training.loop import Trainer
from vista_train.types import Failure


def log_of(recipe: Recipe) -> list[tuple[float, float]]:
    lines = (Path(recipe.output) / "log.jsonl").read_text().splitlines()
    return [(entry["loss"], entry["grad_norm"]) for entry in map(json.loads, lines)]


def interrupted(recipe: Recipe, folder: Path, step: int) -> Recipe:
    """The same run as it lay on the disk after the checkpoint of `step`: with log and ledger of later steps."""
    output = Path(recipe.output)
    shutil.copytree(output, folder)
    for path in checkpoint.published(folder):
        if path.name != f"step-{step:06d}":
            shutil.rmtree(path)
    return recipe.model_copy(update={"output": str(folder)})


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_resumed_equals_uninterrupted_bit_by_bit(
    small_recipe: Callable[..., Recipe], tmp_path: Path, dropout: float
) -> None:
    recipe = small_recipe(steps=6, save_every=3)
    recipe = recipe.model_copy(update={"family": recipe.family.model_copy(update={"dropout": dropout})})
    train(recipe)
    again = interrupted(recipe, tmp_path / "again", step=3)
    trainer = train(again)
    assert trainer.step_number == 6
    assert len(log_of(recipe)) == 6
    assert log_of(again) == log_of(recipe)
    weights = [load_file(Path(run.output) / "step-000006" / "model.safetensors") for run in (recipe, again)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    states = [checkpoint.read_state(Path(run.output) / "step-000006") for run in (recipe, again)]
    assert states[0] == states[1]
    assert states[0].next_position == 24


def test_checkpoint_loads_with_from_pretrained_and_holds_no_pickle(small_recipe: Callable[..., Recipe]) -> None:
    trainer = train(small_recipe(steps=2))
    folder = trainer.output / "step-000002"
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    trained = trainer.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"] == trainer.family.tokenizer("a")["input_ids"]
    endings = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert endings <= {".json", ".safetensors", ".yaml", ".jinja"}


def test_a_finished_run_does_nothing_more(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(steps=2)
    train(recipe)
    before = log_of(recipe)
    assert train(recipe).step_number == 2
    assert log_of(recipe) == before


def test_resume_refuses_other_samples_unless_told(small_recipe: Callable[..., Recipe]) -> None:
    train(small_recipe(steps=2))
    with pytest.raises(ValueError, match="batch_samples is 2"):
        train(small_recipe(steps=4, batch_samples=2))
    other = small_recipe(steps=4).model_copy(update={"seed": 4})
    with pytest.raises(ValueError, match="allow_plan_change"):
        train(other)
    allowed = small_recipe(steps=4, allow_plan_change=True).model_copy(update={"seed": 4})
    assert train(allowed).step_number == 4


@pytest.fixture
def optimizer() -> torch.optim.AdamW:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([{"params": [weight], "names": ["weight"], "peak_lr": 1.0}])
    weight.sum().backward()
    optimizer.step()
    return optimizer


def write(output: Path, step: int, optimizer: torch.optim.AdamW, keep: int = 2, fail: bool = False) -> None:
    def save_model(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"first half")
        if fail:
            raise OSError("disk full")

    state = checkpoint.RunState(step * 4, step, 1, 4, "digest", (Failure(3, 0, "a.mp4", "gone"),))
    folder = checkpoint.folder_of(output, step)
    checkpoint.write(folder, state, save_model, optimizer, rank=0, barrier=lambda: None, keep=keep)


def steps_in(output: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoint.published(output)]


def test_older_checkpoints_are_pruned_only_after_the_new_one_is_published(
    tmp_path: Path, optimizer: torch.optim.AdamW, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    publish = checkpoint.publish

    def watched(folder: Path) -> None:
        seen.append(steps_in(tmp_path))
        publish(folder)
        seen.append(steps_in(tmp_path))

    monkeypatch.setattr(checkpoint, "publish", watched)
    for step in (1, 2, 3, 4):
        write(tmp_path, step, optimizer, keep=1)
    assert seen == [[], [1], [1], [1, 2], [1, 2], [1, 2, 3], [2, 3], [2, 3, 4]]
    assert steps_in(tmp_path) == [3, 4]


def test_a_save_that_fails_leaves_the_older_ones_and_is_ignored(tmp_path: Path, optimizer: torch.optim.AdamW) -> None:
    for step in (1, 2):
        write(tmp_path, step, optimizer)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, 3, optimizer, fail=True)
    assert (tmp_path / "step-000003" / "model.safetensors").exists()
    assert steps_in(tmp_path) == [1, 2]
    write(tmp_path, 3, optimizer)
    assert steps_in(tmp_path) == [2, 3]


def test_a_leftover_of_a_kill_is_cleared_away(tmp_path: Path, optimizer: torch.optim.AdamW) -> None:
    write(tmp_path, 1, optimizer)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, 2, optimizer, fail=True)
    write(tmp_path, 3, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003"]


def test_a_published_checkpoint_is_never_overwritten(tmp_path: Path, optimizer: torch.optim.AdamW) -> None:
    write(tmp_path, 1, optimizer)
    with pytest.raises(ValueError, match="already published"):
        write(tmp_path, 1, optimizer)


def test_state_and_optimizer_come_back_as_they_were(tmp_path: Path, optimizer: torch.optim.AdamW) -> None:
    write(tmp_path, 1, optimizer)
    state = checkpoint.read_state(tmp_path / "step-000001")
    assert state == checkpoint.RunState(4, 1, 1, 4, "digest", (Failure(3, 0, "a.mp4", "gone"),))
    saved = {name: value.clone() for name, value in checkpoint.optimizer_tensors(optimizer).items()}
    weight = optimizer.param_groups[0]["params"][0]
    (weight * 5).sum().backward()
    optimizer.step()
    changed = checkpoint.optimizer_tensors(optimizer)
    assert not torch.equal(changed["exp_avg/weight"], saved["exp_avg/weight"])
    checkpoint.restore(tmp_path / "step-000001", optimizer, rank=0, world_size=1)
    drawn = torch.rand(3)
    assert {name: value.tolist() for name, value in checkpoint.optimizer_tensors(optimizer).items()} == {
        name: value.tolist() for name, value in saved.items()
    }
    checkpoint.restore(tmp_path / "step-000001", optimizer, rank=0, world_size=1)
    assert torch.equal(torch.rand(3), drawn)


def test_optimizer_state_of_other_parameters_is_refused(optimizer: torch.optim.AdamW) -> None:
    tensors = checkpoint.optimizer_tensors(optimizer)
    with pytest.raises(ValueError, match="exp_avg/weight"):
        checkpoint.load_optimizer_tensors(optimizer, {"step/weight": tensors["step/weight"]})
    with pytest.raises(ValueError, match="exp_avg/other"):
        checkpoint.load_optimizer_tensors(optimizer, {**tensors, "exp_avg/other": torch.ones(1)})


def test_what_was_lost_after_the_checkpoint_is_lost_again(
    small_recipe: Callable[..., Recipe], tmp_path: Path, world: Path
) -> None:
    """A file that was gone in the first run and is there in the resumed one: the samples stay the same."""
    clips = tmp_path / "clips"
    shutil.copytree(world, clips)
    recipe = small_recipe(steps=4, save_every=2, max_failed_share=1.0)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(clips)})})
    gone = [json.loads(line)["video"] for line in (clips / "clips.jsonl").read_text().splitlines()][::3]
    for path in gone:
        (clips / path).unlink()
    train(recipe)
    first = ledger.read(Path(recipe.output) / "ledger.jsonl")
    after = [failure for failure in first if failure.position >= 8]
    assert after
    assert {failure.key for failure in first} <= set(gone)
    shutil.copytree(world, clips, dirs_exist_ok=True)
    again = interrupted(recipe, tmp_path / "again", step=2)
    train(again)
    assert ledger.read(Path(again.output) / "ledger.jsonl") == first
    assert log_of(again) == log_of(recipe)


def test_another_model_does_not_go_on_in_the_same_folder(small_recipe: Callable[..., Recipe]) -> None:
    train(small_recipe(steps=2))
    wider = small_recipe(steps=4)
    wider = wider.model_copy(update={"family": wider.family.model_copy(update={"language_width": 128})})
    with pytest.raises(ValueError, match=r"family.language_width is 128, but .*step-000002 was trained with 64"):
        train(wider)


def test_a_replay_survives_a_kill_right_after_the_resume(
    small_recipe: Callable[..., Recipe], tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(world, clips)
    recipe = small_recipe(steps=4, save_every=2, max_failed_share=1.0)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(clips)})})
    for line in (clips / "clips.jsonl").read_text().splitlines()[::3]:
        (clips / json.loads(line)["video"]).unlink()
    train(recipe)
    first = ledger.read(Path(recipe.output) / "ledger.jsonl")
    shutil.copytree(world, clips, dirs_exist_ok=True)
    again = interrupted(recipe, tmp_path / "again", step=2)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda self, rows: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            train(again)
    train(again)
    assert ledger.read(Path(again.output) / "ledger.jsonl") == first
    assert log_of(again) == log_of(recipe)
