"""Tables and plots of a study: what every arm got right, how they differ, and what was shown to them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from exam import DEPTHS, LENGTHS, OPTIONS, SKILLS
from marks import Mark
from matplotlib.figure import Figure
from paired import Difference, cells, chance_interval, difference, of, share
from sizes import COMPOSED

Marks = Mapping[str, Sequence[Sequence[Mark]]]
"""By arm: one list of marks a seed."""
COLUMNS = {
    "needle 1x": lambda mark: mark.skill == "needle" and mark.cell.startswith("1x"),
    "2x": lambda mark: mark.skill == "needle" and mark.cell.startswith("2x"),
    "4x": lambda mark: mark.skill == "needle" and mark.cell.startswith("4x"),
    "off screen": lambda mark: mark.skill == "needle" and mark.cell.startswith("1x") and mark.is_off_screen,
    "new pairs": lambda mark: mark.skill == "needle" and mark.cell.startswith("1x") and mark.is_new,
    "inset": lambda mark: mark.skill == "inset",
    "grid": lambda mark: mark.skill == "grid",
    "order": lambda mark: mark.skill == "order",
    "caption": lambda mark: mark.skill == "caption",
}


def told_arm(name: str) -> str:
    """An arm in a few words."""
    words = {
        "A": "each clip alone",
        "A2": "each clip alone, padded",
        "B": "all seven composed",
        "parted": "B, answers of others",
        "blind": "B, needles left out",
    }
    if name in words:
        return words[name]
    kind = COMPOSED[int(name[1]) - 1]
    return f"B without {kind}" if name[0] == "C" else f"only {kind}"


def arm_table(marks: Marks) -> str:
    """Shares that are right, in percent, mean over seeds; and each arm's difference to A2 at 1x."""
    head = f"{'arm':7} {'':34} " + " ".join(f"{name:>10}" for name in COLUMNS) + "   1x less A2, 95 %"
    lines = [head]
    for name, seeds in marks.items():
        shares = [np.mean([share(of(found, which)) for found in seeds]) for which in COLUMNS.values()]
        row = f"{name:7} {told_arm(name):34} " + " ".join(f"{100 * value:10.1f}" for value in shares)
        if "A2" in marks and name != "A2":
            row += f"   {at_1x(marks, name, 'A2').told()}"
        lines.append(row)
    (first, *_) = next(iter(marks.values()))
    intervals = (chance_interval(len(of(first, which)), 1 / OPTIONS) for which in COLUMNS.values())
    told = " ".join(f"{f'{100 * low:.0f}-{100 * high:.0f}':>10}" for low, high in intervals)
    counts = " ".join(f"{len(of(first, which)):10d}" for which in COLUMNS.values())
    lines += [f"{'chance':7} {'95 times of 100, one seed':34} {told}", f"{'':7} {'questions':34} {counts}"]
    return "\n".join(lines)


def at_1x(marks: Marks, ours: str, theirs: str) -> Difference:
    """The difference of two arms in needle retrieval at 1x, over the same questions."""
    which = COLUMNS["needle 1x"]
    return difference(*([of(found, which) for found in marks[name]] for name in (ours, theirs)))


def cell_table(marks: Marks, skill: str) -> str:
    """A skill's shares by cell, a line an arm."""
    named = {name: [cells(found, skill) for found in seeds] for name, seeds in marks.items()}
    columns = list(next(iter(named.values()))[0])
    lines = [f"{skill:7} " + " ".join(f"{column:>9}" for column in columns)]
    for name, seeds in named.items():
        shares = (np.mean([share(found[column]) for found in seeds]) for column in columns)
        lines.append(f"{name:7} " + " ".join(f"{100 * value:9.1f}" for value in shares))
    return "\n".join(lines)


def exposure_table(shown: Mapping[str, Mapping[str, float]]) -> str:
    """What each arm was shown in all, and how far it is from B."""
    lines = [f"{'arm':7} " + " ".join(f"{name:>18}" for name in next(iter(shown.values())))]
    ours = shown.get("B")
    for name, totals in shown.items():
        told = []
        for key, total in totals.items():
            apart = f" ({100 * (total / ours[key] - 1):+.2f} %)" if ours and name != "B" else ""
            told.append(f"{f'{total:,.0f}{apart}':>18}")
        lines.append(f"{name:7} " + " ".join(told))
    return "\n".join(lines)


