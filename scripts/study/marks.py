"""What a learner answered: marks of an exam, and of the same exam with nothing to see."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exam import OPTIONS, Item, blanked

from vista_train.evaluation.footage import Footage
from vista_train.evaluation.scoring import ModelScorer
from vista_train.models.base import Family
from vista_train.video.media import Media

ROW_TOKENS = 4096


@dataclass(frozen=True)
class Mark:
    """One item, answered."""

    key: str
    skill: str
    cell: str
    is_off_screen: bool
    is_new: bool
    is_right: bool
    """The likeliest of the options is the right one; of letters, wherever the options are turned to."""
    share: float
    """The share of the turns in which it was."""

    def to_json(self) -> dict[str, Any]:
        return vars(self)


def take(family: Family, world: Path, items: Sequence[Item], letters: bool) -> list[Mark]:
    """The trained learner's marks; `ValueError` where a video could not be shown."""
    footage = Footage(Media(world, isolate="inline", cache=world / "cache"))
    scorer = ModelScorer(family, family.load().eval(), footage, ROW_TOKENS)
    marks: list[Mark] = []
    for first in range(0, len(items), 64):
        some = items[first : first + 64]
        prompts = [item.prompts(letters) for item in some]
        scored = iter(scorer.score([prompt for turned in prompts for prompt in turned]))
        for item, turned in zip(some, prompts, strict=True):
            hits: list[bool] = []
            for shift in range(len(turned)):
                said = next(scored)
                if said.failure:
                    raise ValueError(f"{item.key} could not be shown: {said.failure}")
                hits.append(said.best == (item.right - shift) % OPTIONS)
            share = sum(hits) / len(hits)
            marks.append(Mark(item.key, item.skill, item.cell, item.is_off_screen, item.is_new, all(hits), share))
    return marks


def without_looking(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Two exams that cannot be passed by understanding: over grey frames; and with the clip that is asked about left
    out, no wrong option being true of what is left."""
    everything = list(items)
    # Grey frames tell a caption's, and an order's, no more than a needle's.
    return {
        "blank": [blanked(item) for item in everything],
        "removed": [
            Item(**(vars(item) | {"video": item.without, "without": None}))
            for item in everything
            if item.without is not None and item.is_off_screen
        ],
    }


def write_marks(path: Path, marks: Sequence[Mark]) -> None:
    """As JSON, there when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps([mark.to_json() for mark in marks], indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def read_marks(path: Path) -> list[Mark]:
    return [Mark(**mark) for mark in json.loads(path.read_text(encoding="utf-8"))]
