"""Each part is trained in full, by adapters or not at all; what a run leaves is resumed, read by PEFT, and merged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from vista_train import cli
from vista_train.config import Recipe, load_recipe, parse_recipe
from vista_train.data.collate import PackedCollator
from vista_train.models import load_family
from vista_train.models.adapters import LoraSettings, is_adapter
from vista_train.models.base import Compute
from vista_train.models.tiny import TinySettings
from vista_train.train import train
from vista_train.training import checkpoint
from vista_train.training.loop import Trainer
from vista_train.training.optimizer import OptimizerSettings, PartSettings
from vista_train.training.settings import LoopSettings
from vista_train.types import Message, Row, Sample
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

SMALL = TinySettings(vision_width=32, language_width=64, language_layers=2, seed=1)
VIEW = View(frames=2, width=56, height=56, min_pixels=7)
TOLERANCE = 1e-5
LORA = {"lora": {"r": 4}}
MIXED = {"vision": False, "projector": True, "language": {"lr": 2e-3, "lora": {"r": 4, "dropout": 0.1}}}
pack = PackedCollator()


def by_lora(**more: Any) -> PartSettings:
    return PartSettings(lora=LoraSettings(**{"r": 4, "dropout": 0.0, **more}))


def rows(seed: int = 0) -> list[Row]:
    """Three samples of unlike length in a row."""
    codec = load_family("tiny", SMALL, VIEW).codec
    noise = torch.Generator().manual_seed(seed)
    encoded = []
    for number in range(3):
        frames_TCHW = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8, generator=noise)
        words = (Message("user", "What? " * (number + 1)), Message("assistant", "word " * (1 + 3 * number)))
        sample = Sample(Clip.from_frames(frames_TCHW, 1), words, (), "made")
        encoded.append(codec.encode(sample, codec.plan(sample), frames_TCHW, number))
    return [pack(encoded)]


def trainer_of(steps: int = 4, checkpointing: bool = False, **settings: Any) -> Trainer:
    optimizer = OptimizerSettings(**{"lr": 1e-2, "clip_norm": 1e9, "warmup_share": 0.0, **settings})
    loop = LoopSettings(steps=steps, gradient_checkpointing=checkpointing)
    return Trainer(load_family("tiny", SMALL, VIEW), loop=loop, optimizer=optimizer)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def moved(trainer: Trainer, steps: int) -> set[str]:
    """The names of the parameters that so many steps change."""
    before = weights_of(trainer)
    for _ in range(steps):
        trainer.step(rows())
    return {name for name, value in weights_of(trainer).items() if not torch.equal(value, before[name])}


def test_adapters_move_and_nothing_else_does() -> None:
    trainer = trainer_of(vision=by_lora(), projector=by_lora(), language=by_lora(), weight_decay=0.0)
    adapters = {name for name in weights_of(trainer) if is_adapter(name)}
    # Two vision layers of six, the projector's two, and two decoder layers of seven: the head has none.
    assert len(adapters) == 2 * (2 * 6 + 2 + 2 * 7)
    # B is zero at first, so A gets its first gradient in the second step.
    assert moved(trainer, 1) == {name for name in adapters if "lora_B" in name}
    assert moved(trainer, 1) == adapters
    frozen = [parameter for name, parameter in trainer.model.named_parameters() if not is_adapter(name)]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)
    assert all(trainer.optimizer.state[parameter] for parameter in trainer.engine.trainable())


def test_dora_moves_its_norms() -> None:
    trainer = trainer_of(vision=False, projector=False, language=by_lora(dora=True))
    names = moved(trainer, 2)
    assert names == {name for name in weights_of(trainer) if is_adapter(name)}
    assert sum("lora_magnitude_vector" in name for name in names) == 14


def test_parts_are_mixed_at_will() -> None:
    lora = PartSettings(lr=3e-3, lora=LoraSettings(r=4))
    trainer = trainer_of(vision=False, projector=PartSettings(lr=5e-3), language=lora)
    groups = {(group["part"], group["weight_decay"]): group for group in trainer.optimizer.param_groups}
    assert {key: group["peak_lr"] for key, group in groups.items()} == {
        ("projector", 0.01): 5e-3,
        ("projector", 0.0): 5e-3,
        ("language", 0.01): 3e-3,
    }
    names = moved(trainer, 2)
    projector = {name for name in weights_of(trainer) if "multi_modal_projector" in name}
    assert len(projector) == 4
    assert names == projector | {name for name in weights_of(trainer) if is_adapter(name)}
    assert not any("vision_tower" in name for name in names)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("vision", [False, True])
def test_gradient_checkpointing_changes_nothing(dropout: float, vision: bool) -> None:
    """Also where nothing below the first adapter wants a gradient."""
    lora = by_lora(dropout=dropout)
    parts = {"vision": lora if vision else False, "projector": False, "language": lora}
    results = []
    for checkpointing in (False, True):
        trainer = trainer_of(checkpointing=checkpointing, **parts)
        results.append([trainer.step(rows()) for _ in range(3)])
    for plain, recomputed in zip(*results, strict=True):
        assert plain["loss"] == pytest.approx(recomputed["loss"], rel=TOLERANCE)
        assert plain["grad_norm"] == pytest.approx(recomputed["grad_norm"], rel=TOLERANCE)
        assert plain["grad_norm"] > 1e-3


def test_adapters_learn() -> None:
    trainer = trainer_of(steps=40, vision=False, projector=False, language=by_lora(r=8))
    first = trainer.evaluate(rows())
    for _ in range(40):
        trainer.step(rows())
    assert trainer.evaluate(rows()) < 0.85 * first


def log_of(recipe: Recipe) -> list[tuple[float, float]]:
    lines = (Path(recipe.output) / "log.jsonl").read_text().splitlines()
    return [(entry["loss"], entry["grad_norm"]) for entry in map(json.loads, lines)]


def test_resumed_equals_uninterrupted_bit_by_bit(small_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = small_recipe(steps=4, save_every=2, **MIXED)
    train(recipe)
    folder = tmp_path / "again"
    shutil.copytree(recipe.output, folder)
    shutil.rmtree(folder / "step-000004")
    again = recipe.model_copy(update={"output": str(folder)})
    trainer = train(again)
    assert trainer.step_number == 4
    assert len(log_of(recipe)) == 4
    assert log_of(again) == log_of(recipe)
    for name in ("adapter_model.safetensors", "training/optimizer-00000.safetensors"):
        ours, theirs = (load_file(Path(run.output) / "step-000004" / name) for run in (recipe, again))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def trained(small_recipe: Callable[..., Recipe]) -> tuple[Recipe, Trainer, Path]:
    """A run of two steps: its recipe, its trainer and its checkpoint."""
    recipe = small_recipe(steps=2, **MIXED)
    trainer = train(recipe)
    return recipe, trainer, Path(recipe.output) / "step-000002"


def test_a_checkpoint_is_an_adapter_and_small(trained: tuple[Recipe, Trainer, Path]) -> None:
    recipe, trainer, folder = trained
    names = {path.name for path in folder.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "recipe.yaml", "training"}
    assert not names & {"model.safetensors", "config.json"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["model.multi_modal_projector"]
    assert len(config["target_modules"]) == 14
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["inference_mode"]) == (4, 8, 0.1, True)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 14 + 4
    assert "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_B.weight" in tensors
    assert "base_model.model.model.multi_modal_projector.linear_2.bias" in tensors
    states = {
        name.split("/", 1)[1].split("@")[0] for name in load_file(folder / "training" / "optimizer-00000.safetensors")
    }
    assert states == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert load_recipe(folder / "recipe.yaml").make_optimizer() == recipe.make_optimizer()


PLAIN_PEFT = """
import sys, torch, vista_train.models
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
base, adapter, inputs, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base, dtype="float32"), adapter).eval()
with torch.no_grad():
    save_file({"logits": model(**load_file(inputs)).logits}, out)
