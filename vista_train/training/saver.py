"""Saver: one checkpoint after another, each written by all ranks and published by one, in the background if asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from vista_train.training import checkpoint
from vista_train.training.checkpoint import RunState
from vista_train.training.ranks import Ranks


class SaveError(RuntimeError):
    """A checkpoint could not be written; the message says which, where and why."""


class Saver:
    """Writes checkpoints; every rank makes one and calls its methods at the same steps.

    Order: the marker, every rank's part, and only when all ranks are done the marker goes and older ones are pruned.
    """

    def __init__(self, ranks: Ranks, keep: int, in_background: bool) -> None:
        self.ranks, self.keep, self.in_background = ranks, keep, in_background
        self.best: int | None = None
        """A step whose checkpoint is kept, however old."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._pending: _Pending | None = None

    def save(
        self,
        folder: Path,
        state: RunState,
        sizes: Mapping[str, int],
        pieces: Mapping[str, torch.Tensor],
        random: Mapping[str, torch.Tensor],
        save_model: Callable[[Path], None],
    ) -> None:
        """Write and publish; in the background, only start to, and publish at a later `settle` or `finish`.

        `sizes` are those of all parameters that train, `pieces` what this rank holds of their state. `save_model` is
        called on the first rank alone; in the background, while training goes on.
        """
        self.finish()
        self._agree(folder, lambda: checkpoint.begin(folder))

        def work() -> None:
            checkpoint.write_part(folder, self.ranks.rank, pieces, random)
            if self.ranks.rank == 0:
                checkpoint.write_whole(folder, state, save_model)

        self._pending = _Pending(folder, sizes, self._writer.submit(work))
        if not self.in_background:
            self.finish()

    @property
    def is_writing(self) -> bool:
        """Whether this rank's part of a checkpoint is still being written."""
        return self._pending is not None and not self._pending.written.done()

    def settle(self, any_writing: bool) -> None:
        """Publish what was written in the background, if no rank is still writing."""
        if not any_writing:
            self.finish()

    def finish(self) -> None:
        """Wait for this and every other rank's part, and publish; `SaveError` on all ranks if one could not write."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._raise(pending.folder, pending.written.exception())
        self._agree(pending.folder, lambda: checkpoint.publish(pending.folder, pending.sizes))
        if self.ranks.rank == 0:
            try:
                checkpoint.prune(pending.folder.parent, self.keep, self.best)
            except OSError as error:
                # The new one stands; an older one that stays is no reason to end the run.
                print(f"vista_train: an older checkpoint could not be deleted: {error}", file=sys.stderr, flush=True)

    def _agree(self, folder: Path, work: Callable[[], None]) -> None:
        """The first rank works, and all hear how it went."""
        self._raise(folder, self._writer.submit(work).exception() if self.ranks.rank == 0 else None)

    def _raise(self, folder: Path, error: BaseException | None) -> None:
        """`SaveError` on all ranks if there was an error on one: raised there alone, the others would wait for it."""
        told = [
            f"rank {rank}: {reason}"
            for rank, reason in enumerate(self.ranks.gathered(error and f"{type(error).__name__}: {error}"))
            if reason
        ]
        if told:
            older = checkpoint.published(folder.parent)
            newest = f"the newest whole checkpoint is {older[-1]}" if older else "there is no older checkpoint"
            raise SaveError(f"{folder} could not be written ({'; '.join(told[:4])}); {newest}") from error


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is being written."""

    folder: Path
    sizes: Mapping[str, int]
    written: Future[None]
