"""The picture of a sweep: loss against step for each rate, and the loss at the end against the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vista_train.data.journal import writing
from vista_train.evaluation.report import DARK, DPI, INK, LIGHT, PAPER
from vista_train.sweep.curves import Curve, Judged

BAD = "#b5452c"
"""What diverged or failed."""
PALEST = 0.15
HEADROOM = 0.12
"""Above the highest loss of a stable run, as a share of what stable losses span; what diverges runs out of sight."""


def plot(judged: Judged, path: Path, title: str = "") -> None:
    """The sweep as PNG: rates from pale to dark, what diverged or failed in red."""
    figure = Figure(figsize=(11, 4.4), layout="constrained", facecolor=PAPER)
    left, right = figure.subplots(1, 2)
    _losses(left, judged)
    _ends(right, judged)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.grid(color=LIGHT, linewidth=0.5, alpha=0.6)
        panel.set_axisbelow(True)
    shown = f"{judged.num_steps} steps at each learning rate"
    figure.suptitle(f"{title}: {shown}" if title else shown, fontsize=11)
    # A canvas of its own: nothing is asked of a display, and nothing stays behind in matplotlib.
    FigureCanvasAgg(figure)
    with writing(path):
        figure.savefig(path, dpi=DPI)


def _losses(panel: Axes, judged: Judged) -> None:
    for curve, colour in zip(judged.curves, _colours(judged.curves), strict=True):
        is_best = curve.rate == judged.best
        marked = "best" if is_best else "failed" if curve.failure else "diverged" if curve.divergence else ""
        label = f"{curve.rate:g}" + (f"  ({marked})" if marked else "")
        style: dict[str, Any] = {"color": colour, "linestyle": "-" if curve.is_stable else "--"}
        panel.plot(curve.steps, curve.losses, linewidth=0.6, alpha=0.35, **style)
        # A run of one step is a point.
        dot = "o" if len(curve.steps) == 1 else ""
        panel.plot(
            curve.steps,
            curve.smoothed,
            linewidth=2.6 if is_best else 1.4,
            label=label,
            marker=dot,
            markersize=4,
            **style,
        )
    bounds = _bounds([loss for curve in _shown(judged) for loss in (*curve.losses, *curve.smoothed)])
    if bounds is not None:
        panel.set_ylim(*bounds)
    panel.set_xlim(1, max(2, judged.num_steps))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("step", fontsize=9)
    panel.set_ylabel("training loss, smoothed (thin: each step's)", fontsize=9)
    panel.legend(title="learning rate", fontsize=7.5, title_fontsize=8, frameon=False)


def _ends(panel: Axes, judged: Judged) -> None:
    deciding = "held-out loss" if judged.is_held_out else "smoothed training loss"
    points = [(curve.rate, loss) for curve in _shown(judged) if (loss := judged.deciding(curve)) is not None]
    finite = [(rate, loss) for rate, loss in points if math.isfinite(loss)]
    panel.set_xscale("log")
    panel.plot(*zip(*finite, strict=True) if finite else ((), ()), color=DARK, linewidth=1.2, marker="o", markersize=5)
    bounds = _bounds([loss for _, loss in finite])
    if bounds is None:
        panel.set_yticks([])
    else:
        panel.set_ylim(*bounds)
    for curve in judged.curves:
        loss = judged.deciding(curve)
        if curve.rate == judged.best and loss is not None:
            panel.plot([curve.rate], [loss], "o", markersize=12, mfc="none", mec=INK, mew=1.4)
        elif not curve.is_stable:
            panel.plot([curve.rate], [0.96], "x", transform=panel.get_xaxis_transform(), color=BAD, ms=8, mew=2)
            panel.annotate(
                "failed" if curve.failure else "diverged", (curve.rate, 0.96), xycoords=panel.get_xaxis_transform(),
                xytext=(0, -14), textcoords="offset points", ha="center", fontsize=7, color=BAD,
            )  # fmt: skip
    rates = [curve.rate for curve in judged.curves]
    beside = max(1.6, (max(rates) / min(rates)) ** 0.06)
    panel.set_xlim(min(rates) / beside, max(rates) * beside)
    panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
    panel.minorticks_off()
    panel.set_xlabel("learning rate (circle: the best)", fontsize=9)
    panel.set_ylabel(f"{deciding} at the end", fontsize=9)


def _shown(judged: Judged) -> Sequence[Curve]:
    """The runs that the axes are made for: the stable ones, or all where none is."""
    return [curve for curve in judged.curves if curve.is_stable] or judged.curves


def _colours(curves: Sequence[Curve]) -> list[str]:
    """From pale to dark by rate; one of its own for what is not stable."""
    ramp = LinearSegmentedColormap.from_list("rates", [LIGHT, DARK, INK])
    span = max(1, len(curves) - 1)
    shades = [mpl.colors.to_hex(ramp(PALEST + (1 - PALEST) * at / span)) for at in range(len(curves))]
    return [shade if curve.is_stable else BAD for shade, curve in zip(shades, curves, strict=True)]


def _bounds(losses: Sequence[float]) -> tuple[float, float] | None:
    """The least and the largest, and some room around; None where none is a finite number."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    room = HEADROOM * (high - low) or HEADROOM * abs(high) or 1.0
    return low - room, high + room
