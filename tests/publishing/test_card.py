"""The card of a model: figures that follow from the log, metadata that the Hub reads, and nothing of the machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from vista_train.config import Recipe, load_recipe, parse_recipe
from vista_train.publishing.card import Trained, card
from vista_train.publishing.push import read_log, read_result
from vista_train.publishing.repository import MARKER
from vista_train.publishing.shared import public_name, shared_configs, shared_recipe

CACHED = "/home/alice/.cache/huggingface/hub/models--Qwen--Qwen3-VL-8B-Instruct/snapshots/0a1b2c"
PRIVATE = ("/home", "alice", "secret", "hf_abcdefgh", "workstation")
COLUMNS = {"video": "home/alice/{videoID}.mp4"}
DATA: dict[str, Any] = {
    "output": "/home/alice/runs/secret-project",
    "evaluate": {"manifests": [{"path": "/home/alice/held.jsonl"}], "prompts": [{"text": "secret?", "video": "a.mp4"}]},
    "seed": 7,
    "family": {"name": "qwen_vl", "path": CACHED, "chat_template": "/home/alice/template.jinja"},
    "view": {"frames": 8, "width": 56, "height": 56, "min_pixels": 7},
    "data": {
        "root": "/home/alice/clips",
        "cache": "~/alice/cache",
        "proxies": "/home/alice/proxies",
        "manifests": [
            {"path": "/home/alice/panda70m.csv", "format": "panda70m", "name": "panda", "columns": COLUMNS},
            {"path": "alice/private/mine.jsonl", "weight": 2.0},
            {"path": "hub:openbmb/clips", "format": "llava"},
        ],
    },
    "augment": {
        "temporal_needle": {"weight": 3, "sources": {"needle": ["mine"]}},
        "plain": {},
        "two_needle": {"weight": 0},
    },
    "train": {
        "steps": 200,
        "batch_samples": 16,
        "lr": 1e-5,
        "vision": False,
        "language": {"lr": 2e-4, "lora": {"r": 8, "alpha": 32}},
        "wandb": "alice-workstation/hf_abcdefghijklmnop",
    },
}


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(DATA)


def line(step: int, **more: Any) -> dict[str, Any]:
    said = {"loss": 2.5 - step / 100, "tokens": 1000, "frames": 10, "samples": 16, "failed": step % 2}
    return {"step": step, **said, "seconds": 9.0, "devices": 8, **more}


def front_matter(text: str) -> dict[str, Any]:
    begin, data, _ = text.split("---\n", 2)
    assert begin == ""
    found = yaml.safe_load(data)
    assert isinstance(found, dict)
    return found


def row(text: str, first: str) -> list[str]:
    """The cells of the table's line that begins so."""
    (found,) = [entry for entry in text.splitlines() if entry.startswith(f"| {first} |")]
    return [cell.strip() for cell in found.strip("|").split("|")][1:]


def test_figures_are_sums_over_the_log(recipe: Recipe) -> None:
    text = card(Trained("alice/model", recipe, 100, [line(step) for step in range(1, 101)]))
    assert row(text, "loss of the last step") == ["1.5000 (of the first, 2.4900)"]
    assert row(text, "tokens") == ["100,000"]
    assert row(text, "frames") == ["1,000"]
    assert row(text, "samples") == ["1,600, of which 50 were lost or replaced"]
    assert row(text, "device hours") == ["2 (of 8 devices)"]
    assert row(text, "steps") == ["100"]


def test_a_run_that_went_on_with_other_devices(recipe: Recipe) -> None:
    text = card(Trained("alice/model", recipe, 2, [line(1, devices=1), line(2, seconds=891.0, devices=4)]))
    assert row(text, "device hours") == ["0.993 (of 1 or 4 devices)"]


def test_how_it_was_trained(recipe: Recipe) -> None:
    text = card(Trained("alice/model", recipe))
    assert row(text, "began with") == ["Qwen/Qwen3-VL-8B-Instruct"]
    assert row(text, "vision (peak learning rate)") == ["frozen"]
    assert row(text, "projector (peak learning rate)") == ["1e-05"]
    assert row(text, "language (peak learning rate)") == ["0.0002, LoRA r 8 alpha 32"]
    assert row(text, "view")[0].startswith("at most 8 frames")
    assert row(text, "samples a step") == ["16"]
    # What is never drawn is no part of the mix.
    assert row(text, "`temporal_needle`") == ["3", "75.0%", "needle: mine"]
    assert row(text, "`plain`") == ["1", "25.0%", "any"]
    assert "two_needle" not in text
    assert row(text, "clips from") == [
        "panda: panda70m.csv (weight 1); mine.jsonl (weight 2); hub:openbmb/clips (weight 1)"
    ]
    assert "The log of the run was not at hand." in text


