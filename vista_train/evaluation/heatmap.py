"""The heat map of a needle test: what was found, by length and depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vista_train.evaluation.answers import Answers
from vista_train.evaluation.choices import Question
from vista_train.evaluation.intervals import Tally
from vista_train.evaluation.needle import Cast, NeedleTest, Trial, UnseenError, trial
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import Scored

MEASURES = ("choice", "exact")


@dataclass(frozen=True)
class Cell:
    """One length and depth."""

    length_seconds: float
    depth: float
    choice: Tally | None = None
    """Questions with options that were right, in all shifts that were asked; None where nothing was asked."""
    exact: Tally | None = None
    """Answers every token of which was the likeliest, teacher-forced."""
    frames: tuple[int, int] = (0, 0)
    """The fewest and the most frames that were looked at."""
    moved: float = 0.0
    """The farthest that a needle lies from the depth, as a share of the haystack."""
    unseen: str = ""
    """Why nothing was asked: the model would not have been shown the needle."""

    def to_json(self) -> dict[str, Any]:
        return {
            "length_seconds": self.length_seconds,
            "depth": self.depth,
            **{name: None if (found := getattr(self, name)) is None else found.to_json() for name in MEASURES},
            "frames": list(self.frames),
            "moved": self.moved,
            "unseen": self.unseen,
        }


@dataclass(frozen=True)
class HeatMap:
    """All cells, length by length."""

    test: NeedleTest
    cells: tuple[Cell, ...]

    @property
    def chance(self) -> float:
        """The share of questions with options that a guesser gets right."""
        return 1 / self.test.options ** (self.test.options if self.test.shifted else 1)

    @property
    def failed(self) -> int:
        """Trials whose media could not be shown, over all cells."""
        return sum(cell.choice.failed for cell in self.cells if cell.choice is not None)

    def overall(self, measure: str) -> Tally | None:
        """All cells together; None where none was asked."""
        found = [one for cell in self.cells if (one := getattr(cell, measure)) is not None]
        if not found:
            return None
        return Tally(*(sum(getattr(one, name) for one in found) for name in ("right", "count", "failed")))

    def to_json(self) -> dict[str, Any]:
        test = self.test
        overall = {name: self.overall(name) for name in MEASURES}
        return {
            "test": {
                "lengths_seconds": list(test.lengths_seconds),
                "depths": list(test.depths),
                "trials": test.trials,
                "kind": test.kind,
                "needle_seconds": test.needle_seconds,
                "options": test.options,
                "shifted": test.shifted,
            },
            "chance": self.chance,
            "overall": {name: None if found is None else found.to_json() for name, found in overall.items()},
            "cells": [cell.to_json() for cell in self.cells],
        }


@dataclass(frozen=True)
class _Asked:
    """The trials of one cell, or why there are none."""

    length_seconds: float
    depth: float
    trials: tuple[Trial, ...] = ()
    unseen: str = ""


def heat_map(test: NeedleTest, made: Sequence[Cast], answers: Answers) -> HeatMap:
    """Ask every trial of every cell. A cell in which any needle cannot be shown is not asked: of others it would have
    fewer trials, and the easier ones."""
    asked = [_asked(test, made, length, depth, answers) for length in test.lengths_seconds for depth in test.depths]
    shifts = range(test.options if test.shifted else 1)
    prompts = list[Prompt]()
    for cell in asked:
        for one in cell.trials:
            prompts += [one.open, *(one.choice.prompt(shift) for shift in shifts)]
    scored = answers.of(prompts, "needles")
    cells = [_cell(cell, [(next(scored), [next(scored) for _ in shifts]) for _ in cell.trials]) for cell in asked]
    return HeatMap(test, tuple(cells))


def _asked(test: NeedleTest, made: Sequence[Cast], length: float, depth: float, answers: Answers) -> _Asked:
    try:
        trials = tuple(trial(test, cast, length, depth, answers.scorer.codec) for cast in made)
    except UnseenError as error:
        return _Asked(length, depth, unseen=str(error))
    return _Asked(length, depth, trials)


def _cell(asked: _Asked, scored: Sequence[tuple[Scored, list[Scored]]]) -> Cell:
    if not asked.trials:
        return Cell(asked.length_seconds, asked.depth, unseen=asked.unseen)
    count = len(asked.trials)
    failed = sum(bool(opened.failure or any(one.failure for one in turned)) for opened, turned in scored)
    questions = [one.choice for one in asked.trials]
    chosen = sum(_all_right(question, turned) for question, (_, turned) in zip(questions, scored, strict=True))
    matched = sum(not opened.failure and opened.exact[0] for opened, _ in scored)
    frames = [one.frames for one in asked.trials]
    return Cell(
        asked.length_seconds,
        asked.depth,
        Tally(chosen, count, failed),
        Tally(matched, count, failed),
        (min(frames), max(frames)),
        float(max(one.moved for one in asked.trials)),
    )


def _all_right(question: Question, turned: Sequence[Scored]) -> bool:
    return all(one.best == question.right_after(shift) for shift, one in enumerate(turned))
