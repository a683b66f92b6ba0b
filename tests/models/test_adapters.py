"""LoRA goes where it is asked and nowhere else, is what PEFT reads, and merges into what it computed."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.quantizers.quantizers_utils import should_convert_module

from vista_train.config import parse_recipe
from vista_train.merge import merge
from vista_train.models import load_family
from vista_train.models.adapters import (
    LoraSettings,
    adapt,
    adapter_tensors,
    is_adapter,
    load_adapter,
    load_tuned,
    merge_adapters,
    quantization,
    save_adapter,
    unquantized_modules,
)
from vista_train.models.hub_family import HubFamily
from vista_train.models.tiny import TinySettings
from vista_train.training.loop import Trainer
from vista_train.training.optimizer import OptimizerSettings, PartSettings
from vista_train.training.settings import LoopSettings
from vista_train.types import Row
from vista_train.video.sampling import View

SMALL = TinySettings(vision_width=32, language_width=64, language_layers=2, seed=1)
PLAIN = {"language": LoraSettings(r=4, dropout=0.0)}
LORAS = {"vision": LoraSettings(r=2, alpha=6), "language": LoraSettings(r=4)}
TOLERANCE = 1e-5


@pytest.fixture
def family() -> HubFamily:
    return load_family("tiny", SMALL, View(frames=2, width=56, height=56, min_pixels=7))  # type: ignore[return-value]


def stirred(model: Any, names: Any = is_adapter, seed: int = 0) -> Any:
    """The model with noise on chosen parameters, as if they had been trained: B is zero at the start."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if names(name):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return model.eval()


def tuned(family: Any, loras: Mapping[str, LoraSettings] = PLAIN, full: tuple[str, ...] = ()) -> Any:
    """A model as a run leaves it: adapters and the parts trained in full have moved."""
    model = load_tuned(family, loras, full)
    moved = {name for part, named in family.parts(model).items() if part in full for name, _ in named}
    return stirred(model, lambda name: is_adapter(name) or name in moved)


def row_logits(family: Any, model: Any, row: Row) -> torch.Tensor:
    with torch.no_grad():
        return family.head(model)(family.hidden_states(model, row))


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.shape == other.shape
    assert (one - other).abs().max() <= TOLERANCE * other.abs().max()


def expected_layers(rig: Any, model: nn.Module, part: str) -> set[str]:
    """By the names alone: linear layers under the part's roots that learn, but for the head."""
    learning = {name for name, parameter in rig.family.frozen(model).named_parameters() if parameter.requires_grad}
    return {
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and rig.family.part_of(name) == part
        and f"{name}.weight" in learning
        and name != "lm_head"
    }


