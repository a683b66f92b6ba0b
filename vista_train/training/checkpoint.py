"""Checkpoints: written beside the older ones and marked in progress, published by one rank, pruned only then.

A checkpoint is a folder `step-000050` that `from_pretrained` reads, with the state of the run in `training/`: what
every rank holds of the optimizer, in pieces that any number of ranks can take up under any engine. Our own state is
JSON and safetensors: nothing in it can run code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vista_train.redact import phrase
from vista_train.training.engine import Engine
from vista_train.training.pieces import MOMENTS, Pieces, write_pieces
from vista_train.types import Failure

IN_PROGRESS = "IN_PROGRESS"
"""A folder that holds a file of this name was never finished: not to be resumed from."""
STATE = "state.json"
MIN_KEPT = 2
LISTING_SECONDS = 60.0
"""How long a network file system may hide from one machine what another has written."""


@dataclass(frozen=True)
class RunState:
    """Where a run stands: with weights, optimizer and each rank's random state, all it takes to go on."""

    next_position: int
    step: int
    world_size: int
    batch_samples: int
    plan_digest: str
    updates: int
    """Updates of the weights so far: steps without a label make none."""
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


def begin(folder: Path) -> None:
    """Make the folder of a checkpoint to be written, marked as in progress; one rank calls this."""
    if folder.exists():
        if folder in published(folder.parent):
            raise ValueError(f"{folder} is already published; it is never overwritten")
        shutil.rmtree(folder)
    (folder / "training").mkdir(parents=True)
    _write_text(folder / IN_PROGRESS, "This checkpoint was not finished. It will be replaced.\n")


def write_part(folder: Path, rank: int, pieces: Mapping[str, torch.Tensor], random: Mapping[str, torch.Tensor]) -> None:
    """Write what one rank holds, and flush it to the disk."""
    files = [write_pieces(folder / "training", rank, pieces), _random_file(folder, rank)]
    save_file(dict(random), files[1])
    for path in files:
        _flush(path)


def write_whole(folder: Path, state: RunState, save_model: Callable[[Path], None]) -> None:
    """Write what all ranks have in common, the model among it, and flush it to the disk; one rank calls this."""
    save_model(folder)
    _write_text(folder / "training" / STATE, json.dumps(state.to_json(), indent=1) + "\n")
    for entry in folder.iterdir():
        # What the other ranks write is theirs to flush, and must not be looked for before it is there.
        if entry.name != "training":
            for path in (entry, *entry.rglob("*")):
                if path.is_file():
                    _flush(path)


def publish(folder: Path, sizes: Mapping[str, int]) -> None:
    """Take the marker away, once every rank's part is there; `sizes` are those of the parameters that train.

    `ValueError` names what is missing. A kill at any point leaves the older checkpoints whole.
    """
    deadline = time.monotonic() + LISTING_SECONDS
    while missing := _missing(folder, sizes):
        if time.monotonic() > deadline:
            raise ValueError(
                f"{folder} lacks {', '.join(missing[:4])}: is the output on storage that all machines of the run share?"
            )
        time.sleep(1)
    _flush(folder / "training")
    (folder / IN_PROGRESS).unlink()
    _flush(folder)
    _flush(folder.parent)


def pieces_of(folder: Path) -> Pieces:
    """What all ranks have written of the optimizer; every rank's file is opened."""
    return Pieces(folder / "training")


def _missing(folder: Path, sizes: Mapping[str, int]) -> list[str]:
    """What every rank must have written and is not to be seen in a folder."""
    state = read_state(folder)
    missing = [path.name for rank in range(state.world_size) if not (path := _random_file(folder, rank)).is_file()]
    missing += pieces_of(folder).gaps(sizes, MOMENTS if state.updates else ())
    return missing


def prune(output: Path, keep: int, best: int | None = None) -> None:
    """Delete all but the newest `keep` finished checkpoints (at least two) and that of step `best`, and unfinished ones
    older than those."""
    done = published(output)
    spared = folder_of(output, best) if best is not None else None
    for path in (path for path in done[: -max(keep, MIN_KEPT)] if path != spared):
        # The marker first: a half-deleted folder must not look finished.
        _write_text(path / IN_PROGRESS, "This checkpoint was being deleted.\n")
        shutil.rmtree(path)
    newest = int(done[-1].name.removeprefix("step-")) if done else 0
    for path in output.glob("step-*"):
        if (path / IN_PROGRESS).exists() and int(path.name.removeprefix("step-")) < newest:
            shutil.rmtree(path)


def read_state(folder: Path) -> RunState:
    """The state a checkpoint was written at; `ValueError` if a version wrote it that kept other things."""
    path = folder / "training" / STATE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {phrase(str(error))}") from error
    if not isinstance(data, dict) or data.keys() != {entry.name for entry in fields(RunState)}:
        raise ValueError(
            f"{folder} was written by another version of vista_train; choose another output, and start from its "
            f"weights by family.path={folder}"
        )
    return RunState.from_json(data)


def restore_optimizer(saved: Pieces, engine: Engine, named: Iterable[tuple[str, nn.Parameter]], updates: int) -> None:
    """Bring back the optimizer, whatever engine and however many ranks wrote it; `ValueError` if others train now."""
    trained = list(named)
    unused = saved.names() - {name for name, _ in trained}
    if unused:
        raise ValueError(f"the checkpoint holds optimizer state that no parameter takes, such as {min(unused)!r}")
    engine.put_back(trained, saved, updates)


def restore_random(folder: Path, rank: int, world_size: int) -> None:
    """Bring back this rank's random state, if the world is as large as it was."""
    if read_state(folder).world_size == world_size:
        path = _random_file(folder, rank)
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} holds no tensors that can be read: {phrase(str(error))}") from error
        _set_random_state(state)


def _random_file(folder: Path, rank: int) -> Path:
    return folder / "training" / f"random-{rank:05d}.safetensors"


def random_state() -> dict[str, torch.Tensor]:
    """This rank's random state, as tensors."""
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
