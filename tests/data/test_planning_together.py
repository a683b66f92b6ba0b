"""Ranks that plan a share of each step: what they tell one another gives each the rows it would have planned alone."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from vista_train.augment import Plain
from vista_train.data.ahead import run_ahead
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.rows import PlanMismatchError, RowBudget, RowPlanner, row_loader
from vista_train.types import Encoded, Plan

SECONDS = 20
"""Ranks that wait for each other longer than this would wait for ever."""
STEPS = 3
BUDGET = RowBudget(batch_samples=13, max_row_tokens=500, max_row_patches=4096)


class Meeting:
    """Threads that stand for ranks: each tells its table, and hears all once everybody has told."""

    def __init__(self, ranks: int) -> None:
        self.told: list[np.ndarray] = [np.zeros(0)] * ranks
        self.barrier = threading.Barrier(ranks, timeout=SECONDS)

    def exchange(self, rank: int, table_NK: np.ndarray) -> np.ndarray:
        self.told[rank] = table_NK
        self.barrier.wait()
        heard_RNK = np.stack(self.told)
        self.barrier.wait()
        return heard_RNK


class Counted:
    """A dataset as one rank has it, which notes the positions that are planned; one of them may be an error."""

    def __init__(self, dataset: VistaDataset, broken: int | None = None) -> None:
        self.dataset, self.broken = dataset, broken
        self.planned: list[int] = []

    def plan(self, position: int) -> Plan:
        self.planned.append(position)
        if position == self.broken:
            raise RuntimeError(f"no plan for {position}")
        return self.dataset.plan(position)

    def __getitem__(self, position: int) -> Encoded:
        """Without frames, since the clips have no files."""
        composed = self.dataset.planned(position)
        none_TCHW = torch.zeros((0, 3, 0, 0), dtype=torch.uint8)
        return self.dataset.codec.encode(composed.sample, composed.plan, none_TCHW, position)

    def __getitems__(self, positions: Sequence[int]) -> list[Encoded]:
        return [self[position] for position in positions]


@pytest.fixture
def dataset(recorder: Any, tools: Any) -> VistaDataset:
    """Samples of some hundred tokens, planned in no time."""
    mix = [Ingredient(recorder()), Ingredient(Plain())]
    return VistaDataset({"a": tools.clip_list("a", 30)}, mix, tools.BareCodec(), ".")


def together(planners: Sequence[RowPlanner], ask: Callable[[RowPlanner], Any] = list) -> list[Any]:
    """What each rank's planner gives, or the error that it raises, each in a thread."""
    meeting = Meeting(len(planners))

    def run(planner: RowPlanner) -> Any:
        planner.exchange = lambda table_NK: meeting.exchange(planner.rank, table_NK)
        try:
            return ask(planner)
        except (PlanMismatchError, threading.BrokenBarrierError) as error:
            return error

    with ThreadPoolExecutor(len(planners)) as pool:
        return list(pool.map(run, planners))


def planners_of(dataset: Any, ranks: int, budget: RowBudget = BUDGET) -> list[RowPlanner]:
    return [RowPlanner(Counted(dataset), budget, 2, 2 + STEPS, rank, ranks) for rank in range(ranks)]  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_samples", [13, 4])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_rows_are_those_of_ranks_that_plan_everything_and_each_plans_its_share(
    dataset: VistaDataset, ranks: int, batch_samples: int
) -> None:
    """With 4 samples and 5 ranks, one has nothing to plan."""
    budget = replace(BUDGET, batch_samples=batch_samples)
    planners = planners_of(dataset, ranks, budget)
    found = together(planners)
    assert found == [list(RowPlanner(dataset, budget, 2, 2 + STEPS, rank, ranks)) for rank in range(ranks)]
    for rank, planner in enumerate(planners):
        firsts = range(2 * batch_samples, (2 + STEPS) * batch_samples, batch_samples)
        own = [range(first + rank, first + batch_samples, ranks) for first in firsts]
        assert planner.dataset.planned == [*itertools.chain(*own)]
    planned = Counter(position for planner in planners for position in planner.dataset.planned)
    assert planned == Counter(range(2 * batch_samples, (2 + STEPS) * batch_samples))


def test_a_step_asked_for_again_is_not_exchanged_again(dataset: VistaDataset) -> None:
    """The loader looks at its first step before it iterates; ranks need not do so equally often."""
    planners = planners_of(dataset, 2)
    first, second = together(planners, lambda planner: [planner.rows(2) for _ in range(1 + planner.rank)])
    assert len(first[0]) == len(second[0])
    assert second[0] == second[1]
    assert [planner.dataset.planned for planner in planners] == [[*range(26, 39, 2)], [*range(27, 39, 2)]]


