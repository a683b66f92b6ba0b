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
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import Popen

import make_clips
import pytest
import torch
import transformers
from safetensors.torch import load_file

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
    traced,
    wait_until,
)
from tests.training.test_engines import recipe_data
from vista_train.training import checkpoint
from vista_train.training.pieces import MOMENTS, Pieces

SCRIPT = REPO / "tests" / "training" / "harmed_ranks.py"
STEPS, SAVE_EVERY = 80, 4
FLUSH_SECONDS = 0.03
"""How slow the file system is: a save has more than a dozen flushes."""
SAVE_SECONDS = 0.4
"""Shorter than any save on it."""
LAUNCH_SECONDS = 600
"""How long a launch may take; on a machine with other work to do, its imports alone take minutes."""
TOLERANCE = 1e-5
"""Between worlds of different sizes; in one world, nothing may differ."""


@dataclass(frozen=True)
class Kill:
    """One kill, and what it left."""

    step: int
    """The last one that was taken."""
    newest: int
    """The newest whole checkpoint's."""
    inside: int | None
    """The save that was begun and not published."""
    seconds: float


class Trial:
    """The runs under one engine, in a folder of its own."""

    def __init__(self, engine: str, out: Path, clips: Path, seed: int) -> None:
        self.engine, self.folder, self.clips, self.seed = engine, out / engine, clips, seed
        self.folder.mkdir(parents=True, exist_ok=True)
        self.output, self.whole = self.folder / "killed", self.folder / "whole"
        self.trace, self.told, self.summary = (self.folder / name for name in ("trace.txt", "told.txt", "kills.jsonl"))

    def launched(self, output: Path, ranks: int = 2, seconds: float = 0.0) -> AbstractContextManager[Popen[bytes]]:
        """A run at work, from its newest checkpoint."""
        data = recipe_data(self.clips, self.folder, output.name, steps=STEPS, save_every=SAVE_EVERY)
        recipe = self.folder / f"{output.name}.yaml"
        recipe.write_text(json.dumps(data))
        self.trace.write_text("")
        on_cpu = {"ACCELERATE_USE_CPU": "1"} if ranks == 1 or self.engine == "cpu_2" else {}
        variables = environment(HARM=json.dumps({"trace": str(self.trace), "seconds": seconds}), **on_cpu)
        alone = [sys.executable, str(SCRIPT), str(recipe)]
        return running(command(SCRIPT, recipe, config=self.engine) if ranks > 1 else alone, variables, self.told)

    def finish(self, output: Path, ranks: int = 2) -> None:
        """Run to the end."""
        with self.launched(output, ranks) as process:
            assert exit_code(process, self.told, LAUNCH_SECONDS) == 0, tail(self.told)
        assert len(logged(output)) == STEPS, f"{output} has no whole log"

    def kills(self) -> list[Kill]:
        """Those that are done."""
        lines = self.summary.read_text().splitlines() if self.summary.exists() else []
        return [Kill(**json.loads(line)) for line in lines]

    def strike(self, number: int, into_save: bool) -> Kill:
        """Take the run up, kill it at a random moment, and look at what lies on the disk."""
        draw, start, before = random.Random(f"{self.seed} {self.engine} {number}"), time.monotonic(), self.newest()
        # Two checkpoints on at most: else the run would be at its end before the last kill.
        step = before + (SAVE_EVERY * draw.randint(1, 2) if into_save else draw.randint(1, 2 * SAVE_EVERY - 1))
        moment = draw.uniform(0, SAVE_SECONDS)
        with self.launched(self.output, seconds=FLUSH_SECONDS) as process:
            sign = f"{'begin' if into_save else 'step'} {step}"
            wait_until(lambda: sign in traced(self.trace), process, self.told, sign, LAUNCH_SECONDS)
            time.sleep(moment)
            kill(process.pid)
            assert process.wait() == -signal.SIGKILL, f"the run ended before kill {number}:\n{tail(self.told)}"
        begun, ended = self.saves("begin"), self.saves("end")
        newest = self.newest()
        # A kill can fall between the publishing and the word of it.
        assert newest in {max([before, *ended]), max([before, *begun])}, f"newest is {newest}; ended {ended}"
        self.check_newest()
        assert logged(self.output) == logged(self.whole)[: len(logged(self.output))], "the log is another one"
        inside = max(begun - ended, default=None)
        seconds = round(time.monotonic() - start, 1)
        return Kill(logged(self.output)[-1][0], newest, None if inside == newest else inside, seconds)

    def saves(self, word: str) -> set[int]:
        """The steps of the saves of the last launch that were begun, or ended."""
        return {int(line.split()[1]) for line in traced(self.trace) if line.startswith(f"{word} ")}

    def newest(self) -> int:
        """The step of the newest whole checkpoint, 0 if there is none."""
        done = checkpoint.published(self.output)
        return checkpoint.read_state(done[-1]).step if done else 0

    def check_newest(self) -> None:
        """That the newest checkpoint can be read: the model by transformers, the optimizer without a gap."""
        if not (done := checkpoint.published(self.output)):
            return
        model, report = transformers.AutoModelForImageTextToText.from_pretrained(done[-1], output_loading_info=True)
        assert not any(report.values()), f"{done[-1]}: {report}"
        weights = dict(model.named_parameters())
        # The undisturbed run names what trains.
        trained = Pieces(checkpoint.published(self.whole)[-1] / "training").names()
        gaps = Pieces(done[-1] / "training").gaps({name: weights[name].numel() for name in trained}, MOMENTS)
        assert not gaps, f"{done[-1]} lacks {gaps}"

    def stop(self) -> int:
        """Take the run up, send the ranks SIGTERM in its middle, and return the step it stopped after."""
        sign = f"step {max(STEPS // 2, self.newest() + 1)}"
        with self.launched(self.output) as process:
            wait_until(lambda: sign in traced(self.trace), process, self.told, sign, LAUNCH_SECONDS)
            for rank in children(process.pid):
                os.kill(rank, signal.SIGTERM)
            assert exit_code(process, self.told, LAUNCH_SECONDS) == 0, tail(self.told)
        note = json.loads((self.output / "stopped.json").read_text())
        assert note["step"] == self.newest(), f"{note}, but the newest checkpoint is that of step {self.newest()}"
        return int(note["step"])

    def check_finished(self) -> None:
        """That the killed run ended where the undisturbed one did, and one process that took it up midway did too."""
        assert logged(self.output) == logged(self.whole), "the log is another one"
        assert checkpoint.published(self.output) == sorted(self.output.glob("step-*")), "something unfinished is left"
        name = f"step-{STEPS:06d}/model.safetensors"
        whole, killed = load_file(self.whole / name), load_file(self.output / name)
        assert all(torch.equal(whole[key], killed[key]) for key in whole), "the weights are others"
        for one, other in zip(logged(self.folder / "alone"), logged(self.whole), strict=True):
            assert one == pytest.approx(other, rel=TOLERANCE), f"{one} in one process, {other} in two"

    def run(self, kills: int) -> str:
        """All of it; a line of the table."""
        start = time.monotonic()
        if len(logged(self.whole)) < STEPS:
            self.finish(self.whole)
        for number in range(len(self.kills()), kills):
            done = self.strike(number, into_save=number % 3 == 0)
            with self.summary.open("a") as file:
                file.write(json.dumps(asdict(done)) + "\n")
            where = f"inside the save of step {done.inside}" if done.inside else f"after step {done.step}"
            say(f"{self.engine}: kill {number + 1} of {kills} {where}, goes on from {done.newest} ({done.seconds} s)")
        if len(logged(self.output)) < STEPS:
            say(f"{self.engine}: stopped by SIGTERM after step {self.stop()}")
            shutil.copytree(self.output, self.folder / "alone", dirs_exist_ok=True)
            self.finish(self.output)
        self.finish(self.folder / "alone", ranks=1)
        self.check_finished()
        done = self.kills()
        inside = sum(kill.inside is not None for kill in done)
        assert inside >= kills * 3 // 10, f"only {inside} kills hit a save"
        seconds = time.monotonic() - start
        return f"{self.engine:8} {len(done):5} {inside:13} {len(done) + 1:7} {STEPS:5} {seconds:7.0f}"


def say(line: str) -> None:
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/kills"))
    parser.add_argument("--engines", nargs="+", default=["cpu_2", "zero2"], help="names in ds_configs")
    parser.add_argument("--kills", type=int, default=10, help="of each engine")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    out = arguments.out.absolute()
    # By an exception, so that the run at work is killed too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    transformers.utils.logging.disable_progress_bar()
    make_clips.make_world(out / "clips", make_clips.World(sources=4, clips_per_source=4))
    table = ["engine   kills inside a save resumes steps seconds"]
    try:
        for engine in arguments.engines:
            table.append(Trial(engine, out, out / "clips", arguments.seed).run(arguments.kills))
    except AssertionError as error:
        say(f"{engine}: {error}")
        return 1
    say("\n".join(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
