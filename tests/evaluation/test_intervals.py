"""Wilson's interval against values from its formula and from published tables."""

from __future__ import annotations

import numpy as np
import pytest

from vista_train.evaluation.intervals import Tally, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # Newcombe 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # Two roots of (p - share)^2 = z^2 p (1 - p) / n.
        (100, 200, 0.4314, 0.5686),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_known_intervals(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=6e-5)


def test_it_covers_what_it_should():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.25, 0.5, 0.95):
        bounds = [wilson(int(right), 200) for right in rng.binomial(200, share, size=2000)]
        assert 0.93 < np.mean([low <= share <= high for low, high in bounds]) < 0.975


def test_none_and_more_than_all_are_refused():
    with pytest.raises(ValueError, match="0 right of 0"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="3 right of 2"):
        wilson(3, 2)


def test_a_tally_counts_failures_among_all():
    tally = Tally(3, 10, 2)
    assert (tally.share, tally.interval) == (0.3, wilson(3, 10))
    assert tally.to_json()["failed"] == 2
    assert tally.told().endswith("of 10, 2 failed")
