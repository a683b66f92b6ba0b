"""Meters that do not lie: the wait for data counts, and so do ranks that wait for the dearest row."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vista_train.training.report import Wait

PATIENCE_SECONDS = 30.0
"""A rank that waits longer for one row says so, and for what."""


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
    waited_rank: int
    """The rank that waited longest for its rows."""
    waited_samples: tuple[int, ...]
    """The training positions in the row that it waited for longest."""
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
        self._start()

    def _start(self) -> None:
        self.waited, self.longest = 0.0, 0.0
        self.longest_for: tuple[int, ...] = ()

    @contextlib.contextmanager
    def waiting(self, samples: Callable[[], tuple[int, ...]], say: Callable[[float], None]) -> Iterator[None]:
        """The time within counts as waiting for a row of `samples`; every PATIENCE_SECONDS of it are `say`d."""
        since = time.perf_counter()
        arrived = threading.Event()

        def watch() -> None:
            while not arrived.wait(PATIENCE_SECONDS):
                say(time.perf_counter() - since)

        threading.Thread(target=watch, name="patience", daemon=True).start()
        awaited = samples()
        try:
            yield
        finally:
            arrived.set()
            seconds = time.perf_counter() - since
            self.waited += seconds
            if seconds > self.longest:
                self.longest, self.longest_for = seconds, awaited

    def wait(self, rank: int) -> Wait:
        """How long this rank has waited since the last lap, and for what."""
        return Wait(self.waited, self.longest_for, rank)

    def lap(self) -> float:
        """Seconds since the last lap; all counts start anew."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self._start()
        return seconds
