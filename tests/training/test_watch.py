"""While it trains: held-out losses by augmentation, the best checkpoint, the end of a run, needles and prompts."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.training.conftest import small_recipe_data
from tests.training.test_checkpoint import interrupted, log_of
from vista_train.config import Recipe, parse_recipe
from vista_train.evaluation.answers import Answers
from vista_train.evaluation.footage import Footage
from vista_train.evaluation.generation import Generator
from vista_train.evaluation.heatmap import heat_map
from vista_train.evaluation.needle import NeedleTest
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import ModelScorer
from vista_train.train import train
from vista_train.training import checkpoint
from vista_train.training.evaluations import NAME, Best, Evaluations, read_lines
from vista_train.training.watch import Watch
from vista_train.types import Message, Row

HELD_OUT = {"every": 2, "samples": 2, "manifests": [{"path": "clips.jsonl", "held_out": 0.6, "part": "held_out"}]}
NEEDLE = {"lengths_seconds": [6, 12], "depths": [0, 1], "trials": 2, "needle_seconds": 3}


@pytest.fixture
def watched(world: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """The small run, looked at every two steps; keywords change `evaluate`."""

    def make(output: str = "run", train: dict[str, Any] | None = None, **evaluate: Any) -> Recipe:
        data = small_recipe_data(world, tmp_path, output, **(train or {}))
        # Of the four sources of the world, some are held out.
        data["data"]["manifests"] = [{"path": "clips.jsonl", "held_out": 0.6}]
        return parse_recipe({**data, "evaluate": {**HELD_OUT, **evaluate}})

    return make


def lines_of(recipe: Recipe) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (Path(recipe.output) / NAME).read_text().splitlines()]
    assert all(line.pop("seconds") > 0 for line in lines)
    return lines


def test_the_loss_of_each_augmentation_is_that_of_its_samples(watched: Callable[..., Recipe]) -> None:
    """By hand, sample by sample; and held-out clips are of sources that no training sample shows."""
    recipe = watched(samples=3, train={"steps": 2})
    trainer = train(recipe)
    (first, last) = lines_of(recipe)
    assert (first["step"], last["step"]) == (0, 2)
    held_out = trainer.watch.held_out
    by_hand: dict[str, list[tuple[float, int]]] = {}
    for position in range(len(held_out)):
        encoded = held_out[position]
        loss = trainer.evaluate([Row.packed([encoded])])
        by_hand.setdefault(encoded.kind, []).append((loss * encoded.num_labels, encoded.num_labels))
    assert [len(entries) for entries in by_hand.values()] == [3] * 5
    assert list(last["losses"]) == [item.augment.name for item in held_out.mix] == sorted(last["losses"])
    for (name, loss), entries in zip(last["losses"].items(), by_hand.values(), strict=True):
        total, labels = map(sum, zip(*entries, strict=True))
        assert loss == pytest.approx(total / labels, rel=1e-5), name
        assert loss < first["losses"][name]
    assert last["loss"] == pytest.approx(sum(last["losses"].values()) / 5)
    kept = [
        {clip.source for clip in source} for source in (trainer.dataset.sources["clips"], held_out.sources["clips"])
    ]
    assert kept[0]
    assert kept[1]
    assert not kept[0] & kept[1]
    assert trainer.stopped_by is None


def test_looking_changes_nothing(watched: Callable[..., Recipe]) -> None:
    """With dropout, whose draws an evaluation must not take; with needles and prompts, and data workers."""
    for workers in (0, 1):
        recipe = watched(f"seen{workers}", {"workers": workers}, needle=NEEDLE, prompts=[{"text": "Hello?"}])
        recipe = recipe.model_copy(update={"family": recipe.family.model_copy(update={"dropout": 0.2})})
        blind = recipe.model_copy(update={"output": f"{recipe.output}_blind", "evaluate": None})
        train(recipe), train(blind)
        assert log_of(recipe) == log_of(blind)
        assert len(log_of(recipe)) == 4


def test_a_run_that_goes_on_looks_at_each_step_once(watched: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = watched(train={"steps": 5})
    train(recipe)
    assert [line["step"] for line in lines_of(recipe)] == [0, 2, 4, 5]
    again = interrupted(recipe, tmp_path / "again", step=4)
    train(again)
    assert lines_of(again) == lines_of(recipe)
    # Killed between the save and the evaluation, torn line and all.
    third = interrupted(recipe, tmp_path / "third", step=4)
    path = Path(third.output) / NAME
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:2]) + text[2][:40])
    train(third)
    assert lines_of(third) == lines_of(recipe)
    train(third)
    assert lines_of(third) == lines_of(recipe)


class Scripted(Watch):
    """Losses as they are written down here."""

    losses: dict[int, float]

    def line(self, trainer: Any, signals: Any) -> dict[str, Any] | None:
        loss = self.losses[trainer.step_number]
        return {"step": trainer.step_number, "loss": loss, "losses": {"plain": loss}, "lost": [], "seconds": 1.0}


def scripted(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float]) -> None:
    make = Recipe.make_watch

    def made(self: Recipe, family: Any) -> Watch:
        watch = make(self, family)
        assert watch is not None
        watch.__class__, watch.losses = Scripted, losses  # type: ignore[attr-defined]
        return watch

    monkeypatch.setattr(Recipe, "make_watch", made)


def test_the_best_checkpoint_is_kept(watched: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved although no checkpoint was due, and not pruned; the one that was best before is let go."""
    scripted(monkeypatch, {0: 0.5, 1: 4.0, 2: 3.0, 3: 2.0, 4: 5.0, 5: 5.0, 6: 5.0, 7: 5.0, 8: 2.0})
    recipe = watched(train={"steps": 8, "save_every": 2, "keep": 2}, every=1)
    trainer = train(recipe)
    assert [path.name for path in checkpoint.published(trainer.output)] == ["step-000003", "step-000006", "step-000008"]
    assert checkpoint.read_state(trainer.output / "step-000003").next_position == 12