def test_every_linear_layer_of_the_asked_parts_is_adapted_and_no_other(rig: Any) -> None:
    plain, model = copy.deepcopy(rig.model), copy.deepcopy(rig.model)
    adapt(model, rig.family, LORAS)
    found = {
        name: (module.r["default"], module.lora_alpha["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    vision, language = (expected_layers(rig, plain, part) for part in ("vision", "language"))
    assert found == dict.fromkeys(vision, (2, 6.0, 3.0)) | dict.fromkeys(language, (4, 8.0, 2.0))
    assert len(vision) >= 8
    # Four of attention and three behind it, in two layers.
    assert len(language) == 14
    assert all(parameter.requires_grad == is_adapter(name) for name, parameter in model.named_parameters())


def test_fresh_adapters_change_nothing(rig: Any) -> None:
    model = copy.deepcopy(rig.model).eval()
    row = Row.packed(rig.mixed())
    before = row_logits(rig.family, model, row)
    adapt(model, rig.family, LORAS)
    assert torch.equal(row_logits(rig.family, model.eval(), row), before)


@pytest.mark.parametrize(
    ("part", "full"), [("language", ("projector",)), ("language", ("vision",)), ("vision", ("projector", "language"))]
)
def test_peft_and_merging_give_what_the_run_computes(
    rig: Any, part: str, full: tuple[str, ...], tmp_path: Path
) -> None:
    row = Row.packed(rig.mixed())
    model = tuned(rig.family, {part: LoraSettings(r=4)}, full)
    trained = row_logits(rig.family, model, row)
    base = rig.family.model_type.from_pretrained(rig.folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    assert (trained - row_logits(rig.family, base, row)).abs().max() > 0.01
    save_adapter(model, rig.family, tmp_path, full)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(rig.folder)
    loaded = PeftModel.from_pretrained(base, tmp_path).base_model.model
    assert_close(row_logits(rig.family, loaded, row), trained)
    merge_adapters(model)
    assert set(model.state_dict()) == set(rig.model.state_dict())
    assert_close(row_logits(rig.family, model, row), trained)


@pytest.mark.parametrize(
    ("loras", "full"),
    [
        (LORAS, ("projector",)),
        ({"language": LoraSettings(r=4, dora=True)}, ("projector",)),
        ({"vision": LoraSettings(r=3), "projector": LoraSettings(r=5)}, ("language",)),
    ],
)
def test_saved_and_loaded_is_the_same_bit_by_bit(family: HubFamily, loras: Any, full: Any, tmp_path: Path) -> None:
    model = tuned(family, loras, full)
    save_adapter(model, family, tmp_path, full)
    again = load_tuned(family, loras, full, seed=9, checkpoint=tmp_path)
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    parts = {part: dict(named) for part, named in family.parts(model).items()}
    held = {name.removeprefix("base_model.model.") for name in load_file(tmp_path / "adapter_model.safetensors")}
    assert {name for name in held if not is_adapter(name)} >= {name for part in full for name in parts[part]}
    adapters = sum(is_adapter(name) for part in parts.values() for name in part)
    assert sum(map(is_adapter, held)) == adapters > 0
    assert not any(".default" in name for name in held)


def test_weights_that_the_model_does_not_hold_are_taken_from_a_state(family: HubFamily, tmp_path: Path) -> None:
    """As where ranks share a model out, and one gathers it to save."""
    model = tuned(family, PLAIN, ("projector",))
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_adapter(model, family, tmp_path, ("projector",), state)
    held = adapter_tensors(model, family, ("projector",))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == held.keys()
    assert all(torch.equal(saved[name], held[name] + 1) for name in held)


def test_dora_trains_a_norm_beside_each_adapter_and_merges(family: HubFamily) -> None:
    model = tuned(family, {"language": LoraSettings(r=4, dora=True)})
    norms = [name for name, _ in model.named_parameters() if "lora_magnitude_vector" in name]
    assert len(norms) == 14
    row = Row.packed([family.codec.dummy()])
    trained = row_logits(family, model, row)
    merge_adapters(model)
    assert_close(row_logits(family, model, row), trained)


def test_a_seed_gives_the_same_adapters_and_moves_no_other_draw(family: HubFamily) -> None:
    plain = family.load()
    drawn = []
    for seed in (5, 5, 6):
        model = copy.deepcopy(plain)
        before = torch.get_rng_state()
        adapt(model, family, LORAS, seed)
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(adapter_tensors(model, family))
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    first = [name for name in drawn[0] if "lora_A" in name]
    assert len(first) == len(drawn[0]) / 2
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in first)


def test_an_adapter_that_does_not_fit_is_told_tensor_by_tensor(family: HubFamily, tmp_path: Path) -> None:
    model = tuned(family, PLAIN, ("projector",))
    save_adapter(model, family, tmp_path, ("projector",))
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    layer = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    del tensors[f"{layer}.lora_A.weight"]
    tensors[f"{layer}.lora_B.weight"] = tensors[f"{layer}.lora_B.weight"][:, :3].contiguous()
    tensors["base_model.model.model.zzz"] = torch.zeros(1)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"the adapter in .* does not fit the model: ") as error:
        load_adapter(model, family, tmp_path, ("projector",))
    missing, left_over = f"missing: {layer}.lora_A.weight", "left over: base_model.model.model.zzz"
    assert str(error.value).endswith(f"{missing}; {left_over}; of another shape: {layer}.lora_B.weight")
    # Nothing was loaded, and a part that is not trained in full any more is left over.
    save_adapter(model, family, tmp_path, ("projector",))
    with pytest.raises(ValueError, match=r"left over: .*multi_modal_projector\.linear_1\.bias"):
        load_adapter(model, family, tmp_path)


def test_another_alpha_is_told(family: HubFamily, tmp_path: Path) -> None:
    save_adapter(tuned(family), family, tmp_path)
    with pytest.raises(ValueError, match=r"has lora_alpha 8.0; the model needs 9.0"):
        load_tuned(family, {"language": LoraSettings(r=4, alpha=9)}, checkpoint=tmp_path)


def test_an_adapter_and_a_whole_model_are_not_taken_for_one_another(family: HubFamily, tmp_path: Path) -> None:
    save_adapter(tuned(family), family, tmp_path)
    with pytest.raises(ValueError, match="holds adapters, but no part trains with lora"):
        load_tuned(family, {}, checkpoint=tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="holds whole weights, but some part trains with lora"):
        load_tuned(family, PLAIN, checkpoint=tmp_path)


def test_a_run_on_longva_is_merged_into_the_layout_it_was_published_in(rigs: Any, tmp_path: Path) -> None:
    rig = rigs("longva")
    view = {"frames": 5, "min_pixels": 2, "width": 56, "height": 56}
    tuning = {"vision": False, "language": {"lora": {"r": 4}}}
    recipe = parse_recipe({"family": {"name": "longva", "path": str(rig.folder)}, "view": view, "train": tuning})
    model = tuned(rig.family, {"language": LoraSettings(r=4)}, ("projector",))
    save_adapter(model, rig.family, tmp_path, ("projector",))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    merge(tmp_path, tmp_path / "out", layout="published")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llava_qwen"
    names = load_file(tmp_path / "out" / "model.safetensors")
    assert {"model.mm_projector.0.weight", "model.layers.0.self_attn.q_proj.weight"} <= names.keys()
    merged = recipe.make_family(str(tmp_path / "out"))
    row = Row.packed(rig.mixed())
    assert_close(row_logits(merged, merged.load().eval(), row), row_logits(rig.family, model, row))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("r", 0, "r is 0; it must be at least 1"),
        ("alpha", 0.0, "alpha is 0.0; it must be above 0"),
        ("dropout", 1.0, "dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(key: str, value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LoraSettings(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["dropout", "dora"])
def test_parts_agree_on_what_an_adapter_has_once(family: HubFamily, key: str) -> None:
    values = {"dropout": 0.5, "dora": True}
    loras = {"vision": LoraSettings(**{key: values[key]}), "language": LoraSettings()}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"train\.vision\.lora\.{key} is .*, train\.language\.lora\.{key} is"):
        adapt(family.load(), family, loras)


def test_four_bits_need_a_gpu_and_bitsandbytes(family: HubFamily) -> None:
    loras = {"language": LoraSettings(quantize=True)}
    said = r"train\.language\.lora\.quantize is true; it needs a CUDA GPU, which is not here"
    with pytest.raises(ValueError, match=said):
        load_tuned(family, loras)
    assert quantization(family, PLAIN, "cpu") is None


def test_only_the_layers_with_adapters_are_held_in_four_bits(rig: Any) -> None:
    """By transformers' own rule for names; the loading itself needs a GPU."""
    skipped = unquantized_modules(rig.family, ["language"])
    linear = [name for name, module in rig.model.named_modules() if isinstance(module, nn.Linear)]
    converted = {name for name in linear if should_convert_module(name, skipped)}
    assert converted == expected_layers(rig, copy.deepcopy(rig.model), "language")


def test_a_step_moves_adapters_alone_and_merging_keeps_the_output(rig: Any) -> None:
    """Two steps of the loop on a mixed row: B moves first, then A; all other parameters stay bit for bit."""
    lora = PartSettings(lora=LoraSettings(r=4, alpha=8, dropout=0.0))
    trainer = Trainer(
        rig.family,
        loop=LoopSettings(steps=2),
        optimizer=OptimizerSettings(lr=1e-2, vision=False, projector=False, language=lora, warmup_share=0.0),
    )
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    row = Row.packed(rig.mixed())
    norms = [trainer.step([row])["grad_norm"] for _ in range(2)]
    assert all(norm > 0 for norm in norms)
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(before[name], parameter)}
    assert moved == {name for name in before if is_adapter(name)}
    assert all(rig.family.part_of(name) == "language" for name in moved)
    trainer.model.eval()
    with torch.no_grad():
        adapted_LD = rig.family.hidden_states(trainer.model, row)
        merge_adapters(trainer.model)
        merged_LD = rig.family.hidden_states(trainer.model, row)
    assert (adapted_LD - merged_LD).abs().max() <= 1e-5 * adapted_LD.abs().max()
    assert {name for name, _ in trainer.model.named_parameters()} == {
        n for n, _ in rig.family.load().named_parameters()
    }
