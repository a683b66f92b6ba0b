"""The journal of a run: a progress bar, log.jsonl, the ledger, and Weights & Biases if asked for."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from vista_train.data import ledger
from vista_train.training import evaluations
from vista_train.training.meters import StepMeters
from vista_train.types import Failure


class Journal:
    """Written by one process of a run. A resumed run goes on with the same files, cut back to where it starts."""

    def __init__(self, output: Path, num_steps: int, first_step: int, wandb_project: str | None = None) -> None:
        self.log, self.ledger = output / "log.jsonl", output / ledger.NAME
        self.lock = _locked(output)
        self.first_step = first_step
        # A terminal shows one line; a log file would keep every one.
        seconds = 0.5 if sys.stderr.isatty() else 30.0
        self.bar = tqdm(
            total=num_steps, initial=first_step, unit="step", smoothing=0.1, dynamic_ncols=True, mininterval=seconds
        )
        self.wandb_run = _start_wandb(wandb_project, output) if wandb_project else None

    def open(self, next_position: int, unusable: Sequence[Failure]) -> None:
        """Cut log and ledger back to the step the run starts from, and note clips that were left out."""
        ledger.rewind(self.ledger, next_position)
        noted = {(failure.key, failure.reason) for failure in ledger.read(self.ledger)}
        ledger.append(self.ledger, [entry for entry in unusable if (entry.key, entry.reason) not in noted])
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True) if self.log.exists() else []
        kept = [line for line in lines if _step_of(line) <= self.first_step]
        scratch = self.log.with_suffix(".rewound")
        scratch.write_text("".join(kept), encoding="utf-8")
        scratch.replace(self.log)

    def lose(self, failures: Sequence[Failure]) -> None:
        """Enter losses of a step that will not be taken, as there are too many."""
        ledger.give_up(self.ledger, failures)

    def record(self, meters: StepMeters, failures: Sequence[Failure], num_failed: int) -> None:
        """Enter what was lost and what was measured, now that the step is complete."""
        ledger.append(self.ledger, failures)
        line = meters.line()
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.bar.set_postfix_str(
            f"loss {meters.loss:.4f}, {meters.tokens_per_second:.0f} tokens/s, data wait {meters.data_wait:.0%}, "
            f"efficiency {meters.step_efficiency:.2f}, {meters.tflops:.3g} TFLOPs/s"
            f"{'' if meters.mfu is None else f' (MFU {meters.mfu:.1%})'}, lost {num_failed}",
            refresh=False,
        )
        self.bar.update(1)
        if self.wandb_run is not None:
            self.wandb_run.log(line, step=meters.step)

    def evaluated(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Enter the last of all evaluations so far."""
        line = lines[-1]
        with (self.log.parent / evaluations.NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.wandb_run is not None:
            self.wandb_run.log(_shown(line, self.log.parent), step=line["step"])

    def close(self) -> None:
        """Finish the bar and the remote log."""
        self.bar.close()
        self.lock.close()
        if self.wandb_run is not None:
            self.wandb_run.finish()


def _locked(output: Path) -> TextIO:
    """An open file that keeps other runs out of the folder for as long as it is open; `ValueError` if one is in."""
    lock = (output / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ValueError(f"output is {str(output)!r}, where another run is writing; choose another") from None
    except OSError:
        # Some network file systems have no locks; there, whoever starts two runs must know it.
        pass
    return lock


def _shown(line: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """An evaluation as Weights & Biases plots it: numbers by name, and pictures."""
    import wandb

    shown = {f"held_out/{name}": loss for name, loss in line.get("losses", {}).items() if loss is not None}
    if line["loss"] is not None:
        shown["held_out/loss"] = line["loss"]
    shown |= line.get("figures", {})
    return shown | {name: wandb.Image(str(output / path)) for name, path in line.get("pictures", {}).items()}


def _start_wandb(project: str, output: Path) -> Any:
    import wandb

    return wandb.init(project=project, dir=str(output))


def _step_of(line: str) -> float:
    """The step of a line of the log; a line cut short by a kill counts as the last of all."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")
