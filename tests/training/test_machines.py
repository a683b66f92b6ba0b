"""Two machines, by scripts/train_multinode.sh on two loopback addresses: one run, as of one process; one dies, the
other says why it ends, and the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
import torch
from safetensors.torch import load_file

from tests.training.launching import environment, exit_code, free_port, kill, logged, running, tail, wait_until
from tests.training.test_engines import recipe_data
from vista_train.config import parse_recipe
from vista_train.train import train
from vista_train.training import checkpoint

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("launches")]
STEPS = 16
TOLERANCE = 1e-5
ADDRESSES = ("127.0.0.1", "127.0.0.2")
"""Where each machine finds machine 0."""
GONE = "another process of the run is gone"
SECONDS = 60
"""Within which a machine ends that has lost the other."""


@dataclass(frozen=True)
class Cluster:
    """Two machines that share a folder."""

    folder: Path
    world: Path

    def recipe(self, output: str) -> Path:
        """A recipe that every machine reads; what it writes goes into an output of that name."""
        data = recipe_data(self.world, self.folder, output, steps=STEPS)
        path = self.folder / f"{output}.yaml"
        path.write_text(json.dumps(data))
        return path

    def told(self, machine: int) -> Path:
        return self.folder / f"machine_{machine}.txt"

    @contextlib.contextmanager
    def pair(self, output: str) -> Iterator[tuple[Popen[bytes], Popen[bytes]]]:
        """Both machines at work on a run."""
        recipe, port, path = (
            self.recipe(output),
            str(free_port()),
            f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        )
        with contextlib.ExitStack() as stack:
            launches = []
            for machine, address in enumerate(ADDRESSES):
                variables = environment(
                    PATH=path, NUM_MACHINES="2", MACHINE_RANK=str(machine), MAIN_ADDRESS=address, MAIN_PORT=port,
                    ENGINE="cpu_2", GPUS_PER_MACHINE="1", ACCELERATE_USE_CPU="1", GLOO_SOCKET_IFNAME="lo",
                )  # fmt: skip
                command = ["bash", "scripts/train_multinode.sh", str(recipe)]
                launches.append(stack.enter_context(running(command, variables, self.told(machine))))
            yield launches[0], launches[1]

    def finish(self, output: str) -> None:
        """Run both machines to the end of a run."""
        with self.pair(output) as launches:
            codes = [exit_code(launch, self.told(machine)) for machine, launch in enumerate(launches)]
        assert codes == [0, 0], "\n".join(tail(self.told(machine)) for machine in range(2))

    def weights(self, output: str) -> dict[str, torch.Tensor]:
        return load_file(checkpoint.folder_of(self.folder / output, STEPS) / "model.safetensors")


@pytest.fixture(scope="module")
def cluster(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """With one whole run in it, `two`."""
    made = Cluster(tmp_path_factory.mktemp("machines"), world)
    made.finish("two")
    return made


def test_two_machines_compute_what_one_process_computes(cluster: Cluster) -> None:
    train(parse_recipe(json.loads(cluster.recipe("one").read_text())))
    one, two = logged(cluster.folder / "one"), logged(cluster.folder / "two")
    assert len(one) == len(two) == STEPS
    assert checkpoint.read_state(checkpoint.folder_of(cluster.folder / "two", STEPS)).world_size == 2
    for (step, loss, norm), (other_step, other_loss, other_norm) in zip(one, two, strict=True):
        assert other_step == step
        assert other_loss == pytest.approx(loss, rel=TOLERANCE)
        assert other_norm == pytest.approx(norm, rel=TOLERANCE)


def test_a_machine_that_lost_the_other_says_so_and_the_run_goes_on(cluster: Cluster) -> None:
    output = cluster.folder / "killed"
    for dead, first_step in ((1, 3), (0, 8)):
        # A run that is taken up cuts its log back first.
        other, steps = 1 - dead, max(first_step, len(logged(output)) + 1)
        with cluster.pair("killed") as launches:
            wait_until(
                lambda: len(logged(output)) >= steps,  # noqa: B023 - it is called here alone
                launches[dead],
                cluster.told(dead),
                f"step {steps}",
            )
            kill(launches[dead].pid)
            killed = time.monotonic()
            assert exit_code(launches[other], cluster.told(other), SECONDS) != 0
            assert time.monotonic() - killed < SECONDS
        assert len(logged(output)) < STEPS
        told = cluster.told(other).read_text()
        assert GONE in told, tail(cluster.told(other))
        # What the launcher says of its rank.
        assert re.search(r"exitcode\s*: 2\b", told), tail(cluster.told(other))
    cluster.finish("killed")
    assert logged(output) == logged(cluster.folder / "two")
    whole, resumed = cluster.weights("two"), cluster.weights("killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(("point", "calls"), [("gather", 14), ("backward", 4), ("planning", 10)])
def test_a_rank_left_alone_in_an_exchange_says_so(cluster: Cluster, point: str, calls: int) -> None:
    """Without a launcher that would end it: in what ranks tell each other, a backward pass, the planning thread."""
    output, port = cluster.folder / f"alone_{point}", str(free_port())
    harm = json.dumps({"dies_in": point, "calls": calls})
    script, recipe = Path(__file__).with_name("harmed_ranks.py"), cluster.recipe(output.name)
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(2):
            variables = environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
                ACCELERATE_USE_CPU="1", HARM=harm,
            )  # fmt: skip
            command = [sys.executable, str(script), str(recipe)]
            ranks.append(stack.enter_context(running(command, variables, cluster.told(rank))))
        assert exit_code(ranks[1], cluster.told(1)) == -9, tail(cluster.told(1))
        code = exit_code(ranks[0], cluster.told(0), SECONDS)
    assert len(logged(output)) >= 1
    assert GONE in tail(cluster.told(0)), tail(cluster.told(0))
    assert code == 2