"""


def inputs_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The dummy sample as the model's own forward pass takes it."""
    row = Row.packed([trainer.family.codec.dummy()])  # type: ignore[attr-defined]
    pixels = trainer.family.scale(torch.cat(row.frames), torch.float32)  # type: ignore[attr-defined]
    return {"input_ids": row.input_ids_1L, "pixel_values": pixels}


def logits_of(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert (one - other).abs().max() <= TOLERANCE * other.abs().max()


def test_plain_transformers_and_peft_read_it_in_a_process_of_their_own(
    trained: tuple[Recipe, Trainer, Path], tmp_path: Path
) -> None:
    recipe, trainer, folder = trained
    family = recipe.make_family()
    family.save(family.load(), tmp_path / "base")
    inputs = inputs_of(trainer)
    save_file(inputs, tmp_path / "inputs.safetensors")
    paths = [str(tmp_path / "base"), str(folder), *(str(tmp_path / f"{n}.safetensors") for n in ("inputs", "out"))]
    subprocess.run([sys.executable, "-c", PLAIN_PEFT, *paths], check=True)
    theirs = load_file(tmp_path / "out.safetensors")["logits"]
    assert_close(theirs, logits_of(trainer.model, inputs))
    assert (theirs - logits_of(family.load(), inputs)).abs().max() > 1e-3


@pytest.mark.parametrize("tuning", [MIXED, {}])
def test_merge_writes_a_plain_checkpoint(
    small_recipe: Callable[..., Recipe], tmp_path: Path, tuning: dict[str, Any]
) -> None:
    trainer = train(small_recipe(steps=2, **tuning))
    folder, out = trainer.output / "step-000002", tmp_path / "merged"
    assert cli.main(["merge", str(folder), str(out)]) == 0
    model, report = AutoModelForImageTextToText.from_pretrained(out, dtype="float32", output_loading_info=True)
    assert not any(report.values()), report
    inputs = inputs_of(trainer)
    assert_close(logits_of(model, inputs), logits_of(trainer.model, inputs))
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    assert (out / "tokenizer.json").is_file()
    assert not (out / "adapter_config.json").exists()
    assert cli.main(["merge", str(folder), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    half, whole = (load_file(path / "model.safetensors") for path in (tmp_path / "half", out))
    assert half.keys() == whole.keys()
    assert all(torch.equal(half[name], whole[name].bfloat16()) for name in half)


def test_merge_takes_the_precision_of_the_base(small_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    family = small_recipe().make_family()
    family.save(family.load().bfloat16(), tmp_path / "base")
    recipe = small_recipe(steps=1, **MIXED)
    chosen = recipe.family.model_copy(update={"path": str(tmp_path / "base")})
    trainer = train(recipe.model_copy(update={"family": chosen}))
    folder = trainer.output / "step-000001"
    said = json.loads((folder / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(tmp_path / "base")
    assert cli.main(["merge", str(folder), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {value.dtype for value in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_merge_says_what_it_cannot_do(
    trained: tuple[Recipe, Trainer, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, folder = trained
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refused = {
        ("gone", "out"): "gone holds no recipe.yaml; it must be a step-* folder that a run wrote",
        (folder, "full"): "full is there already; choose a folder that is empty or not there",
        (folder, "out", "--layout", "published"): "layout is 'published', but family 'tiny' has only one: 'hub'",
    }
    for (source, out, *more), said in refused.items():
        assert cli.main(["merge", str(tmp_path / source), str(tmp_path / out), *more]) == 2
        assert capsys.readouterr().err.strip().endswith(said)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("quantize: false", "quantize: true"))
    assert cli.main(["merge", str(folder), str(tmp_path / "out")]) == 2
    assert "its adapters fit a 4-bit model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"language": {"lora": {"r": 8}}}, r"train\.language\.lora is r 8, .*trained with r 4, alpha 8\.0"),
        ({"language": {"lora": {"r": 4, "alpha": 9}}}, r"train\.language\.lora is r 4, alpha 9\.0"),
        ({"language": True}, r"train\.language\.lora is none, but .*step-000002 was trained with r 4"),
        ({"vision": LORA, "language": LORA}, r"train\.vision is trained, but .* was written with it frozen"),
        ({"projector": False}, r"train\.projector is frozen, but .* was written with it trained"),
        ({"projector": {"lora": {"r": 4, "dropout": 0.1}}}, r"train\.projector\.lora is r 4, .* was trained with none"),
    ],
)
def test_a_run_goes_on_with_the_adapters_it_has(
    trained: tuple[Recipe, Trainer, Path], small_recipe: Callable[..., Recipe], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train(small_recipe(steps=4, **{**MIXED, **change}))


def test_rates_and_dropout_may_change_within_a_run(
    trained: tuple[Recipe, Trainer, Path], small_recipe: Callable[..., Recipe]
) -> None:
    language = {"lr": 1e-4, "lora": {"r": 4, "alpha": 8, "dropout": 0.0}}
    assert train(small_recipe(steps=3, **{**MIXED, "language": language})).step_number == 3
    assert [path.name for path in checkpoint.published(trained[1].output)] == ["step-000002", "step-000003"]


@pytest.mark.parametrize(
    ("parts", "passes"),
    [
        ({}, (3, 3)),
        ({"vision": False}, (3, 1)),
        ({"language": False}, (2, 3)),
        ({"language": False, "vision": False}, (2, 1)),
        ({"language": LORA}, (2, 3)),
        ({"language": LORA, "vision": LORA}, (2, 2)),
        ({"language": LORA, "vision": False, "projector": False}, (2, 1)),
        ({"language": {"lr": 1e-5}, "vision": 0}, (3, 1)),
    ],
)
def test_a_sample_costs_what_is_trained(parts: dict[str, Any], passes: tuple[int, int]) -> None:
    recipe = parse_recipe({"view": {"width": 56, "height": 56, "min_pixels": 7}, "train": parts})
    compute: Compute = recipe.make_family().codec.compute  # type: ignore[attr-defined]
    assert (compute.language_passes, compute.vision_passes) == passes
    bare = replace(compute, language_layers=0, vision_layers=0)
    products = [replace(bare, language_passes=a, vision_passes=b).flops(100, 10, 2, 16) for a, b in ((1, 0), (0, 1))]
    attention = (2 * 4 * 128 * 100**2, 2 * 4 * 3 * 96 * 16**2)
    sample = Sample(Clip.from_frames(torch.zeros((2, 3, 56, 56), dtype=torch.uint8), 1), MESSAGES, (), "made")
    plan = recipe.make_family().codec.plan(sample)
    assert plan.cost == compute.flops(plan.tokens, plan.labels, 2, 16)
    # Attention has no weights: passing gradients on is all of its backward pass.
    expected = sum(
        count * product + (3 if count > 1 else 1) * pairs
        for count, product, pairs in zip(passes, products, attention, strict=True)
    )
    assert compute.flops(100, 10, 2, 16) == pytest.approx(expected)


MESSAGES = (Message("user", "What?"), Message("assistant", "That."))


def test_four_bits_are_refused_at_the_start(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(language={"lora": {"quantize": True}})
    with pytest.raises(ValueError, match="quantize is true; it needs a CUDA GPU, which is not here"):
        train(recipe)
    assert not Path(recipe.output).exists()