def test_metadata_for_the_hub(recipe: Recipe) -> None:
    trained = Trained("alice/model", recipe, model_type="qwen3_vl", is_adapter=True)
    text = card(trained)
    assert front_matter(text) == {
        "library_name": "peft",
        "pipeline_tag": "video-text-to-text",
        "base_model": "Qwen/Qwen3-VL-8B-Instruct",
        "base_model_relation": "adapter",
        "datasets": ["openbmb/clips"],
        "tags": ["vista_train", "video", "long-video", "high-resolution-video", "lora"],
    }
    assert MARKER in text.splitlines()
    merged = front_matter(card(replace(trained, is_adapter=False)))
    assert (merged["library_name"], merged["base_model_relation"]) == ("transformers", "finetune")
    alone = front_matter(card(Trained("alice/model", parse_recipe({}))))
    assert alone["library_name"] == "vista_train"
    assert "base_model" not in alone
    assert "lora" not in alone["tags"]


def test_how_to_load_it(recipe: Recipe) -> None:
    trained = Trained("alice/model", recipe, model_type="qwen3_vl", is_adapter=True)
    text = card(trained)
    assert 'base = Qwen3VLForConditionalGeneration.from_pretrained("Qwen/Qwen3-VL-8B-Instruct", dtype="auto")' in text
    assert 'model = PeftModel.from_pretrained(base, "alice/model")' in text
    whole = card(replace(trained, model_type="qwen2_5_vl", is_adapter=False, has_processor=True))
    assert 'model = Qwen2_5_VLForConditionalGeneration.from_pretrained("alice/model", dtype="auto")' in whole
    assert 'processor = AutoProcessor.from_pretrained("alice/model")' in whole
    assert "peft" not in whole.split("## How to load it")[1].split("##")[0].lower()
    published = card(replace(trained, layout="published", is_adapter=False))
    assert "from_pretrained" not in published


def test_nothing_of_the_machine_is_in_card_or_recipe(recipe: Recipe) -> None:
    shared = shared_recipe(recipe, public_name(CACHED))
    for text in (card(Trained("org/model", recipe, 1, [line(1)])), shared.to_yaml()):
        assert [word for word in PRIVATE if word in text] == []
    assert shared.family.path == "Qwen/Qwen3-VL-8B-Instruct"
    assert shared.family.chat_template == "template.jinja"
    entries = [(entry.name, entry.path) for entry in shared.data.manifests]
    assert entries == [("panda", "panda70m.csv"), ("mine", "mine.jsonl"), ("clips", "hub:openbmb/clips")]
    assert shared.data.manifests[0].columns == {"video": "{videoID}.mp4"}
    assert (shared.output, shared.data.root, shared.data.cache, shared.train.wandb) == ("out/run", ".", None, None)
    assert shared.evaluate is None


def test_the_shared_recipe_says_of_the_training_what_the_recipe_said(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(shared_recipe(recipe).to_yaml())
    read = load_recipe(path)
    assert read.make_optimizer() == recipe.make_optimizer()
    assert read.make_mix() == recipe.make_mix()
    assert read.make_view() == recipe.make_view()
    assert (read.seed, read.make_loop().budget) == (7, recipe.make_loop().budget)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (CACHED, "Qwen/Qwen3-VL-8B-Instruct"),
        (CACHED + "/", "Qwen/Qwen3-VL-8B-Instruct"),
        # A folder of downloads is nobody's name.
        ("checkpoints/Qwen3-VL-8B-Instruct", None),
        ("/data/models--x/weights", None),
        (None, None),
    ],
)
def test_what_the_hub_calls_a_folder(path: str | None, name: str | None) -> None:
    assert public_name(path) == name


