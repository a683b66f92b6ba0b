"""What a GPU does with packed rows: a LongVA-shaped model with random weights trains on composed videos for some steps.

    python scripts/bench/gpu.py [--kind longva_1_5b] [--root clips] [--steps 20] [--json]

tokens/s counts all tokens of a step against its whole time, the wait for data included. MFU is the planned FLOPs of the
step, vision tower and projector in it, over what the GPU could do in that time in bf16; recomputed activations do not
count as work. Peak memory is what the allocator held at most. Medians leave out the first steps, which warm up.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vista_train.config import parse_recipe
from vista_train.models.attention import describe_attention
from vista_train.train import train

SCRIPTS = Path(__file__).parents[1]
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 FLOPs a second from the makers' data sheets, by a part of the GPU's name."""
WARM_UP = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="longva_1_5b", help="a checkpoint that scripts/make_checkpoint.py makes")
    parser.add_argument("--root", type=Path, required=True, help="a folder of clips with clips.jsonl")
    parser.add_argument("--out", type=Path, default=Path("out/bench_gpu"), help="checkpoint, log and caches")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8, help="samples in a step")
    parser.add_argument("--max-row-tokens", type=int, default=16_384)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    figures = measure(args)
    for name, value in figures.items():
        print(f"{name:24}{value:.4g}" if isinstance(value, float) else f"{name:24}{value}")
    if args.json:
        print(json.dumps(figures))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train, and read the log."""
    run = args.out / "run"
    if run.exists():
        raise SystemExit(f"{run} is there from an earlier run; remove it")
    checkpoint = args.out / args.kind
    if not (checkpoint / "config.json").exists():
        make_checkpoint().make(args.kind, checkpoint)
    side = json.loads((checkpoint / "config.json").read_text())["vision_config"]["image_size"]
    recipe = parse_recipe(
        {
            "output": str(run),
            "family": {"name": "longva", "path": str(checkpoint), "max_tokens": args.max_row_tokens},
            "view": {"frames": args.frames, "width": side, "height": side, "min_pixels": min(14, side // 8)},
            "data": {"root": str(args.root), "cache": str(args.out / "cache")},
            "augment": {
                "long_video_caption": {"same_source": False, "max_clips": 4},
                "temporal_needle": {},
                "spatio_temporal_needle": {},
                "video_grid": {"rows": 4, "columns": 4},
            },
            "train": {
                "steps": args.steps, "batch_samples": args.batch, "max_row_tokens": args.max_row_tokens,
                "gradient_checkpointing": True, "workers": args.workers, "lr": 1e-5, "save_every": 1_000_000,
                "max_failed_share": 0.15,
            },
        }
    )  # fmt: skip
    trainer = train(recipe)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    peak = next((flops for part, flops in PEAKS.items() if part in name), None)
    kept = lines[WARM_UP:] or lines
    rates = [achieved(trainer.dataset, line, args.batch) for line in kept]
    return {
        "device": name,
        "model": f"{sum(p.numel() for p in trainer.model.parameters()) / 1e9:.2f} B parameters",
        "attention": describe_attention(trainer.model.config._attn_implementation),
        "steps": len(lines),
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in kept),
        "tokens_per_step": statistics.median(line["tokens"] for line in kept),
        "rows_per_step": statistics.median(line["rows"] for line in kept),
        "seconds_per_step": statistics.median(line["seconds"] for line in kept),
        "data_wait": statistics.median(line["data_wait"] for line in kept),
        "tflops": statistics.median(rates) / 1e12,
        "mfu": statistics.median(rates) / peak if peak else "unknown GPU",
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else "no GPU",
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
    }


def achieved(dataset: Any, line: dict[str, Any], batch: int) -> float:
    """FLOPs a second of one step of the log, as planned."""
    first = (line["step"] - 1) * batch
    return sum(dataset.plan(position).cost for position in range(first, first + batch)) / line["seconds"]


def make_checkpoint() -> ModuleType:
    """`make_checkpoint.py` as a module; scripts are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", SCRIPTS / "make_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
