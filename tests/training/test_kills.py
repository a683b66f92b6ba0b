"""kill -9 inside a save and within a step, SIGTERM to the ranks: the run goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.training.launching import (
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

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("launches")]
SCRIPT = Path(__file__).with_name("harmed_ranks.py")
STEPS = 16


@dataclass(frozen=True)
class Runs:
    """A folder with runs of two processes under DDP, of one recipe."""

    folder: Path
    world: Path

    @property
    def trace(self) -> Path:
        return self.folder / "trace.txt"

    @property
    def told(self) -> Path:
        return self.folder / "told.txt"

    @contextlib.contextmanager
    def launched(self, output: str, **harm: object) -> Iterator[Popen[bytes]]:
        """A run at work, from its newest checkpoint."""
        recipe = self.folder / f"{output}.yaml"
        recipe.write_text(json.dumps(recipe_data(self.world, self.folder, output, steps=STEPS, save_every=4)))
        variables = environment(ACCELERATE_USE_CPU="1", HARM=json.dumps({"trace": str(self.trace), **harm}))
        with running(command(SCRIPT, recipe), variables, self.told) as process:
            yield process

    def finish(self, output: str) -> None:
        """Run to the end."""
        with self.launched(output) as process:
            assert exit_code(process, self.told) == 0, tail(self.told)

    def assert_like_the_whole(self, output: str) -> None:
        """Log and weights are those of the run that nobody disturbed, and nothing unfinished is left."""
        assert len(logged(self.folder / "whole")) == STEPS
        assert logged(self.folder / output) == logged(self.folder / "whole")
        name = f"step-{STEPS:06d}/model.safetensors"
        whole, other = load_file(self.folder / "whole" / name), load_file(self.folder / output / name)
        assert whole.keys() == other.keys()
        assert all(torch.equal(whole[key], other[key]) for key in whole)
        assert checkpoint.published(self.folder / output) == sorted((self.folder / output).glob("step-*"))


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """With one whole run in it, `whole`."""
    made = Runs(tmp_path_factory.mktemp("kills"), world)
    made.finish("whole")
    return made


def test_killed_inside_a_save_and_within_a_step(runs: Runs) -> None:
    output, half = runs.folder / "killed", runs.folder / "killed" / "step-000008"
    runs.trace.write_text("")
    with runs.launched("killed", seconds=0.02, late_at=8) as process:
        # Rank 0 is done with its part, and rank 1 is not.
        wait_until(
            lambda: {"half1 8", "whole 8"} <= traced(runs.trace),
            process,
            runs.told,
            "inside the save of step 8",
        )
        # Whoever would publish too early does it now.
        time.sleep(0.3)
        kill(process.pid)
    assert "end 8" not in traced(runs.trace)
    assert (half / checkpoint.IN_PROGRESS).exists()
    assert (half / "training" / checkpoint.STATE).exists()
    with pytest.raises(SafetensorError):
        load_file(half / "training" / "optimizer-00001.safetensors")
    assert checkpoint.published(output) == [output / "step-000004"]
    # It goes on from step 4, and is killed once more, somewhere in step 7 or not much later.
    moment = random.Random(5).uniform(0, 0.1)
    runs.trace.write_text("")
    with runs.launched("killed") as process:
        wait_until(lambda: "step 6" in traced(runs.trace), process, runs.told, "step 6 again")
        time.sleep(moment)
        kill(process.pid)
        assert process.wait() == -signal.SIGKILL
        assert "steps      4 done of 16" in runs.told.read_text()
    assert len(logged(output)) < STEPS
    runs.finish("killed")
    runs.assert_like_the_whole("killed")


def test_ranks_that_get_sigterm_save_and_exit_0(runs: Runs) -> None:
    output = runs.folder / "asked"
    with runs.launched("asked") as process:
        wait_until(lambda: len(logged(output)) >= 2, process, runs.told, "step 2")
        ranks = children(process.pid)
        assert len(ranks) == 2
        for rank in ranks:
            os.kill(rank, signal.SIGTERM)
        assert exit_code(process, runs.told) == 0, tail(runs.told)
    note = json.loads((output / "stopped.json").read_text())
    assert note["signal"] == "SIGTERM"
    assert 2 <= note["step"] == logged(output)[-1][0] < STEPS
    assert checkpoint.published(output)[-1].name == note["checkpoint"] == f"step-{note['step']:06d}"
    runs.finish("asked")
    assert not (output / "stopped.json").exists()
    runs.assert_like_the_whole("asked")
