"""LoRA (arXiv 2106.09685) in the parts of a model: put in place, saved as PEFT reads it, loaded strictly, merged."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from vista_train.models.attention import Attention
from vista_train.models.base import Family
from vista_train.models.hub import ADAPTER_FILE, FAULTS, read_json, some
from vista_train.models.hub_family import HubFamily

ADAPTER = "default"
"""What PEFT calls the one adapter of a model."""
PREFIX = "base_model.model."
"""What PEFT puts in front of the model's own names."""
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on all linear layers of a part, whose own weights stay as they are."""

    r: int = 64
    """Rank of the adapters."""
    alpha: float | None = None
    """The adapters' output is scaled by `alpha` / `r`; default, twice `r`."""
    dropout: float = 0.05
    """Probability of dropping an adapter's input in training; the same in all parts."""
    dora: bool = False
    """Train the norms of the weights as well (DoRA, arXiv 2402.09353); the same in all parts."""
    quantize: bool = False
    """Hold the part's own weights in 4 bits (QLoRA, arXiv 2305.14314): a CUDA GPU and bitsandbytes are needed."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True}

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r is {self.r}; it must be at least 1")
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")

    @property
    def shape(self) -> dict[str, Any]:
        """All that a checkpoint of the adapters depends on, its defaults resolved."""
        alpha = float(2 * self.r if self.alpha is None else self.alpha)
        return {"r": self.r, "alpha": alpha, "dora": self.dora, "quantize": self.quantize}


def check_agree(loras: Mapping[str, LoraSettings]) -> None:
    """`ValueError` if parts differ in what an adapter can have but one of."""
    for key in ("dropout", "dora"):
        told = [f"train.{part}.lora.{key} is {getattr(lora, key)}" for part, lora in loras.items()]
        if len({getattr(lora, key) for lora in loras.values()}) > 1:
            raise ValueError(f"{', '.join(told)}; all parts with lora must have the same")


def is_adapter(name: str) -> bool:
    """Whether the parameter of this name is an adapter's."""
    return any(step.startswith("lora_") for step in name.split("."))


def linear_modules(model: nn.Module, family: Family) -> dict[str, list[str]]:
    """Names of each part's linear layers, less the head and what no gradient reaches."""
    parts = {name: part for part, named in family.parts(model).items() for name, _ in named}
    found: dict[str, list[str]] = {part: [] for part in parts.values()}
    # Their weights are read by the attention around them; the layers themselves are never called.
    bare = nn.modules.linear.NonDynamicallyQuantizableLinear
    for name, module in model.named_modules():
        part = parts.get(f"{name}.weight")
        if part and isinstance(module, nn.Linear) and not isinstance(module, bare) and module is not family.head(model):
            found[part].append(name)
    return found


def adapt(model: nn.Module, family: Family, loras: Mapping[str, LoraSettings], seed: int = 0) -> None:
    """Put LoRA into all linear layers of some parts, in place; all that is no adapter is frozen.

    The same seed gives the same weights, and no other random draw is moved.
    """
    check_agree(loras)
    modules = linear_modules(model, family)
    for part in loras:
        if not modules.get(part):
            raise ValueError(f"train.{part}.lora: the {part} part of {family.name!r} has no linear layer to adapt")
    shapes = {name: loras[part].shape for part in loras for name in modules[part]}
    first = loras[max(loras, key=lambda part: len(modules[part]))]
    config = LoraConfig(
        r=first.r,
        lora_alpha=first.shape["alpha"],
        lora_dropout=first.dropout,
        use_dora=first.dora,
        target_modules=sorted(shapes),
        rank_pattern={name: shape["r"] for name, shape in shapes.items() if shape["r"] != first.r},
        alpha_pattern={n: shape["alpha"] for n, shape in shapes.items() if shape["alpha"] != first.shape["alpha"]},
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, model, ADAPTER)
    # PEFT matches names by their ends, and patterns with any character for a dot.
    asked = {name: (shape["r"], shape["alpha"]) for name, shape in shapes.items()}
    found = {name: (layer.r[ADAPTER], layer.lora_alpha[ADAPTER]) for name, layer in lora_layers(model).items()}
    if found != asked:
        wrong = [name for name in {**asked, **found} if asked.get(name) != found.get(name)]
        raise ValueError(f"PEFT adapted other layers of {family.name!r} than asked, or otherwise: {some(wrong)}")


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The adapted layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def merge_adapters(model: Any) -> None:
    """Add the adapters to the weights they stand beside, in place, and take them away."""
    for name, layer in lora_layers(model).items():
        layer.merge(safe_merge=True)
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def load_tuned(
    family: Family,
    loras: Mapping[str, LoraSettings],
    full: Sequence[str] = (),
    device_type: str = "cpu",
    seed: int = 0,
    checkpoint: Path | None = None,
    attention: Attention = "auto",
) -> Any:
    """The family's model with adapters in the parts that have `loras`; fresh ones, or those of a checkpoint.

    `full` are the parts that are trained whole. Without any `loras` the family has loaded the checkpoint itself.
    """
    if checkpoint is not None and holds_adapter(checkpoint) != bool(loras):
        held = "adapters" if holds_adapter(checkpoint) else "whole weights"
        raise ValueError(f"{checkpoint} holds {held}, but {'some' if loras else 'no'} part trains with lora")
    if not loras:
        return family.load(device_type, attention=attention)
    hub = _as_hub(family)
    model = hub.load(device_type, quantization(family, loras, device_type), attention)
    adapt(model, family, loras, seed)
    if checkpoint is not None:
        load_adapter(model, family, checkpoint, full)
    return model


