"""Checkpoints: written beside the older ones and marked in progress, published by one rank, pruned only then.

A checkpoint is a folder `step-000050` that `from_pretrained` reads, with the state of the run in `training/`. Our own
state is JSON and safetensors: nothing in it can run code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from vista_train.types import Failure

IN_PROGRESS = "IN_PROGRESS"
"""A folder that holds a file of this name was never finished: not to be resumed from."""
STATE = "state.json"
MIN_KEPT = 2


@dataclass(frozen=True)
class RunState:
    """Where a run stands: with weights, optimizer and each rank's random state, all it takes to go on."""

    next_position: int
    step: int
    world_size: int
    batch_samples: int
    plan_digest: str
    failures: tuple[Failure, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunState:
        return cls(**{**data, "failures": tuple(Failure(**failure) for failure in data["failures"])})


def folder_of(output: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return output / f"step-{step:06d}"


def published(output: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = [path for path in output.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    done = [path for path in found if (path / "training" / STATE).is_file() and not (path / IN_PROGRESS).exists()]
    return sorted(done, key=lambda path: int(path.name.removeprefix("step-")))


def write(
    folder: Path,
    state: RunState,
    save_model: Callable[[Path], None],
    optimizer: torch.optim.Optimizer,
    rank: int,
    barrier: Callable[[], None],
    keep: int,
) -> None:
    """Write and publish a checkpoint; every rank calls this, and returns when it is published.

    Order: marker, every rank's part, barrier, the first rank takes the marker away, older ones are pruned. A kill at
    any point leaves the older checkpoints whole. `save_model` is called on the first rank alone.
    """
    if rank == 0:
        if folder.exists():
            if folder in published(folder.parent):
                raise ValueError(f"{folder} is already published; it is never overwritten")
            shutil.rmtree(folder)
        (folder / "training").mkdir(parents=True)
        _write_text(folder / IN_PROGRESS, "This checkpoint was not finished. It will be replaced.\n")
    barrier()
    save_file(_random_state(), folder / "training" / f"random-{rank:05d}.safetensors")
    if rank == 0:
        save_model(folder)
        save_file(optimizer_tensors(optimizer), folder / "training" / "optimizer.safetensors")
        _write_text(folder / "training" / STATE, json.dumps(state.to_json(), indent=1) + "\n")
    barrier()
    if rank == 0:
        publish(folder)
        prune(folder.parent, keep)
    barrier()


def publish(folder: Path) -> None:
    """Flush everything to the disk, then take the marker away."""
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path)
    _flush(folder / "training")
    (folder / IN_PROGRESS).unlink()
    _flush(folder)
    _flush(folder.parent)


def prune(output: Path, keep: int) -> None:
    """Delete all but the newest `keep` finished checkpoints (at least two), and unfinished ones older than those."""
    done = published(output)
    for path in done[: -max(keep, MIN_KEPT)]:
        # The marker first: a half-deleted folder must not look finished.
        _write_text(path / IN_PROGRESS, "This checkpoint was being deleted.\n")
        shutil.rmtree(path)
    newest = int(done[-1].name.removeprefix("step-")) if done else 0
    for path in output.glob("step-*"):
        if (path / IN_PROGRESS).exists() and int(path.name.removeprefix("step-")) < newest:
            shutil.rmtree(path)


def read_state(folder: Path) -> RunState:
    """The state a checkpoint was written at."""
    return RunState.from_json(json.loads((folder / "training" / STATE).read_text(encoding="utf-8")))


def restore(folder: Path, optimizer: torch.optim.Optimizer, rank: int, world_size: int) -> None:
    """Bring back the optimizer, and this rank's random state if the world is as large as it was."""
    load_optimizer_tensors(optimizer, load_file(folder / "training" / "optimizer.safetensors"))
    if read_state(folder).world_size == world_size:
        _set_random_state(load_file(folder / "training" / f"random-{rank:05d}.safetensors"))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as named tensors: `exp_avg/<parameter>` and so on."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().contiguous().cpu()
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` wrote; `ValueError` names a parameter that has no state, or none to take it."""
    unused = set(tensors)
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            state = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                entry = f"{key}/{name}"
                if entry not in tensors:
                    raise ValueError(f"the checkpoint has no optimizer state {entry!r}; do other parts train now?")
                unused.discard(entry)
                on_device = key != "step" or bool(group.get("fused"))
                value = tensors[entry].clone()
                state[key] = value.to(parameter.device) if on_device else value
            optimizer.state[parameter] = state
    if unused:
        raise ValueError(f"the checkpoint holds optimizer state that no parameter takes, such as {min(unused)!r}")


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