@pytest.mark.parametrize(("ranks", "late"), [(2, 1), (3, 1), (5, 4)])
def test_a_rank_at_another_step_is_named_on_all(dataset: VistaDataset, ranks: int, late: int) -> None:
    planners = planners_of(dataset, ranks)
    planners[late].first_step = 3
    found = together(planners, lambda planner: planner.rows(planner.first_step))
    for rank, error in enumerate(found):
        assert isinstance(error, PlanMismatchError)
        # Everyone names the first whose position is not the one due here.
        of, was, due = (0, 26, 39) if rank == late else (late, 39 + late, 26 + late)
        assert f"rank {of} planned position {was} where {due} was due" in str(error)
        assert "same checkpoint" in str(error)


@pytest.mark.parametrize(("ranks", "odd"), [(2, 1), (3, 2), (5, 1)])
def test_a_rank_that_deals_otherwise_is_named_on_all(dataset: VistaDataset, ranks: int, odd: int) -> None:
    planners = planners_of(dataset, ranks)
    planners[odd].budget = replace(BUDGET, max_row_tokens=100_000)
    found = together(planners, lambda planner: planner.rows(2))
    for rank, error in enumerate(found):
        assert isinstance(error, PlanMismatchError), error
        assert f"ranks {odd} deal step 2 otherwise than rank 0 (rank {rank}: rows of samples" in str(error)
        budget = planners[rank].budget
        mine = [list(row.positions) for row in RowPlanner(dataset, budget, 2, 3, rank, ranks).rows(2)]
        assert str(mine) in str(error)


def test_several_ranks_that_deal_otherwise_are_all_named(dataset: VistaDataset) -> None:
    planners = planners_of(dataset, 4)
    for odd in (1, 3):
        planners[odd].budget = replace(BUDGET, max_row_tokens=100_000)
    found = together(planners, lambda planner: planner.rows(2))
    assert all("ranks 1, 3 deal step 2 otherwise than rank 0" in str(error) for error in found)


def test_an_error_in_the_planning_thread_comes_behind_the_rows_of_the_steps_before(dataset: VistaDataset) -> None:
    planner = RowPlanner(Counted(dataset, broken=13 * 4), BUDGET, 0, 99, 0, 1)  # type: ignore[arg-type]
    steps: list[int] = []
    with pytest.raises(RuntimeError, match="no plan for 52"):
        steps.extend(row.step for row in planner)
    assert [*dict.fromkeys(steps)] == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_planning_thread_comes_out_at_the_loader(dataset: VistaDataset, workers: int) -> None:
    planner = RowPlanner(Counted(dataset, broken=13 * 4), BUDGET, 0, 99, 0, 1)  # type: ignore[arg-type]
    steps: list[int] = []
    with pytest.raises(RuntimeError, match="no plan for 52"):
        steps.extend(plan.step for plan, _ in row_loader(planner, workers, 2, pin_memory=False))
    # Workers are asked some rows ahead, so that the last ones may be lost with it.
    assert [*dict.fromkeys(steps)] in ([0, 1, 2], [0, 1, 2, 3])


def test_a_mismatch_between_ranks_comes_out_of_iteration(dataset: VistaDataset) -> None:
    planners = planners_of(dataset, 2)
    planners[1].first_step, planners[1].last_step = 3, 3 + STEPS
    found = together(planners)
    assert [type(error) for error in found] == [PlanMismatchError] * 2


def test_items_come_in_order_and_as_many_ahead_as_asked() -> None:
    made: list[int] = []
    ready = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(6):
            made.append(number)
            ready.release()
            yield number

    ahead = run_ahead(items(), 2)
    assert made == []
    taken = []
    for number in ahead:
        taken.append(number)
        for _ in range(3 if number == 0 else number < 4):
            assert ready.acquire(timeout=SECONDS)
        # One is in hand and two lie ready, but for one more that the thread may be about.
        assert len(made) in (min(6, number + 3), min(6, number + 4))
    assert taken == made == list(range(6))


def test_an_error_stands_where_its_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("third")

    ahead = run_ahead(items(), 1)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(ahead)
    assert list(ahead) == []


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_nothing_and_little_end(depth: int) -> None:
    assert list(run_ahead([], depth)) == []
    assert list(run_ahead(iter([None, 3]), depth)) == [None, 3]


def test_items_are_made_in_one_thread_beside_the_consumers() -> None:
    threads = list(run_ahead((threading.get_ident() for _ in range(20)), 3))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_one_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    ahead = run_ahead(iter(range(100)), 1)
    assert next(ahead) == 0
    assert threading.active_count() > before
    ahead.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.daemon:
            thread.join(timeout=SECONDS if threading.active_count() > before else 0)
    assert threading.active_count() <= before
