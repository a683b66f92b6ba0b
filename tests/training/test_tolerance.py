"""How much a run bears to lose, and which files it gives up on, the same after a resume."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vista_train.data.rows import RowBudget
from vista_train.training.settings import QUARANTINE_STEPS, LoopSettings
from vista_train.training.tolerance import Tolerance
from vista_train.types import Failure
from vista_train.video.quarantine import Quarantine

SIZE = 4


def settings(**changed: object) -> LoopSettings:
    return LoopSettings(**{"budget": RowBudget(batch_samples=SIZE), "max_failed_share": 1.0, **changed})  # type: ignore[arg-type]


def lost(position: int, key: str = "a.mp4", kind: str = "MediaUnreadable", attempt: int = 0) -> Failure:
    return Failure(position, attempt, key, f"{kind}: it is bad")


def test_samples_are_counted_once_however_many_attempts_they_took() -> None:
    tolerance = Tolerance(settings())
    assert tolerance.enter(0, [lost(1), lost(1, attempt=1), lost(3)]) == 2
    assert tolerance.enter(1, []) == 0
    assert tolerance.num_failed == 2
    assert len(tolerance.failures) == 3


def test_too_large_a_share_stops_the_run() -> None:
    tolerance = Tolerance(settings(max_failed_share=0.02))
    tolerance.enter(0, [lost(0), lost(1)])
    assert tolerance.exceeded(0) is None
    tolerance.enter(1, [lost(4)])
    assert tolerance.exceeded(1) == "3 of 8 samples were lost, more than train.max_failed_share 0.02 allows"
    assert tolerance.exceeded(49) is None


@pytest.mark.parametrize("resumed_after", [None, 1, 2])
def test_so_many_in_a_row_stop_the_run_also_across_steps_and_a_resume(resumed_after: int | None) -> None:
    by_step = [[lost(p) for p in positions] for positions in ((0, 1, 3), (4, 5, 6, 7), (8,))]
    tolerance = Tolerance(settings(max_consecutive_failures=6))
    for step, failures in enumerate(by_step):
        if step == resumed_after:
            before, tolerance = tolerance, Tolerance(settings(max_consecutive_failures=6))
            tolerance.restore(step, before.failures)
            assert tolerance.num_failed == before.num_failed
        assert tolerance.exceeded(step) is None
        tolerance.enter(step, failures)
    reason = tolerance.exceeded(2)
    assert reason == "6 samples in a row were lost, and train.max_consecutive_failures is 6; is data.root still there?"


def test_one_that_was_made_breaks_the_row() -> None:
    tolerance = Tolerance(settings(max_consecutive_failures=3))
    for step, positions in enumerate(((2, 3), (5, 6), (8, 9))):
        tolerance.enter(step, [lost(position) for position in positions])
        assert tolerance.exceeded(step) is None
    again = Tolerance(settings(max_consecutive_failures=3))
    again.restore(4, tolerance.failures)
    again.enter(4, [lost(16), lost(17)])
    assert again.exceeded(4) is None


@pytest.mark.parametrize("resumed", [False, True])
def test_a_file_that_failed_often_is_refused_from_some_steps_later_on(resumed: bool) -> None:
    tolerance = Tolerance(settings(quarantine_after=3), Quarantine())
    steps = [[lost(0, "a.mp4")], [lost(4, "a.mp4"), lost(5, "b.mp4")], [lost(8, "a.mp4")], [lost(12, "a.mp4")]]
    for step, failures in enumerate(steps):
        tolerance.enter(step, failures)
    if resumed:
        before, tolerance = tolerance, Tolerance(settings(quarantine_after=3), Quarantine())
        tolerance.restore(4, before.failures)
    assert tolerance.quarantine is not None
    first = (2 + QUARANTINE_STEPS) * SIZE
    kinds = [tolerance.quarantine.kind("a.mp4", position) for position in (0, first - 1, first, first + 999)]
    assert kinds == [None, None, "MediaUnreadable", "MediaUnreadable"]
    assert tolerance.quarantine.kind("b.mp4", 1 << 40) is None


@pytest.mark.parametrize("kind", ["MediaTimeout", "MediaCrashed"])
def test_a_file_that_has_cost_a_process_is_refused_at_once(kind: str) -> None:
    quarantine = Quarantine()
    Tolerance(settings(), quarantine).enter(7, [lost(28, "hangs.mp4", kind)])
    assert [quarantine.kind("hangs.mp4", position) for position in (27, 28, 29)] == [None, kind, kind]


def test_no_rows_are_made_beyond_where_the_quarantine_begins() -> None:
    for workers, micro, asked in ((1, 1, None), (4, 1, 1000), (16, 3, None), (300, 1, None), (8, 500, None)):
        ahead = LoopSettings(prefetch_rows=asked).rows_ahead(workers, micro)
        assert ahead >= 1
        # The planner is a step ahead, and one row of each worker is in the making.
        steps = -(-workers * ahead // micro) + 2
        assert steps < QUARANTINE_STEPS or workers > QUARANTINE_STEPS // 2


def test_a_quarantine_holds_thousands_of_files_apart() -> None:
    quarantine = Quarantine()
    keys = [f"folder/{number}.mp4" for number in range(5000)]
    for number, key in enumerate(keys[::2]):
        quarantine.add(key, "MediaUnreadable", number)
    for (number, key), (_, other) in pairwise(enumerate(keys)):
        if number % 2 == 0:
            assert quarantine.kind(key, number // 2) == "MediaUnreadable"
            assert number == 0 or quarantine.kind(key, number // 2 - 1) is None
            assert quarantine.kind(other, 1 << 40) is None
    quarantine.add(keys[2], "MediaTimeout")
    quarantine.add(keys[2], "MediaUnreadable", 10)
    assert quarantine.kind(keys[2], 0) == "MediaTimeout"
    quarantine.add("made up", "CannotComposeError")
    assert quarantine.kind("made up", 0) is None
