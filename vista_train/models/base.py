"""What a model family is: a Codec that data workers hold, and a Family that owns the weights."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from vista_train.models.attention import Attention
from vista_train.types import Encoded, Plan, Row, Sample
from vista_train.video.sampling import View

PARTS = ("vision", "projector", "language")
FAMILIES: dict[str, type[Family]] = {}


@dataclass(frozen=True)
class Compute:
    """The sizes of a model that decide what a sample costs to train on."""

    language_params: int
    """Parameters of the decoder's layers, without embeddings and head."""
    language_layers: int
    language_width: int
    vocab_size: int
    vision_params: int
    """Parameters that every patch passes: the vision tower's and the projector's."""
    vision_layers: int
    vision_width: int
    language_passes: int = 3
    """Forward passes' worth of work: 3 trained, 2 frozen but passing gradients on, 1 frozen at the bottom."""
    vision_passes: int = 3
    attention_width: int | None = None
    """Width of all of the decoder's attention heads together; default, that of its hidden states."""
    window: int | None = None
    """The most tokens that one sees, itself included, where all layers of the decoder have such a window."""

    def flops(self, tokens: int, labels: int, sequences: int, patches: int) -> float:
        """FLOPs of one sample: matrix products, attention (causal in the decoder, in the tower within each of
        `sequences` of `patches`), and the head at its labels."""
        seen = min(tokens, self.window or tokens)
        # Twice the pairs of a token and one that it sees, each product of which counts two.
        pairs = seen**2 + 2 * seen * (tokens - seen)
        products = 2 * self.language_params * tokens + 2 * self.vocab_size * self.language_width * labels
        attention = 2 * self.language_layers * (self.attention_width or self.language_width) * pairs
        language = self.language_passes * products + _attention_passes(self.language_passes) * attention
        vision = self.vision_passes * 2 * self.vision_params * patches
        vision += _attention_passes(self.vision_passes) * 4 * self.vision_layers * self.vision_width * patches**2
        return float(language + sequences * vision)


def _attention_passes(passes: int) -> int:
    """Attention has no weights to spare the gradients of: passing them on is all the work there is."""
    return 3 if passes > 1 else passes


