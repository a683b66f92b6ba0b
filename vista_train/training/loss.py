"""Cross entropy at the label positions only, summed, so that a step can divide by its own number of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vista_train.training.fused_loss import FUSED, liger_kernel, torch_kernel

IGNORED = -100
CHUNK = 1024
"""Label positions whose logits exist at a time."""
Loss = Literal["auto", "liger", "torch", "chunked"]
KINDS = ("liger", "torch", "chunked")


@dataclass(frozen=True)
class LossChoice:
    """What computes the loss of a run."""

    kind: str = "chunked"
    """One of KINDS."""
    told: str = f"chunked: {CHUNK} label positions at a time, their logits computed again in the backward pass"
    """One line on what that means."""


def lacks_of(device_type: str) -> dict[str, str]:
    """What each fused kernel needs and does not have here; "" where it can run."""
    return {"liger": _liger_lacks(device_type), "torch": "" if torch_kernel() else "torch 2.13 or later"}


def choose_loss(
    asked: str, head: nn.Module, device_type: str, in_half: bool = False, is_sharded: bool = False
) -> LossChoice:
    """The kernel of a run: on a device, in half precision or not, and with a head whose weight is sharded or whole.

    `auto` is Liger's fused kernel where that can run; else, in single precision on a CPU, torch's, which is faster
    there than the chunked way, and smaller from a second chunk on (scripts/bench/loss.py); else the chunked way. In
    half precision torch's sums up in bf16, and is out by parts in a thousand, so it is given fp32. `ValueError` where
    the one that is asked for cannot run.
    """
    if asked not in ("auto", *KINDS):
        raise ValueError(f"train.loss is {asked!r}; it must be auto, {', '.join(KINDS)}")
    lacks = lacks_of(device_type)
    if is_sharded:
        common = "a head that every rank has whole: ZeRO-3 and FSDP2 gather it where it is called"
    elif type(head) is not nn.Linear or head.bias is not None:
        common = f"a head that is a plain nn.Linear without bias, not a {type(head).__name__}"
    else:
        common = ""
    lacks = {kind: lacking or common for kind, lacking in lacks.items()}
    if asked != "auto":
        if lacks.get(asked):
            raise ValueError(f"train.loss is {asked!r}, which needs {lacks[asked]}; leave it auto, or take chunked")
        return _chosen(asked)
    if not lacks["liger"]:
        return _chosen("liger")
    if device_type == "cpu" and not in_half and not lacks["torch"]:
        return _chosen("torch")
    return LossChoice(told=f"{LossChoice().told} (the fused kernels need {common})") if common else LossChoice()


def _chosen(kind: str) -> LossChoice:
    match kind:
        case "liger":
            return LossChoice(kind, "Liger's fused linear cross entropy")
        case "torch":
            return LossChoice(kind, f"linear_cross_entropy of torch {torch.__version__}, in fp32, {CHUNK} at a time")
        case _:
            return LossChoice()


def _liger_lacks(device_type: str) -> str:
    """What keeps Liger's kernel from running; "" if nothing does."""
    if device_type != "cuda":
        return "a CUDA GPU"
    return "" if liger_kernel() else "liger-kernel installed, 0.6.2 or later"


def summed_cross_entropy(
    hidden_LD: torch.Tensor,
    labels_L: torch.Tensor,
    head: nn.Module,
    chunk: int = CHUNK,
    calls: int = 1,
    kind: str = "chunked",
    weights_L: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum over label positions of -log p(label), in fp32: the hidden state at i predicts the label at i + 1.

    Hidden states are gathered at those positions before `head` ([N, D] -> logits [N, V]) sees them, `chunk` at a
    time; logits are computed again in the backward pass, so no more than one chunk of them ever exists. Without
    labels the sum is exactly 0 and still reaches the head and everything behind `hidden_LD`. `weights_L` (fp32) are
    what the labels count, default 1.

    Where the head's weight is sharded (ZeRO-3), every call gathers it, and the ranks must agree on how many there
    are: `calls` is the least number, made up with empty chunks (`head_calls` says what a rank needs). Other kinds
    (KINDS) take the head's weight without calling it, and are not for such.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; at least one position must go through the head at a time")
    if hidden_LD.shape[0] != labels_L.shape[0]:
        raise ValueError(f"{hidden_LD.shape[0]} hidden states do not match {labels_L.shape[0]} labels")
    targets = labels_L[1:]
    positions = (targets != IGNORED).nonzero().squeeze(1)
    hidden_ND, targets_N = hidden_LD[positions], targets[positions]
    weights_N = None if weights_L is None else weights_L[1:][positions]
    if kind in FUSED and len(positions):
        assert isinstance(head, nn.Linear)
        return _fused(kind, hidden_ND, head.weight, targets_N, chunk, weights_N)
    weighed = [None] * len(targets_N.split(chunk)) if weights_N is None else weights_N.split(chunk)
    pieces = list(zip(hidden_ND.split(chunk), targets_N.split(chunk), weighed, strict=True))
    pieces += [(hidden_LD[:0], targets[:0], None)] * (calls - len(pieces))
    total = hidden_LD.new_zeros((), dtype=torch.float32)
    for piece in pieces:
        total = total + checkpoint(_piece_loss, head, *piece, use_reentrant=False, preserve_rng_state=False)
    return total


def head_calls(num_labels: int, chunk: int = CHUNK) -> int:
    """How often `summed_cross_entropy` calls the head for a row of `num_labels` labels."""
    return max(1, -(-num_labels // chunk))


def _fused(
    kind: str,
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    chunk: int,
    weights_N: torch.Tensor | None,
) -> torch.Tensor:
    """A fused kernel's sum. It knows no weights: neighbours that weigh the same are summed at once."""
    if weights_N is None:
        return FUSED[kind](hidden_ND, weight_VD, targets_N, chunk)
    weights, counts = torch.unique_consecutive(weights_N, return_counts=True)
    parts = zip(hidden_ND.split(counts.tolist()), targets_N.split(counts.tolist()), weights, strict=True)
    sums = [weight * FUSED[kind](hidden_ND, weight_VD, targets_N, chunk) for hidden_ND, targets_N, weight in parts]
    return torch.stack(sums).sum()


def _piece_loss(
    head: nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor, weights_N: torch.Tensor | None = None
) -> torch.Tensor:
    logits_NV = head(hidden_ND).float()
    if weights_N is None:
        return functional.cross_entropy(logits_NV, targets_N, reduction="sum")
    return (functional.cross_entropy(logits_NV, targets_N, reduction="none") * weights_N).sum()
