"""What a model keeps of a forward pass: passes of the tower, layers computed again, held by the host, or in tiles."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from vista_train.models.base import PARTS
from vista_train.models.offload import Offload
from vista_train.models.passes import DEFAULT_CHUNK, Chunking
from vista_train.models.tiles import TiledForward, Tiling, tokens_in_tile

OFFLOAD = "offload"


@dataclass(frozen=True)
class Memory:
    """What is computed again, moved or cut, to hold less at a time; nothing of it changes a result."""

    vision_chunk: int = DEFAULT_CHUNK
    """Patches in a pass of the vision tower, at most."""
    vision: bool = False
    """Keep the features alone of a pass of a tower that trains; a frozen one is never computed twice."""
    language: bool | str = False
    """Keep of each decoder layer its input alone; "offload" keeps that in the memory of the host."""
    tiled_mlp: int | str | None = None
    """Tokens in a tile of the decoder's MLPs, or "auto"; None for whole rows."""
    compiled: bool = False
    """Compile the norms and MLPs of the decoder's layers."""


@dataclass
class LayerRun:
    """How a decoder layer runs in training: it stands where transformers puts its own recomputation."""

    tiling: Tiling
    offload: Offload | None = None

    def __call__(self, layer: partial[Any], *args: Any) -> Any:
        """Run a layer, which comes as its forward pass with all but its input filled in."""
        with self.offload.hooks() if self.offload else contextlib.nullcontext():
            return checkpoint(layer, *args, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        """What the first and the second run of a layer stand in."""
        return contextlib.nullcontext(), self.tiling.skipped()


class Again:
    """A module's forward pass that is computed again in the backward pass."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Its outputs; of all else, its inputs are kept."""
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)


def arrange(
    model: nn.Module, memory: Memory, part_of: Callable[[str], str], towers: Sequence[str]
) -> tuple[Chunking, Tiling]:
    """Change a model in place to run so; `part_of` says which part a name belongs to, `towers` where each begins.

    What trains must have been chosen. Returns how its towers and its MLPs are cut.
    """
    trains = _trains(model, part_of)
    if memory.vision and trains["projector"] and not trains["vision"]:
        for module in _outermost(model, part_of, "projector"):
            module.forward = Again(module.forward)  # type: ignore[method-assign]
    layers = decoder_layers(model, part_of)
    if memory.compiled:
        _compile(layers)
    tiling = Tiling()
    if memory.tiled_mlp is not None:
        tiling.tokens = tokens_in_tile(memory.tiled_mlp, model.config.get_text_config().hidden_size)  # type: ignore
        _check_pre_norm(layers[0])
        for mlp in map(_mlp_of, layers):
            mlp.forward = TiledForward(mlp.forward, tiling)  # type: ignore[method-assign]
    if memory.language:
        run = LayerRun(tiling, Offload() if memory.language == OFFLOAD else None)
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = run  # type: ignore[assignment]
    is_constant = not trains["vision"] and not trains["projector"]
    learning = [name for name, p in model.named_parameters() if p.requires_grad and part_of(name) == "vision"]
    again = tuple(memory.vision and any(name.startswith(tower) for name in learning) for tower in towers)
    return Chunking(memory.vision_chunk, again, is_constant), tiling


def decoder_layers(model: nn.Module, part_of: Callable[[str], str]) -> list[GradientCheckpointingLayer]:
    """The decoder's layers, in order."""
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer) and part_of(name) == "language"
    ]
    if not found:
        raise ValueError(f"the language part of a {type(model).__name__} has no layers that can be computed again")
    return found


def _compile(layers: Sequence[nn.Module]) -> None:
    """Compile norms and MLPs, each class once for rows of any length; attention has kernels of its own, which depend
    on where samples end."""
    compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
    for layer in layers:
        norms = [child for child in layer.children() if not list(child.children())]
        for module in (*norms, _mlp_of(layer)):
            forward = type(module).forward
            if forward not in compiled:
                compiled[forward] = torch.compile(forward, dynamic=True)
            module.forward = partial(compiled[forward], module)  # type: ignore[method-assign]


def _mlp_of(layer: nn.Module) -> nn.Module:
    try:
        return layer.get_submodule("mlp")
    except AttributeError:
        raise ValueError(
            f"a {type(layer).__name__} has no `mlp`: train.tiled_mlp must be none, train.compile false"
        ) from None


def _check_pre_norm(layer: nn.Module) -> None:
    """`ValueError` for a layer in which a norm follows the MLP: it would want what the tiles leave out in a layer that
    is computed again."""
    behind = [name for name, _ in layer.named_children() if re.search(r"post_(feedforward|mlp)", name)]
    if behind:
        raise ValueError(
            f"a {type(layer).__name__} has {behind[0]} behind its MLP: train.tiled_mlp must be none with it"
        )


def _trains(model: nn.Module, part_of: Callable[[str], str]) -> Mapping[str, bool]:
    """Which parts have a parameter that wants a gradient."""
    found = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {part: part in found for part in PARTS}


def _outermost(model: nn.Module, part_of: Callable[[str], str], part: str) -> list[nn.Module]:
    """The largest modules of a part that are called: a list is not, but what is in it."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = name.startswith(tuple(f"{outer}." for outer in found))
        if name and part_of(name) == part and not inside and not isinstance(module, nn.ModuleList):
            found[name] = module
    return list(found.values())
