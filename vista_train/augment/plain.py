"""Samples that are not augmented: one clip, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vista_train.augment import questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.types import Evidence, Sample
from vista_train.video.geometry import Span


@dataclass(frozen=True)
class Plain(Augment):
    """One clip as it is, with a question of its own or one for its caption."""

    roles = (Role("clip"),)

    def draw(self, rng: np.random.Generator, clips: Cast, view: object) -> Params:
        return {"wording": questions.draw_wording(rng)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        (clip,), wording = clips["clip"], params["wording"]
        if clip.qa:
            asked = questions.about(clip, "", wording)
        else:
            asked = questions.Asked(questions.one_of(wordings.PLAIN, wording), questions.told(clip))
        evidence = (Evidence(Span(0, clip.duration)),)  # type: ignore[arg-type]
        return Sample(clip, questions.converse(asked, wording), evidence, self.name)
