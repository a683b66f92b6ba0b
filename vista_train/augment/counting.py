"""How many times something is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vista_train.augment import insertion, questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.augment.strangers import asked_for, check_stranger
from vista_train.augment.temporal import shown
from vista_train.types import Evidence, Sample
from vista_train.video.geometry import Fit, Span
from vista_train.video.sampling import View


@dataclass(frozen=True)
class CountNeedle(Augment):
    """Copies of one short clip, and other clips, inserted into a longer one; how many copies, each number as often.

    As many clips are inserted whatever the number, others in place of the copies that are not: neither the length nor
    the cuts tell it. The most that the view shows one by one are inserted. The first needle is the one asked about.
    The evidence of none is the whole video, all of which has to be seen.
    """

    by_default = False
    max_copies: int = 5
    """The highest number; fewer where the view can not show so many."""
    max_needle_seconds: float = 5.0
    """A longer needle is cut at its end."""
    fit: Fit = "letterbox"
    """How needles are put into the haystack's frame."""

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        return (Role("haystack"), Role("needle", 1 + self.max_copies, min_count=2))

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        (host,), needles = clips["haystack"], clips["needle"]
        room = insertion.find_room(host, needles, view, self.max_needle_seconds, (1, self.max_copies), spare=1)
        insertion.check_large_enough(room, needles[: room.num + 1], self.fit, view)
        num_copies, order = int(rng.integers(room.num + 1)), rng.permutation(room.num)
        cast = tuple(0 if place < num_copies else 1 + place for place in order.tolist())
        starts = insertion.draw_starts(rng, room, [needles[number] for number in cast], view)
        choices = {"cast": cast, "wording": questions.draw_wording(rng)}
        return {"host_end": room.host.duration, "length": room.length, "starts": starts, **choices}

    def apply(self, clips: Cast, params: Params) -> Sample:
        (host,), (needle, *others), cast = clips["haystack"], clips["needle"], params["cast"]
        check_stranger(needle, (host, *others[: len(cast)]))
        parts = [clips["needle"][number].subclip(0, params["length"]) for number in cast]
        video = insertion.inserted(host, params["host_end"], parts, params["starts"], self.fit)
        copies = [2 * place + 1 for place, number in enumerate(cast) if number == 0]
        evidence = shown(video, copies) or (Evidence(Span(0, video.duration)),)  # type: ignore[arg-type]
        asked = questions.Asked(asked_for(needle, wordings.HOW_MANY, params["wording"]), str(len(copies)))
        return Sample(video, questions.converse(asked, params["wording"]), evidence, self.name)