def leak_table(found: Mapping[str, Mapping[str, tuple[int, int]]]) -> tuple[str, bool]:
    """Right of asked in each check, beside what guessers get; and whether all of the whole checks lie inside."""
    lines, holds = [f"{'leak check':34} {'right':>7} {'of':>5} {'share':>7}   95 % of guessers"], True
    for check, by_skill in found.items():
        whole = tuple(map(sum, zip(*by_skill.values(), strict=True)))
        for skill, (right, count) in {"all": whole, **by_skill}.items():
            low, high = chance_interval(count, 1 / OPTIONS)
            is_inside = low <= right / count <= high
            holds = holds and (is_inside or skill != "all")
            mark = "" if is_inside else "   outside"
            name = check if skill == "all" else f"  {skill}"
            lines.append(
                f"{name:34} {right:7d} {count:5d} {100 * right / count:6.1f}%   {100 * low:.1f}-{100 * high:.1f}{mark}"
            )
    return "\n".join(lines), holds


def plot_bars(marks: Marks, path: Path) -> None:
    """What every arm gets right, by skill, with the spread over seeds or, of one seed, 95 % of its questions."""
    figure = Figure(figsize=(11, 1.2 + 0.34 * len(marks) * 2), layout="constrained")
    groups = {name: which for name, which in COLUMNS.items() if name not in ("off screen", "new pairs")}
    panels = figure.subplots(1, len(groups), sharey=True)
    for panel, (name, which) in zip(panels, groups.items(), strict=True):
        for row, seeds in enumerate(marks.values()):
            shares = [share(of(found, which)) for found in seeds]
            mean, count = float(np.mean(shares)), len(of(seeds[0], which))
            one = 1.96 * math.sqrt(max(mean * (1 - mean), 1e-9) / count)
            spread = one if len(seeds) == 1 else float(np.std(shares, ddof=1)) * 1.96 / math.sqrt(len(seeds))
            panel.barh(row, 100 * mean, xerr=100 * spread, color=f"C{row % 10}", height=0.7, ecolor="0.3", capsize=2)
            panel.text(101, row, f"{100 * mean:.0f}", va="center", fontsize=8)
        panel.axvline(100 / OPTIONS, color="0.5", linestyle=":", linewidth=1)
        panel.set(title=name, xlim=(0, 115), xticks=(0, 50, 100))
        panel.set_yticks(range(len(marks)), [f"{arm}: {told_arm(arm)}" for arm in marks], fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle(f"right answers in %; dotted: chance, {100 // OPTIONS} %", fontsize=10)
    figure.savefig(path, dpi=150)


def plot_heat(marks: Marks, path: Path) -> None:
    """Needle retrieval by length and depth, a panel an arm."""
    figure = Figure(
        figsize=(2.6 * min(len(marks), 5) + 0.8, 2.6 * math.ceil(len(marks) / 5) + 0.4), layout="constrained"
    )
    panels = np.ravel(figure.subplots(math.ceil(len(marks) / 5), min(len(marks), 5), squeeze=False))
    colours = mpl.colormaps["RdYlGn"]
    for panel in panels[len(marks) :]:
        panel.axis("off")
    for panel, (name, seeds) in zip(panels, marks.items(), strict=False):
        by_cell = [cells(found, "needle") for found in seeds]
        shares = np.array(
            [
                [np.mean([share(found[f"{times}x/{depth:g}"]) for found in by_cell]) for times in LENGTHS]
                for depth in DEPTHS
            ]
        )
        shown = panel.imshow(100 * shares, vmin=0, vmax=100, cmap=colours, aspect="auto")
        for (row, column), value in np.ndenumerate(shares):
            panel.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8)
        panel.set_xticks(range(len(LENGTHS)), [f"{times}x" for times in LENGTHS])
        panel.set_yticks(range(len(DEPTHS)), [f"{depth:g}" for depth in DEPTHS])
        panel.set(title=name, xlabel="length", ylabel="depth")
    figure.colorbar(shown, ax=panels.tolist(), label="right, %", shrink=0.8)
    figure.savefig(path, dpi=150)


def write_json(path: Path, marks: Marks, more: Mapping[str, Any]) -> None:
    """Everything that the tables are made of, by arm, skill and cell."""
    arms = {
        name: [
            {skill: {cell: share(found) for cell, found in cells(seed, skill).items()} for skill in SKILLS}
            for seed in seeds
        ]
        for name, seeds in marks.items()
    }
    text = json.dumps({"arms": arms, **more}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
