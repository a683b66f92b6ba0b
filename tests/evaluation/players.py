"""Two who answer without a model: a guesser and an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import Scored
from vista_train.models.base import Codec


@dataclass
class Guesser:
    """Draws every answer uniformly."""

    codec: Codec | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def score(self, prompts: Sequence[Prompt]) -> list[Scored]:
        return [
            Scored(failure=one.failure)
            if one.failure
            else Scored(tuple(self.rng.random(len(one.candidates))), (False,) * len(one.candidates), 1)
            for one in prompts
        ]


@dataclass
class Oracle:
    """Knows the answers: by the prompt's key the place of the right candidate."""

    right: Mapping[str, int]
    codec: Codec | None = None
    asked: int = 0

    def score(self, prompts: Sequence[Prompt]) -> list[Scored]:
        self.asked += len(prompts)
        return [self._scored(one) for one in prompts]

    def _scored(self, prompt: Prompt) -> Scored:
        if prompt.failure:
            return Scored(failure=prompt.failure)
        places = range(len(prompt.candidates))
        right = self.right[prompt.key]
        return Scored(tuple(float(place == right) for place in places), tuple(place == right for place in places), 1)
