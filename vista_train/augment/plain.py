"""Samples that are not augmented: one clip, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vista_train.augment import questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.types import Evidence, Sample
from vista_train.video.geometry import Span
from vista_train.video.kinds import is_picture, is_words


@dataclass(frozen=True)
class Plain(Augment):
    """One clip as it is, with a question of its own or one for its caption; a picture, or words alone, just as well."""

    roles = (Role("clip", stills=True),)
    turns: Literal["one", "all"] = field(default="one", kw_only=True)
    """Of a clip's own questions, ask one of them, or all in their order, as the conversation they may be."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: object) -> Params:
        return {"wording": questions.draw_wording(rng)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        (clip,), wording = clips["clip"], params["wording"]
        video = None if is_words(clip.path) else clip
        evidence = () if video is None else (Evidence(Span(0, clip.duration)),)  # type: ignore[arg-type]
        pairs = questions.own(clip)
        if pairs and self.turns == "all":
            return Sample(video, questions.conversation(pairs), evidence, self.name)
        if pairs:
            asked = questions.about(clip, "", wording)
        else:
            texts = wordings.PICTURE if is_picture(clip.path) else wordings.PLAIN
            asked = questions.Asked(questions.one_of(texts, wording), questions.told(clip))
        return Sample(video, questions.converse(asked, wording), evidence, self.name)
