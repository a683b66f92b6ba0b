"""Meters that do not lie: the wait for data counts, and so do ranks that wait for the dearest row."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class StepMeters:
    """What one optimizer step took and did, over all ranks where a figure adds up."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    seconds: float
    """Wall-clock seconds from the end of the last step to the end of this one, the wait for data included."""
    data_wait: float
    """Share of those seconds in which the slowest rank waited for its rows."""
    tokens: int
    labels: int
    frames: int
    rows: int
    """Rows of one rank: micro-steps."""
    step_efficiency: float
    """Planned cost over ranks x the dearest row of each micro-step; 1.0 when no rank waits for another."""
    samples: int
    failed: int
    """Positions whose planned sample was lost and replaced, or lost altogether."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Stopwatch:
    """Splits the time between two steps into waiting for data and the rest."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.waited = 0.0

    def got_data(self, since: float) -> None:
        """Count the time from `since` (perf_counter seconds) until now as waiting for data."""
        self.waited += time.perf_counter() - since

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and how many of them were spent waiting; both start anew."""
        now = time.perf_counter()
        seconds, waited = now - self.last, self.waited
        self.last, self.waited = now, 0.0
        return seconds, waited
