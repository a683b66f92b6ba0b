"""Shares of questions answered right, and how far chance alone may have moved them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Z_95 = 1.959963984540054
"""Standard deviations around the mean of a normal distribution that hold 95 % of it."""


def wilson(right: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927): both bounds lie in 0..1, also where all or none are right.

    `ValueError` unless 0 <= right <= count and count > 0.
    """
    if not 0 <= right <= count or count < 1:
        raise ValueError(f"{right} right of {count}; there must be at least one, and no more right than there are")
    share, spread = right / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    # At either end the bound is the end itself; sums of floats miss it by a hair.
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == count else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Tally:
    """How many questions were right. One whose video could not be shown counts as wrong, and is told apart."""

    right: int
    count: int
    """All questions that were to be answered, failed ones among them."""
    failed: int = 0
    """Those whose video could not be shown."""

    @property
    def share(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The share's 95 % Wilson score interval."""
        return wilson(self.right, self.count)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {
            "right": self.right,
            "count": self.count,
            "failed": self.failed,
            "share": self.share,
            "low": low,
            "high": high,
        }

    def told(self) -> str:
        """One phrase: the share, its interval, and what it was counted on."""
        low, high = self.interval
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.share:6.1%}  [{low:.1%}, {high:.1%}]  of {self.count}{failed}"
