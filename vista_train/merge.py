"""A run's checkpoint made plain: adapters merged into the weights, in one precision, in a layout that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from vista_train.config import Recipe, load_recipe
from vista_train.models.adapters import holds_adapter, load_tuned, merge_adapters
from vista_train.models.hub import read_json
from vista_train.training.checkpoint import pieces_of
from vista_train.training.pieces import put_back_exact

DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("hub", "published")


@runtime_checkable
class Published(Protocol):
    """A family that can write the layout its model was first published in."""

    def save_published(self, model: Any, folder: Path) -> None: ...


def merge(checkpoint: Path, out: Path, dtype: str | None = None, layout: str = "hub", base: str | None = None) -> None:
    """Write the checkpoint of a run as a whole model into a folder that is empty or not there.

    Adapters are merged into the weights that its recipe names, or those in `base`. `dtype` is that of the recipe's base
    if not given, or float32 where the base names none. Nothing is fetched and no other process needed, whatever engine
    wrote the checkpoint.
    """
    if not (checkpoint / "recipe.yaml").is_file():
        raise ValueError(f"{checkpoint} holds no recipe.yaml; it must be a step-* folder that a run wrote")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; choose a folder that is empty or not there")
    is_adapter = holds_adapter(checkpoint)
    if base is not None and not is_adapter:
        raise ValueError(f"{checkpoint} holds whole weights; a base is for adapters")
    # In quotes, the value is text whatever it looks like.
    recipe = load_recipe(checkpoint / "recipe.yaml", [] if base is None else [f"family.path={json.dumps(base)}"])
    settings = recipe.make_optimizer()
    family = recipe.make_family(None if is_adapter else str(checkpoint))
    is_published = layout == "published"
    if is_published and not isinstance(family, Published):
        raise ValueError(f"layout is 'published', but family {family.name!r} has only one: 'hub'")
    for part, lora in settings.loras.items():
        if lora.quantize:
            raise ValueError(
                f"{checkpoint} was trained with train.{part}.lora.quantize: its adapters fit a 4-bit model, which no "
                f"whole checkpoint is; load them with peft beside the base quantized the same way"
            )
    model = load_tuned(family, settings.loras, settings.full, checkpoint=checkpoint)
    put_back_exact(model.named_parameters(), pieces_of(checkpoint))
    if is_adapter:
        merge_adapters(model)
    model.to(getattr(torch, dtype or _base_dtype(recipe)))
    out.mkdir(parents=True, exist_ok=True)
    if is_published and isinstance(family, Published):
        family.save_published(model, out)
    else:
        family.save(model, out)


def _base_dtype(recipe: Recipe) -> str:
    """The precision that the recipe's base says it has; float32 where it says none of ours."""
    path = recipe.family.path
    config = read_json(Path(path) / "config.json") if path else {}
    said = config.get("dtype") or config.get("torch_dtype")
    return said if said in DTYPES else "float32"
