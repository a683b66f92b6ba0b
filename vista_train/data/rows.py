"""From positions to rows: plans each step from metadata, deals it, and loads one rank's rows in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vista_train.data.collate import PackedCollator
from vista_train.data.dataset import VistaDataset
from vista_train.data.deal import deal
from vista_train.types import Row


@dataclass(frozen=True)
class RowPlan:
    """One rank's row of one micro-step: which positions it holds, and how evenly its step was dealt."""

    step: int
    micro: int
    num_micro: int
    positions: tuple[int, ...]
    efficiency: float
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
    """Yields one rank's rows, step after step: a pure function of the dataset's plan, the step and the world."""

    def __init__(
        self, dataset: VistaDataset, budget: RowBudget, first_step: int, last_step: int, rank: int, ranks: int
    ) -> None:
        self.dataset, self.budget = dataset, budget
        self.first_step, self.last_step = first_step, last_step
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[RowPlan]:
        for step in range(self.first_step, self.last_step):
            yield from self.rows(step)

    def rows(self, step: int) -> list[RowPlan]:
        """This rank's rows of one step, one for each micro-step; a row may be empty."""
        first = step * self.budget.batch_samples
        plans = [self.dataset.plan(first + offset) for offset in range(self.budget.batch_samples)]
        dealt = deal(plans, self.ranks, self.budget.max_row_tokens, self.budget.max_row_patches)
        tokens = sum(plan.tokens for plan in plans)
        return [
            RowPlan(
                step=step,
                micro=micro,
                num_micro=len(dealt.rows),
                positions=tuple(first + offset for offset in ranks[self.rank]),
                efficiency=dealt.efficiency,
                step_tokens=tokens,
            )
            for micro, ranks in enumerate(dealt.rows)
        ]


class RowDataset(Dataset):
    """RowPlan -> (RowPlan, Row): decodes and packs the samples of a row."""

    def __init__(self, dataset: VistaDataset) -> None:
        self.dataset = dataset
        self.collate = PackedCollator()

    def __getitem__(self, plan: RowPlan) -> tuple[RowPlan, Row]:
        return plan, self.collate([self.dataset[position] for position in plan.positions])


def row_loader(planner: RowPlanner, num_workers: int, prefetch_rows: int, pin_memory: bool) -> DataLoader:
    """A loader of the planner's rows, in order; `prefetch_rows` are made ahead by each of `num_workers` processes."""
    return DataLoader(
        RowDataset(planner.dataset),
        batch_size=None,
        sampler=planner,
        num_workers=num_workers,
        prefetch_factor=prefetch_rows if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
        # Else the loader draws its workers' seed from the global generator, which dropout draws from.
        generator=torch.Generator(),
        persistent_workers=False,
    )


def _one_thread(worker: int) -> None:
    """Workers decode with one thread each: more of them take CPU from one another."""
    torch.set_num_threads(1)
