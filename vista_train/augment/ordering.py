"""In which order several things are shown."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from vista_train.augment import insertion, questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.augment.strangers import check_stranger
from vista_train.augment.temporal import shown
from vista_train.types import Sample
from vista_train.video.composition import Clip
from vista_train.video.geometry import Fit
from vista_train.video.sampling import View


def as_numbers(order: tuple[int, ...]) -> str:
    """An order as it is answered: "3, 1, 2"."""
    return ", ".join(map(str, order))


def which_order(scenes: tuple[Clip, ...], listing: tuple[int, ...], wording: questions.Wording) -> questions.Asked:
    """The question for the order of scenes, which it lists in another one, with numbers from 1; other orders are
    wrong. The answer is the numbers in order of time."""
    listed = (questions.phrase(questions.told(scenes[number])) for number in listing)
    scene_list = " ".join(f"({number}) “{caption}”" for number, caption in enumerate(listed, 1))
    order = tuple(listing.index(number) + 1 for number in range(len(listing)))
    others = map(as_numbers, itertools.permutations(sorted(order))) if wording.letter is not None else ()
    question = f"{questions.one_of(wordings.WHICH_ORDER, wording)} {scene_list}"
    return questions.Asked(question, as_numbers(order), absent=tuple(others))


@dataclass(frozen=True)
class NeedleOrder(Augment):
    """Different short clips inserted into a longer one, and in which order they come; other orders are the options.

    The question lists them in an order of its own, with numbers, and the answer is the numbers in order of time: each
    order as often as any other. Two have two orders, too few for options.
    """

    by_default = False
    max_needles: int = 4
    """The most clips to insert; fewer where the view can not show so many."""
    max_needle_seconds: float = 5.0
    """A longer needle is cut at its end."""
    multiple_choice: float = 0.5
    """Share of questions with options."""
    fit: Fit = "letterbox"
    """How needles are put into the haystack's frame."""

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        return (Role("haystack"), Role("needle", self.max_needles, min_count=2))

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        (host,), needles = clips["haystack"], clips["needle"]
        room = insertion.find_room(host, needles, view, self.max_needle_seconds, (2, self.max_needles))
        starts = insertion.draw_starts(rng, room, needles[: room.num], view)
        listing = tuple(rng.permutation(room.num).tolist())
        choices = {"listing": listing, "wording": questions.draw_wording(rng, self.multiple_choice)}
        return {"host_end": room.host.duration, "length": room.length, "starts": starts, **choices}

    def apply(self, clips: Cast, params: Params) -> Sample:
        host, listing, wording = clips["haystack"][0], params["listing"], params["wording"]
        needles = tuple(clip.subclip(0, params["length"]) for clip in clips["needle"][: len(listing)])
        for number, needle in enumerate(needles):
            check_stranger(needle, (host, *needles[:number], *needles[number + 1 :]))
        video = insertion.inserted(host, params["host_end"], needles, params["starts"], self.fit)
        talk = questions.converse(which_order(needles, listing, wording), wording)
        return Sample(video, talk, shown(video, range(1, 2 * len(listing), 2)), self.name)
