"""Differences between two arms over the same questions, and how far chance alone may have moved a share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from marks import Mark

from vista_train.evaluation.intervals import Z_95

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t that 2.5 % lie above, for 1 to 9 degrees of freedom."""


@dataclass(frozen=True)
class Difference:
    """Mean of one arm less that of another, and a 95 % interval."""

    mean: float
    low: float
    high: float
    unit: str
    """What was drawn anew: `question`, with a single seed, or `seed`."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval holds no zero."""
        return self.low > 0 or self.high < 0

    def told(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def difference(ours: Sequence[Sequence[Mark]], theirs: Sequence[Sequence[Mark]]) -> Difference:
    """One list of marks a seed, of the same questions in the same order; `ValueError` otherwise.

    With several seeds, the seed is the unit: t interval over the seeds' mean differences. With one, the question is:
    normal interval over the questions' differences, which says nothing of other seeds.
    """
    by_seed: list[list[float]] = []
    for mine, other in zip(ours, theirs, strict=True):
        if [mark.key for mark in mine] != [mark.key for mark in other] or not mine:
            raise ValueError("two arms are compared over the same questions, in the same order, of which there are any")
        by_seed.append([a.share - b.share for a, b in zip(mine, other, strict=True)])
    means = [statistics.fmean(found) for found in by_seed]
    mean = statistics.fmean(means)
    if len(by_seed) == 1:
        (found,) = by_seed
        half = Z_95 * statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.inf
        return Difference(mean, mean - half, mean + half, "question")
    half = T_95[min(len(means) - 2, len(T_95) - 1)] * statistics.stdev(means) / math.sqrt(len(means))
    return Difference(mean, mean - half, mean + half, "seed")


def chance_interval(count: int, chance: float) -> tuple[float, float]:
    """Shares between which a guesser of `count` questions ends 95 times of 100: the central part of the binomial."""
    total, low, high = 0.0, 0, count
    reached_low = False
    for right in range(count + 1):
        logs = math.lgamma(count + 1) - math.lgamma(right + 1) - math.lgamma(count - right + 1)
        total += math.exp(logs + right * math.log(chance) + (count - right) * math.log(1 - chance))
        if not reached_low and total > 0.025:
            low, reached_low = right, True
        if total >= 0.975:
            high = right
            break
    return low / count, high / count


def of(marks: Sequence[Mark], which: Callable[[Mark], bool]) -> list[Mark]:
    """Those of some kind."""
    return [mark for mark in marks if which(mark)]


def share(marks: Sequence[Mark]) -> float:
    """The share that is right; nan of none."""
    return statistics.fmean(mark.share for mark in marks) if marks else math.nan


def cells(marks: Sequence[Mark], skill: str) -> Mapping[str, list[Mark]]:
    """A skill's marks by cell, in the order of the exam."""
    found: dict[str, list[Mark]] = {}
    for mark in marks:
        if mark.skill == skill:
            found.setdefault(mark.cell, []).append(mark)
    return found
