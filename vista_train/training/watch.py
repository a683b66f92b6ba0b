"""Watch: every so many steps, how the model does on what is held out, and whatever else is to be seen of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vista_train.data.held_out import HeldOut
from vista_train.data.rows import RowPlanner
from vista_train.models.likelihood import Reader
from vista_train.training.evaluations import Evaluations, read_lines, write_lines
from vista_train.training.loader import Loader
from vista_train.training.meters import Stopwatch
from vista_train.training.ranks import Ranks
from vista_train.training.signals import StopSignal
from vista_train.types import Failure

if TYPE_CHECKING:
    from vista_train.training.journal import Journal
    from vista_train.training.loop import Trainer


@dataclass(frozen=True)
class WatchSettings:
    """How often the model is looked at while it trains, and when that ends the run."""

    every: int = 200
    """Steps between evaluations; there is one before the first step, and one after the last."""
    samples: int = 16
    """Held-out samples of each augmentation; 0 for no held-out loss."""
    patience: int | None = None
    """End the run when the held-out loss has not fallen for so many evaluations; default, never."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"evaluate.every is {self.every}; it must be at least 1 step")
        if self.samples < 0:
            raise ValueError(f"evaluate.samples is {self.samples}; it must be 0 or more")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"evaluate.patience is {self.patience}; it must be at least 1 evaluation")
        if self.patience is not None and not self.samples:
            raise ValueError("evaluate.patience needs a held-out loss; give evaluate.samples a number above 0")


class Look(Protocol):
    """Something to be seen of a model, such as a needle test."""

    @property
    def identity(self) -> str:
        """Names all that decides the result, the model aside."""
        ...

    def look(self, read: Reader, ranks: Ranks, output: Path, step: int) -> dict[str, Any]:
        """What was found, as it stands in the line of the step; `figures` (numbers) and `pictures` (paths) go on to
        whoever plots them. Every rank calls this, and all find the same."""
        ...


