"""Results for people and machines: JSON, a table for the terminal, and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vista_train.data.journal import Draft, writing
from vista_train.evaluation.heatmap import Cell, HeatMap
from vista_train.evaluation.intervals import Tally
from vista_train.evaluation.multiple_choice import ChoiceResult

DARK, LIGHT, INK, PAPER = "#1f5fa8", "#c9d8ea", "#222222", "#ffffff"
BARE = "#e6e6e6"
PANELS = {"choice": "multiple choice", "exact": "exact match, teacher-forced"}
DPI = 150
MAX_BARS = 60
"""A plot of more groups is one that nobody reads; they are in the JSON."""


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, whole or not at all; `ValueError` where it cannot be written."""
    with Draft(path) as draft:
        draft.add(json.dumps(result, indent=1, ensure_ascii=False))
        draft.publish()


def heat_table(found: HeatMap) -> str:
    """A table for each measure: lengths across, depths down, shares in the cells; what was not asked is said below."""
    test = found.test
    lines: list[str] = []
    for measure, title in PANELS.items():
        overall = found.overall(measure)
        lines += [f"{title}: {'nothing was asked' if overall is None else overall.told()}"]
        lines += ["depth " + "".join(f"{_seconds(length):>9}" for length in test.lengths_seconds)]
        for depth in test.depths:
            row = [_cell_at(found, length, depth) for length in test.lengths_seconds]
            lines += [f"{depth:5.2f} " + "".join(f"{_share_told(cell, measure):>9}" for cell in row)]
        lines += [""]
    lines += [f"chance of a guesser with options: {found.chance:.1%}; {test.trials} needles a cell"]
    lines += [f"{found.failed} trials failed and count as wrong"] if found.failed else []
    lines += [
        f"not asked at {_seconds(c.length_seconds)}, depth {c.depth:g}: {c.unseen}" for c in found.cells if c.unseen
    ]
    return "\n".join(lines)


def choice_table(found: ChoiceResult) -> str:
    """One line a group, with its interval; failures are told apart."""
    rows: list[tuple[str, Tally]] = [("all", found.overall)]
    for name, values in found.groups.items():
        rows += [(f"{name}: {value}", one) for value, one in values.items()]
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}  {one.told()}" for label, one in rows]
    lines += [f"chance of a guesser: {found.chance:.1%}" + (" (right in every shift)" if found.shifted else "")]
    reasons = dict.fromkeys(one.failure for one in found.answered if one.failure)
    lines += [f"failed, and counted as wrong: {reason}" for reason in list(reasons)[:5]]
    return "\n".join(lines)


def plot_heat_map(found: HeatMap, path: Path, title: str = "") -> None:
    """The heat map as PNG: lengths across, depths down, one panel a measure, the shares printed in the cells."""
    columns, rows = len(found.test.lengths_seconds), len(found.test.depths)
    panel_width, height = max(3.4, 0.8 * columns + 1.2), max(2.6, 0.62 * rows + 1.9)
    figure = Figure(figsize=(2 * panel_width + 1.4, height), layout="constrained", facecolor=PAPER)
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    colours = mpl.colormaps["viridis"].with_extremes(bad=BARE)
    image = None
    for panel, (measure, told) in zip(panels, PANELS.items(), strict=True):
        image = _panel(panel, found, measure, colours)
        chance = f" (chance {found.chance:.0%})" if measure == "choice" else ""
        panel.set_title(told + chance, fontsize=10)
    panels[0].set_ylabel("depth of the needle")
    assert image is not None
    bar = figure.colorbar(image, ax=panels, fraction=0.035, pad=0.02)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    bar.ax.tick_params(labelsize=8)
    trials = f"{found.test.kind} needles of {found.test.needle_seconds:g} s, {found.test.trials} a cell"
    figure.suptitle(f"{title}: {trials}" if title else trials, fontsize=11)
    if any(cell.unseen for cell in found.cells):
        figure.supxlabel("grey: not asked, the view's frames would pass the needle by", fontsize=8, color=INK)
    _save(figure, path)


