"""From positions to rows: plans each step from metadata, deals it, and loads one rank's rows in order."""

from __future__ import annotations

import os
import signal
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vista_train.data.ahead import run_ahead
from vista_train.data.collate import PackedCollator
from vista_train.data.dataset import VistaDataset
from vista_train.data.deal import Deal, deal
from vista_train.types import Row

STEPS_AHEAD = 1
"""Steps planned before a loader with workers asks for their rows; it asks for them some rows early itself."""
Exchange = Callable[[np.ndarray], np.ndarray]
"""A rank's table in, all ranks' tables out, in rank order."""


class PlanMismatchError(RuntimeError):
    """Ranks would not compute the same step; the message says which of them, and what differs."""


@dataclass(frozen=True)
class RowPlan:
    """One rank's row of one micro-step: which positions it holds, and how evenly its step was dealt."""

    step: int
    micro: int
    num_micro: int
    positions: tuple[int, ...]
    efficiency: float
    """Of a step whose ranks wait for each other in every micro-step."""
    once_efficiency: float
    """Of a step whose ranks wait for each other once."""
    step_tokens: int
    """Planned tokens of the whole step, all ranks."""


@dataclass(frozen=True)
class RowBudget:
    """How large a row may be, and how many samples a step has."""

    batch_samples: int = 32
    """Samples in an optimizer step, over all ranks and micro-steps. Fixed for a run: it decides what a step is."""
    max_row_tokens: int = 16_384
    """The most tokens in a row: what fits the memory of one device."""
    max_row_patches: int = 262_144
    """The most vision tower patches in a row."""

    def __post_init__(self) -> None:
        for name in ("batch_samples", "max_row_tokens", "max_row_patches"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}; it must be at least 1")


