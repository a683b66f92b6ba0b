"""stopped.json: a run that was told to stop, and did, says so; a scheduler tells it from one that failed."""

from __future__ import annotations

import json
from pathlib import Path

from vista_train.training import checkpoint

STOPPED = "stopped.json"


def note(output: Path, step: int, rank: int, signal: str) -> None:
    """Write down that the run stopped after a step, on a signal that a rank got."""
    newest = checkpoint.published(output)[-1]
    told = {"step": step, "signal": signal, "rank": rank, "checkpoint": newest.name}
    scratch = output / f".{STOPPED}"
    scratch.write_text(json.dumps(told) + "\n", encoding="utf-8")
    scratch.replace(output / STOPPED)


def forget(output: Path) -> None:
    """A run that goes on is no longer stopped."""
    (output / STOPPED).unlink(missing_ok=True)
