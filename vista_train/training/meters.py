"""Meters that do not lie: the wait for data counts, and so do ranks that wait for the dearest row."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

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
    pictures: dict[str, int]
    """How many pictures were drawn from where: of files, proxies, tiles and the frame cache, or shared with another
    sample of the row. A frame may show several."""
    rows: int
    """Rows of one rank: micro-steps."""
    step_efficiency: float
    """Planned cost over ranks x the dearest row of each micro-step; 1.0 when no rank waits for another."""
    samples: int
    failed: int
    """Positions whose planned sample was lost and replaced, or lost altogether."""
    flops: float
    """What the step's samples are worth, as they came (models/base.py, Compute): towers and projector, attention within
    each sample, the head at its labels; nothing for what is computed again or over dummy frames."""
    devices: int
    peak_tflops: float | None
    """What one device can do a second (`peak_of`)."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def tflops(self) -> float:
        """What each device achieved a second, the wait for data included."""
        return self.flops / (self.seconds * self.devices * 1e12) if self.seconds else 0.0

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilization (arXiv 2204.02311): the share of a device's peak; None where that is not known."""
        return None if self.peak_tflops is None else self.tflops / self.peak_tflops

    def line(self) -> dict[str, Any]:
        """All of it, as it stands in the log."""
        rates = {"tokens_per_second": self.tokens_per_second, "tflops": self.tflops, "mfu": self.mfu}
        return {**dataclasses.asdict(self), **rates}


PEAKS: dict[str, float | None] = {
    "B200": 2250,
    "GB200": 2500,
    "H100": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H200": 989,
    "H200 NVL": 835,
    "H800": 989,
    "H800 PCIe": 756,
    "H20": 148,
    "GH200": 989,
    "A100": 312,
    "A800": 312,
    "A40": 149.7,
    "A30": 165,
    "A10": 125,
    "RTX A6000": 154.8,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 4090 Laptop": None,
    "RTX 4090 D": None,
    "MI300X": 1307,
    "MI325X": 1307,
}
"""Dense TFLOPs a second in bf16 with sums in fp32, from the makers' data sheets (where those name only the rate with
sparsity, half of it), by words of the GPU's name; the longest that fits counts. None is one that is not known."""


def peak_of(device: torch.device) -> float | None:
    """TFLOPs a second that a device can do in bf16; None for one that is not in the table, or no GPU."""
    return peak_named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_named(name: str) -> float | None:
    """The peak of a GPU by the name that its driver gives it; of a slice of one (MIG) nobody says."""
    if re.search(r"\bMIG\b", name):
        return None
    found = [words for words in PEAKS if re.search(rf"\b{re.escape(words)}\b", name)]
    return PEAKS[max(found, key=len)] if found else None


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
