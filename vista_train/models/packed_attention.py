"""Attention of a decoder within each sample of a packed row, as transformers calls it: sample by sample, or in torch's
kernel for sequences of any length.

Neither needs a mask over the row, nor spends work on pairs of tokens in two samples. Registered with transformers under
names of our own; a model that they are set on may still be given batches, masks and caches, as for generating, and then
computes as sdpa does.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_SAMPLE, VARLEN = "sdpa_by_sample", "torch_varlen"
"""What transformers knows them by. No name may hold "flash": towers that see it call flash-attn themselves."""
VARLEN_MODULE = "torch.nn.attention.varlen"
VARLEN_NEEDS = {"scale", "window_size", "enable_gqa"}
"""Arguments that the first releases of the kernel lack."""
HALF = (torch.float16, torch.bfloat16)
REFUSED = ("softcap", "s_aux", "position_bias")
"""What changes the scores, and neither kernel computes."""


def varlen_kernel() -> Callable[..., torch.Tensor] | None:
    """torch's kernel, where this torch has one that takes all that a decoder needs."""
    try:
        found = importlib.import_module(VARLEN_MODULE)
    except ImportError:
        return None
    kernel: Callable[..., torch.Tensor] = found.varlen_attn
    return kernel if set(inspect.signature(kernel).parameters) >= VARLEN_NEEDS else None


def by_sample(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """[1, heads, L, d] -> [1, L, heads, d]: scaled_dot_product_attention within each sample of the row, one by one."""
    _refuse(kwargs)
    lengths = _lengths(query, key, attention_mask, kwargs)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        is_causal = kwargs.get("is_causal")
        out, _ = sdpa_attention_forward(module, q, k, v, mask, dropout=dropout, scaling=scaling, is_causal=is_causal)
        return out

    if lengths is None:
        return attend(query, key, value, attention_mask), None
    pieces: list[torch.Tensor] = []
    split = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    for q, k, v in zip(*split, strict=True):
        pieces += _in_window(attend, q, k, v, sliding_window)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1), None


def varlen(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """[1, heads, L, d] -> [1, L, heads, d]: the whole row in one call of torch's kernel.

    It computes in half precision and drops nothing: in single precision, and with dropout, it is `by_sample`.
    """
    _refuse(kwargs)
    bounds, dtype = kwargs.get("cu_seq_lens_q"), _half(query)
    if bounds is None or attention_mask is not None or dtype is None or dropout:
        return by_sample(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **kwargs
        )
    from torch.nn.attention.varlen import varlen_attn

    longest = kwargs["max_length_q"]
    # A window of w keys reaches w - 1 back; the kernel counts those.
    back = sliding_window - 1 if sliding_window is not None and longest > sliding_window else -1
    kernel: Any = varlen_attn
    out_LHD: torch.Tensor = kernel(
        *(tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value)),
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(back, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out_LHD[None], None


def mask_outside(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *args: Any,
    attention_mask: torch.Tensor | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """None where the functions above need none; else what sdpa is given, such as for padding and caches."""
    if attention_mask is None and q_length == kv_length and not use_vmap:
        return None
    mask: torch.Tensor | None = sdpa_mask(
        batch_size, q_length, kv_length, *args, attention_mask=attention_mask, use_vmap=use_vmap, **kwargs
    )
    return mask


for _name, _function in ((BY_SAMPLE, by_sample), (VARLEN, varlen)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, mask_outside)


def _refuse(kwargs: dict[str, Any]) -> None:
    for name in REFUSED:
        if kwargs.get(name) is not None:
            raise ValueError(f"this decoder's attention has {name}; choose train.attention: flash or dense")
    if kwargs.get("is_causal") is False:
        raise ValueError("this decoder's attention is not causal; choose train.attention: dense")


def _lengths(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, kwargs: dict[str, Any]
) -> list[int] | None:
    """Tokens of each sample in the row; None where a mask says who sees whom, or a cache comes before."""
    bounds, lengths = kwargs.get("cu_seq_lens_q"), kwargs.get("sample_lengths")
    if lengths is None and bounds is not None:
        lengths = bounds.diff().tolist()
    if lengths is not None and attention_mask is not None:
        raise ValueError("a packed row has both the bounds of its samples and a mask; it must have bounds alone")
    if lengths is not None:
        return list(lengths)
    if attention_mask is not None or query.shape[2] != key.shape[2]:
        return None
    positions = kwargs.get("position_ids")
    if positions is not None and positions.ndim == 2 and bool((positions.diff() < 1).any()):
        raise ValueError("positions begin again within a row that has no cu_seq_lens_q; samples would see one another")
    return [query.shape[2]]


def _in_window(
    attend: Callable[..., torch.Tensor], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> Sequence[torch.Tensor]:
    """One sample; where queries see no more than `window` keys, in stretches of so many, each with the keys it sees."""
    length = query.shape[2]
    if window is None or length <= window:
        return [attend(query, key, value, None)]
    pieces = []
    for first in range(0, length, window):
        last, start = min(first + window, length), max(0, first - window + 1)
        mask = None
        if start:
            queries, keys = (torch.arange(begin, last, device=query.device) for begin in (first, start))
            back = queries[:, None] - keys
            mask = ((back >= 0) & (back < window))[None, None]
        pieces.append(attend(query[:, :, first:last], key[:, :, start:last], value[:, :, start:last], mask))
    return pieces


def _half(query: torch.Tensor) -> torch.dtype | None:
    """The half precision to compute in; None where nothing asks for one. Under autocast, rotated queries are fp32."""
    if query.dtype in HALF:
        return query.dtype
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
