"""Kernels that go from hidden states to their summed loss and its gradients without all logits at once."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch

LIGER_MODULE = "liger_kernel.transformers.functional"


def liger_kernel() -> Callable[..., torch.Tensor] | None:
    """Liger's function, where it is installed and can add up gradients of the weight in fp32."""
    try:
        kernel: Callable[..., torch.Tensor] = importlib.import_module(LIGER_MODULE).liger_fused_linear_cross_entropy
    except ImportError:
        return None
    return kernel if "accum_dtype" in inspect.signature(kernel).parameters else None


def torch_kernel() -> tuple[Callable[..., torch.Tensor], Callable[..., Any]] | None:
    """torch's function and the options for it, where this torch has them."""
    try:
        from torch.nn import LinearCrossEntropyOptions
        from torch.nn.functional import linear_cross_entropy
    except ImportError:
        return None
    return linear_cross_entropy, LinearCrossEntropyOptions


def liger_cross_entropy(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, chunk: int
) -> torch.Tensor:
    """Liger's: logits in the precision of the product, everything behind them in fp32. It chooses its own chunks."""
    kernel = liger_kernel()
    assert kernel is not None
    device_type = hidden_ND.device.type
    # Within it, autocast would round the weight anew for every chunk.
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else weight_VD.dtype
    loss = kernel(hidden_ND.to(dtype), weight_VD.to(dtype), targets_N, reduction="sum", accum_dtype=torch.float32)
    return loss.float()


def torch_cross_entropy(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, chunk: int
) -> torch.Tensor:
    """torch's, in fp32 throughout: given bf16 it would return the sum in bf16."""
    found = torch_kernel()
    assert found is not None
    kernel, options = found
    # Left to itself it takes far smaller chunks, and three times as long.
    chosen = options(batch_chunk_size=min(chunk, len(targets_N)))
    with torch.autocast(hidden_ND.device.type, enabled=False):
        return kernel(hidden_ND.float(), weight_VD.float(), targets_N, reduction="sum", options=chosen)


FUSED = {"liger": liger_cross_entropy, "torch": torch_cross_entropy}
"""[N, D], [V, D] and the targets of N positions -> the sum of their losses; the last argument is how many logits may
exist at a time."""
