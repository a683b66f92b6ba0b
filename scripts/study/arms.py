"""The arms: which augmentations are composed, and what stands in for those that are not.

Every arm draws the same clips, questions, options and letters at the same positions; they differ in what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from sizes import COMPOSED

from vista_train.augment import Augment, Cast, Role
from vista_train.augment.questions import LETTERS, normal, sentence
from vista_train.types import Evidence, Message, Sample
from vista_train.video.composition import Clip, Concat, Grid, Overlay, Video
from vista_train.video.geometry import Span
from vista_train.video.sampling import View


@dataclass(frozen=True)
class Arm:
    """What is shown for each of the seven augmentations."""

    name: str
    shown: Mapping[str, str]
    """By augmentation: `composed`, `padded` (its clip alone, as often as the composed video lasts), `alone` (its clip
    alone, once) or `blind` (composed, something else of it in the clip's place)."""
    is_parted: bool = False
    """Whether answers belong to other samples."""


def arm_of(name: str) -> Arm:
    """An arm by its name in sizes.EVERY_ARM; `ValueError`."""
    everywhere = {"A": "alone", "A2": "padded", "B": "composed", "parted": "composed", "blind": "blind"}
    if name in everywhere:
        return Arm(name, dict.fromkeys(COMPOSED, everywhere[name]), name == "parted")
    if re.fullmatch("[CD][1-7]", name):
        rest, one = ("composed", "padded") if name[0] == "C" else ("padded", "composed")
        return Arm(name, dict.fromkeys(COMPOSED, rest) | {COMPOSED[int(name[1]) - 1]: one})
    raise ValueError(f"there is no arm {name!r}; it must be A, A2, B, C1 to C7, D1 to D7, parted or blind")


@dataclass(frozen=True)
class Instead(Augment, in_recipes=False):
    """An augmentation whose samples are composed, and then shown otherwise: refusals and draws are its own."""

    of: Augment = field(kw_only=True)
    how: str = field(kw_only=True)

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        return self.of.roles

    def __call__(self, rng: np.random.Generator, clips: Cast, view: View) -> Sample:
        return SHOWN[self.how](self.of(rng, clips, view))


def asked_about(sample: Sample) -> Clip:
    """The clip that a composed sample's answer is about, from its beginning; of a caption of several, the first."""
    video, where = sample.shown, sample.evidence[0]
    if isinstance(video, Overlay) and isinstance(video.inset, Clip):
        return video.inset
    if isinstance(video, Grid):
        (cell,) = (c for i, c in enumerate(video.cells) if _around(video.box_of(i).edges, where.box.edges))
        assert isinstance(cell, Clip)
        return cell
    assert isinstance(video, Concat)
    begins = {evidence.span.start for evidence in sample.evidence}
    parts = [p for p, span in zip(video.parts, video.spans(), strict=True) if span.start in begins]
    clips = [part for part in parts if isinstance(part, Clip)]
    if sample.kind == "event_relationship":
        said = normal(_answer(sample))
        return next(clip for clip in clips if normal(sentence(clip.caption)) == said)
    if sample.kind == "two_needle":
        # The second half goes on where the first ends.
        return replace(clips[0], end=clips[1].end)
    return clips[0]


def _around(outer: Sequence[Fraction], inner: Sequence[Fraction]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def _answer(sample: Sample) -> str:
    """The answer in words, where a letter was asked for."""
    asked, said = (message.content for message in sample.messages)
    if said not in LETTERS:
        return said
    return next(line[3:] for line in asked.splitlines() if line.startswith(f"{said}. "))


def alone(sample: Sample) -> Sample:
    """The same words over the clip that they are about. A caption of several clips becomes one of the first alone,
    told once for each of them."""
    clip, messages = asked_about(sample), sample.messages
    if sample.kind == "long_video_caption":
        said = messages[1].content
        for other in sample.shown.clips():
            said = said.replace(sentence(other.caption), sentence(clip.caption))
        messages = (messages[0], Message("assistant", said))
    return replace(sample, video=clip, messages=messages, evidence=(_whole(clip),))


def padded(sample: Sample) -> Sample:
    """`alone`, the clip repeated until it lasts as long as the composed video."""
    once = alone(sample)
    video = lasting(once.shown, sample.shown.duration)
    return replace(once, video=video, evidence=(_whole(video),))


def blind(sample: Sample) -> Sample:
    """The same words, length and layout, with something else of the same video in the place of what they are about."""
    video = sample.shown
    if isinstance(video, Overlay):
        return replace(sample, video=video.base)
    if isinstance(video, Grid):
        clip = asked_about(sample)
        other = next(cell for cell in video.cells if cell != clip)
        return replace(sample, video=replace(video, cells=tuple(other if c == clip else c for c in video.cells)))
    assert isinstance(video, Concat)
    begins, spans, asked = {evidence.span.start for evidence in sample.evidence}, video.spans(), asked_about(sample)
    rest = [part for part, span in zip(video.parts, spans, strict=True) if span.start not in begins]
    # Where all parts belong to the evidence, another than the one that is asked about takes the place of them all.
    stand_in = rest[0] if rest else next(part for part in video.parts if asked not in part.clips())
    parts = tuple(
        part if span.start not in begins else lasting(stand_in, part.duration)
        for part, span in zip(video.parts, spans, strict=True)
    )
    return replace(sample, video=Concat(parts, video.size))


def lasting(video: Video, seconds: Fraction) -> Video:
    """The video, again and again until it lasts so long."""
    parts, left = list[Video](), seconds
    while left > 0:
        parts.append(video.subclip(0, min(video.duration, left)))
        left -= parts[-1].duration
    return parts[0] if len(parts) == 1 else Concat(tuple(parts))


def _whole(video: Video) -> Evidence:
    return Evidence(Span(Fraction(0), video.duration))


SHOWN: dict[str, Callable[[Sample], Sample]] = {
    "composed": lambda sample: sample,
    "padded": padded,
    "alone": alone,
    "blind": blind,
}
