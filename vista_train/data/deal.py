"""A step's samples dealt into rows of even cost: the dearest row of each micro-step decides how long all wait."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

COST_UNITS = 1 << 36
"""Costs are dealt as whole numbers up to this: their sums are exact in any order, so every rank deals alike."""
NEARLY_FULL = 0.97
"""Where less of the budget is filled, one micro-step more than the fewest does not help."""
WORTH_A_MICRO_STEP = 0.01
"""The gain in efficiency for which one more is taken: each also costs time that FLOPs do not show."""
EVEN_ENOUGH = 0.999
"""The efficiency at which nothing more is exchanged."""
MOST_EXCHANGES = 400
"""Where there are many rows, more of them gain less than 0.001 and take longer than all the rest."""
PARTNERS = 32
"""For each sample of a row that is too dear, so many others of about the right cost are looked at."""


@dataclass(frozen=True)
class Deal:
    """Which samples each rank computes in each micro-step: `rows[micro][rank]` holds indices into the step."""

    rows: tuple[tuple[tuple[int, ...], ...], ...]
    efficiency: float
    """Total cost over ranks x sum of each micro-step's dearest row: 1.0 when no rank ever waits."""
    once_efficiency: float
    """Total cost over ranks x the dearest rank's: the efficiency where ranks meet once a step, as without ZeRO-3."""


def deal(sizes_N3: np.ndarray, ranks: int, max_row_tokens: int, max_row_patches: int) -> Deal:
    """Deal samples of so many FLOPs, tokens and patches into ranks x micro-steps rows within the budget.

    Dearest first, every sample goes to the row that is furthest below the ceiling of its micro-step (LPT of Graham,
    1969, with a ceiling for each micro-step); then exchanges make the dearest rows cheaper. Micro-steps: the fewest for
    which that or a tighter packing finds room, or one more where it pays. The same on every machine. `ValueError` for a
    sample over the budget.
    """
    most_3 = np.array([math.inf, max_row_tokens, max_row_patches])
    over_N = (sizes_N3 > most_3).any(axis=1)
    if over_N.any():
        index = int(over_N.argmax())
        _, tokens, patches = sizes_N3[index].astype(np.int64).tolist()
        raise ValueError(
            f"sample {index} of the step plans {tokens} tokens and {patches} patches, over max_row_tokens "
            f"{max_row_tokens} or max_row_patches {max_row_patches}; lower max_tokens or view.frames"
        )
    unit = sizes_N3[:, 0].max(initial=0.0) / COST_UNITS or 1.0
    units_N = np.rint(sizes_N3[:, 0] / unit)
    order_N = np.argsort(-units_N, kind="stable")
    sizes_N3 = np.column_stack([units_N, sizes_N3[:, 1:]])[order_N]
    least = float((sizes_N3.sum(axis=0) / most_3).max() / ranks)
    micro_steps = max(1, math.ceil(least))
    while (table := _dealt(sizes_N3, most_3, ranks, micro_steps)) is None:
        micro_steps += 1
    if least > NEARLY_FULL * micro_steps:
        roomier = _dealt(sizes_N3, most_3, ranks, micro_steps + 1)
        if roomier is not None and roomier.efficiency() > table.efficiency() + WORTH_A_MICRO_STEP:
            table = roomier
    return table.seated(order_N)


def _dealt(sizes_N3: np.ndarray, most_3: np.ndarray, ranks: int, micro_steps: int) -> _Table | None:
    """The rows of so many micro-steps; None if a sample finds no room."""
    row_N = _evenly(sizes_N3, most_3, ranks, micro_steps)
    if row_N is None:
        row_N = _tightly(sizes_N3, most_3, ranks * micro_steps)
    if row_N is None:
        return None
    table = _Table(sizes_N3, most_3, row_N, ranks, micro_steps)
    table.exchange()
    return table


def _evenly(sizes_N3: np.ndarray, most_3: np.ndarray, ranks: int, micro_steps: int) -> np.ndarray | None:
    """The row of each sample, dearest first to the row furthest below its ceiling; None if one finds no room."""
    ceiling_R = np.repeat(_ceilings(sizes_N3, most_3, ranks, micro_steps), ranks)
    return _placed(sizes_N3, most_3, ceiling_R, -sizes_N3[:, 0], np.arange(len(sizes_N3)))


