"""Wrong options that are nearly right: captions that share their words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vista_train.augment import insertion, questions, wordings
from vista_train.augment.base import Augment, CannotComposeError, Cast, Params, Role
from vista_train.augment.strangers import overlap, words
from vista_train.augment.temporal import shown
from vista_train.types import Sample
from vista_train.video.composition import Clip
from vista_train.video.geometry import Fit
from vista_train.video.sampling import View


def likeness(clips: Sequence[Clip]) -> np.ndarray:
    """For each pair the share of the words of their captions that both have; below 0 where one caption may be true of
    the other's clip."""
    said = [words(clip) for clip in clips]
    alike = np.full((len(clips), len(clips)), -1.0)
    for one, other in itertools.combinations(range(len(clips)), 2):
        ours, theirs = said[one], said[other]
        if not (ours <= theirs or theirs <= ours or overlap(clips[one], clips[other])):
            alike[one, other] = alike[other, one] = len(ours & theirs) / len(ours | theirs)
    return alike


def most_alike(clips: Sequence[Clip], size: int) -> tuple[int, ...]:
    """The group of so many clips whose captions are most alike, each grown from one clip by the next most alike.

    `CannotComposeError` where no group of captions can be told apart.
    """
    alike = likeness(clips)
    best, group = -1.0, tuple[int, ...]()
    for seed in range(len(clips)):
        grown, marks = [seed], alike[seed].copy()
        while len(grown) < size and marks.max() >= 0:
            grown.append(int(marks.argmax()))
            row = alike[grown[-1]]
            marks = np.where((marks < 0) | (row < 0), -1.0, marks + row)
        total = sum(float(alike[pair]) for pair in itertools.combinations(grown, 2))
        if len(grown) == size and total > best:
            best, group = total, tuple(grown)
    if not group:
        raise CannotComposeError(f"no {size} of {len(clips)} captions can be told apart")
    return group


@dataclass(frozen=True)
class SimilarNeedle(Augment):
    """A temporal needle among look-alikes: the options are the four captions, of all needles', that are most alike.

    Of the four, the one that is shown is drawn last: wrong options picked for their likeness to the right one would
    give it away as the one that all others resemble. For the same reason the haystack's caption is no option. The
    question is always for the caption.
    """

    by_default = False
    roles = (Role("haystack"), Role("needle", 16, min_count=1 + questions.NUM_DISTRACTORS))
    max_needle_seconds: float = 10.0
    """A longer needle is cut at its end."""
    multiple_choice: float = 0.5
    """Share of questions with options."""
    fit: Fit = "letterbox"
    """How the needle is put into the haystack's frame."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        (host,), needles = clips["haystack"], clips["needle"]
        group = most_alike(needles, 1 + questions.NUM_DISTRACTORS)
        # All four as short as the shortest: a longer video would tell which it is.
        alike = [needles[number] for number in group]
        room = insertion.find_room(host, alike, view, self.max_needle_seconds, (1, 1), questions.NUM_DISTRACTORS)
        insertion.check_large_enough(room, alike, self.fit, view)
        number, *others = (group[place] for place in rng.permutation(len(group)))
        starts = insertion.draw_starts(rng, room, (needles[number],), view)
        choices = {"needle": number, "others": others, "wording": questions.draw_wording(rng, self.multiple_choice)}
        return {"host_end": room.host.duration, "length": room.length, "starts": starts, **choices}

    def apply(self, clips: Cast, params: Params) -> Sample:
        needle, wording = clips["needle"][params["needle"]].subclip(0, params["length"]), params["wording"]
        video = insertion.inserted(clips["haystack"][0], params["host_end"], (needle,), params["starts"], self.fit)
        where = questions.one_of(wordings.TEMPORAL_NEEDLE, wording)
        question = f"{where} {questions.one_of(wordings.ASK_CONTENT, wording, turn=1)}"
        wrong = [questions.told(clips["needle"][number]) for number in params["others"]]
        asked = questions.Asked(question, questions.told(needle), absent=tuple(wrong))
        return Sample(video, questions.converse(asked, wording), shown(video, (1,)), self.name)
