"""Many clips within a fixed number of frames (VideoWeave, arXiv 2601.06309): each has an even share of them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vista_train.augment import placement, questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.augment.strangers import fits_too
from vista_train.augment.temporal import DISTRACTORS, introduced, join, shown
from vista_train.types import Sample
from vista_train.video.composition import Clip
from vista_train.video.geometry import Fit, exact
from vista_train.video.sampling import View


def even_parts(clips: Cast, max_seconds: float, view: View) -> tuple[Fraction, ...]:
    """How long each part lasts: all as long as the shortest clip, at most `max_seconds`. Frames are sampled evenly, so
    the parts' shares of them differ by one at most. The last clips are left out if the view can not show all."""
    length = min(exact(max_seconds), *(clip.duration for clip in clips["clip"]))
    parts = placement.seen_parts([clip.subclip(0, length) for clip in clips["clip"]], view, min_parts=2)
    return tuple(part.duration for part in parts)


@dataclass(frozen=True)
class SpliceCaption(Augment):
    """Unrelated clips joined, with an even share of the frames each; the answer tells all of them in order."""

    by_default = False
    max_clips: int = 4
    """Clips to join; fewer where the view can not show so many."""
    max_part_seconds: float = 10.0
    """Each is cut to this, or to the shortest."""
    fit: Fit = "letterbox"
    """How clips of another shape are put into the first one's."""

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        return (Role("clip", self.max_clips, min_count=2),)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        return {"ends": even_parts(clips, self.max_part_seconds, view), "wording": questions.draw_wording(rng)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        video, wording = join(tuple(clips["clip"]), params["ends"], self.fit), params["wording"]
        question = introduced(questions.one_of(wordings.LONG_CAPTION, wording), False, wording)
        asked = questions.Asked(question, questions.chronicle(video.clips(), wording))
        return Sample(video, questions.converse(asked, wording), shown(video, range(len(video.parts))), self.name)


@dataclass(frozen=True)
class SplicePlace(Augment):
    """Clips joined as in SpliceCaption, and a question about the first, the second, or so on."""

    by_default = False
    max_clips: int = 4
    """Clips to join; fewer where the view can not show so many."""
    max_part_seconds: float = 10.0
    """Each is cut to this, or to the shortest."""
    multiple_choice: float = 0.5
    """Share of questions with options."""
    fit: Fit = "letterbox"
    """How clips of another shape are put into the first one's."""

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        return (Role("clip", self.max_clips, min_count=2), DISTRACTORS)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        ends = even_parts(clips, self.max_part_seconds, view)
        wording = questions.draw_wording(rng, self.multiple_choice)
        return {"ends": ends, "asked": int(rng.integers(len(ends))), "wording": wording}

    def apply(self, clips: Cast, params: Params) -> Sample:
        video, wording = join(tuple(clips["clip"]), params["ends"], self.fit), params["wording"]
        part = clips["clip"][params["asked"]]
        where = questions.one_of(wordings.NTH_CLIP, wording).format(nth=questions.ordinal(params["asked"] + 1))
        others = [clip for clip in clips["clip"][: len(params["ends"])] if not _either_fits(clip, part)]
        talk = questions.about(part, introduced(where, False, wording), wording, others, clips.get("distractor", ()))
        return Sample(video, questions.converse(talk, wording), shown(video, (params["asked"],)), self.name)


def _either_fits(one: Clip, other: Clip) -> bool:
    """Whether what is said of one may be true of the other, too: no wrong option."""
    return fits_too(one, other) or fits_too(other, one)
