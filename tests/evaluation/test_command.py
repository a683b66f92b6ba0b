"""`vista-train evaluate` on tiny checkpoints, from the command line to the files it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vista_train.cli import main
from vista_train.config import load_recipe
from vista_train.evaluation.scoring import ModelScorer
from vista_train.models.adapters import load_tuned, lora_layers, save_adapter
from vista_train.training import checkpoint
from vista_train.training.checkpoint import RunState

RECIPE = """
output: {folder}/run
family: {{name: tiny, vision_width: 32, language_width: 64, language_layers: 2, seed: 1, max_tokens: 2048}}
view: {{frames: 8, width: 56, height: 56, min_pixels: 7}}
data: {{root: /nowhere, cache: {folder}/cache, isolate: inline}}
train: {{steps: 2, max_row_tokens: 2048, {more}}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(folder=tmp_path, more="lr: 1.0e-3"))
    return path


def publish(run: Path, step: int, recipe, save) -> Path:
    """A checkpoint as a run leaves it."""
    folder = checkpoint.folder_of(run, step)
    checkpoint.begin(folder)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    checkpoint.write_whole(folder, RunState(0, step, 1, 1, "", 0), save)
    (folder / checkpoint.IN_PROGRESS).unlink()
    return folder


@pytest.fixture
def run(recipe: Path, tmp_path: Path) -> Path:
    """A run's output with two checkpoints; the newer one's head is turned round."""
    loaded = load_recipe(recipe)
    family = loaded.make_family()
    model = family.load()
    for step in (1, 2):
        publish(tmp_path / "run", step, loaded, lambda folder: family.save(model, folder))
        with torch.no_grad():
            model.lm_head.weight.neg_()
    return tmp_path / "run"


def needle(checkpoint_or_recipe: Path, world: Path, out: Path, *more: str) -> int:
    words = ["evaluate", "needle", str(checkpoint_or_recipe), "--manifest", str(world / "clips.jsonl"), "--root", world]
    words += ["--out", out, "--lengths", "8,16", "--depths", "0,1", "--trials", "4", *more]
    return main([str(word) for word in words])


def no_model(self, prompts):
    raise AssertionError("nothing was left to ask")


