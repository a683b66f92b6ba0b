"""The loss from hidden states and head by every kernel: how far from full logits, how long, and in how much memory.

    python scripts/bench/loss.py [--tokens 2048] [--labelled 0.25] [--precision fp32 bf16] [--repeats 5] [--json]

`plain` computes the logits of all tokens in fp32 and sums the cross entropy of those that carry a label; `gathered`
does so for those alone. `chunked`, `torch` and `liger` are the kinds of `train.loss`; one that cannot run here is left
out, and it says so. A run is forward and backward pass, to gradients of hidden states and head. bf16 is autocast over
fp32 weights: there, `plain` rounds its logits, and `torch` computes in fp32, so that they differ by that rounding;
`exact` errors are against fp32. Ways take turns in one process; medians of the repeats count. Memory: see
side_by_side.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial

import torch
from side_by_side import Result, Way, compare, error, peak_mb, print_table
from torch import nn
from torch.nn import functional

from vista_train.training.loss import KINDS, choose_loss, summed_cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--tokens", type=int, default=16_384 if on_gpu else 2048)
    parser.add_argument("--labelled", type=float, default=0.25, help="share of the tokens that carry a label")
    parser.add_argument("--width", type=int, default=3584 if on_gpu else 896, help="of the hidden states")
    parser.add_argument("--vocab", type=int, default=152_064 if on_gpu else 32_000)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--memory-of", nargs=2, metavar=("PRECISION", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    if args.memory_of:
        precision, way = args.memory_of
        # Libraries that the first call loads are not its memory.
        small = argparse.Namespace(tokens=8, width=8, vocab=8, labelled=0.5)
        hidden_LD, labels_L, head = problem(small, device)
        ways(head)[way](hidden_LD, labels_L, head, precision == "bf16")()
        hidden_LD, labels_L, head = problem(args, device)
        print(peak_mb(partial(ways(head)[way], hidden_LD, labels_L, head, precision == "bf16"), device))
        return
    sizes = [f"--{name}={getattr(args, name)}" for name in ("tokens", "labelled", "width", "vocab")]
    figures = {}
    for precision in args.precision:
        hidden_LD, labels_L, head = problem(args, device)
        made = {
            name: partial(make, hidden_LD, labels_L, head, precision == "bf16") for name, make in ways(head).items()
        }
        figures[precision] = compare(made, device, args.repeats, [__file__, *sizes, "--memory-of", precision])
        if precision == "bf16":
            exact = plain(hidden_LD, labels_L, head, False)()
            for name, make in made.items():
                figures[precision][name]["exact_value_error"] = error(make()()[:1], exact[:1])
        print_table(f"{precision}, {args.tokens} tokens, {int((labels_L != -100).sum())} labels", figures[precision])
    chosen = {p: choose_loss("auto", nn.Linear(2, 2, bias=False), device.type, p == "bf16").kind for p in figures}
    print(f"train.loss: auto is {chosen} on this machine")
    if args.json:
        print(json.dumps({"device": device.type, "auto": chosen, "figures": figures}))


def ways(head: nn.Module) -> dict[str, Callable[[torch.Tensor, torch.Tensor, nn.Linear, bool], Way]]:
    """Those that can run here, the plain one first."""
    found = {"plain": plain, "gathered": gathered}
    for kind in KINDS:
        try:
            choose_loss(kind, head, next(head.parameters()).device.type)
        except ValueError as reason:
            print(f"{kind} is left out: {reason}")
            continue
        found[kind] = partial(summed, kind)
    return found


def problem(args: argparse.Namespace, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, nn.Linear]:
    """Noise as large as a trained model's hidden states, a head, and labels, the later tokens' as an answer's."""
    generator = torch.Generator().manual_seed(0)
    hidden_LD = torch.randn(args.tokens, args.width, generator=generator).to(device).requires_grad_()
    labels_L = torch.randint(args.vocab, (args.tokens,), generator=generator)
    labels_L[: round(args.tokens * (1 - args.labelled))] = -100
    head = nn.Linear(args.width, args.vocab, bias=False, device=device)
    with torch.no_grad():
        head.weight.copy_(torch.randn(args.vocab, args.width, generator=generator) / args.width**0.5)
    return hidden_LD, labels_L.to(device), head


def taken(
    loss: Callable[[], torch.Tensor], hidden_LD: torch.Tensor, labels_L: torch.Tensor, head: nn.Linear, in_half: bool
) -> Way:
    """Forward and backward pass, of a mean as a step has it."""

    def run() -> Result:
        hidden_LD.grad = head.weight.grad = None
        with torch.autocast(hidden_LD.device.type, torch.bfloat16, enabled=in_half):
            total = loss()
        (total / (labels_L != -100).sum()).backward()
        assert hidden_LD.grad is not None
        assert head.weight.grad is not None
        return total.detach(), [hidden_LD.grad, head.weight.grad]

    return run


def plain(hidden_LD: torch.Tensor, labels_L: torch.Tensor, head: nn.Linear, in_half: bool) -> Way:
    def loss() -> torch.Tensor:
        logits_LV = head(hidden_LD).float()
        return functional.cross_entropy(logits_LV[:-1], labels_L[1:], ignore_index=-100, reduction="sum")

    return taken(loss, hidden_LD, labels_L, head, in_half)


def gathered(hidden_LD: torch.Tensor, labels_L: torch.Tensor, head: nn.Linear, in_half: bool) -> Way:
    def loss() -> torch.Tensor:
        at = (labels_L[1:] != -100).nonzero().squeeze(1)
        return functional.cross_entropy(head(hidden_LD[at]).float(), labels_L[1:][at], reduction="sum")

    return taken(loss, hidden_LD, labels_L, head, in_half)


def summed(kind: str, hidden_LD: torch.Tensor, labels_L: torch.Tensor, head: nn.Linear, in_half: bool) -> Way:
    return taken(lambda: summed_cross_entropy(hidden_LD, labels_L, head, kind=kind), hidden_LD, labels_L, head, in_half)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