def test_a_run_that_gets_no_better_ends(
    watched: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    scripted(monkeypatch, {0: 9.0, 1: 4.0, 2: 3.0, 3: 3.0, 4: 3.5, 5: 1.0})
    recipe = watched(train={"steps": 6, "save_every": 100}, every=1, patience=2)
    trainer = train(recipe)
    assert trainer.step_number == 4
    assert "the run ends: the held-out loss was lowest at step 2, 3.0000" in capsys.readouterr().err
    names = [path.name for path in checkpoint.published(trainer.output)]
    assert names == ["step-000001", "step-000002", "step-000004"] or names == ["step-000002", "step-000004"]
    # Started again, it has ended; with more patience it goes on.
    assert train(recipe).step_number == 4
    assert [line["step"] for line in read_lines(trainer.output, 99)] == [0, 1, 2, 3, 4]
    patient = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"patience": 5})})
    scripted(monkeypatch, {5: 1.0, 6: 0.5})
    assert train(patient).step_number == 6


def test_what_is_best_and_when_it_is_over() -> None:
    found = Evaluations("key", patience=2)
    assert (found.best, found.is_over) == (None, False)
    for step, loss in ((0, 1.0), (5, 3.0), (10, 2.0), (15, 2.0)):
        found.add({"step": step, "loss": loss})
    found.lines.append({"key": "of other samples", "step": 12, "loss": 0.1})
    assert found.best == Best(10, 2.0)
    assert not found.is_over
    assert found.knows(15)
    assert not found.knows(12)
    # Without a loss there is nothing to compare; nan is no better, and never the best, though it be the first.
    found.add({"step": 18, "loss": None})
    assert not found.is_over
    found.add({"step": 20, "loss": math.nan})
    assert found.best == Best(10, 2.0)
    assert found.is_over
    first = Evaluations("key", 2, [{"key": "key", "step": 1, "loss": math.nan}])
    assert (first.best, first.is_over) == (None, False)


def test_another_prompt_does_not_forget_the_best() -> None:
    """The held-out samples are the same: a step is looked at again, and its line takes the place of the old one."""
    before = Evaluations("key", patience=2, also="one prompt")
    for step, loss in ((5, 1.0), (10, 2.0)):
        before.add({"step": step, "loss": loss})
    now = Evaluations("key", 2, before.lines, also="two prompts")
    assert (now.best, now.knows(10)) == (Best(5, 1.0), False)
    now.add({"step": 10, "loss": 2.0})
    assert [line["step"] for line in now.lines] == [5, 10]
    assert (now.knows(10), now.is_over) == (True, False)


def test_needles_and_prompts_are_what_the_commands_find(watched: Callable[..., Recipe], tmp_path: Path) -> None:
    """The heat map of the last step, and the answers, against those of the model as it ended up, asked outside."""
    asked = [{"text": "What is there?", "video": "source_000/clip_000.mp4"}, {"text": "Say something."}]
    recipe = watched(needle=NEEDLE, prompts=asked, max_new_tokens=6, every=100, samples=0)
    files = sorted(path.relative_to(recipe.data.root) for path in Path(recipe.data.root).rglob("*.mp4"))
    asked[0]["video"] = str(files[0])
    recipe = watched(needle=NEEDLE, prompts=asked, max_new_tokens=6, every=100, samples=0)
    trainer = train(recipe)
    first, last = lines_of(recipe)
    assert first["loss"] is last["loss"] is None
    media = recipe.make_media()
    footage, family = Footage(media), trainer.family
    prompts = [
        Prompt("0", footage.clip(asked[0]["video"]), (Message("user", "What is there?"),)),
        Prompt("1", None, (Message("user", "Say something."),)),
    ]
    answers = Generator(family, trainer.model, footage).answer(prompts, 6)
    assert [entry["answer"] for entry in last["answers"]] == [one.text for one in answers]
    assert [entry["prompt"] for entry in last["answers"]] == ["What is there?", "Say something."]
    watch = trainer.watch
    test = NeedleTest((6, 12), (0, 1), trials=2, needle_seconds=3)
    needle = watch.looks[0]
    assert needle.test == test
    found = heat_map(test, needle.casts, Answers(ModelScorer(family, trainer.model, footage), None))
    assert last["needle"] == json.loads(json.dumps(found.to_json()))
    assert last["figures"] == {
        "needle/choice": found.overall("choice").share,
        "needle/exact": found.overall("exact").share,
    }
    pictures = sorted(path.name for path in (trainer.output / "evaluations").iterdir())
    assert pictures == ["needle-000000.png", "needle-000004.png"]
    with Image.open(trainer.output / last["pictures"]["needle/heat_map"]) as picture:
        assert picture.width > 600


