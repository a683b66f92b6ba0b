"""The step that is drawn is the one that training would deal."""

from __future__ import annotations

import pytest

from vista_train.config import load_recipe
from vista_train.data.rows import RowBudget, RowPlanner
from vista_train.preview import Planned, dealt, planned
from vista_train.preview.dealing import step_of


def test_a_step_is_dealt_as_training_deals_it(recipe):
    loaded = load_recipe(recipe)
    dataset = loaded.make_dataset(loaded.make_family().codec)
    longest = max(dataset.plan(position).tokens for position in range(12, 24))
    budget = RowBudget(batch_samples=12, max_row_tokens=2 * longest)
    assert step_of(17, budget) == range(12, 24)
    found = dealt(planned(dataset, range(12, 24)), 17, budget, ranks=3)
    assert (found.step, found.ranks, found.num_samples) == (1, 3, 12)
    assert len(found.micro_steps) >= 2
    for rank in range(3):
        rows = RowPlanner(dataset, budget, 1, 2, rank, 3).rows(1)
        assert len(rows) == len(found.micro_steps)
        for row in rows:
            drawn = found.micro_steps[row.micro][rank]
            plans = [dataset.plan(position) for position in row.positions]
            assert (drawn.micro, drawn.rank) == (row.micro, rank)
            assert tuple(sample.position for sample in drawn.samples) == row.positions
            assert drawn.tokens == sum(plan.tokens for plan in plans) <= budget.max_row_tokens
            assert drawn.patches == sum(plan.patches for plan in plans)
            assert drawn.cost == pytest.approx(sum(plan.cost for plan in plans))
            assert (found.efficiency, found.once_efficiency) == (row.efficiency, row.once_efficiency)
            assert found.tokens == row.step_tokens
    waited = sum(max(row.cost for row in rows) for rows in found.micro_steps)
    assert found.efficiency == pytest.approx(sum(row.cost for row in found.rows) / (3 * waited))
    for rows in found.micro_steps:
        assert min(row.waits for row in rows) == 0
        assert {round(row.cost + row.waits) for row in rows} == {round(max(row.cost for row in rows))}


def test_a_step_that_fits_no_row_says_so():
    plans = {0: Planned(0, "plain", 40, 9, 8, 1.0, 2.0), 1: Planned(1, "plain", 50, 9, 8, 1.0, 2.0)}
    found = dealt(plans, 0, RowBudget(batch_samples=2, max_row_tokens=45), ranks=2)
    assert found.rows == []
    assert found.fault.startswith("sample 1 of the step plans 50 tokens and 9 patches, over max_row_tokens 45")


def test_a_rank_without_work_waits():
    plans = {0: Planned(0, "plain", 40, 9, 8, 6.0, 2.0)}
    found = dealt(plans, 0, RowBudget(batch_samples=1), ranks=2)
    assert [(len(row.samples), row.cost, row.waits) for row in found.rows] == [(1, 6.0, 0.0), (0, 0, 6.0)]
    assert (found.efficiency, found.dearest) == (0.5, 6.0)
