"""A profile of some steps of a run: a trace to look at, and a table of where the time went."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from vista_train.models.spans import PREFIX, SPANS

ASKED = re.compile(r"steps=(\d+)(?::(\d+))?(?:,rank=(\d+))?")
TOP = 15
"""Operations in the table."""


@dataclass(frozen=True)
class Profiled:
    """Which steps are profiled, counted from 1 as in the log, the last one included, and on which rank."""

    first: int
    last: int
    rank: int = 0

    @classmethod
    def parse(cls, text: str) -> Profiled:
        """From `steps=10:15`, `steps=10` or `steps=10:15,rank=3`; `ValueError` says what would be right."""
        found = ASKED.fullmatch(text)
        if found is None:
            raise ValueError(f"--profile is {text!r}; it must be like steps=10:15, or steps=10:15,rank=3")
        first, last, rank = (None if number is None else int(number) for number in found.groups())
        assert first is not None
        asked = cls(first, first if last is None else last, rank or 0)
        if asked.first < 1 or asked.last < asked.first:
            raise ValueError(
                f"--profile is {text!r}; steps count from 1, and the last one, which is included, comes after the first"
            )
        return asked

    def check(self, done: int, num_steps: int, ranks: int) -> None:
        """`ValueError` unless some of the steps are still to come, and the rank is there."""
        if self.last <= done or self.first > num_steps:
            raise ValueError(
                f"--profile asks for steps {self.first} to {self.last}; this run goes from step {done + 1} to "
                f"{num_steps}"
            )
        if self.rank >= ranks:
            raise ValueError(f"--profile asks for rank {self.rank}; there are {ranks}, counted from 0")


class StepProfiler:
    """Told when steps begin and end, it profiles those that are asked for, and writes trace and table."""

    def __init__(self, asked: Profiled, folder: Path, is_gpu: bool) -> None:
        self.asked, self.folder = asked, folder
        self.activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
        self.steps: list[int] = []
        self._profile: Any = None
        self._since = 0.0

    def begin(self, step: int) -> None:
        """A step, by its number in the log, is about to begin."""
        if not self.asked.first <= step <= self.asked.last:
            return
        if self._profile is None:
            self._profile = torch.profiler.profile(activities=self.activities, acc_events=True)
            self._profile.start()
            self._since = time.perf_counter()
        self.steps.append(step)

    def end(self, step: int) -> None:
        """A step is done."""
        if step == self.asked.last:
            self.finish()

    def finish(self) -> None:
        """Write what was profiled, if anything was and it is not written yet."""
        if self._profile is None:
            return
        seconds, profile = time.perf_counter() - self._since, self._profile
        self._profile = None
        profile.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"steps-{self.steps[0]}-{self.steps[-1]}-rank-{self.asked.rank}"
        profile.export_chrome_trace(str(self.folder / f"{name}.json.gz"))
        told = table(profile.key_averages(), self.steps, self.asked.rank, seconds)
        (self.folder / f"{name}.txt").write_text(told + "\n", encoding="utf-8")
        print(f"{told}\ntrace  {self.folder / name}.json.gz", file=sys.stderr, flush=True)


def table(entries: Any, steps: list[int], rank: int, seconds: float) -> str:
    """Seconds by span, and the operations that took most time themselves, on the GPU where there is one."""
    by_name = {entry.key: entry for entry in entries}
    lines = [f"profile of steps {steps[0]} to {steps[-1]} on rank {rank}: {seconds:.3f} s"]
    counted = 0.0
    for name in SPANS:
        entry = by_name.get(PREFIX + name)
        # In microseconds.
        spent = entry.cpu_time_total / 1e6 if entry is not None else 0.0
        counted += spent
        lines.append(f"  {name:<20}{spent:>10.3f} s{spent / seconds:>8.1%}")
    lines.append(f"  {'all else':<20}{seconds - counted:>10.3f} s{1 - counted / seconds:>8.1%}")
    operations = [entry for entry in entries if not entry.key.startswith(PREFIX)]
    on_gpu = any(entry.self_device_time_total for entry in operations)
    operations.sort(key=lambda entry: entry.self_device_time_total if on_gpu else entry.self_cpu_time_total)
    lines.append(f"  {'operation':<48}{'calls':>8}{'CPU s':>10}{'GPU s':>10}")
    for entry in operations[: -TOP - 1 : -1]:
        own = (entry.self_cpu_time_total / 1e6, entry.self_device_time_total / 1e6)
        lines.append(f"  {entry.key[:46]:<48}{entry.count:>8}{own[0]:>10.3f}{own[1]:>10.3f}")
    return "\n".join(lines)
