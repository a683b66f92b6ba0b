"""The decoder's MLPs in tiles of tokens (arXiv 2506.13996): what lies inside them never exists for a whole row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

AUTO = "auto"
LEAST_AUTO = 1024
"""Tokens in a tile of a narrow decoder, where `auto` would make it small; wide ones take as many as they are wide."""


@dataclass
class Tiling:
    """Into how many tiles a row is cut; all MLPs of a model share one."""

    tokens: int | None = None
    """Tokens in a tile, at most; None for whole rows."""
    tiles: int = 1
    """How many there are of the present row: no fewer than other ranks have, since each calls the MLP once."""
    skipping: bool = False
    """Whether a layer is computed again for what it hands to its MLP, not for what comes out of it."""

    def count_of(self, tokens: int) -> int:
        """How many tiles a row of so many tokens needs."""
        return 1 if self.tokens is None else max(1, -(-tokens // self.tokens))

    @contextlib.contextmanager
    def skipped(self) -> Iterator[None]:
        """Within, tiles are not computed: each is, once more, by itself when the backward pass comes to it."""
        self.skipping = True
        try:
            yield
        finally:
            self.skipping = False


def tokens_in_tile(asked: int | str, width: int) -> int:
    """How many tokens a tile has in a decoder so wide."""
    return int(asked) if asked != AUTO else max(LEAST_AUTO, width)


class TiledForward:
    """An MLP's forward pass, tile by tile; of each, its input is kept, and the rest computed again.

    One graph holds all tiles, so that a weight's gradient is whole before an engine gets to see it.
    """

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor], tiling: Tiling) -> None:
        self.forward, self.tiling = forward, tiling

    def __call__(self, hidden_1LD: torch.Tensor) -> torch.Tensor:
        """[1, L, D] -> [1, L, D]."""
        if self.tiling.tiles == 1:
            return self.forward(hidden_1LD)
        tiles = hidden_1LD.tensor_split(self.tiling.tiles, dim=1)
        if not torch.is_grad_enabled():
            return torch.cat([self.forward(tile) for tile in tiles], dim=1)
        # Nothing behind the MLP in its layer is kept for the backward pass, so any output will do there.
        run = torch.zeros_like if self.tiling.skipping else self.forward
        return torch.cat([checkpoint(run, tile, use_reentrant=False) for tile in tiles], dim=1)
