"""What a GPU does with packed rows: a LongVA-shaped model with random weights trains on composed videos of real clips.

    python scripts/bench/gpu.py --root clips [--parts throughput longest] [--steps 12] [--json]
    python scripts/bench/gpu.py --root clips --tiny

`throughput`: 1.5 B parameters trained in full and 7 B by LoRA, in rows of 32K and 64K tokens; `beside` each, in the
same run, the same model and samples as the published recipe drives them (transformers' Trainer, one unpacked sample at
a time, all logits at once, its own checkpointing). tokens/s counts all tokens of a step against its whole time, the
wait for data included; MFU is that of the log, in which recomputed activations are no work. Peak memory is what the
allocator held at most. Medians leave out the first steps.

The bound is what the device could do with these samples: T = P (k + 1) / R + A / R_f + 3 A / R_b + V v / R. P are the
products of one forward pass of the decoder, A its attention, V the vision tower; k is 3 trained in full, 2 by LoRA, and
1 is added for the layers that are computed again; A runs twice forwards and once backwards; v is 4 trained, 1 frozen. R
is the rate measured here on a product as wide as the decoder's MLP, R_f and R_b those of the attention kernel at the
samples' length, forwards alone and with the backward pass. Bound on tokens/s = tokens / T, bound on MFU = counted FLOPs
/ (T x the maker's peak).

`longest`: the most frames of one video that a LoRA step of 7 B takes, plain (each layer's input is kept) and spared
(that input in the memory of the host, the MLP in tiles), found by doubling and halving.

`--tiny` runs every phase on a CPU in small: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vista_train.models.base import Compute
from vista_train.training.meters import peak_of

PHASES = Path(__file__).with_name("gpu_phases.py")
REAL = {
    "throughput": [("longva_1_5b", "full"), ("longva_7b", "lora")],
    "rows": (32_768, 65_536),
    "longest": "longva_7b",
    "frames_per_sample": 110,
    "first": 512,
    "most": 8192,
}
TINY = {
    "throughput": [("longva", "full"), ("longva", "lora")],
    "rows": (512, 1024),
    "longest": "longva",
    "frames_per_sample": 8,
    "first": 8,
    "most": 16,
}
PRECISE = 1.05
"""The longest row is known once the shortest that did not fit is no more than so many times as long."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder of clips with clips.jsonl")
    parser.add_argument("--out", type=Path, default=Path("out/bench_gpu"), help="configurations, logs and caches")
    parser.add_argument("--parts", nargs="+", default=["throughput", "longest"], choices=["throughput", "longest"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8, help="samples in a step")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="every phase in small, in this process")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny runs every phase in small on a CPU")
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }
    if "throughput" in args.parts:
        figures["throughput"] = throughput(args)
    if "longest" in args.parts:
        figures["longest"] = longest(args)
    show(figures)
    if args.json:
        print(json.dumps(figures))
    return 0


