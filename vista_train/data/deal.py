"""A step's samples dealt into rows of even cost: the dearest row of each micro-step decides how long all wait."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from vista_train.types import Plan


@dataclass(frozen=True)
class Deal:
    """Which samples each rank computes in each micro-step: `rows[micro][rank]` holds indices into the step."""

    rows: tuple[tuple[tuple[int, ...], ...], ...]
    efficiency: float
    """Total cost over ranks x sum of each micro-step's dearest row: 1.0 when no rank ever waits."""


def deal(plans: Sequence[Plan], ranks: int, max_row_tokens: int, max_row_patches: int) -> Deal:
    """Deal samples into `ranks` x micro-steps rows, in the fewest micro-steps for which every row fits the budget.

    Dearest first to the cheapest row with room (LPT; Graham, 1969), then moves and swaps that lower the dearest row,
    then rows of like cost side by side in one micro-step. Deterministic. `ValueError` for a sample over the budget.
    """
    for index, plan in enumerate(plans):
        if plan.tokens > max_row_tokens or plan.patches > max_row_patches:
            raise ValueError(
                f"sample {index} of the step plans {plan.tokens} tokens and {plan.patches} patches, over "
                f"max_row_tokens {max_row_tokens} or max_row_patches {max_row_patches}; lower max_tokens or view.frames"
            )
    tokens, patches = sum(plan.tokens for plan in plans), sum(plan.patches for plan in plans)
    rows_needed = max(1, math.ceil(tokens / max_row_tokens), math.ceil(patches / max_row_patches))
    micro_steps = math.ceil(rows_needed / ranks)
    while True:
        rows = _fill(plans, ranks * micro_steps, max_row_tokens, max_row_patches)
        if rows is not None:
            break
        micro_steps += 1
    for row in rows:
        row.members.sort()
    rows.sort(key=lambda row: (-row.cost, row.members))
    grouped = [rows[start : start + ranks] for start in range(0, len(rows), ranks)]
    waited = ranks * sum(group[0].cost for group in grouped)
    total = sum(plan.cost for plan in plans)
    return Deal(
        rows=tuple(tuple(tuple(row.members) for row in group) for group in grouped),
        efficiency=total / waited if waited else 1.0,
    )


@dataclass
class _Row:
    """A row being filled."""

    members: list[int]
    cost: float = 0.0
    tokens: int = 0
    patches: int = 0

    def change(self, plan: Plan, sign: int) -> None:
        self.cost += sign * plan.cost
        self.tokens += sign * plan.tokens
        self.patches += sign * plan.patches


def _fill(plans: Sequence[Plan], num_rows: int, max_tokens: int, max_patches: int) -> list[_Row] | None:
    """Rows of even cost within the budget; None if the greedy order finds no room for a sample."""
    rows = [_Row([]) for _ in range(num_rows)]
    cheapest = [(0.0, number) for number in range(num_rows)]
    for index in sorted(range(len(plans)), key=lambda i: (-plans[i].cost, i)):
        plan, full = plans[index], []
        while cheapest:
            cost, number = heapq.heappop(cheapest)
            row = rows[number]
            if row.tokens + plan.tokens <= max_tokens and row.patches + plan.patches <= max_patches:
                row.members.append(index)
                row.change(plan, 1)
                heapq.heappush(cheapest, (row.cost, number))
                break
            full.append((cost, number))
        else:
            return None
        for entry in full:
            heapq.heappush(cheapest, entry)
    _even_out(rows, plans, max_tokens, max_patches)
    return rows


def _even_out(rows: list[_Row], plans: Sequence[Plan], max_tokens: int, max_patches: int) -> None:
    """Move or swap samples out of the dearest row for as long as that makes it cheaper."""
    for _ in range(4 * len(rows)):
        dearest = max(rows, key=lambda row: row.cost)
        if not any(
            _relieve(dearest, row, plans, max_tokens, max_patches) for row in sorted(rows, key=lambda r: r.cost)
        ):
            return


def _relieve(dear: _Row, other: _Row, plans: Sequence[Plan], max_tokens: int, max_patches: int) -> bool:
    """Give one sample of `dear` to `other`, perhaps for a cheaper one; whether a change helped was found."""
    gap = dear.cost - other.cost
    for given in sorted(dear.members, key=lambda i: -plans[i].cost):
        for taken in (None, *other.members):
            moved = plans[given].cost - (plans[taken].cost if taken is not None else 0.0)
            if not 1e-9 * dear.cost < moved < gap:
                continue
            tokens = other.tokens + plans[given].tokens - (plans[taken].tokens if taken is not None else 0)
            patches = other.patches + plans[given].patches - (plans[taken].patches if taken is not None else 0)
            back = plans[taken].tokens - plans[given].tokens if taken is not None else 0
            back_patches = plans[taken].patches - plans[given].patches if taken is not None else 0
            fits = tokens <= max_tokens and patches <= max_patches
            if fits and dear.tokens + back <= max_tokens and dear.patches + back_patches <= max_patches:
                _exchange(dear, other, given, taken, plans)
                return True
    return False


def _exchange(dear: _Row, other: _Row, given: int, taken: int | None, plans: Sequence[Plan]) -> None:
    pairs = [(given, dear, other)] if taken is None else [(given, dear, other), (taken, other, dear)]
    for index, source, target in pairs:
        source.members.remove(index)
        target.members.append(index)
        source.change(plans[index], -1)
        target.change(plans[index], 1)
