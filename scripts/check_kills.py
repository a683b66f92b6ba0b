"""Kill a run of two ranks with kill -9 at random moments, resume it each time, and hold it to the undisturbed run.

    PYTHONPATH=. python scripts/check_kills.py --out out/kills

Under each engine one run is killed again and again, on a slow file system, at least every third time inside a save.
After each kill the newest checkpoint must be whole, and the log that of the undisturbed run, bit by bit; at the end the
ranks get SIGTERM, the run is finished, and one process takes it up from its middle. Kills that are done are remembered
in --out. Exit code 1 at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_clips
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tests.training.launching import (
    REPO,
    children,
    command,
    environment,
    exit_code,
    kill,
    logged,
    running,
    tail,
    wait_until,
)
from tests.training.test_engines import assert_close, recipe_data
from vista_train.training import checkpoint
from vista_train.training.pieces import MOMENTS, Pieces

SCRIPT = REPO / "tests" / "training" / "harmed_ranks.py"
STEPS, SAVE_EVERY = 80, 4
LAUNCH_SECONDS = 600
"""The longest that a launch may take to come to its next step: on a machine with other work, the imports alone take
minutes."""
FLUSH_SECONDS = 0.03
SAVE_SECONDS = 0.4
"""How long a save takes with such flushes, at least."""


@dataclass(frozen=True)
class Killed:
    """One kill and what came of it."""

    step: int
    """The last one in the log."""
    newest: int
    """The step of the newest whole checkpoint."""
    inside: str
    """The save that was begun and not published, if there was one."""
    seconds: float


class Trial:
    """The runs of one engine, in a folder of its own."""

    def __init__(self, engine: str, out: Path, clips: Path, seed: int) -> None:
        self.engine, self.folder, self.clips, self.seed = engine, out / engine, clips, seed
        self.folder.mkdir(parents=True, exist_ok=True)
        self.output, self.whole = self.folder / "killed", self.folder / "whole"
        self.trace, self.told, self.summary = (self.folder / f"{name}" for name in ("trace", "told.txt", "kills.jsonl"))

    def launched(self, output: Path, ranks: int = 2, seconds: float = 0.0) -> Any:
        """A run at work, from its newest checkpoint."""
        data = recipe_data(self.clips, self.folder, output.name, steps=STEPS, save_every=SAVE_EVERY, batch_samples=4)
        recipe = self.folder / f"{output.name}.yaml"
        recipe.write_text(json.dumps(data))
        harm = json.dumps({"trace": str(self.trace), "seconds": seconds})
        is_on_cpu = ranks == 1 or self.engine == "cpu_2"
        variables = environment(HARM=harm, **({"ACCELERATE_USE_CPU": "1"} if is_on_cpu else {}))
        alone = [sys.executable, str(SCRIPT), str(recipe)]
        return running(command(SCRIPT, recipe, config=self.engine) if ranks > 1 else alone, variables, self.told)

    def finish(self, output: Path, ranks: int = 2) -> None:
        """Run to the end."""
        with self.launched(output, ranks) as process:
            assert exit_code(process, self.told, LAUNCH_SECONDS) == 0, tail(self.told)

    def done(self) -> list[Killed]:
        """The kills so far."""
        lines = self.summary.read_text().splitlines() if self.summary.exists() else []
        return [Killed(**json.loads(line)) for line in lines]

    def strike(self, number: int, into_save: bool) -> Killed:
        """Take the run up, kill it at a random moment, and check what lies on the disk."""
        draw, start = random.Random(f"{self.seed}/{self.engine}/{number}"), time.monotonic()
        before = self.newest()
        self.trace.write_text("")
        step, saves = before + draw.randint(1, 2 * SAVE_EVERY - 1), draw.randint(1, 2)
        moment = draw.uniform(0, SAVE_SECONDS if into_save else 0.2)
        with self.launched(self.output, seconds=FLUSH_SECONDS) as process:
            if into_save:
                reached = lambda: self.traced("begin") >= saves  # noqa: E731
            else:
                # The log may still hold the steps that are taken again.
                reached = lambda: "vista_train" in self.trace.name or self.steps_again(before) >= step  # noqa: E731
            wait_until(reached, process, self.told, f"kill {number}", LAUNCH_SECONDS)
            time.sleep(moment)
            kill(process.pid)
            assert process.wait() == -signal.SIGKILL, f"kill {number} came too late:\n{tail(self.told)}"
        self.check(before)
        newest, inside = self.newest(), self.unpublished()
        return Killed(logged(self.output)[-1][0], newest, inside, round(time.monotonic() - start, 1))
