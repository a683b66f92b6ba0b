"""How a step is dealt to ranks: the rows that training would compute, with what each costs and holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vista_train.data.deal import deal
from vista_train.data.rows import RowBudget
from vista_train.preview.plans import Planned


@dataclass(frozen=True)
class DealtRow:
    """One rank's row of one micro-step; it may be empty."""

    micro: int
    rank: int
    samples: tuple[Planned, ...]
    waits: float
    """FLOPs of the micro-step's dearest row that are beyond its own."""

    @property
    def cost(self) -> float:
        return sum(sample.cost for sample in self.samples)

    @property
    def tokens(self) -> int:
        return sum(sample.tokens for sample in self.samples)

    @property
    def patches(self) -> int:
        return sum(sample.patches for sample in self.samples)


@dataclass(frozen=True)
class Dealt:
    """A step as its ranks compute it."""

    step: int
    ranks: int
    budget: RowBudget
    micro_steps: tuple[tuple[DealtRow, ...], ...]
    efficiency: float
    """Of a step whose ranks wait for each other in every micro-step."""
    once_efficiency: float
    """Of a step whose ranks wait for each other once."""
    fault: str = ""
    """Why the step cannot be dealt: it then has no rows."""

    @property
    def rows(self) -> list[DealtRow]:
        return [row for rows in self.micro_steps for row in rows]

    @property
    def dearest(self) -> float:
        """The cost of its dearest row."""
        return max((row.cost for row in self.rows), default=0.0)

    @property
    def num_samples(self) -> int:
        return sum(len(row.samples) for row in self.rows)

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)


def step_of(position: int, budget: RowBudget) -> range:
    """The positions of the step that a position is in."""
    first = position // budget.batch_samples * budget.batch_samples
    return range(first, first + budget.batch_samples)


def dealt(plans: Mapping[int, Planned], position: int, budget: RowBudget, ranks: int) -> Dealt:
    """The step that a position is in, dealt as RowPlanner deals it; `plans` hold all positions of that step."""
    step = [plans[at] for at in step_of(position, budget)]
    number = position // budget.batch_samples
    sizes_N3 = np.array([(plan.cost, plan.tokens, plan.patches) for plan in step], dtype=np.float64)
    try:
        found = deal(sizes_N3, ranks, budget.max_row_tokens, budget.max_row_patches)
    except ValueError as error:
        return Dealt(number, ranks, budget, (), 0.0, 0.0, str(error))
    micro_steps = []
    for micro, members in enumerate(found.rows):
        samples = [tuple(step[index] for index in row) for row in members]
        costs = [sum(sample.cost for sample in row) for row in samples]
        rows = zip(samples, costs, strict=True)
        micro_steps.append(
            tuple(DealtRow(micro, rank, row, max(costs) - cost) for rank, (row, cost) in enumerate(rows))
        )
    return Dealt(number, ranks, budget, tuple(micro_steps), found.efficiency, found.once_efficiency)
