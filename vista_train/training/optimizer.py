"""What trains and how fast: parameters frozen or grouped by part, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from vista_train.models.adapters import LoraSettings, check_agree, is_adapter
from vista_train.models.base import PARTS

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class PartSettings:
    """How one part is trained: at a rate of its own, in full or by adapters."""

    lr: float | None = None
    """Its peak learning rate; default, that of `train`."""
    lora: LoraSettings | None = None
    """Train adapters beside its weights; default, the weights themselves."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True}

    def __post_init__(self) -> None:
        if self.lr is not None and not 0 < self.lr < 1:
            raise ValueError(f"lr is {self.lr}; it must lie between 0 and 1 (a part is frozen by false)")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, with a learning rate for each part, linear warm-up and cosine decay."""

    lr: float = 1e-4
    """Peak learning rate of every part that does not set its own."""
    vision: bool | float | PartSettings = True
    """Train the vision tower: true at `lr`, a number at that rate, false to freeze it, or {lr: ..., lora: {...}}."""
    projector: bool | float | PartSettings = True
    """Train the projector: true, a rate of its own, false, or a section."""
    language: bool | float | PartSettings = True
    """Train the language model: true, a rate of its own, false, or a section."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; biases and norms have none."""
    warmup_share: float = 0.03
    """Share of the steps over which the learning rate rises from 0 (VISTA: 0.03)."""
    final_share: float = 0.0
    """Share of the peak learning rate that the cosine ends at."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm where theirs is larger."""

    def __post_init__(self) -> None:
        for name in ("lr", "vision", "projector", "language", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, PartSettings) and value < 0:
                raise ValueError(f"train.{name} is {value}; it must not be below 0")
            if name in PARTS and not isinstance(value, (bool, PartSettings)) and value >= 1:
                raise ValueError(f"train.{name} is {value}; it must be true, false, or a rate such as 2.0e-5")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train.betas are {self.betas}; both must be at least 0 and below 1")
        if self.clip_norm <= 0:
            raise ValueError(f"train.clip_norm is {self.clip_norm}; it must be above 0")
        for name in ("warmup_share", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}; it must lie in 0..1")
        check_agree(self.loras)
        if not any(self.rate(part) for part in PARTS):
            raise ValueError(
                f"train.vision, train.projector and train.language are all false or at a rate of 0 (train.lr is "
                f"{self.lr}); nothing would train"
            )

    def rate(self, part: str) -> float:
        """The peak learning rate of a part; 0 if it is frozen."""
        asked = getattr(self, part)
        if isinstance(asked, PartSettings):
            return self.lr if asked.lr is None else asked.lr
        return self.lr if asked is True else float(asked)

    def told(self, part: str) -> str:
        """How a part is trained, for a line on it; nothing if it is frozen."""
        rate, lora = self.rate(part), self.loras.get(part)
        shape = f", {'DoRA' if lora.dora else 'LoRA'} r {lora.r} alpha {lora.shape['alpha']:g}" if lora else ""
        return f" at {rate:g}{shape}" if rate else ""

    @property
    def loras(self) -> dict[str, LoraSettings]:
        """The adapters of the parts that have some."""
        asked = {part: getattr(self, part) for part in PARTS if self.rate(part)}
        return {part: a.lora for part, a in asked.items() if isinstance(a, PartSettings) and a.lora is not None}

    @property
    def full(self) -> tuple[str, ...]:
        """The parts whose own weights train."""
        return tuple(part for part in PARTS if self.rate(part) and part not in self.loras)

    @property
    def passes(self) -> tuple[int, int]:
        """Forward passes' worth of work on the language model and on the vision tower (models/base.py, Compute)."""
        language, vision = (
            3 if part in self.full else 2 if part in self.loras else 1 for part in ("language", "vision")
        )
        # Something trains: if it is not the language model, it lies below, and gradients pass.
        return max(2, language), vision


def trainable_groups(parts: Mapping[str, NamedParameters], settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Freeze what does not train (beside adapters, their part's own weights), and group the rest by part and decay.

    Each group has `params`, their `names`, `peak_lr` and `weight_decay`.
    """
    groups: list[dict[str, Any]] = []
    for part, named in parts.items():
        rate, adapters_alone = settings.rate(part), part in settings.loras
        by_decay: dict[float, list[tuple[str, nn.Parameter]]] = {settings.weight_decay: [], 0.0: []}
        for name, parameter in named:
            trains = rate > 0 and (is_adapter(name) or not adapters_alone)
            parameter.requires_grad_(trains)
            if trains:
                by_decay[settings.weight_decay if parameter.ndim > 1 else 0.0].append((name, parameter))
        if rate:
            groups += [
                {
                    "params": [parameter for _, parameter in members],
                    "names": [name for name, _ in members],
                    "part": part,
                    "lr": rate,
                    "peak_lr": rate,
                    "weight_decay": decay,
                }
                for decay, members in by_decay.items()
                if members
            ]
    return groups


def adamw(groups: list[dict[str, Any]], settings: OptimizerSettings, device_type: str = "cpu") -> torch.optim.AdamW:
    """The optimizer over groups made by `trainable_groups`; fused where it will run on a GPU."""
    return torch.optim.AdamW(groups, betas=settings.betas, fused=device_type == "cuda")


def rate_share(step: int, num_steps: int, settings: OptimizerSettings) -> float:
    """The share of the peak learning rate at a step (from 0): linear warm-up, then a cosine to `final_share`.

    A function of the step alone, so that a resumed run has nothing to restore.
    """
    warmup = math.ceil(settings.warmup_share * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return settings.final_share + (1 - settings.final_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set each group's learning rate to a share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
