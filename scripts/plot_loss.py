"""Draws a run's log: the loss, raw and smoothed, and the gradient norm beneath."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

LIGHT, DARK = "#9db8d9", "#1f3f77"


def read_log(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, losses and gradient norms of the log's training lines, in order of steps.

    A step logged twice (the run was resumed before it) counts as it was logged last; a missing norm is NaN.
    """
    lines: dict[int, tuple[float, float]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
        if line.get("loss") is not None and "step" in line:
            norm = line.get("grad_norm")
            lines[int(line["step"])] = (float(line["loss"]), float("nan") if norm is None else float(norm))
    if not lines:
        raise ValueError(f"{path} has no line with both step and loss")
    steps = np.array(sorted(lines))
    values = np.array([lines[step] for step in steps])
    return steps, values[:, 0], values[:, 1]


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values up to each, of fewer at the start; values that are not finite do not count."""
    finite = np.isfinite(values)
    sums = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    number = counts[ends] - counts[starts]
    return np.where(number > 0, (sums[ends] - sums[starts]) / np.maximum(number, 1), np.nan)


def plot(steps: np.ndarray, losses: np.ndarray, norms: np.ndarray) -> plt.Figure:
    """One figure, two panels over the same steps."""
    window = min(len(steps), max(2, len(steps) // 20))
    first, last = losses[0], running_mean(losses, window)[-1]
    figure, (upper, lower) = plt.subplots(
        2, 1, sharex=True, figsize=(8, 5.5), height_ratios=(3, 2), layout="constrained"
    )
    for panel, values, name in ((upper, losses, "loss"), (lower, norms, "gradient norm")):
        panel.plot(steps, values, color=LIGHT, linewidth=1, label="each step")
        panel.plot(steps, running_mean(values, window), color=DARK, linewidth=1.8, label=f"mean of {window} steps")
        panel.set_ylabel(name)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_ylim(bottom=0)
    upper.legend(frameon=False)
    upper.set_title(f"{len(steps)} steps: loss {first:.3f} at the first, {last:.3f} over the last {window}", loc="left")
    lower.set_xlabel("step")
    lower.xaxis.get_major_locator().set_params(integer=True)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path, help="a run's log.jsonl")
    parser.add_argument("out", type=Path, help="the picture to write, .png")
    chosen = parser.parse_args(arguments)
    try:
        steps, losses, norms = read_log(chosen.log)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    plot(steps, losses, norms).savefig(chosen.out, dpi=120)
    print(f"{len(steps)} steps drawn: {chosen.out}")


if __name__ == "__main__":
    main()