def test_configurations_name_no_folders(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/home/alice/Qwen", "r": 8}))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"_name_or_path": CACHED}, "layers": [1, 2]}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "", "added": ["/", "/home"]}))
    (tmp_path / "generation.json").write_text(json.dumps({"mm_vision_tower": ["/home/alice/clip", "openai/clip"]}))
    found = {name: json.loads(text) for name, text in shared_configs(tmp_path).items()}
    assert found == {
        "adapter_config.json": {"base_model_name_or_path": "Qwen", "r": 8},
        "config.json": {"text_config": {"_name_or_path": "Qwen/Qwen3-VL-8B-Instruct"}, "layers": [1, 2]},
        "generation.json": {"mm_vision_tower": ["clip", "openai/clip"]},
    }
    named = json.loads(shared_configs(tmp_path, "Qwen/Qwen3")["adapter_config.json"])
    assert named["base_model_name_or_path"] == "Qwen/Qwen3"


def tally(right: int, count: int, failed: int = 0) -> dict[str, Any]:
    return {"right": right, "count": count, "failed": failed, "share": right / count, "low": 0.4, "high": 0.6}


NEEDLE = {
    "task": "needle",
    "model": "/home/alice/runs/step-000100",
    "checkpoint": "secret-project/step-000100",
    "test": {"kind": "video", "lengths_seconds": [8.0, 64.0]},
    "chance": 0.25,
    "overall": {"choice": tally(50, 100, 2), "exact": None},
}
BENCHMARK = {
    "benchmark": "HRVideoBench",
    "file": "/home/alice/hr.jsonl",
    "shifted": False,
    "chance": 0.25,
    "overall": tally(90, 200),
    "groups": {"category": {"OCR | text": tally(5, 10)}},
}


def test_results_in_a_table(recipe: Recipe) -> None:
    text = card(Trained("org/model", recipe, results=[NEEDLE, BENCHMARK]))
    assert row(text, "needle in a haystack (video, 8 to 64 s), multiple choice") == [
        "50.0%", "40.0% to 60.0%", "100 (2 could not be shown)", "25.0%",
    ]  # fmt: skip
    assert row(text, "HRVideoBench") == ["45.0%", "40.0% to 60.0%", "200", "25.0%"]
    assert "| HRVideoBench, category: OCR \\| text | 50.0% |" in text
    assert "exact match" not in text
    assert "was not evaluated" not in text
    assert [word for word in PRIVATE if word in text] == []
    assert "was not evaluated" in card(Trained("org/model", recipe))


def test_held_out_losses(recipe: Recipe) -> None:
    lines = [
        {"step": 0, "key": "new", "loss": 0.5, "losses": {"plain": 0.5}},
        {"step": 20, "key": "old", "loss": 0.9, "losses": {"plain": 0.9}},
        {"step": 40, "key": "new", "loss": 1.25, "losses": {"plain": 1.25}},
        {"step": 60, "key": "new", "loss": 1.5, "losses": {"plain": 1.0, "two_needle": 2.0}},
        {"step": 80, "key": "new", "loss": None, "losses": {}},
    ]
    text = card(Trained("org/model", recipe, held_out=lines)).split("## Evaluation")[1]
    # Neither the untrained model nor other samples are compared with.
    assert "after step 60; it was lowest after step 40, 1.2500:" in text
    assert (row(text, "all"), row(text, "`plain`"), row(text, "`two_needle`")) == (["1.5000"], ["1.0000"], ["2.0000"])
    assert "Held-out" not in card(Trained("org/model", recipe))


@pytest.mark.parametrize("text", ["{}", '{"overall": 1}', "[]", "no", '{"test": {}, "overall": {}}'])
def test_files_that_hold_no_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "needle.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"needle\.json"):
        read_result(path)
    with pytest.raises(ValueError, match="there is no such file"):
        read_result(tmp_path / "none.json")


def test_the_log_up_to_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    other = json.dumps({"step": 2, "held_out": {"plain": 1.0}})
    path.write_text(
        "\n".join([json.dumps(line(1)), other, json.dumps(line(2)), json.dumps(line(3)), '{"step": 4, "lo'])
    )
    assert [entry["step"] for entry in read_log(path, 2)] == [1, 2]
    assert [entry["step"] for entry in read_log(path, None)] == [1, 2, 3]
    assert read_log(tmp_path / "none", 1) == []