class Watch:
    """What is looked at, and how often. Every rank has one, and calls it at the same steps."""

    def __init__(
        self, settings: WatchSettings | None = None, held_out: HeldOut | None = None, looks: Sequence[Look] = ()
    ) -> None:
        self.settings, self.held_out, self.looks = settings or WatchSettings(), held_out, tuple(looks)
        self.stopped: tuple[int, str] | None = None
        """The rank and the signal that an evaluation was given up for: it is made when the run goes on."""

    @property
    def key(self) -> str:
        """Names what the held-out loss is taken of; nothing where nothing is. Losses of one key are compared."""
        return self.held_out.digest() if self.held_out else ""

    @property
    def also(self) -> str:
        """Names what else is looked at; nothing where nothing is."""
        return "/".join(look.identity for look in self.looks)

    def begin(self, trainer: Trainer, journal: Journal | None, signals: StopSignal | None) -> Callable[[], bool]:
        """What to call before each step, and after the last: it looks at the model where that is due, has the best
        one kept, and says whether the run ends here, as the loss no longer falls."""
        if not (self.key or self.also):
            return lambda: False
        # As the first rank has it; others may not see the newest lines of a network's file system.
        lines = read_lines(trainer.output, trainer.step_number) if trainer.is_main else []
        known = Evaluations(self.key, self.settings.patience, trainer.ranks.gathered(lines)[0], self.also)
        if trainer.is_main:
            write_lines(trainer.output, known.lines)
        return lambda: self._ends(trainer, known, journal, signals)

    def _ends(self, trainer: Trainer, known: Evaluations, journal: Journal | None, signals: StopSignal | None) -> bool:
        step = trainer.step_number
        is_due = step % self.settings.every == 0 or step == trainer.num_steps
        is_due = is_due and not known.knows(step)
        line = self.line(trainer, signals) if is_due else None
        if is_due and line is None and step:
            # At this very step, so that it is looked at when the run goes on, as it would have been by now.
            names = trainer.ranks.gathered(signals.name if signals else None)
            self.stopped = next((rank, name) for rank, name in enumerate(names) if name)
            return True
        if line is not None:
            known.add(line)
            if journal is not None:
                warn(tell(line, known))
                journal.evaluated(known.lines)
        best = known.best
        trainer.saver.best = best.step if best else None
        if best and best.step == step > trainer.saved_step:
            trainer.save()
        if known.is_over and best and journal is not None and step < trainer.num_steps:
            warn(f"the run ends: the held-out loss was lowest at step {best.step}, {best.loss:.4f}")
        return known.is_over

    def line(self, trainer: Trainer, signals: StopSignal | None) -> dict[str, Any] | None:
        """What is found of the model at its step; None where a signal to stop came on any rank, which cannot wait."""
        since = time.perf_counter()
        losses, failures = dict[str, float | None](), list[Failure]()
        line: dict[str, Any] = {"step": trainer.step_number, "loss": None}
        for name, loss, lost in self._losses(trainer):
            losses[name] = loss
            failures += lost
            if _told_to_stop(trainer.ranks, signals):
                return None
        if losses:
            known = [loss for loss in losses.values() if loss is not None]
            # A mean over fewer augmentations could not be compared with the others.
            whole = sum(known) / len(known) if len(known) == len(losses) else None
            line |= {"loss": whole, "losses": losses}
        for look in self.looks:
            found = look.look(trainer.read, trainer.ranks, trainer.output, trainer.step_number)
            line |= {name: {**line.get(name, {}), **found.pop(name, {})} for name in ("figures", "pictures")} | found
            if _told_to_stop(trainer.ranks, signals):
                return None
        lost_told = [{"position": one.position, "key": one.key, "reason": one.reason} for one in failures]
        return line | {"lost": lost_told, "seconds": time.perf_counter() - since}

    def _losses(self, trainer: Trainer) -> Iterator[tuple[str, float | None, list[Failure]]]:
        """(augmentation, mean cross entropy over its labels, what was lost), one augmentation after another; no loss
        where all of its samples were lost."""
        if self.held_out is None:
            return
        ranks, loop = trainer.ranks, trainer.loop
        budget = replace(loop.budget, batch_samples=self.held_out.samples_each)
        # Each rank plans all of it: what ranks tell one another of plans belongs to the thread that plans training.
        planner = RowPlanner(self.held_out, budget, 0, len(self.held_out.mix), ranks.rank, ranks.count)
        workers = min(ranks.gathered(loop.workers_beside(ranks.on_this_machine)))
        pin = trainer.accelerator.device.type == "cuda"
        loader = Loader(planner, replace(loop, budget=budget), workers, ranks.on_this_machine, pin)
        try:
            for ingredient in self.held_out.mix:
                _, rows = loader.step(Stopwatch())
                lost = ranks.gathered([failure for row in rows for failure in row.failures])
                yield ingredient.augment.name, trainer.evaluate(rows), [one for each in lost for one in each]
        finally:
            loader.close()


def _told_to_stop(ranks: Ranks, signals: StopSignal | None) -> bool:
    return any(ranks.gathered(signals is not None and signals.name is not None))


def tell(line: dict[str, Any], evaluations: Evaluations) -> str:
    """One line on an evaluation, for people."""
    told = [f"step {line['step']}:"]
    if line["loss"] is not None:
        best = evaluations.best
        is_best = best is not None and best.step == line["step"]
        each = ", ".join(f"{name} {loss:.3f}" for name, loss in line["losses"].items())
        told.append(f"held-out loss {line['loss']:.4f}{' (the lowest so far)' if is_best else ''} ({each})")
    elif line.get("losses"):
        lost = ", ".join(name for name, loss in line["losses"].items() if loss is None)
        told.append(f"no held-out loss: every sample was lost of {lost}")
    told += [f"{name} {value:.3g}" for name, value in line.get("figures", {}).items()]
    if line["lost"]:
        first = line["lost"][0]
        told.append(f"{len(line['lost'])} held-out samples replaced or lost, such as {first['key']}: {first['reason']}")
    return " ".join(told[:2]) + "".join(f"; {more}" for more in told[2:])


def warn(text: str) -> None:
    """A line to the terminal, beside the progress bar."""
    print(f"vista_train: {text}", file=sys.stderr, flush=True)
