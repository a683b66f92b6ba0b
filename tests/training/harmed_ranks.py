"""Run in each process of a run: `vista_train.train`, on a slow file system, or with a rank that dies at a given call.

The variable HARM holds the fields of `Harm` as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save

from tests.training.engine_ranks import set_up_cpu
from vista_train.train import main
from vista_train.training import checkpoint, pieces
from vista_train.training.journal import Journal
from vista_train.training.meters import StepMeters
from vista_train.training.ranks import Ranks

LATE_SECONDS = 10
"""Long enough for the other rank to be done, and to do whatever it should not."""
RANK = int(os.environ.get("RANK", "0"))
POINTS = {"gather": (Ranks, "gathered"), "backward": (Accelerator, "backward"), "planning": (Ranks, "tables")}
"""Where a rank can die: the others then wait for it in the exchange between ranks, of gradients, of plans."""


@dataclass(frozen=True)
class Harm:
    """What goes wrong in a run."""

    trace: str = os.devnull
    """A file where a line tells which step was taken, and which save was begun, half or wholly written, published."""
    seconds: float = 0.0
    """How long each flush to the disk takes, and the second half of an optimizer's file."""
    late_at: int | None = None
    """The step in whose save rank 1 takes LATE_SECONDS longer for its second half."""
    dies_in: str | None = None
    """One of POINTS."""
    calls: int = 0
    """At which call, counted from 1, rank 1 dies there."""


def slow_down(harm: Harm) -> None:
    """Make saves slow, and trace them and steps; an optimizer's file lies half written for a while."""

    def trace(word: str, step: object) -> None:
        with open(harm.trace, "a", encoding="utf-8") as file:
            file.write(f"{word} {step}\n")

    def traced(work: Callable[..., None], before: str, after: str) -> Callable[..., None]:
        def traced_work(folder: Path, *arguments: Any) -> None:
            if before:
                trace(before, step_of(folder))
            work(folder, *arguments)
            if after:
                trace(after, step_of(folder))

        return traced_work

    def flush(path: Path, flush: Callable[[Path], None] = checkpoint._flush) -> None:
        flush(path)
        time.sleep(harm.seconds)

    def save_file(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
        whole = save(dict(tensors))
        with path.open("wb") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            step = step_of(path.parents[1])
            trace(f"half{RANK}", step)
            time.sleep(harm.seconds + (LATE_SECONDS if RANK == 1 and step == harm.late_at else 0))
            file.write(whole[len(whole) // 2 :])

    def record(journal: Journal, meters: StepMeters, *rest: Any, record: Callable[..., None] = Journal.record) -> None:
        record(journal, meters, *rest)
        trace("step", meters.step)

    checkpoint._flush, pieces.save_file, Journal.record = flush, save_file, record
    checkpoint.begin = traced(checkpoint.begin, "begin", "")
    checkpoint.write_whole = traced(checkpoint.write_whole, "", "whole")
    checkpoint.publish = traced(checkpoint.publish, "", "end")


def step_of(folder: Path) -> int:
    """The step of a checkpoint."""
    return int(folder.name.removeprefix("step-"))


def die(point: str, calls: int) -> None:
    """Let this rank kill itself when it comes to a point so many times."""
    owner, name = POINTS[point]
    method, called = getattr(owner, name), 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal called
        called += 1
        if called == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments, **options)

    setattr(owner, name, deadly)


if __name__ == "__main__":
    set_up_cpu()
    harm = Harm(**json.loads(os.environ.get("HARM", "{}")))
    slow_down(harm)
    if harm.dies_in and RANK == 1:
        die(harm.dies_in, harm.calls)
    sys.exit(main())
