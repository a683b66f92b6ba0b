"""Needles that blend in: faded in and out, or with soft edges."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vista_train.augment import insertion, placement, questions, wordings
from vista_train.augment.base import Augment, CannotComposeError, Cast, Params, Role
from vista_train.augment.temporal import DISTRACTORS
from vista_train.types import Evidence, Sample
from vista_train.video.composition import Clip, Concat, Overlay
from vista_train.video.geometry import Box, Fit, exact
from vista_train.video.sampling import View


def without_fades(needle: Clip, fade: Fraction) -> Clip:
    """What of a needle is seen by itself; `CannotComposeError` if nothing is."""
    if needle.duration <= 2 * fade:
        raise CannotComposeError(
            f"the needle {needle.path} lasts {float(needle.duration):.2f} s, not longer than two fades of "
            f"{float(fade)} s"
        )
    return needle.subclip(fade, needle.duration - fade)


def draw_faded_start(
    rng: np.random.Generator, room: insertion.Room, clear: Clip, fade: Fraction, view: View
) -> Fraction:
    """When the needle is first seen by itself: somewhere in a host whose two parts are as long as their fades."""
    measure = room.host.fps * (room.host.duration - fade) + clear.fps * (room.length + fade)
    times = view.sampled(room.duration, measure)
    for _ in range(64):
        (start,) = insertion.draw_starts(rng, room, (clear,), view)
        num_seen = bisect_left(times, start + room.length) - bisect_left(times, start)
        if fade <= start <= room.host.duration - fade and num_seen >= view.min_visible:
            return start
    raise CannotComposeError(f"{room.host.path}: no place for a needle between fades of {float(fade)} s")


def check_soft_edge(share: float) -> None:
    """`ValueError` unless some of the inset stays opaque."""
    if not 0 < share < 0.5:
        raise ValueError(f"augment.soft_needle.soft_edge is {share}; it must lie between 0 and 0.5")


def opaque(video: Overlay) -> Box:
    """Where the inset is not seen through."""
    box, edge = video.box, video.soft_edge
    x, y = edge * (box.right - box.left), edge * (box.bottom - box.top)
    return Box(box.left + x, box.top + y, box.right - x, box.bottom - y)


@dataclass(frozen=True)
class FadedNeedle(Augment):
    """A temporal needle that is faded in and out; the evidence is what is seen of it by itself."""

    by_default = False
    roles = (Role("haystack"), Role("needle"), DISTRACTORS)
    fade_seconds: float = 1.0
    """How long the haystack turns into the needle, and the needle into the haystack."""
    max_needle_seconds: float = 10.0
    """A longer needle, its fades left out, is cut at its end."""
    multiple_choice: float = 0.5
    """Share of questions with options."""
    fit: Fit = "letterbox"
    """How the needle is put into the haystack's frame."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        fade, (host,), (needle,) = exact(self.fade_seconds), clips["haystack"], clips["needle"]
        clear = without_fades(needle, fade)
        room = insertion.find_room(host, (clear,), view, self.max_needle_seconds, (1, 1))
        start = draw_faded_start(rng, room, clear, fade, view)
        wording = questions.draw_wording(rng, self.multiple_choice)
        return {"host_end": room.host.duration, "length": room.length, "start": start, "wording": wording}

    def apply(self, clips: Cast, params: Params) -> Sample:
        fade, (host,), start, wording = exact(self.fade_seconds), clips["haystack"], params["start"], params["wording"]
        needle = clips["needle"][0].subclip(0, params["length"] + 2 * fade)
        # Of the host nothing is lost: each of its parts goes on while it fades.
        parts = (host.subclip(0, start), needle, host.subclip(start, params["host_end"]))
        video = Concat(parts, fit=self.fit, fade_seconds=fade)
        # What is too short to be a needle is no option either: it would never be the right one.
        others = [clip for clip in clips.get("distractor", ()) if clip.duration > 2 * fade]
        where = questions.one_of(wordings.TEMPORAL_NEEDLE, wording)
        asked = questions.about(needle, where, wording, (host,), others)
        box = placement.inset_box(Box(), video.size, needle.size, self.fit)
        evidence = (Evidence(video.timeline().spans(clear=True)[1], box),)
        return Sample(video, questions.converse(asked, wording), evidence, self.name)


@dataclass(frozen=True)
class SoftNeedle(Augment):
    """A spatial needle without a visible edge; the evidence is where it is opaque."""

    by_default = False
    roles = (Role("haystack"), Role("needle"), DISTRACTORS)
    soft_edge: float = 0.2
    """The inset becomes opaque over this share of its width and height, on each side."""
    needle_scale: tuple[float, float] = (0.3, 0.5)
    """The inset fits this share of the frame's width and height, drawn uniformly."""
    max_seconds: float = 10.0
    """The composed video lasts at most this long."""
    multiple_choice: float = 0.5
    """Share of questions with options."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_soft_edge(self.soft_edge)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        (host,), (needle,) = clips["haystack"], clips["needle"]
        seconds = min(host.duration, needle.duration, exact(self.max_seconds))
        frames = view.count(seconds, seconds * host.fps)
        box = placement.draw_box(rng, view, host.size, needle.size, self.needle_scale, frames)
        return {"seconds": seconds, "box": box, "wording": questions.draw_wording(rng, self.multiple_choice)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        host, needle = (clips[role][0].subclip(0, params["seconds"]) for role in ("haystack", "needle"))
        video, wording = (
            Overlay(host, needle, exact(0), params["box"], soft_edge=exact(self.soft_edge)),
            params["wording"],
        )
        where = questions.one_of(wordings.SPATIAL_NEEDLE, wording)
        asked = questions.about(needle, where, wording, (host,), clips.get("distractor", ()))
        evidence = (Evidence(video.span, opaque(video)),)
        return Sample(video, questions.converse(asked, wording), evidence, self.name)
