"""When, and where in the frame: a needle is named, and its time or place is the answer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vista_train.augment import insertion, placement, questions, wordings
from vista_train.augment.base import Augment, CannotComposeError, Cast, Params, Role
from vista_train.augment.strangers import asked_for, check_stranger
from vista_train.augment.temporal import shown
from vista_train.types import Evidence, Sample
from vista_train.video.composition import Clip, Overlay
from vista_train.video.geometry import Box, Fit, exact
from vista_train.video.sampling import View

REGIONS = (
    "Top left.", "Top middle.", "Top right.",
    "Middle left.", "Centre.", "Middle right.",
    "Bottom left.", "Bottom middle.", "Bottom right.",
)  # fmt: skip
"""The nine parts of a frame, row by row."""
AS_BOX = "Give its left, top, right and bottom edge in per cent of the frame."
SIDE = 3
INSET_SCALE = 0.6
"""A larger inset could not lie in a corner: its middle is never in the outer third of the frame."""
MARGIN = Fraction(1, 10)
"""The middle of an inset stays so far, in shares of a region, from the edges of its region."""


def draw_tenth(rng: np.random.Generator, room: insertion.Room, needle: Clip, view: View) -> Fraction:
    """A start in whole tenths of a second, so that what is written of it is exact."""
    times: Sequence[Fraction] = room.times((needle,), view)
    for _ in range(64):
        (start,) = insertion.draw_starts(rng, room, (needle,), view)
        tenth = Fraction(round(10 * start), 10)
        num_seen = bisect_left(times, tenth + room.length) - bisect_left(times, tenth)
        if 0 < tenth < room.host.duration and num_seen >= view.min_visible:
            return tenth
    raise CannotComposeError(f"{needle.path}: no whole tenth of a second shows {float(room.length)} s of it")


def in_region(rng: np.random.Generator, box: Box, window: Box, region: int) -> Box:
    """The box moved to a random place whose middle lies in a region (0 to 8, row by row) of the window."""
    row, column = divmod(region, SIDE)
    left = _moved(rng, (box.left, box.right), (window.left, window.right), column)
    top = _moved(rng, (box.top, box.bottom), (window.top, window.bottom), row)
    return Box(left, top, left + box.right - box.left, top + box.bottom - box.top)


def _moved(
    rng: np.random.Generator, span: tuple[Fraction, Fraction], window: tuple[Fraction, Fraction], third: int
) -> Fraction:
    length, room = span[1] - span[0], (window[1] - window[0]) / SIDE
    low = max(window[0], window[0] + room * (third + MARGIN) - length / 2)
    high = min(window[1] - length, window[0] + room * (third + 1 - MARGIN) - length / 2)
    if low >= high:
        raise CannotComposeError(f"an inset of {float(length):.2f} of the frame is too large for a third of it")
    return placement.between(rng, low, high)


def percents(box: Box, window: Box) -> str:
    """The box in whole per cents of what is seen of the frame."""
    width, height = window.right - window.left, window.bottom - window.top
    left, right = (round(100 * (edge - window.left) / width) for edge in (box.left, box.right))
    top, bottom = (round(100 * (edge - window.top) / height) for edge in (box.top, box.bottom))
    return f"Left {left} %, top {top} %, right {right} %, bottom {bottom} %."


@dataclass(frozen=True)
class NeedleTime(Augment):
    """A short clip inserted into a longer one, and when it is shown: "From 12.3 s to 18.4 s.", which is exact.

    The needle begins, and ends, at a whole tenth of a second of the composed video.
    """

    by_default = False
    roles = (Role("haystack"), Role("needle"))
    max_needle_seconds: float = 10.0
    """A longer needle is cut at its end."""
    fit: Fit = "letterbox"
    """How the needle is put into the haystack's frame."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        (host,), (needle,) = clips["haystack"], clips["needle"]
        room = insertion.find_room(host, (needle,), view, self.max_needle_seconds, (1, 1))
        room = room._replace(length=Fraction(10 * room.length // 1, 10))
        if not room.length:
            raise CannotComposeError(f"the needle {needle.path} is shorter than a tenth of a second")
        start = draw_tenth(rng, room, needle, view)
        wording = questions.draw_wording(rng)
        return {"host_end": room.host.duration, "length": room.length, "start": start, "wording": wording}

    def apply(self, clips: Cast, params: Params) -> Sample:
        (host,), (needle,), start, wording = clips["haystack"], clips["needle"], params["start"], params["wording"]
        check_stranger(needle, (host,))
        part = needle.subclip(0, params["length"])
        video = insertion.inserted(host, params["host_end"], (part,), (start,), self.fit)
        answer = f"From {float(start):.1f} s to {float(start + part.duration):.1f} s."
        asked = questions.Asked(asked_for(needle, wordings.WHEN, wording), answer)
        return Sample(video, questions.converse(asked, wording), shown(video, (1,)), self.name)


@dataclass(frozen=True)
class NeedlePlace(Augment):
    """A small clip over a large one, and where: a box in per cent of the frame, or one of nine regions as options.

    The region, a third of the width by a third of the height, is drawn first, since a place drawn evenly would be in
    the middle more often than in a corner. Of a cropped frame, shares are of the part that is seen.
    """

    by_default = False
    roles = (Role("haystack"), Role("needle"))
    needle_scale: tuple[float, float] = (0.2, 0.35)
    """The inset fits this share of the frame's width and height, drawn uniformly."""
    max_seconds: float = 10.0
    """The composed video lasts at most this long."""
    multiple_choice: float = 0.5
    """Share of questions with options."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inset_scale(self.needle_scale)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        (host,), (needle,) = clips["haystack"], clips["needle"]
        seconds = min(host.duration, needle.duration, exact(self.max_seconds))
        frames, region = view.count(seconds, seconds * host.fps), int(rng.integers(len(REGIONS)))
        box = placement.draw_box(rng, view, host.size, needle.size, self.needle_scale, frames)
        window = placement.visible(view, host.size, frames)
        places = {"box": in_region(rng, box, window, region), "window": window, "region": region}
        return {"seconds": seconds, **places, "wording": questions.draw_wording(rng, self.multiple_choice)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        host, needle = (clips[role][0].subclip(0, params["seconds"]) for role in ("haystack", "needle"))
        check_stranger(needle, (host,))
        video, wording = Overlay(host, needle, exact(0), params["box"]), params["wording"]
        question, answer = asked_for(needle, wordings.WHERE, wording), REGIONS[params["region"]]
        if wording.letter is None:
            question, answer = f"{question} {AS_BOX}", percents(video.box, params["window"])
        asked = questions.Asked(question, answer, absent=REGIONS)
        evidence = (Evidence(video.span, video.box),)
        return Sample(video, questions.converse(asked, wording), evidence, self.name)


def check_inset_scale(scale: tuple[float, float]) -> None:
    """`ValueError` for insets too large to lie in every region."""
    if scale[1] > INSET_SCALE:
        raise ValueError(f"augment.needle_place.needle_scale is {list(scale)}; at most {INSET_SCALE} fit a corner")
