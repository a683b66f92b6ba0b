"""Starts scripts in several processes that talk over gloo, and kills them, for tests of what processes do together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

REPO = Path(__file__).parents[2]


def command(script: Path | str, *arguments: object, config: str = "cpu_2", options: Sequence[str] = ()) -> list[str]:
    """The command line that launches a script under a config: a file, or the name of one in ds_configs."""
    file = config if config.endswith(".yaml") else f"ds_configs/{config}.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file]
    return [*launcher, "--num_processes", "2", "--main_process_port", "0", *options, str(script), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment of a launch on the CPU."""
    fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPO), "TOKENIZERS_PARALLELISM": "0"}
    # An accelerator that was made in this process has left its mark.
    own = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_"))}
    return {**own, **fixed, **more}


def launch(launched: Sequence[str], variables: Mapping[str, str], seconds: float = 500) -> str:
    """Run a launch to its end; its output, or a failed assertion that shows it."""
    with TemporaryDirectory() as folder, running(launched, variables, Path(folder, "told")) as process:
        told = Path(folder, "told")
        code = exit_code(process, told, seconds)
        lines = told.read_text(errors="replace").splitlines()
        of_ranks = [line for line in lines if line.startswith(("[rank", "vista_train:"))]
        assert code == 0, "\n".join(of_ranks or lines)[-6000:]
        return "\n".join(lines)


@contextlib.contextmanager
def running(launched: Sequence[str], variables: Mapping[str, str], told: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A launch that writes all it tells to a file; whatever is left of its processes at the end is killed."""
    with told.open("wb") as file:
        process = subprocess.Popen(
            launched, env=dict(variables), stdout=file, stderr=subprocess.STDOUT, cwd=REPO, start_new_session=True
        )
    try:
        yield process
    finally:
        kill(process.pid)
        process.wait()


def wait_until(
    reached: Callable[[], bool], process: subprocess.Popen[bytes], told: Path, what: str, seconds: float = 120
) -> None:
    """Return once a running launch has come so far; a failed assertion that shows its output if it does not."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, f"ended with {process.returncode} before {what}:\n{tail(told)}"
        assert time.monotonic() < deadline, f"not yet {what} after {seconds:g} s:\n{tail(told)}"
        time.sleep(0.01)


def exit_code(process: subprocess.Popen[bytes], told: Path, seconds: float = 120) -> int:
    """That of a launch that is due to end by itself; a failed assertion that shows its output if it does not."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"still running after {seconds:g} s:\n{tail(told)}") from None


def tail(told: Path) -> str:
    """The end of what a launch told."""
    return told.read_text(errors="replace")[-4000:]


def kill(root: int) -> None:
    """kill -9 to a process and all that descend from it: parents first, so that none of them can react."""
    family = [root]
    for pid in family:
        family += children(pid)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The processes that a process started, from any of its threads; a launcher's are the ranks."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread may end in between.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, path.read_text().split())
    return found


def logged(output: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm from the log of a run, without a line that is still being written."""
    log = output / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in entries]


def traced(trace: Path) -> set[str]:
    """What harmed ranks have told of their steps and saves, such as `step 3`, `begin 4`, `end 4`."""
    lines = trace.read_text().splitlines(keepends=True)
    return {line.strip() for line in lines if line.endswith("\n")}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
