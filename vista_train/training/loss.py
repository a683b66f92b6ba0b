"""Cross entropy at the label positions only, summed, so that a step can divide by its own number of labels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED = -100


def summed_cross_entropy(
    hidden_LD: torch.Tensor, labels_L: torch.Tensor, head: nn.Module, chunk: int = 1024, calls: int = 1
) -> torch.Tensor:
    """Sum over label positions of -log p(label), in fp32: the hidden state at i predicts the label at i + 1.

    Hidden states are gathered at those positions before `head` ([N, D] -> logits [N, V]) sees them, `chunk` at a
    time; logits are computed again in the backward pass, so no more than one chunk of them ever exists. Without
    labels the sum is exactly 0 and still reaches the head and everything behind `hidden_LD`.

    Where the head's weight is sharded (ZeRO-3), every call gathers it, and the ranks must agree on how many there
    are: `calls` is the least number, made up with empty chunks (`head_calls` says what a rank needs).
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; at least one position must go through the head at a time")
    if hidden_LD.shape[0] != labels_L.shape[0]:
        raise ValueError(f"{hidden_LD.shape[0]} hidden states do not match {labels_L.shape[0]} labels")
    targets = labels_L[1:]
    positions = (targets != IGNORED).nonzero().squeeze(1)
    pieces = list(zip(hidden_LD[positions].split(chunk), targets[positions].split(chunk), strict=True))
    pieces += [(hidden_LD[:0], targets[:0])] * (calls - len(pieces))
    total = hidden_LD.new_zeros((), dtype=torch.float32)
    for hidden_ND, targets_N in pieces:
        total = total + checkpoint(
            _piece_loss, head, hidden_ND, targets_N, use_reentrant=False, preserve_rng_state=False
        )
    return total


def head_calls(num_labels: int, chunk: int = 1024) -> int:
    """How often `summed_cross_entropy` calls the head for a row of `num_labels` labels."""
    return max(1, -(-num_labels // chunk))


def _piece_loss(head: nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(head(hidden_ND).float(), targets_N, reduction="sum")
