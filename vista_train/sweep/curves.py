"""Curves: what the log of a run says of its learning rate, and which of several rates did best."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SMOOTHING = 0.9
"""Each step's smoothed loss keeps so much of the last one's; what the first ones lack before them is made up for."""
BEGINNING = 10
"""The mean loss over the first tenth of a run is where it began."""
MARGIN = 0.05
"""A loss that ends so much above where it began has diverged. Steps differ in their samples: one that has learnt
nothing ends a little above as often as a little below."""


@dataclass(frozen=True)
class Curve:
    """What one run has logged; steps without a label have no loss and are left out."""

    rate: float
    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    grad_norms: tuple[float, ...] = ()
    held_out: float | None = None
    """The held-out loss of the last evaluation, where the recipe asks for any."""
    held_out_by: Mapping[str, float] = field(default_factory=dict)
    """The same by augmentation."""
    failure: str | None = None
    """Why the run did not come to its end."""

    @property
    def smoothed(self) -> list[float]:
        """The exponential mean of the losses up to each step."""
        found, total, weight = [], 0.0, 0.0
        for loss in self.losses:
            total, weight = SMOOTHING * total + loss, SMOOTHING * weight + 1
            found.append(total / weight)
        return found

    @property
    def last(self) -> float | None:
        """The smoothed loss at the end, wherever that is."""
        return self.smoothed[-1] if self.losses else None

    @property
    def began(self) -> float | None:
        """Where the loss began."""
        first = self.losses[: max(1, len(self.losses) // BEGINNING)]
        return sum(first) / len(first) if first else None

    @property
    def grad_norm(self) -> float | None:
        """The largest gradient norm; infinite where one was no number."""
        return max((norm if math.isfinite(norm) else math.inf for norm in self.grad_norms), default=None)

    def quarters(self, num_steps: int) -> list[float | None]:
        """The smoothed loss after each quarter of a run of so many steps; None for those it did not come to."""
        ends = [math.ceil(num_steps * quarter / 4) for quarter in (1, 2, 3, 4)]
        found = dict(zip(self.steps, self.smoothed, strict=True))
        reached = self.steps[-1] if self.steps else 0
        return [found[max(at for at in found if at <= end)] if min(found, default=end) <= end <= reached else None
                for end in ends]  # fmt: skip

    @property
    def divergence(self) -> str | None:
        """What tells that the rate was too high; None where nothing does."""
        for step, loss in zip(self.steps, self.losses, strict=True):
            if not math.isfinite(loss):
                return f"the loss is {loss} at step {step}"
        # Before the end the loss tells; a scaler of half precision skips steps whose gradient is infinite.
        if self.grad_norms and not math.isfinite(self.grad_norms[-1]):
            return f"the gradient norm is {self.grad_norms[-1]} at step {self.steps[-1]}"
        if self.held_out is not None and not math.isfinite(self.held_out):
            return f"the held-out loss is {self.held_out}"
        last, began = self.last, self.began
        if last is not None and began is not None and last > began * (1 + MARGIN):
            return f"the loss ends at {last:.4g}, and began at {began:.4g}"
        return None

    @property
    def is_stable(self) -> bool:
        """Whether the run came to its end, and did not diverge."""
        return self.failure is None and self.divergence is None and bool(self.losses)


@dataclass(frozen=True)
class Judged:
    """A sweep's runs by rate, and what follows from them."""

    curves: tuple[Curve, ...]
    num_steps: int
    best: float | None
    """The stable rate with the lowest loss at the end."""
    largest_stable: float | None
    is_held_out: bool
    """Whether the held-out loss decided; it does where every stable run has one. Else the smoothed training loss."""

    def deciding(self, curve: Curve) -> float | None:
        """The loss that counts."""
        return curve.held_out if self.is_held_out else curve.last

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data; null for what is no finite number."""
        return {
            "steps": self.num_steps,
            "decided_by": "held-out loss" if self.is_held_out else "smoothed training loss",
            "best": self.best,
            "largest_stable": self.largest_stable,
            "runs": [
                {
                    "rate": curve.rate,
                    "logged_steps": len(curve.losses),
                    "loss": _finite(curve.last),
                    "loss_at_quarters": [_finite(loss) for loss in curve.quarters(self.num_steps)],
                    "largest_grad_norm": _finite(curve.grad_norm),
                    "held_out": _finite(curve.held_out),
                    "held_out_by": {name: _finite(loss) for name, loss in curve.held_out_by.items()},
                    "is_stable": curve.is_stable,
                    "diverged": curve.divergence,
                    "failed": curve.failure,
                }
                for curve in self.curves
            ],
        }


def judge(curves: Sequence[Curve], num_steps: int) -> Judged:
    """Which rate did best, and which is the largest that was stable."""
    stable = [curve for curve in curves if curve.is_stable]
    is_held_out = bool(stable) and all(curve.held_out is not None for curve in stable)
    losses = [(curve.held_out if is_held_out else curve.last, curve.rate) for curve in stable]
    return Judged(
        tuple(sorted(curves, key=lambda curve: curve.rate)),
        num_steps,
        min((loss, rate) for loss, rate in losses if loss is not None)[1] if losses else None,
        max((curve.rate for curve in stable), default=None),
        is_held_out,
    )


def curve_of(output: Path, rate: float, failure: str | None = None) -> Curve:
    """The curve of a run from its `log.jsonl`, and from `evaluations.jsonl` where there is one."""
    lines = [line for line in _lines(output / "log.jsonl") if line.get("labels")]
    evaluated = [line for line in _lines(output / "evaluations.jsonl") if isinstance(line.get("loss"), int | float)]
    last = evaluated[-1] if evaluated else {}
    return Curve(
        rate,
        tuple(line["step"] for line in lines),
        tuple(line["loss"] for line in lines),
        tuple(line["grad_norm"] for line in lines),
        last.get("loss"),
        last.get("losses") or {},
        failure,
    )


def table(judged: Judged) -> str:
    """A line a rate, what was wrong with it behind; then what follows."""
    has_held_out = any(curve.held_out is not None for curve in judged.curves)
    heads = ["rate", "loss at 1/4", "1/2", "3/4", "end", *(["held-out"] if has_held_out else []), "largest grad norm"]
    rows = [heads]
    notes = [""]
    for curve in judged.curves:
        losses = [*curve.quarters(judged.num_steps)[:3], curve.last, *([curve.held_out] if has_held_out else [])]
        rows.append([f"{curve.rate:g}", *map(_told, losses), _told(curve.grad_norm)])
        wrong = [f"failed: {curve.failure}"] if curve.failure else []
        wrong += [f"diverged: {curve.divergence}"] if curve.divergence else []
        notes.append("; ".join(wrong) or ("best" if curve.rate == judged.best else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + f"  {note}"
        for row, note in zip(rows, notes, strict=True)
    ]
    return "\n".join([*(line.rstrip() for line in lines), *_conclusion(judged)])


def _conclusion(judged: Judged) -> list[str]:
    if judged.best is None:
        has_diverged = any(curve.divergence for curve in judged.curves)
        return ["no rate was stable; try smaller ones" if has_diverged else "no run came to its end"]
    by = "held-out" if judged.is_held_out else "smoothed training"
    told = [f"best by {by} loss: {judged.best:g}; largest that was stable: {judged.largest_stable:g}"]
    rates = [curve.rate for curve in judged.curves]
    if len(rates) > 1 and judged.best in (rates[0], rates[-1]):
        end, more = ("smallest", "smaller") if judged.best == rates[0] else ("largest", "larger")
        told += [f"that is the {end} rate that was tried: {more} ones may be better still"]
    return told


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; none where there is no file. A line that a kill cut short is passed over."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _told(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"
