"""Whether something is in a video: yes as often as no, and nothing but the video tells which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vista_train.augment import insertion, questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.augment.strangers import asked_for, check_stranger, check_unrelated
from vista_train.augment.temporal import shown
from vista_train.types import Evidence, Sample
from vista_train.video.geometry import Fit, Span
from vista_train.video.sampling import View


@dataclass(frozen=True)
class AbsentNeedle(Augment):
    """A short clip inserted into a longer one, and whether the video shows this clip, or another that it does not.

    The first needle is inserted; with equal chance it or the second is asked about. The video is the same for either
    answer, the needles are drawn alike, and what refuses one as the clip asked about refuses the other: so neither the
    question nor the cut tells anything. The evidence of a no is the whole video, all of which has to be seen.
    """

    by_default = False
    roles = (Role("haystack"), Role("needle", 2, min_count=2))
    max_needle_seconds: float = 10.0
    """A longer needle is cut at its end."""
    fit: Fit = "letterbox"
    """How the needle is put into the haystack's frame."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        (host,), needles = clips["haystack"], clips["needle"][:2]
        room = insertion.find_room(host, needles, view, self.max_needle_seconds, (1, 1), spare=1)
        insertion.check_large_enough(room, needles, self.fit, view)
        starts = insertion.draw_starts(rng, room, needles[:1], view)
        choices = {"asked": int(rng.integers(2)), "wording": questions.draw_wording(rng)}
        return {"host_end": room.host.duration, "length": room.length, "starts": starts, **choices}

    def apply(self, clips: Cast, params: Params) -> Sample:
        (host,), (needle, other) = clips["haystack"], clips["needle"][:2]
        check_stranger(needle, (host, other))
        check_stranger(other, (host, needle))
        check_unrelated(needle, other)
        part = needle.subclip(0, params["length"])
        video = insertion.inserted(host, params["host_end"], (part,), params["starts"], self.fit)
        question = asked_for((needle, other)[params["asked"]], wordings.IS_THERE, params["wording"])
        asked = questions.Asked(question, ("Yes.", "No.")[params["asked"]])
        evidence = (Evidence(Span(0, video.duration)),) if params["asked"] else shown(video, (1,))  # type: ignore[arg-type]
        return Sample(video, questions.converse(asked, params["wording"]), evidence, self.name)
