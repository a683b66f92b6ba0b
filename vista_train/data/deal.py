"""A step's samples dealt into rows of even cost: the dearest row of each micro-step decides how long all wait."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vista_train.types import Plan

COST_UNITS = 1 << 36
"""Costs are dealt as whole numbers up to this: their sums are exact in any order, so every rank deals alike."""
EVEN_ENOUGH = 0.999
"""The efficiency at which no more samples are moved."""


@dataclass(frozen=True)
class Deal:
    """Which samples each rank computes in each micro-step: `rows[micro][rank]` holds indices into the step."""

    rows: tuple[tuple[tuple[int, ...], ...], ...]
    efficiency: float
    """Total cost over ranks x sum of each micro-step's dearest row: 1.0 when no rank ever waits."""


def deal(plans: Sequence[Plan], ranks: int, max_row_tokens: int, max_row_patches: int) -> Deal:
    """Deal samples into `ranks` x micro-steps rows, in the fewest micro-steps for which greedy packing fits the budget.

    Dearest first to the cheapest row with room (LPT; Graham, 1969), rows of like cost side by side in one micro-step,
    then moves and swaps that make a micro-step's dearest row cheaper. Deterministic. `ValueError` for a sample over
    the budget.
    """
    for index, plan in enumerate(plans):
        if plan.tokens > max_row_tokens or plan.patches > max_row_patches:
            raise ValueError(
                f"sample {index} of the step plans {plan.tokens} tokens and {plan.patches} patches, over "
                f"max_row_tokens {max_row_tokens} or max_row_patches {max_row_patches}; lower max_tokens or view.frames"
            )
    unit = max((plan.cost for plan in plans), default=0.0) / COST_UNITS or 1.0
    sizes = [(round(plan.cost / unit), plan.tokens, plan.patches) for plan in plans]
    sizes_N3 = np.array(sizes, dtype=np.float64).reshape(-1, 3)
    most_3 = np.array([math.inf, max_row_tokens, max_row_patches])
    micro_steps = max(1, math.ceil((sizes_N3.sum(axis=0) / most_3).max() / ranks))
    while (table := _filled(sizes_N3, most_3, ranks, micro_steps)) is None:
        micro_steps += 1
    # Each round makes one row cheaper, and few rows need more than a handful.
    for _ in range(8 * ranks * micro_steps):
        if table.efficiency() >= EVEN_ENOUGH or not any(table.relieve(row) for row in table.grouped_MR()[:, 0]):
            break
    rows = tuple(tuple(table.members(row) for row in group) for group in table.grouped_MR())
    return Deal(rows, table.efficiency())


class _Table:
    """N samples dealt into R rows. Of a sample and of a row there are three sizes: cost, tokens and patches."""

    def __init__(self, sizes_N3: np.ndarray, most_3: np.ndarray, ranks: int, micro_steps: int) -> None:
        self.sizes_N3, self.most_3, self.ranks = sizes_N3, most_3, ranks
        self.row_of_N = np.full(len(sizes_N3), -1)
        self.loads_R3 = np.zeros((ranks * micro_steps, 3))

    def put(self, sample: int, row: int) -> None:
        if self.row_of_N[sample] >= 0:
            self.loads_R3[self.row_of_N[sample]] -= self.sizes_N3[sample]
        self.row_of_N[sample] = row
        self.loads_R3[row] += self.sizes_N3[sample]

    def members(self, row: int) -> tuple[int, ...]:
        return tuple(np.flatnonzero(self.row_of_N == row).tolist())

    def grouped_MR(self) -> np.ndarray:
        """The rows of each micro-step, dearest first: rows of like cost side by side."""
        return np.argsort(-self.loads_R3[:, 0], kind="stable").reshape(-1, self.ranks)

    def efficiency(self) -> float:
        cost_R = self.loads_R3[:, 0]
        waited = self.ranks * cost_R[self.grouped_MR()[:, 0]].sum()
        return float(cost_R.sum() / waited) if waited else 1.0

    def relieve(self, dear: int) -> bool:
        """Make the dearest row of a micro-step cheaper by the best move or swap with any other row, if there is one.

        The other row stays cheaper than the dearest of its own micro-step. G samples may be given, for C others or
        nothing.
        """
        grouped_MR = self.grouped_MR()
        ceiling_R = np.empty(len(self.loads_R3))
        ceiling_R[grouped_MR] = self.loads_R3[grouped_MR[:, :1], 0]
        given_G = np.flatnonzero(self.row_of_N == dear)
        # Every row has nothing to offer too.
        taken_C3 = np.concatenate([self.sizes_N3, np.zeros_like(self.loads_R3)])
        row_C = np.concatenate([self.row_of_N, np.arange(len(self.loads_R3))])
        moved_GC3 = self.sizes_N3[given_G, None] - taken_C3
        dear_GC3, other_GC3 = self.loads_R3[dear] - moved_GC3, self.loads_R3[row_C] + moved_GC3
        fits_GC = (dear_GC3 <= self.most_3).all(axis=2) & (other_GC3 <= self.most_3).all(axis=2)
        helps_GC = (moved_GC3[..., 0] > 0) & (other_GC3[..., 0] < ceiling_R[row_C])
        if not (fits_GC & helps_GC).any():
            return False
        beside_C = ceiling_R[row_C] == ceiling_R[dear]
        dearest_GC = np.where(beside_C, np.maximum(dear_GC3, other_GC3)[..., 0], dear_GC3[..., 0])
        best = np.where(fits_GC & helps_GC, dearest_GC, math.inf).argmin()
        given, taken = np.unravel_index(best, dearest_GC.shape)
        self.put(int(given_G[given]), int(row_C[taken]))
        if taken < len(self.sizes_N3):
            self.put(int(taken), dear)
        return True


def _filled(sizes_N3: np.ndarray, most_3: np.ndarray, ranks: int, micro_steps: int) -> _Table | None:
    """Every sample in a row with room for it: evenly if that can be done, else packed tightly, largest first.

    None if a sample finds no room in either order.
    """
    cost_N, share_N3 = sizes_N3[:, 0], sizes_N3 / most_3
    for largest_N, tightly in ((cost_N, False), (share_N3.max(axis=1), True), (share_N3.sum(axis=1), True)):
        table = _Table(sizes_N3, most_3, ranks, micro_steps)
        for sample in np.argsort(-largest_N, kind="stable"):
            has_room_R = (table.loads_R3 + sizes_N3[sample] <= most_3).all(axis=1)
            load_R = -(table.loads_R3 / most_3).max(axis=1) if tightly else table.loads_R3[:, 0]
            row = int(np.where(has_room_R, load_R, math.inf).argmin())
            if not has_room_R[row]:
                break
            table.put(int(sample), row)
        if (table.row_of_N >= 0).all():
            return table
    return None