class RowPlanner(Sampler[RowPlan]):
    """Yields one rank's rows, step after step: a pure function of the dataset's plan, the step and the world.

    Each rank plans every `ranks`-th position of a step and hears of the others by `exchange`: its own table, float64
    [N, 4], in, all ranks' tables, [ranks, N, 4], out. Every rank must then ask for the same steps in the same order.
    """

    def __init__(
        self,
        dataset: VistaDataset,
        budget: RowBudget,
        first_step: int,
        last_step: int,
        rank: int,
        ranks: int,
        exchange: Exchange | None = None,
    ) -> None:
        self.dataset, self.budget = dataset, budget
        self.first_step, self.last_step = first_step, last_step
        self.rank, self.ranks = rank, ranks
        self.exchange = exchange
        self.steps_ahead = 0
        """How many are planned in a thread of their own, before a loader asks for them."""
        self.asked: deque[RowPlan] = deque()
        """Rows that a loader has asked for; whoever receives them takes them out."""
        self._newest: tuple[int, list[RowPlan]] | None = None

    def __iter__(self) -> Iterator[RowPlan]:
        """The rows of all steps, each planned `steps_ahead` before it is needed."""
        planned = (self.rows(step) for step in range(self.first_step, self.last_step))
        for rows in run_ahead(planned, self.steps_ahead) if self.steps_ahead else planned:
            for row in rows:
                self.asked.append(row)
                yield row

    def rows(self, step: int) -> list[RowPlan]:
        """This rank's rows of one step, one for each micro-step; a row may be empty.

        `PlanMismatchError` where ranks do not deal alike.
        """
        if self._newest is not None and self._newest[0] == step:
            return self._newest[1]
        first, size = step * self.budget.batch_samples, self.budget.batch_samples
        table_N4 = self._table(first, size)
        dealt = deal(table_N4[:, 1:], self.ranks, self.budget.max_row_tokens, self.budget.max_row_patches)
        self._check_alike(step, dealt)
        rows = [
            RowPlan(
                step=step,
                micro=micro,
                num_micro=len(dealt.rows),
                positions=tuple(first + offset for offset in ranks[self.rank]),
                efficiency=dealt.efficiency,
                once_efficiency=dealt.once_efficiency,
                step_tokens=int(table_N4[:, 2].sum()),
            )
            for micro, ranks in enumerate(dealt.rows)
        ]
        self._newest = (step, rows)
        return rows

    def _table(self, first: int, size: int) -> np.ndarray:
        """Position, cost, tokens and patches of all samples of a step, this rank's share of them planned here."""
        others, share = self.exchange is not None, -(-size // self.ranks)
        own = range(first + self.rank, first + size, self.ranks) if others else range(first, first + size)
        # Shares are of one size; the last lines of some stay empty.
        table_N4 = np.full((share if others else size, 4), np.nan)
        for line, position in enumerate(own):
            plan = self.dataset.plan(position)
            table_N4[line] = position, plan.cost, plan.tokens, plan.patches
        if self.exchange is None:
            return table_N4
        heard_RN4 = self.exchange(table_N4)
        # Rank r planned positions r, r + ranks, ...: line by line over ranks, they are in order.
        table_N4 = heard_RN4.transpose(1, 0, 2).reshape(-1, 4)[:size]
        wrong_N = np.flatnonzero(table_N4[:, 0] != np.arange(first, first + size))
        if len(wrong_N):
            rank, position = int(wrong_N[0] % self.ranks), first + int(wrong_N[0])
            raise PlanMismatchError(
                f"rank {rank} planned position {table_N4[wrong_N[0], 0]:.0f} where {position} was due: the ranks are "
                f"at different steps; all must resume from the same checkpoint"
            )
        return table_N4

    def _check_alike(self, step: int, dealt: Deal) -> None:
        """`PlanMismatchError` unless all ranks have dealt the step alike; not told, they would wait for ever."""
        if self.exchange is None:
            return
        seen = zlib.crc32(repr(dealt.rows).encode())
        heard_R = self.exchange(np.array([[float(seen)]]))[:, 0, 0]
        others = np.flatnonzero(heard_R != heard_R[0])
        if len(others):
            first = step * self.budget.batch_samples
            mine = [[first + offset for offset in ranks[self.rank]] for ranks in dealt.rows]
            raise PlanMismatchError(
                f"ranks {', '.join(map(str, others[:8]))} deal step {step} otherwise than rank 0 (rank {self.rank}: "
                f"rows of samples {mine}); the same versions must run on all machines"
            )


class RowDataset(Dataset):
    """RowPlan -> (RowPlan, Row): decodes and packs the samples of a row."""

    def __init__(self, dataset: VistaDataset) -> None:
        self.dataset = dataset
        self.collate = PackedCollator()

    def __getitem__(self, plan: RowPlan) -> tuple[RowPlan, Row]:
        return plan, self.collate(self.dataset.__getitems__(plan.positions))


def row_loader(planner: RowPlanner, num_workers: int, prefetch_rows: int, pin_memory: bool) -> DataLoader:
    """A loader of the planner's rows, in order; `prefetch_rows` are made ahead by each of `num_workers` processes."""
    # A tokenizer serves one thread at a time: where this process encodes samples itself, it does not plan beside that.
    planner.steps_ahead = STEPS_AHEAD if num_workers else 0
    return DataLoader(
        RowDataset(planner.dataset),
        batch_size=None,
        sampler=planner,
        num_workers=num_workers,
        prefetch_factor=prefetch_rows if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_set_up_worker,
        # Else the loader draws its workers' seed from the global generator, which dropout draws from.
        generator=torch.Generator(),
        persistent_workers=False,
    )


def _set_up_worker(worker: int) -> None:
    """One thread each: more of them take CPU from one another. Signals to the rank's process group are the rank's."""
    torch.set_num_threads(1)
    os.setpgid(0, 0)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Schedulers send SIGTERM to every process there is; a worker leaves when its own rank sends it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_when_told, name="sigterm", daemon=True).start()


def _leave_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
