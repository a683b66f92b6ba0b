"""`--push-to-hub` of train and merge: real runs, a real checkpoint on a server, and what is told when it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load, load_file

from tests.publishing.conftest import Hub
from tests.training.conftest import small_recipe_data
from vista_train.cli import main
from vista_train.config import parse_recipe
from vista_train.models.adapters import holds_adapter, load_tuned, save_adapter
from vista_train.publishing.push import Push, step_of
from vista_train.publishing.repository import MARKER, Repository

NAME = "alice/long-video"
LORA = {"vision": False, "projector": True, "language": {"lora": {"r": 2, "dropout": 0.0}}}


@pytest.fixture
def recipe_file(world: Path, tmp_path: Path) -> Callable[..., Path]:
    """A recipe of two steps in a folder whose name nobody is to see."""

    def make(**train: Any) -> Path:
        folder = tmp_path / "alice-private"
        folder.mkdir(exist_ok=True)
        data = small_recipe_data(world, folder, steps=2, save_every=2, **train)
        path = folder / "recipe.yaml"
        path.write_text(parse_recipe(data).to_yaml())
        return path

    return make


def newest(recipe: Path) -> Path:
    return recipe.parent / "run" / "step-000002"


def loaded(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model that the card's own lines make of what arrived."""
    for name, content in hub.repositories[NAME].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", {NAME: str(folder)}.__getitem__)
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    made: dict[str, Any] = {}
    exec(code, made)
    return made["model"]


def assert_nothing_of_the_machine(hub: Hub, tmp_path: Path) -> None:
    """In no byte of what arrived."""
    for name, content in hub.repositories[NAME].items():
        for word in (str(tmp_path), "alice-private", hub.token, str(Path.home() / ".cache")):
            assert word.encode() not in content, (name, word)


