"""Pieces of optimizer state on disk: each rank writes its own, and any number of ranks under any engine read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vista_train.redact import phrase

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of every parameter."""
MASTER = "weight"
"""The fp32 weight that is updated, where the model computes with a rounded copy of it."""


@dataclass(frozen=True)
class Piece:
    """A stretch of one parameter's state, flattened: what a rank holds of it, and alone writes."""

    key: str
    """Which state: one of MOMENTS, or MASTER."""
    name: str
    """The parameter, by its name in the model."""
    start: int
    """Where in the flattened parameter the stretch begins."""
    values_N: torch.Tensor


PATTERN = re.compile(r"(?P<key>[a-z_]+)/(?P<name>.+)@(?P<start>\d+)")
"""How a piece is called in its file: which state, of which parameter, from which value on."""


def tensors_of(pieces: Iterable[Piece], copy: bool = False) -> dict[str, torch.Tensor]:
    """Pieces by their names in a file, on the CPU; as copies if training goes on while they are written."""
    return {
        f"{piece.key}/{piece.name}@{piece.start}": piece.values_N.to("cpu", copy=copy).contiguous() for piece in pieces
    }


def write_pieces(folder: Path, rank: int, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write one rank's pieces into a folder."""
    path = folder / f"optimizer-{rank:05d}.safetensors"
    save_file(dict(tensors), path)
    return path


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} holds no tensors that can be read: {phrase(str(error))}") from error


class Pieces:
    """What all ranks wrote into a folder; only what is asked for is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}
        self.stretches: dict[tuple[str, str], list[tuple[int, int, Path, str]]] = {}
        for path in sorted(folder.glob("optimizer-*.safetensors")):
            # Mapped into memory, not read.
            file = self._files[path] = _opened(path)
            for entry in file.keys():  # noqa: SIM118 - the file is no mapping
                found = PATTERN.fullmatch(entry)
                if found is None:
                    raise ValueError(f"{path} holds {entry!r}, which is no piece of optimizer state")
                start, (count,) = int(found["start"]), file.get_slice(entry).get_shape()
                where = self.stretches.setdefault((found["key"], found["name"]), [])
                where.append((start, start + count, path, entry))
        for where in self.stretches.values():
            where.sort()

    def names(self) -> set[str]:
        """The parameters that there is any state of."""
        return {name for _, name in self.stretches}

    def has(self, key: str, name: str) -> bool:
        """Whether there is such a state of a parameter."""
        return (key, name) in self.stretches

    def find(self, key: str, name: str, start: int, count: int) -> torch.Tensor:
        """A stretch of a parameter's state, [count]; `ValueError` if any of it is missing."""
        if (key, name) not in self.stretches:
            raise ValueError(f"{self.folder} has no optimizer state {key}/{name}; do other parts train now?")
        found, at, end = [], start, start + count
        for first, last, path, entry in self.stretches[key, name]:
            if first <= at < last:
                upto = min(last, end)
                found.append(self._files[path].get_slice(entry)[at - first : upto - first])
                at = upto
            if at >= end:
                return torch.cat(found) if found else torch.zeros(0)
        raise ValueError(
            f"{self.folder} holds {key}/{name} without its values {at} to {end}: a rank's part of the checkpoint is "
            f"missing"
        )

    def gaps(self, sizes: Mapping[str, int], keys: Iterable[str]) -> list[str]:
        """Which states of parameters of these sizes are not there from the first value to the last."""
        out = []
        for key in keys:
            for name, size in sizes.items():
                at = 0
                for first, last, _, _ in self.stretches.get((key, name), []):
                    at = last if first == at else at
                if at != size:
                    out.append(f"{key}/{name}")
        return out


@torch.no_grad()
def put_back_exact(named: Iterable[tuple[str, torch.Tensor]], saved: Pieces) -> None:
    """Whole weights as exactly as they were trained, where a checkpoint has saved its model rounded."""
    for name, weight in named:
        if saved.has(MASTER, name):
            weight.copy_(saved.find(MASTER, name, 0, weight.numel()).view(weight.shape))