def holds_adapter(folder: Path) -> bool:
    """Whether a checkpoint is an adapter, and not a whole model."""
    return (folder / ADAPTER_FILE).is_file()


def adapter_tensors(
    model: Any, family: Family, full: Sequence[str] = (), state: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """An adapter's tensors under PEFT's names, and beside them all of the parts that are trained in full.

    They are the model's own storage, or that of `state`: the weights by their names in `model.state_dict()`.
    """
    held = dict(model.state_dict() if state is None else state)
    modules, bare = _whole_modules(model, family, full)
    inside = tuple(f"{module}." for module in modules)
    # Asked to look whether embeddings are in it, PEFT would look for the base model on the Hub.
    found = get_peft_model_state_dict(model, held, ADAPTER, save_embedding_layers=False)
    found |= {name: tensor for name, tensor in held.items() if name in bare or name.startswith(inside)}
    return {PREFIX + name: tensor for name, tensor in found.items()}


def save_adapter(
    model: Any,
    family: Family,
    folder: Path,
    full: Sequence[str] = (),
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write what `PeftModel.from_pretrained(base_model, folder)` reads, and the tokenizer."""
    hub, tensors, seen = _as_hub(family), {}, set()
    for name, tensor in adapter_tensors(model, family, full, state).items():
        # Safetensors takes no storage twice, such as that of a head tied to its embeddings.
        is_tied = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        tensors[name] = (tensor.clone() if is_tied else tensor).detach().contiguous().cpu()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = copy.copy(model.peft_config[ADAPTER])
    config.base_model_name_or_path = str(hub.folder or "")
    config.inference_mode = True
    # PEFT has cut the names to what tells the modules of this model apart.
    config.target_modules = sorted(lora_layers(model))
    config.modules_to_save = _whole_modules(model, family, full)[0] or None
    config.save_pretrained(folder)
    hub.tokenizer.save_pretrained(folder)


@torch.no_grad()
def load_adapter(model: Any, family: Family, folder: Path, full: Sequence[str] = ()) -> None:
    """Load what `save_adapter` wrote into a model that is adapted alike.

    `ValueError` names every tensor that is missing, left over or of another shape, and an alpha that is another.
    """
    held, found = adapter_tensors(model, family, full), load_file(folder / WEIGHTS_FILE)
    faults = {
        "missing_keys": sorted(held.keys() - found.keys()),
        "unexpected_keys": sorted(found.keys() - held.keys()),
        "mismatched_keys": sorted(n for n in held.keys() & found.keys() if held[n].shape != found[n].shape),
    }
    told = [f"{FAULTS[kind]}: {some(names)}" for kind, names in faults.items() if names]
    if told:
        raise ValueError(f"the adapter in {str(folder)!r} does not fit the model: {'; '.join(told)}")
    said, asked = read_json(folder / ADAPTER_FILE), model.peft_config[ADAPTER]
    for key in ("lora_alpha", "alpha_pattern"):
        if said.get(key) != getattr(asked, key):
            raise ValueError(
                f"the adapter in {str(folder)!r} has {key} {said.get(key)}; the model needs {getattr(asked, key)}"
            )
    for name, tensor in held.items():
        tensor.copy_(found[name])


def quantization(family: Family, loras: Mapping[str, LoraSettings], device_type: str) -> BitsAndBytesConfig | None:
    """How the parts that ask for it are held in 4 bits: NF4, its constants quantized too, computing in bf16."""
    parts = [part for part, lora in loras.items() if lora.quantize]
    if not parts:
        return None
    if device_type != "cuda" or not is_bitsandbytes_available():
        missing = "bitsandbytes" if device_type == "cuda" else "a CUDA GPU"
        raise ValueError(f"train.{parts[0]}.lora.quantize is true; it needs {missing}, which is not here")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=unquantized_modules(family, parts),
    )


def unquantized_modules(family: Family, parts: Iterable[str]) -> list[str]:
    """Names of all linear layers but those of some parts that can have adapters."""
    hub = _as_hub(family)
    with torch.device("meta"):
        model = hub.model_type(hub.config)
    linear = linear_modules(model, family)
    chosen = {name for part in parts for name in linear[part]}
    return [n for n, module in model.named_modules() if isinstance(module, nn.Linear) and n not in chosen]


def _whole_modules(model: nn.Module, family: Family, full: Sequence[str]) -> tuple[list[str], set[str]]:
    """The largest modules that hold nothing but parts trained in full, and names of parameters in none of them."""
    by_part = {part: {id(parameter) for _, parameter in named} for part, named in family.parts(model).items()}
    trained = set().union(*(by_part[part] for part in full))
    others = set().union(*by_part.values()) - trained
    modules: list[str] = []
    for name, module in model.named_modules():
        own = {id(parameter) for parameter in module.parameters()}
        # PEFT takes no lists of modules, only what is in them.
        is_list = isinstance(module, (nn.ModuleList, nn.ModuleDict))
        if own & trained and not own & others and not is_list and not _is_inside(name, modules):
            modules.append(name)
    names = {name for name, parameter in model.named_parameters() if id(parameter) in trained}
    return modules, {name for name in names if not _is_inside(name, modules)}


def _is_inside(name: str, modules: Iterable[str]) -> bool:
    return name.startswith(tuple(f"{module}." for module in modules))


def _as_hub(family: Family) -> HubFamily:
    if not isinstance(family, HubFamily):
        raise ValueError(f"family {family.name!r} takes no adapters: it is no HubFamily (models/hub_family.py)")
    return family
