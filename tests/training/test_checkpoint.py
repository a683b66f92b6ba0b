"""Resumed = uninterrupted, bit by bit; and whatever goes wrong in a save, an older checkpoint stays whole."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from vista_train.config import Recipe
from vista_train.data import ledger
from vista_train.train import train
from vista_train.training import checkpoint
from vista_train.training.engine import Engine
from vista_train.training.engines import make_accelerator
from vista_train.training.loop import Trainer
from vista_train.training.pieces import MOMENTS, Piece, Pieces, tensors_of, write_pieces
from vista_train.training.ranks import Ranks
from vista_train.training.saver import SaveError, Saver
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
def engine() -> Engine:
    engine = Engine(make_accelerator(), *weight_and_optimizer())
    engine.module.weight.sum().backward()
    engine.update(1.0)
    return engine


def weight_and_optimizer() -> tuple[torch.nn.Module, torch.optim.AdamW]:
    module = torch.nn.Linear(2, 1, bias=False)
    return module, torch.optim.AdamW(module.parameters())


def write(output: Path, step: int, engine: Engine, keep: int = 2, fail: bool = False) -> None:
    def save_model(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"first half")
        if fail:
            raise OSError("disk full")

    state = checkpoint.RunState(step * 4, step, 1, 4, "digest", engine.updates(), (Failure(3, 0, "a.mp4", "gone"),))
    folder = checkpoint.folder_of(output, step)
    pieces = tensors_of(engine.pieces(engine.module.named_parameters()))
    Saver(Ranks(), keep, False).save(folder, state, {"weight": 2}, pieces, checkpoint.random_state(), save_model)


def steps_in(output: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoint.published(output)]


def test_older_checkpoints_are_pruned_only_after_the_new_one_is_published(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    publish = checkpoint.publish

    def watched(folder: Path, sizes: Mapping[str, int]) -> None:
        seen.append(steps_in(tmp_path))
        publish(folder, sizes)
        seen.append(steps_in(tmp_path))

    monkeypatch.setattr(checkpoint, "publish", watched)
    for step in (1, 2, 3, 4):
        write(tmp_path, step, engine, keep=1)
    assert seen == [[], [1], [1], [1, 2], [1, 2], [1, 2, 3], [2, 3], [2, 3, 4]]
    assert steps_in(tmp_path) == [3, 4]


def test_a_save_that_fails_leaves_the_older_ones_and_is_ignored(tmp_path: Path, engine: Engine) -> None:
    for step in (1, 2):
        write(tmp_path, step, engine)
    with pytest.raises(
        SaveError, match=r"step-000003 could not .*rank 0: OSError: disk full.* whole .* is .*step-000002"
    ):
        write(tmp_path, 3, engine, fail=True)
    assert (tmp_path / "step-000003" / "model.safetensors").exists()
    assert steps_in(tmp_path) == [1, 2]
    write(tmp_path, 3, engine)
    assert steps_in(tmp_path) == [2, 3]


def test_a_leftover_of_a_kill_is_cleared_away(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, 1, engine)
    with pytest.raises(SaveError, match="disk full"):
        write(tmp_path, 2, engine, fail=True)
    write(tmp_path, 3, engine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003"]


def test_a_published_checkpoint_is_never_overwritten(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, 1, engine)
    with pytest.raises(SaveError, match="already published"):
        write(tmp_path, 1, engine)


def moments(engine: Engine) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in tensors_of(engine.pieces(engine.module.named_parameters())).items()}


def test_state_and_optimizer_come_back_as_they_were(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, 1, engine)
    folder = tmp_path / "step-000001"
    assert checkpoint.read_state(folder) == checkpoint.RunState(
        4, 1, 1, 4, "digest", 1, (Failure(3, 0, "a.mp4", "gone"),)
    )
    saved = moments(engine)
    assert saved.keys() == {"exp_avg/weight@0", "exp_avg_sq/weight@0"}
    (engine.module.weight * 5).sum().backward()
    engine.update(1.0)
    assert moments(engine) != saved
    checkpoint.restore_optimizer(checkpoint.pieces_of(folder), engine, engine.module.named_parameters(), updates=1)
    checkpoint.restore_random(folder, rank=0, world_size=1)
    drawn = torch.rand(3)
    assert (moments(engine), engine.updates()) == (saved, 1)
    checkpoint.restore_random(folder, rank=0, world_size=1)
    assert torch.equal(torch.rand(3), drawn)


def test_optimizer_state_of_other_parameters_is_refused(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, 1, engine)
    other = [("other", torch.nn.Parameter(torch.ones(2)))]
    for named, wrong in (([*engine.module.named_parameters(), *other], "no optimizer state exp_avg/other"),
                         (other, "that no parameter takes, such as 'weight'")):  # fmt: skip
        with pytest.raises(ValueError, match=wrong):
            checkpoint.restore_optimizer(checkpoint.pieces_of(tmp_path / "step-000001"), engine, named, updates=1)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, 1, engine)
    path = tmp_path / "step-000001" / "training" / "state.json"
    data = json.loads(path.read_text())
    del data["updates"]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"step-000001 was written by another version .* family.path=.*step-000001"):
        checkpoint.read_state(tmp_path / "step-000001")


def pieces_in(folder: Path, shares: Mapping[int, tuple[int, int]], size: int = 12) -> Pieces:
    """State of one parameter, of which each rank holds a stretch."""
    (folder / "training").mkdir(parents=True)
    for rank, (start, end) in shares.items():
        held = [Piece(key, "w", start, torch.arange(start, end).float()) for key in MOMENTS]
        write_pieces(folder / "training", rank, tensors_of(held))
    return Pieces(folder / "training")


def test_any_stretch_is_found_across_the_ranks_that_wrote_it(tmp_path: Path) -> None:
    pieces = pieces_in(tmp_path, {0: (0, 5), 1: (5, 6), 2: (6, 12)})
    for start in range(12):
        for count in range(12 - start + 1):
            assert pieces.find("exp_avg", "w", start, count).tolist() == list(range(start, start + count))
    assert pieces.gaps({"w": 12}, MOMENTS) == []


@pytest.mark.parametrize("shares", [{0: (0, 5), 2: (6, 12)}, {1: (5, 12)}, {0: (0, 5), 1: (5, 11)}])
def test_a_part_that_is_missing_is_noticed(tmp_path: Path, shares: Mapping[int, tuple[int, int]]) -> None:
    pieces = pieces_in(tmp_path, shares)
    assert pieces.gaps({"w": 12}, MOMENTS) == ["exp_avg/w", "exp_avg_sq/w"]
    with pytest.raises(ValueError, match="a rank's part of the checkpoint is missing"):
        pieces.find("exp_avg", "w", 0, 12)


def test_a_checkpoint_without_a_rank_s_part_is_not_published(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "LISTING_SECONDS", 0.0)
    folder = checkpoint.folder_of(tmp_path, 1)
    checkpoint.begin(folder)
    pieces = tensors_of(engine.pieces(engine.module.named_parameters()))
    checkpoint.write_part(folder, 0, pieces, checkpoint.random_state())
    state = checkpoint.RunState(4, 1, 2, 4, "digest", engine.updates())
    checkpoint.write_whole(folder, state, lambda folder: None)
    with pytest.raises(ValueError, match=r"lacks random-00001.safetensors: is the output on storage that all"):
        checkpoint.publish(folder, {"weight": 2})
    with pytest.raises(ValueError, match=r"lacks .*exp_avg/weight"):
        checkpoint.publish(folder, {"weight": 3})
    assert checkpoint.published(tmp_path) == []


def test_a_part_that_a_network_shows_late_is_waited_for(tmp_path: Path, engine: Engine) -> None:
    folder = checkpoint.folder_of(tmp_path, 1)
    checkpoint.begin(folder)
    checkpoint.write_whole(folder, checkpoint.RunState(4, 1, 1, 4, "digest", 1), lambda folder: None)
    pieces = tensors_of(engine.pieces(engine.module.named_parameters()))
    late = threading.Timer(0.5, checkpoint.write_part, (folder, 0, pieces, checkpoint.random_state()))
    late.start()
    checkpoint.publish(folder, {"weight": 2})
    assert checkpoint.published(tmp_path) == [folder]


def test_an_old_checkpoint_that_cannot_be_deleted_ends_no_run(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise OSError("busy")

    monkeypatch.setattr(checkpoint.shutil, "rmtree", refuse)
    for step in (1, 2, 3):
        write(tmp_path, step, engine)
    assert steps_in(tmp_path) == [2, 3]
    assert "an older checkpoint could not be deleted: busy" in capsys.readouterr().err


def test_a_save_in_the_background_is_published_later_and_holds_what_was_then(tmp_path: Path, engine: Engine) -> None:
    saver, folder, may_write = Saver(Ranks(), 2, True), checkpoint.folder_of(tmp_path, 1), threading.Event()
    saved = moments(engine)
    state = checkpoint.RunState(4, 1, 1, 4, "digest", engine.updates())
    pieces = tensors_of(engine.pieces(engine.module.named_parameters()), copy=True)
    saver.save(
        folder, state, {"weight": 2}, pieces, checkpoint.random_state(), lambda folder: may_write.wait(10) and None
    )
    (engine.module.weight * 5).sum().backward()
    engine.update(1.0)
    saver.settle(saver.is_writing)
    assert saver.is_writing
    assert checkpoint.published(tmp_path) == []
    may_write.set()
    saver.finish()
    assert checkpoint.published(tmp_path) == [folder]
    checkpoint.restore_optimizer(checkpoint.pieces_of(folder), engine, engine.module.named_parameters(), updates=1)
    assert moments(engine) == saved


def test_saving_in_the_background_changes_nothing(
    small_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = small_recipe("at_once", steps=5, save_every=2)
    later = small_recipe("later", steps=5, save_every=2, save_in_background=True)
    train(at_once)
    moved, stepped, write_part = threading.Event(), Trainer._stepped, checkpoint.write_part

    def step_and_tell(self: Trainer, *arguments: Any) -> dict[str, float]:
        result = stepped(self, *arguments)
        moved.set()
        return result

    def write_after_another_step(*arguments: Any) -> None:
        moved.clear()
        moved.wait(2)
        write_part(*arguments)

    monkeypatch.setattr(Trainer, "_stepped", step_and_tell)
    monkeypatch.setattr(checkpoint, "write_part", write_after_another_step)
    train(later)
    assert log_of(later) == log_of(at_once)
    for step in (4, 5):
        files = [checkpoint.folder_of(Path(run.output), step) for run in (at_once, later)]
        for name in ("model.safetensors", "training/optimizer-00000.safetensors"):
            one, other = (load_file(folder / name) for folder in files)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_end_of_the_step_and_the_run_goes_on_from_there(
    small_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole = small_recipe("whole", steps=5, save_every=5)
    train(whole)
    recipe, stepped = small_recipe(steps=5, save_every=5), Trainer._stepped
    stops = iter([False, True])

    def interrupted_step(self: Trainer, *arguments: Any) -> dict[str, float]:
        if next(stops, False):
            signal.raise_signal(number)
        return stepped(self, *arguments)

    monkeypatch.setattr(Trainer, "_stepped", interrupted_step)
    trainer = train(recipe)
    output = Path(recipe.output)
    # It comes within step 2, and is agreed on at the start of step 3.
    assert (trainer.stopped_by, trainer.step_number) == (number.name, 3)
    assert json.loads((output / "stopped.json").read_text()) == {
        "step": 3,
        "signal": number.name,
        "rank": 0,
        "checkpoint": "step-000003",
    }
    trainer = train(recipe)
    assert (trainer.stopped_by, trainer.step_number) == (None, 5)
    assert not (output / "stopped.json").exists()
    assert log_of(recipe) == log_of(whole)


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
        patch.setattr(Trainer, "_stepped", lambda self, *rest: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            train(again)
    train(again)
    assert ledger.read(Path(again.output) / "ledger.jsonl") == first
    assert log_of(again) == log_of(recipe)
