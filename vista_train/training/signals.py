"""Signals to stop: noted when they come, acted on at the end of a step, when all ranks have heard of it."""

from __future__ import annotations

import signal
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM is what schedulers send before they kill; SIGUSR1 is what SLURM is asked to send before time is up."""


class StopSignal:
    """The first of STOPPING that this process got, from `listen` to `close`."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def listen(self) -> StopSignal:
        """Take the signals over. Only a process's main thread can; elsewhere they stay as they are."""
        try:
            for number in STOPPING:
                self._before[number] = signal.signal(number, self._note)
        except ValueError:
            self._before.clear()
        return self

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def ignore(self) -> None:
        """Let later ones pass: the work is done, and who still asks for the end of it need not kill for it."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name
