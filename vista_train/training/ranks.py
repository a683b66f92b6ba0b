"""Ranks: what the processes of a run tell one another beside the model's own collectives, over gloo."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

Told = TypeVar("Told")
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: longer than any of them may take to decode a step or to write its part."""
GONE = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "timeout", "imed out")
"""What the errors of a broken connection to another rank say."""


class LostRankError(RuntimeError):
    """Another process of the run is gone, so that this one cannot go on."""


class Ranks:
    """All processes of a run, or the only one. Every rank makes it, and calls its methods in the same order."""

    def __init__(self) -> None:
        is_alone = not (distributed.is_available() and distributed.is_initialized())
        self.count = 1 if is_alone else distributed.get_world_size()
        self.rank = 0 if is_alone else distributed.get_rank()
        if not is_alone:
            _allow_files()
        # Planning has a group of its own, since it runs in a thread of its own.
        groups = [None if is_alone else distributed.new_group(backend="gloo", timeout=TIMEOUT) for _ in range(2)]
        self._control, self._planning = groups

    @property
    def on_this_machine(self) -> int:
        """How many of them share this machine, as the launcher says."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.count > 1 else 1

    def gathered(self, told: Told) -> list[Told]:
        """What every rank tells, in rank order."""
        if self._control is None:
            return [told]
        heard: list[Any] = [None] * self.count
        self._speaking(lambda: distributed.all_gather_object(heard, told, group=self._control))
        return heard

    def tables(self, table_NK: np.ndarray) -> np.ndarray:
        """Every rank's float64 table of the same size, [ranks, N, K]; for the thread that plans."""
        if self._planning is None:
            return table_NK[None]
        own = torch.from_numpy(np.ascontiguousarray(table_NK, dtype=np.float64))
        heard = [torch.empty_like(own) for _ in range(self.count)]
        self._speaking(lambda: distributed.all_gather(heard, own, group=self._planning))
        return torch.stack(heard).numpy()

    def barrier(self) -> None:
        """Return when every rank has come here."""
        self.gathered(None)

    def in_turn(self, work: Callable[[], Told]) -> Told:
        """What work makes, on the first rank before all others: it may fill a cache that they read.

        `LostRankError` on the others where it fails on the first.
        """
        first: Future[Told] = Future()
        if self.rank == 0:
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(work)
        error = self.gathered(str(first.exception() or "") if self.rank == 0 else "")[0]
        if self.rank == 0:
            return first.result()
        if error:
            raise LostRankError(f"rank 0 has ended: {error}")
        return work()

    def same(self, facts: Sequence[tuple[str, str]]) -> str:
        """Where ranks differ in named facts, in words; nothing if they agree."""
        heard = self.gathered(list(facts))
        told = []
        for (name, value), *others in zip(*heard, strict=True):
            differ = [(rank, other) for rank, (_, other) in enumerate(others, 1) if other != value]
            if differ:
                ranks = ", ".join(str(rank) for rank, _ in differ[:8]) + (", ..." if len(differ) > 8 else "")
                told.append(f"{name} is {value} on rank 0, but {differ[0][1]} on rank {ranks}")
        return "; ".join(told)

    def _speaking(self, speak: Callable[[], Any]) -> None:
        try:
            speak()
        except RuntimeError as error:
            gone = lost(error)
            if gone is None:
                raise
            raise gone from error


def _allow_files() -> None:
    """Let the process open as many files as it may: every rank holds connections to all others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def lost(error: RuntimeError) -> LostRankError | None:
    """A broken connection to another rank as what it means; None if the error is another."""
    text = str(error)
    if isinstance(error, LostRankError):
        return error
    if type(error) is not RuntimeError and not isinstance(error, distributed.DistError):
        return None
    if not any(sign in text for sign in GONE):
        return None
    return LostRankError(
        f"another process of the run is gone or does not answer ({_brief(text)}); its own output, on its machine, says "
        f"why. Start the run again: it goes on from its newest checkpoint"
    )


def _brief(text: str) -> str:
    """The first line of an error, without the place in the source."""
    line = text.strip().splitlines()[0] if text.strip() else "no reason given"
    return line.split("] ", 1)[-1][:200]
