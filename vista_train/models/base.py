"""What a model family is: a Codec that data workers hold, and a Family that owns the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from vista_train.types import Encoded, Plan, Row, Sample
from vista_train.video.sampling import View

PARTS = ("vision", "projector", "language")


class Codec(Protocol):
    """Turns samples into tokens. Frozen, picklable, without tensors: all of a family that a data worker holds."""

    view: View

    def plan(self, sample: Sample) -> Plan:
        """Exact tokens, patches, labels and cost, from metadata alone.

        Frames (never tokens) are dropped until the sample fits `max_tokens`; `ValueError` when not even one fits.
        """
        ...

    def encode(self, sample: Sample, plan: Plan, frames_TCHW: torch.Tensor, position: int = 0) -> Encoded:
        """Tokens, labels and frames; `frames_TCHW` (uint8) shows the video at `plan.times` on the view's canvas."""
        ...


class Family(Protocol):
    """Everything that must agree with a checkpoint of one kind of model."""

    name: str
    codec: Codec

    def load(self) -> nn.Module:
        """The model, with its weights, in fp32."""
        ...

    def parts(self, model: nn.Module) -> Mapping[str, Iterator[tuple[str, nn.Parameter]]]:
        """Every parameter by part ("vision", "projector", "language"), less those that can never get a gradient."""
        ...

    def hidden_states(self, model: nn.Module, row: Row) -> torch.Tensor:
        """The decoder's last hidden states [L, d] of a packed row, vision included. One dummy frame stands in
        where the row has none, and a dummy token where it has no tokens, so that every rank runs the same parts."""
        ...

    def head(self, model: nn.Module) -> nn.Module:
        """The output embedding: hidden [N, d] -> logits [N, V]."""
        ...

    def save(self, model: nn.Module, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the checkpoint in the layout that `from_pretrained` reads, with tokenizer and configs."""
        ...
