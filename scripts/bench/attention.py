"""Attention of one decoder layer over packed rows by every kernel: how far from a dense mask, how long, how large.

    python scripts/bench/attention.py [--rows 8x512 1x4096 1200,500,200,100,48] [--precision fp32 bf16] [--json]

`dense` is sdpa under a mask over the row, `by_sample`, `varlen` and `flash` are the other kinds of `train.attention`,
called as transformers calls them; one that cannot run here is left out, and it says so. A run is forward and backward
pass, to gradients of queries, keys and values. The dense mask is made once for all layers of a model: its memory
counts, its time does not. Ways take turns in one process; medians of the repeats count. Memory: see side_by_side.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from side_by_side import Result, Way, compare, peak_mb, print_table
from torch import nn
from transformers import AttentionInterface, Qwen2Config

from vista_train.models.attention import NAMES, choose_attention, packing_kwargs

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Layer(nn.Module):
    """What attention functions ask of the layer that calls them."""

    is_causal = True
    layer_idx = 0

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    rows = ["16x2048", "1x32768", "12000,5000,2000,1000,480"] if on_gpu else ["8x512", "1x4096", "1200,500,200,100,48"]
    parser.add_argument("--rows", nargs="+", default=rows, help="samples x tokens, or the tokens of each sample")
    parser.add_argument(
        "--heads", type=int, nargs=2, default=[28, 4] if on_gpu else [14, 2], help="of queries and keys"
    )
    parser.add_argument("--width", type=int, default=128 if on_gpu else 64, help="of a head")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["bf16"] if on_gpu else ["fp32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--memory-of", nargs=3, metavar=("PRECISION", "ROW", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    config = Qwen2Config(
        hidden_size=args.heads[0] * args.width, num_attention_heads=args.heads[0], num_key_value_heads=args.heads[1]
    )
    if args.memory_of:
        precision, row, way = args.memory_of
        # Libraries that the first call loads are not its memory.
        attended(way, config, [3, 2], problem(config, [3, 2], PRECISIONS[precision], device))()
        inputs = problem(config, lengths_of(row), PRECISIONS[precision], device)
        print(peak_mb(partial(attended, way, config, lengths_of(row), inputs), device))
        return
    sizes = ["--heads", *map(str, args.heads), "--width", str(args.width)]
    figures = []
    for precision in args.precision:
        for row in args.rows:
            lengths = lengths_of(row)
            inputs = problem(config, lengths, PRECISIONS[precision], device)
            made = {
                name: partial(attended, name, config, lengths, inputs) for name in runnable(device, config, precision)
            }
            found = compare(made, device, args.repeats, [__file__, *sizes, "--memory-of", precision, row])
            print_table(f"{precision}, {sum(lengths)} tokens in {len(lengths)} samples ({row})", found)
            figures.append({"precision": precision, "row": row, "ways": found})
    print(f"train.attention: auto is {choose_attention(device.type, config)} on this machine")
    if args.json:
        print(json.dumps({"device": device.type, "auto": choose_attention(device.type, config), "figures": figures}))


def runnable(device: torch.device, config: Qwen2Config, precision: str) -> list[str]:
    """The kinds that can run here, the plain one first."""
    found = []
    for kind in reversed(NAMES if precision == "bf16" else ("by_sample", "dense")):
        try:
            found.append(choose_attention(device.type, config, kind))  # type: ignore[arg-type]
        except ValueError as reason:
            print(f"{kind} is left out: {reason}")
    return found


def lengths_of(row: str) -> list[int]:
    """The tokens of each sample."""
    count, _, length = row.rpartition("x")
    return [int(length)] * int(count) if count else [int(number) for number in row.split(",")]


def problem(config: Qwen2Config, lengths: list[int], dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """Queries, keys and values [1, heads, L, width], as a decoder's layer has them."""
    generator, width = torch.Generator().manual_seed(0), config.hidden_size // config.num_attention_heads
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    made = [torch.randn(1, sum(lengths), count, width, generator=generator) for count in heads]
    return [tensor.to(device, dtype).transpose(1, 2).requires_grad_() for tensor in made]


def attended(kind: str, config: Qwen2Config, lengths: list[int], inputs: list[torch.Tensor]) -> Way:
    """One layer's attention, forward and backward."""
    device = inputs[0].device
    config._attn_implementation = NAMES[kind]
    function: Callable[..., Any] = AttentionInterface()[NAMES[kind]]
    layer, kwargs = Layer(config), packing_kwargs(lengths, device)
    mask = dense_mask(lengths, device) if kind == "dense" else None
    scaling = (config.hidden_size // config.num_attention_heads) ** -0.5

    def run() -> Result:
        for tensor in inputs:
            tensor.grad = None
        out = function(layer, *inputs, mask, dropout=0.0, scaling=scaling, **kwargs)[0]
        out.square().sum().backward()
        return out.detach(), [tensor.grad for tensor in inputs if tensor.grad is not None]

    return run


def dense_mask(lengths: list[int], device: torch.device) -> torch.Tensor:
    """Who sees whom in a row, [1, 1, L, L]."""
    sample_L = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    at_L = torch.arange(len(sample_L), device=device)
    return ((sample_L[:, None] == sample_L) & (at_L[:, None] >= at_L))[None, None]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
