"""Attention over packed rows: which kernel runs it, and what tells that kernel where one sample ends."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedConfig
from transformers.utils import is_flash_attn_2_available

from vista_train.models.packed_attention import BY_SAMPLE, VARLEN, varlen_kernel

Attention = Literal["auto", "flash", "varlen", "by_sample", "dense"]
NAMES = {"flash": "flash_attention_2", "varlen": VARLEN, "by_sample": BY_SAMPLE, "dense": "sdpa"}
"""What transformers knows each choice by."""
LEAST_CAPABILITY = (8, 0)
"""Of a GPU that torch's kernel for sequences of any length runs on."""
WIDEST_HEAD = 256


def lacks_of(device_type: str, config: PreTrainedConfig | None = None) -> dict[str, str]:
    """What each kernel that not every machine runs needs and does not have here; "" where it can run.

    Without a configuration, a decoder is taken to suit every kernel.
    """
    text = None if config is None else config.get_text_config()
    return {"flash": _flash_lacks(device_type), "varlen": _varlen_lacks(device_type, text)}


def choose_attention(device_type: str, config: PreTrainedConfig | None = None, asked: Attention = "auto") -> str:
    """Which of NAMES runs in the decoder on a device ("cuda", "cpu", ...).

    `auto` is the first that can of flash-attn, torch's kernel for sequences of any length, and sdpa sample by sample,
    which is faster and smaller than sdpa under a dense mask (scripts/bench/attention.py). `ValueError` where the one
    that is asked for cannot run.
    """
    if asked != "auto" and asked not in NAMES:
        raise ValueError(f"train.attention is {asked!r}; it must be auto, {', '.join(NAMES)}")
    lacks = lacks_of(device_type, config)
    if asked == "auto":
        return next(choice for choice in NAMES if not lacks.get(choice))
    if lacks.get(asked):
        raise ValueError(f"train.attention is {asked!r}, which needs {lacks[asked]}; leave it auto, or take by_sample")
    return asked


def implementations(choice: str, config: PreTrainedConfig) -> str | dict[str, str]:
    """The choice in transformers' words: flash-attn is for the whole model, all else for its decoder alone.

    Vision towers do not pack, and keep sdpa.
    """
    if choice == "flash":
        return NAMES[choice]
    text = config.get_text_config()
    parts = dict.fromkeys(config.sub_configs, "sdpa")
    return {"": "sdpa", **parts, **{name: NAMES[choice] for name in parts if getattr(config, name) is text}}


def describe_attention(name: str) -> str:
    """One line on what a decoder's attention means for a run, by the name that transformers knows it by."""
    match name:
        case "flash_attention_2":
            return f"flash-attn {importlib.metadata.version('flash-attn')}, variable length: memory grows with a row"
        case "torch_varlen":
            return f"varlen of torch {torch.__version__}, in half precision: memory grows with a row"
        case "sdpa_by_sample":
            return f"sdpa of torch {torch.__version__}, sample by sample: memory grows with a row"
        case "sdpa":
            return f"sdpa of torch {torch.__version__}, dense mask: memory grows with the square of a packed row"
        case _:
            return name


def packing_kwargs(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """The bounds of the samples in a row, as kernels for packed rows want them; a dense mask is made of restarting
    positions instead.

    All need `attention_mask=None` and `use_cache=False` in the same call: with either, a dense mask lets samples see
    one another.
    """
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
        # Read back from the device, they would make every layer wait for it.
        "sample_lengths": tuple(lengths),
    }


def head_width(text: PreTrainedConfig) -> int:
    """Width of one of a decoder's attention heads."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def window_of(text: PreTrainedConfig) -> int | None:
    """The most tokens that one sees, itself included; None unless every layer of the decoder has such a window."""
    kinds = set(getattr(text, "layer_types", None) or ("sliding_attention",))
    return getattr(text, "sliding_window", None) if kinds == {"sliding_attention"} else None


def _flash_lacks(device_type: str) -> str:
    """What keeps flash-attn from running; "" if nothing does. It computes in half precision, as do all GPU runs."""
    return "" if device_type == "cuda" and is_flash_attn_2_available() else "a CUDA GPU and flash-attn installed"


def _varlen_lacks(device_type: str, text: PreTrainedConfig | None) -> str:
    """What keeps torch's kernel from running; "" if nothing does."""
    if device_type != "cuda" or not torch.cuda.is_available():
        return "a CUDA GPU"
    if torch.cuda.get_device_capability() < LEAST_CAPABILITY or not torch.backends.cuda.is_flash_attention_available():
        return "a GPU of compute capability 8.0 and a torch built with its flash kernels"
    if varlen_kernel() is None:
        return "a newer torch"
    if text is None:
        return ""
    if getattr(text, "attention_dropout", 0):
        return f"a checkpoint without dropout of attention (it has {text.attention_dropout})"
    width = head_width(text)
    return "" if width % 8 == 0 and width <= WIDEST_HEAD else f"heads of a multiple of 8 up to 256 (not {width})"
