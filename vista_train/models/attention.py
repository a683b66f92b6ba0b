"""Attention over packed rows: which kernel runs it, and what tells that kernel where one sample ends."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available


def choose_attention(device_type: str) -> str:
    """The transformers name of the kernel for a device ("cuda", "cpu", ...): flash-attn where it can run, else sdpa.

    flash-attn computes in fp16 or bf16: on a device it is chosen for, train under autocast or in half precision.
    """
    return "flash_attention_2" if device_type == "cuda" and is_flash_attn_2_available() else "sdpa"


def describe_attention(name: str) -> str:
    """One line on what a choice means for a run."""
    match name:
        case "flash_attention_2":
            return f"flash-attn {importlib.metadata.version('flash-attn')}, variable length: memory grows with a row"
        case "sdpa":
            return f"sdpa (torch {torch.__version__}), dense mask: memory grows with the square of a packed row"
        case _:
            return name


def packing_kwargs(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """The bounds of the samples in a row, as flash-attn wants them; sdpa reads restarting positions instead.

    Both need `attention_mask=None` and `use_cache=False` in the same call: with either, samples see one another.
    """
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    longest = max(lengths)
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
