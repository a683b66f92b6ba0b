"""Evaluations: what was found of a model while it trained, which step was best, and whether it still gets better."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

NAME = "evaluations.jsonl"


class Best(NamedTuple):
    """The step with the lowest held-out loss."""

    step: int
    loss: float


@dataclass
class Evaluations:
    """Lines of `evaluations.jsonl` so far, on every rank; the file is the first rank's.

    A line holds `step`, `key`, `loss` (None where nothing is held out, or samples were lost), and whatever else was
    found. Lines of another key, of other held-out samples, are kept, but are not compared.
    """

    key: str
    """Names the held-out samples."""
    patience: int | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    also: str = ""
    """Names what else is looked at."""

    def knows(self, step: int) -> bool:
        """Whether a step was evaluated already, and all looked at that is asked for."""
        return any(line["step"] == step and line.get("also", "") == self.also for line in self._own())

    def add(self, line: Mapping[str, Any]) -> None:
        """Enter what was found at a step, in place of what was found there before something else was asked for."""
        self.lines = [old for old in self.lines if (old["step"], old["key"]) != (line["step"], self.key)]
        self.lines.append({"key": self.key, "also": self.also, **line})

    @property
    def best(self) -> Best | None:
        """The step of the lowest loss, the first of equals; an untrained model, step 0, does not count."""
        found = [Best(line["step"], line["loss"]) for line in self._own() if line["step"] and _is_loss(line["loss"])]
        return min(found, key=lambda entry: entry.loss, default=None)

    @property
    def is_over(self) -> bool:
        """Whether the loss has not fallen for `patience` evaluations."""
        best = self.best
        if self.patience is None or best is None:
            return False
        return sum(line["step"] > best.step and line["loss"] is not None for line in self._own()) >= self.patience

    def _own(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["key"] == self.key]


def _is_loss(loss: float | None) -> bool:
    """Whether there is one that others can be compared with; nan cannot."""
    return loss is not None and math.isfinite(loss)


def read_lines(output: Path, step: int) -> list[dict[str, Any]]:
    """The lines of a run's evaluations up to a step; one that a kill cut short is left out."""
    path, lines = output / NAME, []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and line.keys() >= {"step", "key", "loss"} and line["step"] <= step:
            lines.append(line)
    return lines


def write_lines(output: Path, lines: list[dict[str, Any]]) -> None:
    """Replace a run's evaluations."""
    path = output / NAME
    scratch = path.with_suffix(".rewound")
    scratch.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    scratch.replace(path)


def summary(output: Path) -> str:
    """One line on the best step of a finished run; empty where nothing was evaluated."""
    lines = read_lines(output, 1 << 62)
    best = Evaluations(lines[-1]["key"], lines=lines).best if lines else None
    return f"lowest held-out loss {best.loss:.4f}, at step {best.step}" if best else ""
