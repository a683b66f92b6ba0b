"""What is to be seen of a model while it trains: a needle heat map, and its answers to prompts that stay the same."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vista_train.evaluation.answers import Answers
from vista_train.evaluation.footage import Footage
from vista_train.evaluation.generation import spoken
from vista_train.evaluation.heatmap import MEASURES, heat_map
from vista_train.evaluation.needle import Cast, NeedleTest
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import ModelScorer, Scored
from vista_train.models.base import Codec, Family
from vista_train.models.likelihood import Reader

Told = TypeVar("Told")
FOLDER = "evaluations"
"""Where pictures go, in a run's output."""
BATCH = 8
"""Prompts of one rank whose frames are in memory at a time."""


class World(Protocol):
    """The processes that share a model (training/ranks.py)."""

    rank: int
    count: int

    def gathered(self, told: Told) -> list[Told]: ...


class SharedScorer:
    """A scorer of which every rank has one: all are asked the same, and each asks the model its share."""

    def __init__(self, scorer: ModelScorer, world: World) -> None:
        self.scorer, self.world = scorer, world
        self.codec: Codec = scorer.codec

    def score(self, prompts: Sequence[Prompt]) -> list[Scored]:
        """One result for each prompt, the same on every rank."""
        own = self.scorer.score(prompts[self.world.rank :: self.world.count])
        return dealt_back(self.world.gathered(own), len(prompts))


def dealt_back(shares: Sequence[Sequence[Told]], count: int) -> list[Told]:
    """What was dealt to ranks in turn, in its order again."""
    return [shares[number % len(shares)][number // len(shares)] for number in range(count)]


def apart(family: Family) -> Family:
    """The family with a codec of its own: a tokenizer serves one thread at a time, and training plans in another."""
    other = copy.copy(family)
    other.codec = copy.deepcopy(family.codec)
    return other


@dataclass
class NeedleLook:
    """A needle test, asked at every evaluation; its heat map goes to `evaluations/needle-<step>.png`."""

    test: NeedleTest
    casts: Sequence[Cast]
    family: Family
    footage: Footage
    max_row_tokens: int = 0

    @property
    def identity(self) -> str:
        """Names the test and its clips."""
        return _named("needle", repr(self.test), repr(self.casts))

    def look(self, read: Reader, world: World, output: Path, step: int) -> dict[str, Any]:
        """`needle` as `vista-train evaluate needle` writes it, its shares as figures and its heat map as a picture."""
        scorer = ModelScorer(self.family, None, self.footage, self.max_row_tokens, read)
        answers = Answers(SharedScorer(scorer, world), None, batch=BATCH * world.count)
        found = heat_map(self.test, self.casts, answers)
        picture = Path(FOLDER) / f"needle-{step:06d}.png"
        if world.rank == 0:
            # It brings along what plots, which takes long to import and every start would pay for.
            from vista_train.evaluation import report

            (output / FOLDER).mkdir(parents=True, exist_ok=True)
            report.plot_heat_map(found, output / picture, f"step {step}")
        overall = {measure: found.overall(measure) for measure in MEASURES}
        figures = {f"needle/{measure}": tally.share for measure, tally in overall.items() if tally is not None}
        return {"needle": found.to_json(), "figures": figures, "pictures": {"needle/heat_map": str(picture)}}


@dataclass
class PromptLook:
    """Prompts that are put at every evaluation, and answered greedily."""

    prompts: Sequence[Prompt]
    max_new_tokens: int
    family: Family
    footage: Footage
    max_row_tokens: int = 0

    @property
    def identity(self) -> str:
        """Names the prompts."""
        return _named("prompts", repr(self.prompts), str(self.max_new_tokens))

    def look(self, read: Reader, world: World, output: Path, step: int) -> dict[str, Any]:
        """`answers`: of each prompt its words and the answer, or why there is none."""
        own = self.prompts[world.rank :: world.count]
        said = spoken(
            self.family,
            read,
            self.footage,
            own,
            self.max_new_tokens,
            self.max_row_tokens,
            lambda goes_on: any(world.gathered(goes_on)),
        )
        answers = dealt_back(world.gathered(said), len(self.prompts))
        return {
            "answers": [
                {"prompt": prompt.messages[-1].content, "answer": one.text, "failure": one.failure}
                for prompt, one in zip(self.prompts, answers, strict=True)
            ]
        }


def _named(*parts: str) -> str:
    return f"{parts[0]}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