def _panel(panel: Axes, found: HeatMap, measure: str, colours: mpl.colors.Colormap) -> Any:
    lengths, depths = found.test.lengths_seconds, found.test.depths
    tallies = [[getattr(_cell_at(found, length, depth), measure) for length in lengths] for depth in depths]
    shares_RC = np.array([[np.nan if one is None else one.share for one in row] for row in tallies])
    image = panel.imshow(np.ma.masked_invalid(shares_RC), cmap=colours, vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(shares_RC.shape):
        one = tallies[row][column]
        if one is None:
            panel.text(column, row, "not\nseen", ha="center", va="center", fontsize=7, color=INK)
            continue
        colour = PAPER if one.share < 0.6 else INK
        panel.text(column, row - 0.2, f"{one.share:.0%}", ha="center", va="center", fontsize=9, color=colour)
        low, high = one.interval
        failed = f", {one.failed} failed" if one.failed else ""
        counted = f"{one.right}/{one.count}{failed}\n{low:.0%} to {high:.0%}"
        panel.text(column, row + 0.24, counted, ha="center", va="center", fontsize=6, color=colour, linespacing=1.1)
    panel.set_xticks(range(len(lengths)), [_column_told(found, length) for length in lengths], fontsize=8)
    panel.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths], fontsize=8)
    panel.set_xlabel("length of the video")
    # Lines between the cells.
    panel.set_xticks(np.arange(-0.5, len(lengths)), minor=True)
    panel.set_yticks(np.arange(-0.5, len(depths)), minor=True)
    panel.grid(which="minor", color=PAPER, linewidth=1.2)
    panel.tick_params(which="both", length=0)
    for edge in panel.spines.values():
        edge.set_visible(False)
    return image


def plot_choices(found: ChoiceResult, path: Path, title: str = "") -> None:
    """Bars as PNG: all questions and each group, with 95 % intervals, and what a guesser would get."""
    bars: list[tuple[str, Tally]] = [("all", found.overall)]
    for name, values in found.groups.items():
        bars += [(f"{name.split('.')[-1]}: {value}", one) for value, one in values.items()]
    bars = bars[:MAX_BARS]
    places = np.arange(len(bars))
    shares = np.array([one.share for _, one in bars])
    bounds = np.array([one.interval for _, one in bars])
    figure = Figure(figsize=(7.5, 1.5 + 0.3 * len(bars)), layout="constrained", facecolor=PAPER)
    panel = figure.subplots()
    reach = np.abs(np.stack([shares - bounds[:, 0], bounds[:, 1] - shares]))
    fills = [DARK] + [LIGHT] * (len(bars) - 1)
    panel.barh(places, shares, xerr=reach, color=fills, ecolor=INK, error_kw={"linewidth": 1, "capsize": 2.5})
    for place, (_, one) in enumerate(bars):
        failed = f", {one.failed} failed" if one.failed else ""
        panel.text(1.02, place, f"{one.share:.1%}  ({one.right}/{one.count}{failed})", va="center", fontsize=8)
    panel.axvline(found.chance, color=INK, linestyle=":", linewidth=1)
    panel.annotate(
        f"chance {found.chance:.0%}", (found.chance, 1), xycoords=("data", "axes fraction"), xytext=(3, 3),
        textcoords="offset points", fontsize=7, color=INK,
    )  # fmt: skip
    panel.set_yticks(places, [label for label, _ in bars], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panel.set_xlabel("right, with 95 % Wilson intervals" + (", in every shift of the options" if found.shifted else ""))
    panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}: {found.name}" if title else found.name, fontsize=11)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # A canvas of its own: nothing is asked of a display, and nothing stays behind in matplotlib.
    FigureCanvasAgg(figure)
    with writing(path):
        figure.savefig(path, dpi=DPI)


def _cell_at(found: HeatMap, length: float, depth: float) -> Cell:
    return next(cell for cell in found.cells if (cell.length_seconds, cell.depth) == (length, depth))


def _share_told(cell: Cell, measure: str) -> str:
    one = getattr(cell, measure)
    return "not seen" if one is None else f"{one.share:.0%}"


def _column_told(found: HeatMap, length: float) -> str:
    """The length, and below it how many frames of it are looked at."""
    frames = [cell.frames for cell in found.cells if cell.length_seconds == length and cell.frames[1]]
    if not frames:
        return _seconds(length)
    low, high = min(few for few, _ in frames), max(many for _, many in frames)
    return f"{_seconds(length)}\n{low if low == high else f'{low}-{high}'} fr."


def _seconds(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:.3g} h"