def test_a_run_pushes_its_last_checkpoint(
    hub: Hub, recipe_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_file()
    assert main(["train", str(recipe), "--push-to-hub", NAME]) == 0
    out, err = capsys.readouterr()
    assert f"pushed to {hub.url}/{NAME}\n" in out
    assert hub.token not in out + err
    arrived, written = hub.repositories[NAME], newest(recipe)
    assert arrived["model.safetensors"] == (written / "model.safetensors").read_bytes()
    assert not [name for name in arrived if name.startswith("training")]
    log = [json.loads(line) for line in (written.parent / "log.jsonl").read_text().splitlines()]
    card = arrived["README.md"].decode()
    assert MARKER in card
    assert f"| tokens | {sum(line['tokens'] for line in log):,} |" in card
    assert f"| loss of the last step | {log[-1]['loss']:.4f} (of the first, {log[0]['loss']:.4f}) |" in card
    assert_nothing_of_the_machine(hub, tmp_path)
    # Checked before the first step, uploaded after the last.
    assert hub.asked.index("POST /api/repos/create") < hub.asked.index(f"POST /api/models/{NAME}/commit/main")
    model = loaded(hub, tmp_path / "downloaded", monkeypatch)
    expected = load_file(written / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_adapters_go_up_as_peft_reads_them(
    hub: Hub, recipe_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(**LORA)
    assert main(["train", str(recipe), "--push-to-hub", NAME, "--private"]) == 0
    assert hub.private == {NAME: True}
    assert holds_adapter(newest(recipe))
    arrived = load(hub.repositories[NAME]["adapter_model.safetensors"])
    assert_nothing_of_the_machine(hub, tmp_path)
    state = loaded(hub, tmp_path / "downloaded", monkeypatch).state_dict()
    # PEFT puts the adapter's name into those of its weights.
    found = {name.replace(".default.weight", ".weight"): value for name, value in state.items() if "lora_" in name}
    assert found
    assert all(torch.equal(value, arrived[name]) for name, value in found.items())


def test_merged_with_results_and_a_public_base(
    hub: Hub, recipe_file: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_file(**LORA)
    assert main(["train", str(recipe)]) == 0
    checkpoint, out = newest(recipe), tmp_path / "merged"
    share = {"right": 1, "count": 4, "failed": 0, "share": 0.25, "low": 0.046, "high": 0.699}
    result = {"checkpoint": "run/step-000002", "overall": share, "chance": 0.2, "benchmark": "Mine", "groups": {}}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(result | {"shifted": False}))
    asked = ["merge", str(checkpoint), str(out), "--push-to-hub", NAME, "--base-model", "org/tiny"]
    assert main([*asked, "--results", str(file)]) == 0
    assert f"pushed to {hub.url}/{NAME}" in capsys.readouterr().out
    arrived = hub.repositories[NAME]
    assert arrived["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert arrived["README.md"] == (out / "README.md").read_bytes()
    assert "adapter_config.json" not in arrived
    card = arrived["README.md"].decode()
    assert "| Mine | 25.0% | 4.6% to 69.9% | 4 | 20.0% |" in card
    assert 'base_model: "org/tiny"' in card
    assert 'base_model_relation: "finetune"' in card
    assert_nothing_of_the_machine(hub, tmp_path)
    file.write_text(json.dumps(result | {"shifted": False, "checkpoint": "run/step-000001"}))
    assert main([*asked[:2], str(tmp_path / "again"), *asked[3:], "--results", str(file)]) == 2
    assert "is of step-000001, not of" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_adapters_of_a_model_that_transformers_has(make_checkpoint: ModuleType, tmp_path: Path) -> None:
    """Beside a base in a folder of this machine: the card's lines load both, and nothing names the folder."""
    base, checkpoint = tmp_path / "alice-private" / "Qwen3", tmp_path / "run" / "step-000003"
    side = make_checkpoint.make("qwen3_vl", base).side
    checkpoint.mkdir(parents=True)
    data = {
        "family": {"name": "qwen_vl", "path": str(base)},
        "view": {"frames": 2, "width": side, "height": side, "min_pixels": 2},
        "train": {"vision": False, "projector": False, "language": {"lora": {"r": 2}}},
    }
    recipe = parse_recipe(data)
    (checkpoint / "recipe.yaml").write_text(recipe.to_yaml())
    family = recipe.make_family()
    model = load_tuned(family, recipe.make_optimizer().loras)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    save_adapter(model, family, checkpoint)
    assert json.loads((checkpoint / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    texts = Push(Repository(NAME)).texts(checkpoint, checkpoint)
    assert json.loads(texts["adapter_config.json"])["base_model_name_or_path"] == "Qwen3"
    for name, text in texts.items():
        assert "alice-private" not in text
        (checkpoint / name).write_text(text)
    assert "Where `Qwen3`, which it began with, was published." in texts["README.md"]
    code = texts["README.md"].split("```python\n")[1].split("```")[0]
    assert "Qwen3VLForConditionalGeneration" in code
    made: dict[str, Any] = {}
    exec(code.replace("FOLDER OF Qwen3", str(base)).replace(NAME, str(checkpoint)), made)
    state = made["model"].base_model.model.state_dict()
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[name].to(value.dtype)) for name, value in state.items())


@pytest.mark.parametrize("command", ["train", "merge"])
def test_what_stands_against_it_is_told_before_the_work(
    hub: Hub, recipe_file: Any, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_file()
    (recipe.parent / "recipe.yaml").write_text(recipe.read_text())
    work = {"train": [str(recipe)], "merge": [str(recipe.parent), str(tmp_path / "out")]}[command]
    told = {
        "bob/model": "the login may not write there (403)",
        "no-owner": "it must be owner/name",
        "alice/taken": "was not written by vista_train",
    }
    hub.repositories["alice/taken"] = {"README.md": b"mine"}
    for name, reason in told.items():
        assert main([command, *work, "--push-to-hub", name]) == 2
        err = capsys.readouterr().err.strip().splitlines()
        assert len(err) == 1
        assert reason in err[0]
    hub.token = "hf_another"
    assert main([command, *work, "--push-to-hub", NAME]) == 2
    assert "does not know the login (401)" in capsys.readouterr().err
    assert not (recipe.parent / "run").exists()
    assert not (tmp_path / "out").exists()
    assert hub.repositories == {"alice/taken": {"README.md": b"mine"}}


def test_an_upload_that_fails_at_the_end_loses_nothing(
    hub: Hub, recipe_file: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_file()
    hub.fails["/commit/main"] = 413
    assert main(["train", str(recipe), "--push-to-hub", NAME]) == 2
    out, err = capsys.readouterr()
    checkpoint = newest(recipe)
    assert f"checkpoint {checkpoint}" in out
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"vista_train: --push-to-hub {NAME}: the Hub says 413: ")
    assert f"`vista-train merge {checkpoint} OUT --push-to-hub {NAME}`" in last
    assert hub.token not in out + err
    # As it says: the run again only pushes, and so does merging.
    written = (checkpoint / "model.safetensors").read_bytes()
    hub.fails.clear()
    assert main(["train", str(recipe), "--push-to-hub", NAME]) == 0
    assert hub.repositories[NAME]["model.safetensors"] == written
    assert (checkpoint / "model.safetensors").read_bytes() == written
    hub.fails["/commit/main"] = 413
    merged = tmp_path / "merged"
    assert main(["merge", str(checkpoint), str(merged), "--push-to-hub", NAME]) == 2
    assert f"{merged} is whole: `hf upload {NAME} {merged}`" in capsys.readouterr().err
    assert (merged / "model.safetensors").is_file()
    assert MARKER in (merged / "README.md").read_text()


def test_a_run_that_was_stopped_is_not_pushed(
    hub: Hub, recipe_file: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_file()
    monkeypatch.setattr("vista_train.train.StopSignal", Stopping)
    assert main(["train", str(recipe), "--push-to-hub", NAME, "train.save_every=1"]) == 0
    assert f"not pushed to {NAME}: the last step is yet to come" in capsys.readouterr().out
    assert not [request for request in hub.asked if "commit" in request]


class Stopping:
    """As if SIGTERM had come before the first step."""

    name = "SIGTERM"

    def listen(self) -> Stopping:
        return self

    def ignore(self) -> None:
        pass

    close = ignore


@pytest.mark.parametrize("option", [["--private"], ["--base-model", "a/b"]])
def test_options_without_what_they_are_for(
    recipe_file: Any, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe_file()), *option]) == 2
    assert f"{option[0]} is for --push-to-hub, which is not given" in capsys.readouterr().err


def test_files_in_the_repository_that_are_no_part_of_it(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[NAME] = {f"old-{number}.bin": b"" for number in range(7)}
    (tmp_path / "config.json").write_text("{}")
    told = Push(Repository(NAME)).upload(tmp_path, {}, "later")
    assert told == (
        f"pushed to {hub.url}/{NAME}; these were there before, are no part of this model, and stay: old-0.bin, "
        f"old-1.bin, old-2.bin, old-3.bin, old-4.bin and 2 more"
    )


def test_the_step_of_a_folder(tmp_path: Path) -> None:
    assert step_of(tmp_path / "step-000200") == 200
    assert step_of(tmp_path) is None
