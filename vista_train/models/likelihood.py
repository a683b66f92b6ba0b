"""How likely a model finds tokens at some places of a packed row, and which token it finds likeliest there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vista_train.types import Row

CHUNK = 256
"""Places whose logits exist at a time."""


@dataclass(frozen=True)
class Look:
    """A packed row, and what is asked of it."""

    row: Row
    places_N: torch.Tensor
    """int64: places in the row; the hidden state there predicts the token behind it. One may stand there twice."""
    tokens_N: torch.Tensor
    """int64: the token that is weighed at each place."""

    @property
    def head_calls(self) -> int:
        """How often `weighed` calls the head for it."""
        return max(1, -(-len(self.places_N) // CHUNK))


@dataclass(frozen=True)
class Found:
    """What a model says at a look's places, on the CPU."""

    logs_N: torch.Tensor
    """float64: the log-likelihood of each token, in nats."""
    likeliest_N: torch.Tensor
    """int64: the likeliest token at each place."""


Reader = Callable[[Sequence[Look]], list[Found]]
"""Whoever runs a model over looks, without gradients: one result for each, in order."""


def weighed(
    hidden_LD: torch.Tensor, head: nn.Module, places_N: torch.Tensor, tokens_N: torch.Tensor, calls: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-likelihoods fp32 [N], likeliest tokens int64 [N]) at some places of hidden states [L, d].

    `head` is called `calls` times at least, made up with no places: where its weight is sharded over ranks, all must
    call it equally often.
    """
    pieces = list(zip(places_N.split(CHUNK), tokens_N.split(CHUNK), strict=True))
    pieces += [(places_N[:0], tokens_N[:0])] * (calls - len(pieces))
    logs, likeliest = [], []
    for places, tokens in pieces:
        logits_NV = head(hidden_LD[places]).float()
        logs.append(logits_NV.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
        likeliest.append(logits_NV.argmax(-1))
    return torch.cat(logs), torch.cat(likeliest)