def _tightly(sizes_N3: np.ndarray, most_3: np.ndarray, num_rows: int) -> np.ndarray | None:
    """The row of each sample, largest first to the fullest row with room; None if one finds no room in either order."""
    share_N3 = sizes_N3 / most_3
    for largest_N in (share_N3.max(axis=1), share_N3.sum(axis=1)):
        order_N = np.argsort(-largest_N, kind="stable")
        row_N = _placed(sizes_N3, most_3, np.zeros(num_rows), share_N3.sum(axis=1), order_N)
        if row_N is not None:
            return row_N
    return None


def _placed(
    sizes_N3: np.ndarray, most_3: np.ndarray, prior_R: np.ndarray, change_N: np.ndarray, order_N: np.ndarray
) -> np.ndarray | None:
    """The row of each sample, taken in this order: the one of highest priority among those with room.

    A sample changes the priority of its row. A row without room for the sample at hand is parked with others that lack
    the same, and comes back with the first sample that needs as little as it has: samples get smaller, so that is
    rarely more than once for every sample it holds.
    """
    prior: list[float] = prior_R.tolist()
    tokens, patches = ([float(most)] * len(prior) for most in most_3[1:])
    open_rows = [(-value, row) for row, value in enumerate(prior)]
    heapq.heapify(open_rows)
    short_of_tokens: list[tuple[float, int]] = []
    short_of_patches: list[tuple[float, int]] = []
    row_N = np.empty(len(sizes_N3), dtype=np.int64)
    needed = sizes_N3[order_N, 1:].tolist()
    for sample, (num_tokens, num_patches), change in zip(order_N, needed, change_N[order_N].tolist(), strict=True):
        for parked, need in ((short_of_tokens, num_tokens), (short_of_patches, num_patches)):
            while parked and -parked[0][0] >= need:
                row = heapq.heappop(parked)[1]
                heapq.heappush(open_rows, (-prior[row], row))
        while open_rows:
            row = open_rows[0][1]
            if tokens[row] < num_tokens:
                heapq.heappush(short_of_tokens, (-tokens[row], heapq.heappop(open_rows)[1]))
            elif patches[row] < num_patches:
                heapq.heappush(short_of_patches, (-patches[row], heapq.heappop(open_rows)[1]))
            else:
                break
        if not open_rows:
            return None
        tokens[row] -= num_tokens
        patches[row] -= num_patches
        prior[row] += change
        heapq.heapreplace(open_rows, (-prior[row], row))
        row_N[sample] = row
    return row_N


def _ceilings(sizes_N3: np.ndarray, most_3: np.ndarray, ranks: int, micro_steps: int) -> np.ndarray:
    """What the dearest row of each micro-step is to cost [M], for samples in order of cost, dearest first.

    The dearest samples go to a row each, those of like cost side by side. What is left is poured over them like water,
    as far as the budget lets it into each row; the level it reaches is the ceiling, or a dearer sample that sticks out.
    """
    num_rows = ranks * micro_steps
    first_R3 = np.zeros((num_rows, 3))
    first_R3[: len(sizes_N3)] = sizes_N3[:num_rows]
    rest_3 = sizes_N3[num_rows:].sum(axis=0)
    share_R3 = np.divide(most_3 - first_R3, rest_3, out=np.full_like(first_R3, math.inf), where=rest_3 > 0)
    # Whole numbers, whose sums are exact in any order.
    takes_MR = np.floor(np.minimum(share_R3[:, 1:].min(axis=1), 1.0) * rest_3[0]).reshape(micro_steps, ranks)
    cost_MR = first_R3[:, 0].reshape(micro_steps, ranks)
    low, high = 0.0, float((cost_MR + takes_MR).max())
    while high - low > 1:
        level = (low + high) // 2
        ceiling_M1 = np.maximum(cost_MR[:, :1], level)
        enough = np.minimum(ceiling_M1 - cost_MR, takes_MR).sum() >= rest_3[0]
        low, high = (low, level) if enough else (level, high)
    return np.maximum(cost_MR[:, 0], high)