class Codec(Protocol):
    """Turns samples into tokens. Frozen, picklable, without tensors: all of a family that a data worker holds."""

    view: View
    compute: Compute

    @property
    def bytes_per_patch(self) -> float:
        """Bytes of frames, uint8, for each patch that the vision tower sees of them."""
        ...

    def plan(self, sample: Sample) -> Plan:
        """Exact tokens, patches, labels and cost, from metadata alone.

        Frames (never tokens) are dropped until the sample fits `max_tokens`; `ValueError` when not even one fits.
        """
        ...

    def encode(self, sample: Sample, plan: Plan, frames_TCHW: torch.Tensor, position: int = 0) -> Encoded:
        """Tokens, labels and frames; `frames_TCHW` (uint8) shows the video at `plan.times` on the view's canvas.

        `ValueError` when frames and plan, or plan and sample, do not belong together.
        """
        ...

    def flops(self, row: Row) -> float:
        """FLOPs of a row's samples, as they came: for each, what `plan` calls its cost."""
        ...

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that no answer goes on behind: what closes a turn, and what frames alone may be spelt with."""
        ...

    def text_of(self, tokens: Sequence[int]) -> str:
        """What tokens say, special ones aside."""
        ...


class Family(Protocol):
    """Everything that must agree with a checkpoint of one kind of model. Built from its settings and a view."""

    name: str
    settings_type: type
    """The frozen dataclass that holds the family's settings."""
    codec: Codec

    def __init__(self, settings: Any, view: View) -> None: ...

    def load(self, device_type: str = "cpu", *, attention: Attention = "auto") -> nn.Module:
        """The model on the CPU, with its weights, in fp32, its attention as asked for or chosen for `device_type`.

        Parameters that can never get a gradient are frozen.
        """
        ...

    def parts(self, model: nn.Module) -> Mapping[str, Iterator[tuple[str, nn.Parameter]]]:
        """Every parameter by part ("vision", "projector", "language"), less those that can never get a gradient."""
        ...

    def arrange(self, model: nn.Module, memory: Any) -> None:
        """Lay out what a model keeps of a forward pass (models/memory.py), in place; what trains is chosen before."""
        ...

    def tower_passes(self, row: Row) -> tuple[int, ...]:
        """How many passes of each vision tower a row takes."""
        ...

    def mlp_tiles(self, row: Row) -> int:
        """In how many tiles the decoder's MLPs take a row."""
        ...

    def hidden_states(
        self, model: nn.Module, row: Row, tower_passes: Sequence[int] = (), mlp_tiles: int = 1
    ) -> torch.Tensor:
        """The decoder's last hidden states [L, d] of a packed row on the model's device, vision included.

        Whatever the row holds, every part runs and is in the result's graph: where a row has no frames, a dummy
        sample of one black frame is packed behind it and cut off again. So an empty row gives [0, d], and a sum
        over it gives every parameter of `parts`, head aside, a gradient of zero. Where weights are sharded over ranks,
        all must run each module equally often: `tower_passes` are the least numbers, made up with black frames, and
        `mlp_tiles` that of the tiles.
        """
        ...

    def continued(self, model: nn.Module, row: Row, cache: Any = None) -> tuple[torch.Tensor, Any]:
        """The decoder's last hidden states [L, d] of one sample's next tokens, and the cache that then holds them too.

        The sample's frames come with its first tokens, for which there is no cache; nothing is computed twice.
        """
        ...

    def head(self, model: nn.Module) -> nn.Module:
        """The output embedding: hidden [N, d] -> logits [N, V]."""
        ...

    def text_config(self, model: nn.Module) -> Any:
        """The configuration of the decoder, with its `hidden_size`."""
        ...

    def blocks(self, model: nn.Module) -> list[str]:
        """The classes of the layers that an engine may gather one at a time."""
        ...

    def save(self, model: nn.Module, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the checkpoint in the layout that `from_pretrained` reads, with tokenizer and configs.

        `state` are the weights by their names in `model.state_dict()`, where the model does not hold them itself.
        """
        ...


FamilyType = TypeVar("FamilyType", bound=type)


def register_family(name: str) -> Callable[[FamilyType], FamilyType]:
    """Class decorator: the family by that name, which the recipe uses."""

    def register(family_type: FamilyType) -> FamilyType:
        if name in FAMILIES:
            raise ValueError(f"family {name!r} is already defined, by {FAMILIES[name]}")
        family_type.name = name  # type: ignore[attr-defined]
        FAMILIES[name] = family_type
        return family_type

    return register


def family(name: str) -> type[Family]:
    """The family class called `name`, from models/<name>.py unless already registered; `ValueError` if unknown."""
    package = importlib.import_module("vista_train.models")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    if name not in FAMILIES and name in modules:
        importlib.import_module(f"vista_train.models.{name}")
    if name not in FAMILIES:
        # All are imported, to say which there are.
        for module in modules:
            importlib.import_module(f"vista_train.models.{module}")
        raise ValueError(f"unknown family {name!r}; {_nearest(name, sorted(FAMILIES))}")
    return FAMILIES[name]


def load_family(name: str, settings: Any, view: View) -> Family:
    """The family called `name` with its settings: an instance of its `settings_type`, or a mapping of its fields."""
    chosen = family(name)
    if isinstance(settings, Mapping):
        known = [entry.name for entry in fields(chosen.settings_type)]
        for key in settings:
            if key not in known:
                raise ValueError(f"family {name!r} has no setting {key!r}; {_nearest(str(key), known)}")
        settings = chosen.settings_type(**settings)
    if not isinstance(settings, chosen.settings_type):
        raise ValueError(f"family {name!r} takes {chosen.settings_type.__name__}, not {type(settings).__name__}")
    return chosen(settings, view)


def _nearest(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {matches[0]!r}? " if matches else ""
    return f"{guess}known: {', '.join(known)}"