def test_a_lost_sample_is_told(watched: Callable[..., Recipe], world: Path, tmp_path: Path) -> None:
    """It is replaced by another of its augmentation, and the line names the file."""
    broken = tmp_path / "broken"
    shutil.copytree(world, broken)
    recipe = watched(train={"steps": 2}, samples=4)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(broken)})})
    held_out = recipe.make_watch(recipe.make_family()).held_out
    path = held_out.sample(
        held_out.mix.index(next(i for i in held_out.mix if i.augment.name == "plain")) * 4
    ).video.path
    (broken / path).write_bytes(b"")
    train(recipe)
    for line in lines_of(recipe):
        assert {entry["key"] for entry in line["lost"]} == {path}
        assert len(line["losses"]) == 5


def test_an_evaluation_that_loses_all_of_a_kind_has_no_loss(
    watched: Callable[..., Recipe], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mean would be over other augmentations than before: it is not the lowest, and ends no run."""
    broken = tmp_path / "broken"
    shutil.copytree(world, broken)
    recipe = watched(train={"steps": 8}, patience=2, samples=2)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(broken)})})
    looked = Watch.line

    def line(self: Watch, trainer: Any, signals: Any) -> Any:
        files = {broken / clip.path for clip in self.held_out.sources["clips"]} if trainer.step_number == 2 else ()
        for file in files:
            file.rename(file.with_suffix(".away"))
        found = looked(self, trainer, signals)
        for file in files:
            file.with_suffix(".away").rename(file)
        return found

    monkeypatch.setattr(Watch, "line", line)
    trainer = train(recipe)
    lines = {line["step"]: line for line in lines_of(recipe)}
    assert set(lines[2]["losses"].values()) == {None}
    assert lines[2]["loss"] is None
    assert len(lines[2]["lost"]) >= 2 * len(lines[2]["losses"])
    assert (trainer.step_number, list(lines)) == (8, [0, 2, 4, 6, 8])
    assert trainer.saver.best != 2


@pytest.mark.parametrize(
    ("evaluate", "told"),
    [
        ({"every": 0}, "evaluate.every is 0; it must be at least 1 step"),
        ({"samples": 0, "patience": 2}, "evaluate.patience needs a held-out loss"),
        ({"manifests": [{"path": "clips.jsonl", "held_out": 0.6}]}, "clips.jsonl is trained on as it stands"),
        ({"needle": {"lengths_seconds": [1.0]}}, "at most half of the shortest length"),
    ],
)
def test_what_cannot_be_is_told_at_once(watched: Callable[..., Recipe], evaluate: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        watched(**evaluate)


def test_held_out_clips_are_those_the_recipe_holds_out(watched: Callable[..., Recipe]) -> None:
    """Where none are named; and where none are held out either, that is told."""
    recipe = watched(manifests=[])
    named = watched()
    digests = [one.make_watch(one.make_family()).held_out.digest() for one in (recipe, named)]
    assert digests[0] == digests[1]
    manifests = tuple(entry.model_copy(update={"held_out": 0.0}) for entry in recipe.data.manifests)
    bare = recipe.model_copy(update={"data": recipe.data.model_copy(update={"manifests": manifests})})
    with pytest.raises(ValueError, match="evaluate needs held-out clips"):
        bare.make_watch(bare.make_family())


def test_a_signal_does_not_wait_for_an_evaluation(watched: Callable[..., Recipe]) -> None:
    """The one that is under way is given up, and made when the run goes on."""
    from vista_train.training.signals import StopSignal

    recipe, signals, asked = watched(), StopSignal(), list[int]()
    trainer_line = Watch.line

    def line(self: Watch, trainer: Any, heard: Any) -> Any:
        asked.append(trainer.step_number)
        if trainer.step_number == 2:
            signals.name = "SIGTERM"
        return trainer_line(self, trainer, heard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "line", line)
        trainer = train(recipe, signals)
    assert (trainer.step_number, trainer.stopped_by) == (2, "SIGTERM")
    assert [entry["step"] for entry in lines_of(recipe)] == [0]
    train(recipe)
    # As an uninterrupted run has it: the step that was given up is looked at, and may be the best.
    assert [entry["step"] for entry in lines_of(recipe)] == [0, 2, 4]
    assert asked == [0, 2]