class _Table:
    """N samples in R rows, and S = N + R things to exchange: every row also starts with a nothing, for plain moves.

    Both samples and rows stand dearest first, so rows of like cost share a micro-step. Of each there are three sizes:
    cost, tokens and patches.
    """

    def __init__(
        self, sizes_N3: np.ndarray, most_3: np.ndarray, row_N: np.ndarray, ranks: int, micro_steps: int
    ) -> None:
        self.most_3, self.ranks, self.micro_steps = most_3, ranks, micro_steps
        num_rows = ranks * micro_steps
        self.sizes_S3 = np.concatenate([sizes_N3, np.zeros((num_rows, 3))])
        self.row_S = np.concatenate([row_N, np.arange(num_rows)])
        self.loads_R3 = np.zeros((num_rows, 3))
        np.add.at(self.loads_R3, row_N, sizes_N3)
        self._sort_rows()

    def _sort_rows(self) -> None:
        order_R = np.argsort(-self.loads_R3[:, 0], kind="stable")
        self.loads_R3 = self.loads_R3[order_R]
        self.row_S = np.argsort(order_R)[self.row_S]

    def efficiency(self) -> float:
        cost_MR = self.loads_R3[:, 0].reshape(self.micro_steps, self.ranks)
        waited = self.ranks * cost_MR.max(axis=1).sum()
        return float(cost_MR.sum() / waited) if waited else 1.0

    def exchange(self) -> None:
        """Make the dearest row of each micro-step cheaper, again and again, until none can be."""
        going_on = set(range(self.micro_steps))
        for _ in range(math.ceil(MOST_EXCHANGES / self.micro_steps)):
            if not going_on or self.efficiency() >= EVEN_ENOUGH:
                break
            going_on -= {micro for micro in sorted(going_on) if not self._relieve(micro)}
        self._sort_rows()

    def _relieve(self, micro: int) -> bool:
        """Make a micro-step's dearest row cheaper by the best exchange with any other row; False if there is none.

        The other row stays cheaper than the dearest of its own micro-step. Each of G samples may be given for each of
        C partners, which are cheaper by about what the row is above the average of its micro-step.
        """
        cost_MR = self.loads_R3[:, 0].reshape(self.micro_steps, self.ranks)
        dearest_M = cost_MR.max(axis=1)
        dear = micro * self.ranks + int(cost_MR[micro].argmax())
        excess = dearest_M[micro] - cost_MR[micro].sum() // self.ranks
        given_G = np.flatnonzero(self.row_S == dear)
        nearest_G = np.searchsorted(-self.sizes_S3[:, 0], excess - self.sizes_S3[given_G, 0])
        start_G = np.clip(nearest_G - PARTNERS // 2, 0, max(0, len(self.row_S) - PARTNERS))
        taken_GC = start_G[:, None] + np.arange(min(PARTNERS, len(self.row_S)))
        row_GC = self.row_S[taken_GC]
        moved_GC3 = self.sizes_S3[given_G, None] - self.sizes_S3[taken_GC]
        dear_GC3, other_GC3 = self.loads_R3[dear] - moved_GC3, self.loads_R3[row_GC] + moved_GC3
        fits_GC = (dear_GC3 <= self.most_3).all(axis=2) & (other_GC3 <= self.most_3).all(axis=2)
        helps_GC = (moved_GC3[..., 0] > 0) & (other_GC3[..., 0] < dearest_M[row_GC // self.ranks])
        beside_GC = row_GC // self.ranks == micro
        result_GC = np.maximum(dear_GC3[..., 0], np.where(beside_GC, other_GC3[..., 0], 0.0))
        best = np.where(fits_GC & helps_GC, result_GC, math.inf).argmin()
        given, partner = np.unravel_index(best, result_GC.shape)
        if not (fits_GC & helps_GC)[given, partner]:
            return False
        row, moved_3 = row_GC[given, partner], moved_GC3[given, partner]
        self.row_S[given_G[given]], self.row_S[taken_GC[given, partner]] = row, dear
        self.loads_R3[dear] -= moved_3
        self.loads_R3[row] += moved_3
        return True

    def seated(self, order_N: np.ndarray) -> Deal:
        """The deal, samples numbered as in `order_N`: in every micro-step, the rank with least so far gets most."""
        members: list[list[int]] = [[] for _ in self.loads_R3]
        for sample, row in zip(order_N.tolist(), self.row_S.tolist(), strict=False):
            members[row].append(sample)
        cost_MR = self.loads_R3[:, 0].reshape(self.micro_steps, self.ranks)
        so_far_W = np.zeros(self.ranks)
        rows = []
        for micro, cost_R in enumerate(cost_MR):
            rank_R = np.argsort(so_far_W, kind="stable")
            so_far_W[rank_R] += cost_R
            row_W = micro * self.ranks + np.argsort(rank_R)
            rows.append(tuple(tuple(sorted(members[row])) for row in row_W))
        waited = self.ranks * so_far_W.max()
        return Deal(tuple(rows), self.efficiency(), float(so_far_W.sum() / waited) if waited else 1.0)
