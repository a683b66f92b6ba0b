"""Loader: brings one rank the rows of each step, made ahead by its workers, and tells who waits for what."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from vista_train.data.rows import RowPlan, RowPlanner, row_loader
from vista_train.models.spans import WAIT, span
from vista_train.training.meters import Stopwatch
from vista_train.training.settings import LoopSettings
from vista_train.types import Row


class Loader:
    """The rows of one rank, step after step; `first` are its plans of the next step, if there is one."""

    def __init__(
        self, planner: RowPlanner, loop: LoopSettings, workers: int, ranks_here: int, pin_memory: bool
    ) -> None:
        self.planner, self.loop, self.ranks_here = planner, loop, ranks_here
        # Planned before anything is written: a step that cannot be dealt is told first.
        self.first = planner.rows(planner.first_step) if planner.first_step < planner.last_step else []
        self.workers = workers
        self.rows_ahead = loop.rows_ahead(self.workers, len(self.first))
        self._rows: Iterator[tuple[RowPlan, Row]] | None = None
        self._pin_memory = pin_memory

    def step(self, watch: Stopwatch) -> tuple[list[RowPlan], list[Row]]:
        """A step's rows, once all of them are decoded: only then is it known what was lost."""
        if self._rows is None:
            self._rows = iter(row_loader(self.planner, self.workers, self.rows_ahead, self._pin_memory))
        plans: list[RowPlan] = []
        rows: list[Row] = []

        def say(seconds: float) -> None:
            samples = ", ".join(map(str, self._awaited())) or "none"
            print(
                f"vista_train: rank {self.planner.rank} has waited {seconds:.0f} s for its data: row {len(rows)} of "
                f"the step, samples {samples}",
                file=sys.stderr,
                flush=True,
            )

        while not plans or len(plans) < plans[0].num_micro:
            with span(WAIT), watch.waiting(self._awaited, say):
                plan, row = next(self._rows)
            self.planner.asked.popleft()
            plans.append(plan)
            rows.append(row)
        return plans, rows

    def close(self) -> None:
        """Let go of workers and of the thread that plans."""
        self._rows = None

    def told(self, bytes_per_patch: float) -> str:
        """Its workers, and the most memory of this host that the frames in all ranks' rows can take."""
        made = max(1, self.workers * self.rows_ahead)
        # One more is in the step, and pinned rows lie twice.
        most = self.ranks_here * (made + 1 + self._pin_memory) * self.loop.budget.max_row_patches * bytes_per_patch
        fewer = f" (not {self.loop.workers}: too few cores)" if self.workers < self.loop.workers else ""
        return (
            f"{self.workers} workers a rank{fewer}, {made} rows ahead; frames of {self.ranks_here} ranks take at most "
            f"{most / 2**30:.2f} GiB of this host"
        )

    def _awaited(self) -> tuple[int, ...]:
        """The training positions in the row that comes next."""
        return self.planner.asked[0].positions if self.planner.asked else ()
