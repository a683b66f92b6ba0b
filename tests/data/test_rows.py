"""A step is its positions: however many ranks share it, each is computed once, in as many micro-steps on every rank."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter

import pytest
import torch

from vista_train.augment import Plain
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.rows import RowBudget, RowPlanner, row_loader
from vista_train.data.sources import ClipSource

BUDGET = RowBudget(batch_samples=12, max_row_tokens=500, max_row_patches=4096)


@pytest.fixture
def dataset(recorder, tools):
    """Samples of some hundred tokens, planned in no time."""
    mix = [Ingredient(recorder()), Ingredient(Plain())]
    return VistaDataset({"a": tools.clip_list("a", 30)}, mix, tools.BareCodec(), ".")


@pytest.fixture
def of_clips(world, tiny_codec):
    source = ClipSource(world / "clips.jsonl", world)
    return VistaDataset({"clips": source}, [Ingredient(Plain())], tiny_codec(), world)


@pytest.mark.parametrize("step", [0, 1, 7])
def test_every_number_of_ranks_computes_the_same_step(dataset, step):
    for ranks in (1, 2, 3, 20):
        plans = [RowPlanner(dataset, BUDGET, 0, 9, rank, ranks).rows(step) for rank in range(ranks)]
        positions = Counter(position for rows in plans for row in rows for position in row.positions)
        assert positions == Counter(range(12 * step, 12 * step + 12))
        assert len({len(rows) for rows in plans}) == 1
        for rows in plans:
            assert [(row.step, row.micro, row.num_micro) for row in rows] == [
                (step, m, len(rows)) for m in range(len(rows))
            ]
        facts = {(row.efficiency, row.step_tokens) for rows in plans for row in rows}
        assert facts == {(plans[0][0].efficiency, sum(dataset.plan(position).tokens for position in positions))}
        assert 0 < plans[0][0].efficiency <= 1
        assert all(
            sum(dataset.plan(position).tokens for position in row.positions) <= 500 for rows in plans for row in rows
        )
    assert len(plans[0]) == 1
    assert sum(not rows[0].positions for rows in plans) == 8


def test_more_ranks_take_fewer_micro_steps(dataset):
    counts = [len(RowPlanner(dataset, BUDGET, 0, 1, 0, ranks).rows(0)) for ranks in (1, 2, 3)]
    least = -(-sum(dataset.plan(position).tokens for position in range(12)) // 500)
    assert counts[0] >= least >= 3
    assert counts == sorted(counts, reverse=True)
    assert counts[2] == -(-counts[0] // 3)


def test_a_planner_goes_through_its_steps_in_order(dataset):
    planner = RowPlanner(dataset, BUDGET, 2, 5, 0, 1)
    rows = list(planner)
    assert [row.step for row in rows] == sorted(row.step for row in rows)
    assert sorted(position for row in rows for position in row.positions) == [*range(24, 60)]
    assert list(planner) == rows
    assert list(RowPlanner(dataset, BUDGET, 5, 5, 0, 1)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_arrive_in_the_planners_order_with_their_samples(of_clips, workers):
    budget = RowBudget(batch_samples=4, max_row_tokens=800)
    planner = RowPlanner(of_clips, budget, 0, 3, 0, 1)
    arrived = list(row_loader(planner, workers, 2, pin_memory=False))
    assert [plan for plan, _ in arrived] == list(planner)
    for plan, row in arrived:
        assert row.samples == plan.positions
        assert row.num_tokens == sum(of_clips.plan(position).tokens for position in plan.positions) <= 800
        assert row.num_frames == sum(row.frame_counts) == 4 * len(plan.positions)


def test_loading_leaves_the_global_generator_alone(of_clips):
    """Dropout draws from it: how many workers load must not change what a model drops."""
    before = torch.random.get_rng_state()
    list(row_loader(RowPlanner(of_clips, RowBudget(batch_samples=2), 0, 1, 0, 1), 1, 2, pin_memory=False))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["batch_samples", "max_row_tokens", "max_row_patches"])
def test_a_budget_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=rf"train\.{name} is 0; it must be at least 1"):
        RowBudget(**{name: 0})


def test_a_sample_over_the_budget_is_told_by_its_step(dataset):
    with pytest.raises(ValueError, match="over max_row_tokens 50 or max_row_patches"):
        RowPlanner(dataset, RowBudget(batch_samples=2, max_row_tokens=50), 0, 1, 0, 1).rows(0)


def test_a_worker_outlives_a_signal_that_its_rank_did_not_send(of_clips):
    """Schedulers send SIGTERM to every process of a job; only the ranks may act on it."""
    planner = RowPlanner(of_clips, RowBudget(batch_samples=2), 0, 3, 0, 1)
    rows = iter(row_loader(planner, 1, 2, pin_memory=False))
    worker = rows._workers[0]
    plan, _ = next(rows)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert [plan.step, *(plan.step for plan, _ in rows)] == [0, 1, 2]
    again = iter(row_loader(RowPlanner(of_clips, RowBudget(batch_samples=2), 0, 3, 0, 1), 1, 2, pin_memory=False))
    next(again)
    worker = again._workers[0]
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(10)
    assert worker.exitcode == 0
