"""Tolerance: what has been lost, how much of that a run bears, and which files it gives up on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vista_train.data import ledger
from vista_train.training import checkpoint
from vista_train.training.settings import QUARANTINE_STEPS, LoopSettings
from vista_train.types import Failure
from vista_train.video.quarantine import Quarantine, is_costly

MIN_SAMPLES_JUDGED = 100
"""The share of lost samples is taken of at least so many, so that one early loss does not stop a run."""


class Tolerance:
    """All losses of a run, step by step; the same on every rank, and after a resume.

    A file that was lost `quarantine_after` times is refused from `QUARANTINE_STEPS` later on: no data worker has come
    so far yet, however many there are, so that all of them refuse it at the same positions. One that took too long, or
    killed who decoded it, is refused at once, by everyone who has heard of it.
    """

    def __init__(self, settings: LoopSettings, quarantine: Quarantine | None = None) -> None:
        self.settings, self.quarantine = settings, quarantine
        self.failures: list[Failure] = []
        self.num_failed = 0
        """Samples whose planned attempt was lost."""
        self._in_a_row = self._most_in_a_row = 0
        self._by_file: Counter[str] = Counter()

    def enter(self, step: int, failures: Sequence[Failure]) -> int:
        """Take in the losses of a step; how many of its samples have any."""
        self.failures += failures
        positions = {failure.position for failure in failures}
        self.num_failed += len(positions)
        size = self.settings.budget.batch_samples
        for position in range(step * size, (step + 1) * size):
            self._in_a_row = self._in_a_row + 1 if position in positions else 0
            self._most_in_a_row = max(self._most_in_a_row, self._in_a_row)
        self._give_up(step, failures)
        return len(positions)

    def restore(self, steps: int, failures: Iterable[Failure]) -> None:
        """Take in the losses of the first `steps` of a run, as its checkpoint has them."""
        size = self.settings.budget.batch_samples
        by_step: dict[int, list[Failure]] = {}
        for failure in failures:
            by_step.setdefault(failure.position // size, []).append(failure)
        for step in sorted(by_step):
            if step - 1 not in by_step:
                self._in_a_row = 0
            self.enter(step, by_step[step])
        if steps - 1 not in by_step:
            self._in_a_row = 0
        # What an earlier run bore is borne.
        self._most_in_a_row = 0

    def exceeded(self, step: int) -> str | None:
        """Why the run must stop after `step`, in words; None where it may go on."""
        samples = (step + 1) * self.settings.budget.batch_samples
        if self.num_failed > self.settings.max_failed_share * max(MIN_SAMPLES_JUDGED, samples):
            return (
                f"{self.num_failed} of {samples} samples were lost, more than train.max_failed_share "
                f"{self.settings.max_failed_share:g} allows"
            )
        if self._most_in_a_row >= self.settings.max_consecutive_failures:
            return (
                f"{self._most_in_a_row} samples in a row were lost, and train.max_consecutive_failures is "
                f"{self.settings.max_consecutive_failures}; is data.root still there?"
            )
        return None

    def _give_up(self, step: int, failures: Sequence[Failure]) -> None:
        if self.quarantine is None:
            return
        later = (step + QUARANTINE_STEPS) * self.settings.budget.batch_samples
        for failure in failures:
            self._by_file[failure.key] += 1
            if is_costly(failure.kind, failure.reason):
                self.quarantine.add(failure.key, failure.kind, failure.position)
            elif self._by_file[failure.key] >= self.settings.quarantine_after:
                self.quarantine.add(failure.key, failure.kind, later)


def known_failures(output: Path, folder: Path | None) -> list[Failure]:
    """What a run resumed from `folder` must take as lost again: the ledger's attempts from its position on."""
    if folder is None:
        return []
    return ledger.known(output / ledger.NAME, checkpoint.read_state(folder).next_position)