def test_a_heat_map_of_a_run_and_of_a_checkpoint(run, world, tmp_path, capsys, monkeypatch):
    assert needle(run, world, tmp_path / "out") == 0
    table = capsys.readouterr().out
    found = json.loads((tmp_path / "out/needle.json").read_text())
    assert (found["checkpoint"], found["dtype"], found["scored_by"]) == ("run/step-000002", "float32", "likelihood")
    assert [(cell["length_seconds"], cell["depth"], cell["choice"]["count"]) for cell in found["cells"]] == [
        (8, 0, 4), (8, 1, 4), (16, 0, 4), (16, 1, 4),
    ]  # fmt: skip
    assert (tmp_path / "out/needle.png").read_bytes().startswith(b"\x89PNG")
    assert table.startswith("multiple choice:")
    assert table.endswith("needle.png\n")
    # An older checkpoint has other weights, and does not get the newer one's answers.
    assert needle(run / "step-000001", world, tmp_path / "out", "--json") == 0
    older = json.loads(capsys.readouterr().out)
    assert older["checkpoint"] == "run/step-000001"
    assert older["identity"] != found["identity"]
    lines = [json.loads(line) for line in (tmp_path / "out/needle.answers.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 32
    first, second = (
        [one["scored"]["log_likelihoods"] for one in lines[start : start + 32] if "#" in one["key"]]
        for start in (0, 32)
    )
    assert first != second
    # Neither is asked again, with whatever batch.
    monkeypatch.setattr(ModelScorer, "score", no_model)
    assert needle(run, world, tmp_path / "out", "--batch", "3", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["cells"] == found["cells"]


def test_a_fixed_rate_and_pictures(recipe, world, tmp_path, capsys):
    more = ("--fps", "2", "--needle", "image", "--unit", "frames", "--lengths", "8,24", "--shifts", "--json")
    assert needle(recipe, world, tmp_path / "out", *more) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test"]["lengths_seconds"] == [4, 12]
    assert [cell["frames"] for cell in found["cells"]] == [[8, 8], [8, 8], [24, 24], [24, 24]]
    assert found["chance"] == 0.25**4
    assert found["checkpoint"].endswith("tiny.yaml")


def bench_rows(world: Path) -> list[dict]:
    return [
        {
            "path": f"source_00{n % 2}/00{n % 4}.mp4" if n else "lost.mp4",
            "qa": {"question": f"Which is it, {n}?"},
            "mcq": {"options": ["A. red", "B. green", "C. blue", "D. grey"], "correct_option": "ABCD"[n % 4]},
            "category": "object" if n < 3 else "action",
            "qa_type": "OCR",
        }
        for n in range(6)
    ]


def test_hrvideobench_and_a_mapping_of_ones_own(recipe, run, world, tmp_path, capsys):
    rows = tmp_path / "hrvideobench.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in bench_rows(world)))
    words = ["evaluate", "hrvideobench", run, "--file", rows, "--root", world, "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 1
    shown = capsys.readouterr().out
    assert "of 6, 1 failed" in shown
    assert "category: action" in shown
    assert "MediaMissing: lost.mp4: no such file" in shown
    found = json.loads((tmp_path / "out/hrvideobench.json").read_text())
    assert found["groups"]["category"]["object"]["count"] == 3
    assert (tmp_path / "out/hrvideobench.png").is_file()
    mapping = tmp_path / "mine.yaml"
    mapping.write_text("name: My own\nvideo: '{path}'\nquestion: qa.question\noptions: mcq.options\n"
                       "answer: mcq.correct_option\n")  # fmt: skip
    words = [
        "evaluate",
        "choice",
        run,
        "--file",
        rows,
        "--root",
        world,
        "--out",
        tmp_path / "out",
        "--mapping",
        mapping,
    ]
    assert main([*map(str, words), "--shifts", "--limit", "2", "--json", "view.frames=4"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["benchmark"], found["overall"]["count"], found["chance"]) == ("My own", 2, 0.25**4)
    assert [one["frames"] for one in found["questions"]] == [0, 4]
    assert [len(one["chosen"]) for one in found["questions"]] == [4, 4]
    assert (tmp_path / "out/my_own.json").is_file()


def test_adapters_are_part_of_what_is_evaluated(world, tmp_path, capsys):
    path = tmp_path / "lora.yaml"
    path.write_text(RECIPE.format(folder=tmp_path, more="language: {lora: {r: 4}}"))
    loaded = load_recipe(path)
    family, settings = loaded.make_family(), loaded.make_optimizer()
    model = load_tuned(family, settings.loras, settings.full)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            torch.nn.init.normal_(layer.lora_B["default"].weight, generator=torch.Generator().manual_seed(0))
    folder = publish(tmp_path / "run", 1, loaded, lambda place: save_adapter(model, family, place, settings.full))
    assert (folder / "adapter_config.json").is_file()
    for what, out in ((folder, "adapted"), (path, "bare")):
        assert needle(what, world, tmp_path / out) == 0
    scores = [
        [json.loads(line)["scored"]["log_likelihoods"][0] for line in file.read_text().splitlines()]
        for file in (tmp_path / "adapted/needle.answers.jsonl", tmp_path / "bare/needle.answers.jsonl")
    ]
    assert np.mean([abs(one - other) for one, other in zip(*scores, strict=True)]) > 0.1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["needle", "{recipe}"], "needle needs --manifest"),
        (["choice", "{recipe}", "--file", "x.json"], "choice needs --mapping"),
        (["choice", "{recipe}", "--file", "x.json", "--mapping", "nothing"], "--mapping is 'nothing'"),
        (["hrvideobench", "{recipe}", "--file", "no.jsonl"], "no.jsonl: there is no such file"),
        (["needle", "{folder}", "--manifest", "{world}"], "is no step-* folder"),
        (["needle", "{recipe}", "--manifest", "x", "--lengths", "8,x"], "--lengths is '8,x'"),
        (["needle", "{recipe}", "--manifest", "x", "--unit", "frames"], "--unit is frames; say by --fps"),
        (["needle", "{recipe}", "--manifest", "x", "--unit", "frames", "--fps", "0"], "--fps is 0"),
        (["needle", "{recipe}", "--manifest", "{world}", "--batch", "0"], "batch is 0"),
        (["needle", "{recipe}", "--manifest", "{world}", "--trials", "40"], "clips can be needles"),
        (["needle", "{recipe}", "--manifest", "{world}", "view.frame=3"], "view.frame: unknown key"),
    ],
)
def test_what_the_user_can_mend_is_said(words, told, recipe, world, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    known = {"{recipe}": recipe, "{folder}": tmp_path / "empty", "{world}": world / "clips.jsonl"}
    words = [str(known.get(word, word)) for word in words]
    assert main(["evaluate", *words, "--root", str(world), "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err
