"""Run by `accelerate launch` in each of several processes: one engine, all its cases, each rank's figures to a file."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import DistributedType, PartialState

from vista_train.config import parse_recipe
from vista_train.data.collate import PackedCollator
from vista_train.models import load_family, offload
from vista_train.models.adapters import LoraSettings
from vista_train.models.tiny import TinySettings
from vista_train.train import train
from vista_train.training import checkpoint
from vista_train.training.loop import Trainer, shut_down
from vista_train.training.optimizer import OptimizerSettings, PartSettings
from vista_train.training.settings import LoopSettings, Recomputed
from vista_train.types import Encoded, Message, Row, Sample
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

STEPS = 4
UNLABELLED = 2
"""The step whose rows have no label at all."""
SMALL = TinySettings(vision_width=32, language_width=64, language_layers=2, seed=1)
VIEW = View(frames=2, width=56, height=56, min_pixels=7)
KINDS = ("video", "picture", "text", "video", "text", "picture", "video")
ADAPTED = PartSettings(lora=LoraSettings(r=4, dropout=0.0))
pack = PackedCollator()


def set_up_cpu() -> None:
    """Let engines made for GPUs run on a CPU, over gloo."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        # Else a shared-memory exchange is compiled, for minutes.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        PartialState(cpu=True)
        # Accelerate takes DDP for FSDP on a CPU, unless it believes that there are GPUs.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def samples(step: int, codec: Any) -> list[Encoded]:
    """The samples of a step: videos, pictures and words, of unlike length."""
    noise = torch.Generator().manual_seed(step)
    out = []
    for number, kind in enumerate(KINDS):
        count = {"video": 2, "picture": 1, "text": 0}[kind]
        frames_TCHW = torch.randint(0, 256, (count, 3, 56, 56), dtype=torch.uint8, generator=noise)
        words = (
            Message("user", "What is it? " * (1 + number % 3)),
            Message("assistant", "word " * (1 + (step + number) % 5)),
        )
        sample = Sample(Clip.from_frames(frames_TCHW, 1) if count else None, words, (), kind)
        plan = codec.plan(sample)
        if not count:
            frames_TCHW = torch.zeros((0, 3, 0, 0), dtype=torch.uint8)
        out.append(codec.encode(sample, plan, frames_TCHW, number))
    return out


def rows_of(chosen: Sequence[Encoded], rank: int, ranks: int, micro_steps: int) -> list[Row]:
    """One rank's rows: the samples in turn, but none for the last rank's first row, which stays empty."""
    slots: list[list[Encoded]] = [[] for _ in range(ranks * micro_steps)]
    open_slots = [slot for slot in range(len(slots)) if len(slots) == 1 or slot != ranks - 1]
    for number, sample in enumerate(chosen):
        slots[open_slots[number % len(open_slots)]].append(sample)
    return [pack(slots[micro * ranks + rank]) for micro in range(micro_steps)]


def trajectory(micro_steps: int, spared: bool = False, **optimizer: Any) -> dict[str, Any]:
    """The engine, and (loss, gradient norm) of each step. One step in the middle has no label at all.

    `spared`: frames one at a time, layers computed again from what the host holds of them, MLPs in tiles.
    """
    family = load_family("tiny", SMALL, VIEW)
    settings = OptimizerSettings(lr=1e-3, **{"clip_norm": 1.0, **optimizer})
    ways = {"vision_chunk": 1, "gradient_checkpointing": Recomputed("offload"), "tiled_mlp": 64} if spared else {}
    with mock.patch.object(offload, "LEAST_BYTES", 1):
        trainer = Trainer(family, loop=LoopSettings(steps=STEPS, **ways), optimizer=settings)
    rank, ranks = trainer.ranks.rank, trainer.ranks.count
    out = []
    for step in range(STEPS):
        rows = rows_of([] if step == UNLABELLED else samples(step, family.codec), rank, ranks, micro_steps)
        result = trainer.step(rows)
        out.append((result["loss"], result["grad_norm"]))
    return {"engine": trainer.engine.told, "steps": out}


def cut_back(source: Path, target: Path, step: int) -> None:
    """A run as it lay on the disk after the checkpoint of a step, with the log of later ones."""
    shutil.copytree(source, target)
    for path in checkpoint.published(target):
        if path.name != f"step-{step:06d}":
            shutil.rmtree(path)


def run_recipes(recipes: Sequence[dict[str, Any]]) -> None:
    """Train each recipe; a key `cut_from`: [output, step] says which run it takes up, and where."""
    for data in recipes:
        source = data.pop("cut_from", None)
        if source and int(os.environ.get("RANK", "0")) == 0:
            cut_back(Path(source[0]), Path(data["output"]), source[1])
        if source and torch.distributed.is_initialized():
            torch.distributed.barrier()
        train(parse_recipe(data))


def main(path: str) -> None:
    set_up_cpu()
    asked = json.loads(Path(path).read_text())
    cases = {}
    if asked.get("cases"):
        cases = {f"micro_{count}": trajectory(count) for count in (1, 3)}
        cases["frozen"] = trajectory(1, vision=False)
        cases["lora"] = trajectory(1, vision=False, language=ADAPTED)
        cases["spared"] = trajectory(1, spared=True)
        cases["spared_lora"] = trajectory(1, spared=True, vision=False, language=ADAPTED)
    run_recipes(asked.get("recipes", []))
    if int(os.environ.get("RANK", "0")) == 0:
        Path(asked["out"]).write_text(json.dumps(cases))
    shut_down()


if __name__ == "__main__":
    main(sys.argv[1])
