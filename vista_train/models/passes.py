"""How frames go through a vision tower: some at a time, so that what one pass holds does not grow with a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

DEFAULT_CHUNK = 8192
"""Patches in a pass: 14 of LongVA's frames. A CLIP-L that trains holds about 0.8 MB for each of them in bf16."""
Counts = tuple[int, int]
"""How many sequences a tower looks at alone, and how many patches each has."""


@dataclass(frozen=True)
class Chunking:
    """How a row's frames are cut into passes of the vision towers, and what is kept of each."""

    patches: int = DEFAULT_CHUNK
    """Patches in one pass, at most; what cannot be cut goes alone, however large."""
    recompute: tuple[bool, ...] = ()
    """For each tower, whether of a pass its bytes and its features alone are kept, and it is computed again in the
    backward pass; default, none is."""
    constant: bool = False
    """Nothing in towers and projector trains: no gradient is asked for."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the sequences in one of several tensors."""

    tensor: int
    first: int
    end: int


def cut(counts: Sequence[Counts], most: int) -> list[list[Piece]]:
    """The passes over sequences of so many patches each, in order: as many as fit into `most`, at least one."""
    passes: list[list[Piece]] = []
    room = 0
    for number, (count, patches) in enumerate(counts):
        at = 0
        while at < count:
            fitting = room // patches
            if fitting < 1:
                passes.append([])
                room, fitting = most, max(1, most // patches)
            end = min(count, at + fitting)
            passes[-1].append(Piece(number, at, end))
            room -= (end - at) * patches
            at = end
    return passes


class Passes:
    """The passes of one row. Where weights are sharded, every rank must run a tower equally often: `least` says how
    often each, and black frames make up what a row lacks."""

    def __init__(self, chunking: Chunking, count: Callable[[torch.Tensor], Counts], least: Sequence[int] = ()) -> None:
        self.chunking, self.count, self.least = chunking, count, tuple(least)
        self.made_up: list[torch.Tensor] = []
        """A number of each pass over black frames; none of it may count."""

    def over(self, function: Callable[..., Any], tensors: Sequence[torch.Tensor], **more: Any) -> list[Any]:
        """What a function makes of each pass over frames that may share one (see `apart`)."""
        return self.apart([function], [tensors], **more)[0]

    def apart(
        self,
        functions: Sequence[Callable[..., Any]],
        groups: Sequence[Sequence[torch.Tensor]],
        tower: int = 0,
        count: Callable[[torch.Tensor], Counts] | None = None,
        black: torch.Tensor | None = None,
    ) -> list[list[Any]]:
        """What each group's function makes of its passes; no pass holds frames of two groups.

        A function takes uint8 tensors that lie along their first dimension, and gives a tensor or several; it runs
        again in the backward pass where that is asked for. `count` says how many sequences a tensor is, and `black` is
        what is shown where nothing is left to show; default, the first sequence in black.
        """
        counts = [[(count or self.count)(tensor) for tensor in group] for group in groups]
        plans = [cut(of_group, self.chunking.patches) for of_group in counts]
        lacking = (self.least[tower] if self.least else 0) - sum(map(len, plans))
        if lacking > 0:
            which = next((number for number, group in enumerate(groups) if group), 0)
            if black is None:
                first = groups[which][0]
                black = torch.zeros_like(first[: _each(first, counts[which][0][0])])
            # Before those of the row, so that on every rank the backward pass comes to them last.
            self.made_up += [_summed(self._run(functions[which], tower, [black])) for _ in range(lacking)]
        return [
            [self._run(function, tower, _pieces(group, of_group, pieces)) for pieces in plan]
            for function, group, of_group, plan in zip(functions, groups, counts, plans, strict=True)
        ]

    def _run(self, function: Callable[..., Any], tower: int, pieces: Sequence[torch.Tensor]) -> Any:
        if self.chunking.constant:
            with torch.no_grad():
                return function(*pieces)
        if self.chunking.recompute and self.chunking.recompute[tower] and torch.is_grad_enabled():
            return checkpoint(function, *pieces, use_reentrant=False)
        return function(*pieces)


def _pieces(tensors: Sequence[torch.Tensor], counts: Sequence[Counts], pieces: Sequence[Piece]) -> list[torch.Tensor]:
    """Views of the tensors; a sequence may be of several frames, the last one of fewer."""
    out = []
    for piece in pieces:
        tensor = tensors[piece.tensor]
        each = _each(tensor, counts[piece.tensor][0])
        out.append(tensor[piece.first * each : piece.end * each])
    return out


def _each(tensor: torch.Tensor, count: int) -> int:
    """Frames in one of `count` sequences."""
    return -(-len(tensor) // count)


def _summed(features: Any) -> torch.Tensor:
    tensors = features if isinstance(features, tuple) else (features,)
    return torch.stack([tensor.float().sum() for tensor in tensors]).sum()