def throughput(args: argparse.Namespace) -> list[dict[str, Any]]:
    """For each model and length of rows: ours, the published way, and the bound."""
    sizes = TINY if args.tiny else REAL
    found = []
    for kind, tuning in sizes["throughput"]:
        for tokens in sizes["rows"]:
            told = {"kind": kind, "tuning": tuning, "row_tokens": tokens, "frames": sizes["frames_per_sample"]}
            ours = run(args, "ours", told)
            if "failed" in ours:
                found.append({**told, "ours": ours})
                continue
            lengths = sorted({tokens_in for tokens_in, *_ in ours["samples"]})
            rates = run(args, "rates", {**told, "lengths": [lengths[len(lengths) // 2]]})
            found.append(
                {
                    **told,
                    "ours": {name: value for name, value in ours.items() if name not in ("compute", "samples")},
                    "beside": run(args, "beside", told),
                    "rates": rates,
                    "bound": bound(Compute(**ours["compute"]), ours["samples"], tuning == "full", rates),
                }
            )
    return found


def bound(
    compute: Compute, samples: Sequence[Sequence[int]], trained: bool, rates: Mapping[str, Any]
) -> dict[str, float | None]:
    """The most tokens a second, and MFU, that the device can have with these samples (see above)."""
    rate = rates["matmul_tflops"] * 1e12
    (attention,) = rates["attention_tflops"].values()
    forward, both = attention["forward"] * 1e12, attention["both"] * 1e12
    seconds, counted = 0.0, 0.0
    for tokens, labels, sequences, patches in samples:
        counted += compute.flops(tokens, labels, sequences, patches)
        language = 2 * compute.language_params * tokens + 2 * compute.vocab_size * compute.language_width * labels
        seen = 2 * compute.language_layers * (compute.attention_width or compute.language_width) * tokens**2
        vision = 2 * compute.vision_params * patches + 4 * compute.vision_layers * compute.vision_width * patches**2
        seconds += language * (compute.language_passes + 1) / rate + seen / forward + 3 * seen / both
        seconds += sequences * vision * (4 if trained else 1) / rate
    peak = peak_of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    tokens_per_second = sum(tokens for tokens, *_ in samples) / seconds
    return {"tokens_per_second": tokens_per_second, "mfu": counted / seconds / (peak * 1e12) if peak else None}


def longest(args: argparse.Namespace) -> dict[str, Any]:
    """The most frames that fit, plain and spared."""
    sizes = TINY if args.tiny else REAL
    found: dict[str, Any] = {}
    for name, spared in (("plain", False), ("spared", True)):
        tried: dict[int, Any] = {}

        def fits(frames: int, spared: bool = spared, tried: dict[int, Any] = tried) -> bool:
            told = {"kind": sizes["longest"], "tuning": "lora", "frames": frames, "spared": spared, "row_tokens": 0}
            tried[frames] = run(args, "fits", told)
            return bool(tried[frames]["fits"])

        most = most_that_fit(fits, sizes["first"], sizes["most"])
        found[name] = {"frames": most, "at_least": most == sizes["most"], **(tried[most] if most else {})}
    return found


def most_that_fit(fits: Callable[[int], bool], first: int, most: int) -> int:
    """The largest number that fits, to PRECISE, of those up to `most`; 0 if not even 1 does."""
    good, bad, at = 0, most + 1, first
    while good < most and (good == 0 or bad > good * PRECISE) and bad - good > 1:
        if fits(at):
            good = at
        else:
            bad = at
        at = min(2 * good, most) if bad > most else (good + bad) // 2
    return good


def run(args: argparse.Namespace, phase: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """A phase in a process of its own, whose memory is its own; in small, in this one."""
    common = {"out": str(args.out), "root": str(args.root), "steps": args.steps, "batch": args.batch}
    asked = {**common, "workers": args.workers, "phase": phase, **told}
    print(f"bench: {phase} {json.dumps(dict(told))}", file=sys.stderr, flush=True)
    if args.tiny:
        sys.path.insert(0, str(PHASES.parent))
        import gpu_phases

        return dict(gpu_phases.PHASES[phase](asked))
    done = subprocess.run(
        [sys.executable, str(PHASES), json.dumps(asked)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        return {"failed": f"ended with {done.returncode}", "fits": False}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show(figures: Mapping[str, Any]) -> None:
    """A table for people."""
    print(f"{figures['device']}, torch {figures['torch']}")
    for case in figures.get("throughput", ()):
        if "failed" in case["ours"]:
            print(f"{case['kind']} {case['tuning']}, rows of {case['row_tokens']}: {case['ours']['failed']}")
            continue
        ours, beside, most = case["ours"], case["beside"], case["bound"]
        rate, other = ours["tokens_per_second"], beside.get("tokens_per_second")
        print(
            f"{case['kind']} {case['tuning']}, rows of {case['row_tokens']}: {rate:.0f} tokens/s, "
            f"MFU {percent(ours['mfu'])}, data wait {percent(ours['data_wait'])}, peak {gib(ours['peak_memory_gib'])}; "
            f"bound {most['tokens_per_second']:.0f} tokens/s, MFU {percent(most['mfu'])}: "
            f"{percent(rate / most['tokens_per_second'])} of it; the published way "
            + (
                f"{other:.0f} tokens/s, peak {gib(beside['peak_memory_gib'])}: {rate / other:.2f}x"
                if other
                else "failed"
            )
        )
    for name, found in figures.get("longest", {}).items():
        more = " or more" if found["at_least"] else ""
        print(f"longest {name}: {found['frames']}{more} frames, {found.get('tokens', 0)} tokens, "
              f"peak {gib(found.get('peak_memory_gib'))}")  # fmt: skip


def percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def gib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())
