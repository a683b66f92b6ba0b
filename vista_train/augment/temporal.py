"""Augmentations in time (VISTA section 2.1 and 2.2): joined clips, and needles put between the frames of a host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vista_train.augment import placement, questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.types import Evidence, Sample
from vista_train.video.composition import Clip, Concat, QAKind
from vista_train.video.geometry import Box, Fit, exact
from vista_train.video.sampling import View

DISTRACTORS = Role("distractor", count=16, relation="caption_only", min_count=0)
"""Clips that are not shown; many, because a wrong answer to a clip's own question must come from one asked the same."""


def joined_role(same_source: bool, seconds: float, gap: float, most: int) -> Role:
    """The role of clips that are shown one after another."""
    relation = "same_source_consecutive" if same_source else "any"
    return Role("clip", most, relation, min_count=2, min_seconds=seconds, max_gap_seconds=gap)  # type: ignore[arg-type]


def long_enough(clips: Cast, seconds: float) -> tuple[Clip, ...]:
    """The first two clips, and as many more as it takes to last longer than `seconds`."""
    taken: list[Clip] = []
    for clip in clips["clip"]:
        if len(taken) >= 2 and sum(part.duration for part in taken) > exact(seconds):
            break
        taken.append(clip)
    return tuple(taken)


def join(parts: tuple[Clip, ...], ends: tuple[Fraction, ...], fit: Fit) -> Concat:
    """The parts, each cut to its share, one after another."""
    return Concat(tuple(part.subclip(0, end) for part, end in zip(parts, ends, strict=False)), fit=fit)


def joined(
    augment: LongVideoCaption | EventRelationship, clips: Cast, params: Params, kind: QAKind
) -> tuple[Concat, questions.Asked | None]:
    """The clips joined as drawn, and what the manifest has to ask of all of them together, if it has."""
    parts = long_enough(clips, augment.min_seconds)
    video = join(parts, params["ends"], augment.fit)
    asked = questions.joint(parts, video.clips(), kind, params["wording"]) if augment.same_source else None
    return video, asked


def introduced(question: str, same_source: bool, wording: questions.Wording) -> str:
    """The question, behind a sentence which says so if the clips do not belong together."""
    return question if same_source else f"{questions.one_of(wordings.UNRELATED, wording, turn=2)} {question}"


def shown(video: Concat, numbers: Iterable[int]) -> tuple[Evidence, ...]:
    """Evidence of some parts of a video: when each is shown, and where in the frame, bars left out."""
    spans = video.spans()
    return tuple(
        Evidence(spans[i], placement.inset_box(Box(), video.size, video.parts[i].size, video.fit)) for i in numbers
    )


@dataclass(frozen=True)
class LongVideoCaption(Augment):
    """Consecutive clips of one source, joined; the answer tells all their captions in order (VISTA 2.1, Table 1 A).

    The paper joins clips at most 5 s apart into videos of over 30 s. With `same_source: false` any clips are joined,
    and the question says that they are unrelated.
    """

    same_source: bool = True
    """Join consecutive clips of one source video; false joins any clips, and says so."""
    min_seconds: float = 30.0
    """Clips are added until they last longer than this together, where there are enough."""
    max_gap_seconds: float = 5.0
    """The longest gap between consecutive clips of one source."""
    max_clips: int = 8
    """The most clips to join."""
    fit: Fit = "letterbox"
    """How clips of another shape are put into the first one's."""

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        return (joined_role(self.same_source, self.min_seconds, self.max_gap_seconds, self.max_clips),)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        parts = placement.seen_parts(long_enough(clips, self.min_seconds), view, min_parts=2)
        return {"ends": tuple(part.duration for part in parts), "wording": questions.draw_wording(rng)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        wording = params["wording"]
        video, story = joined(self, clips, params, "story")
        question = introduced(questions.one_of(wordings.LONG_CAPTION, wording), self.same_source, wording)
        answer = story.answer if story else questions.chronicle(video.clips(), wording)
        evidence = shown(video, range(len(video.parts)))
        return Sample(video, questions.converse(questions.Asked(question, answer), wording), evidence, self.name)


@dataclass(frozen=True)
class EventRelationship(Augment):
    """Joined clips as in LongVideoCaption, and a question about their order (VISTA 2.1, Table 1 B)."""

    same_source: bool = True
    """Join consecutive clips of one source video; false joins any clips, and says so."""
    min_seconds: float = 30.0
    """Clips are added until they last longer than this together, where there are enough."""
    max_gap_seconds: float = 5.0
    """The longest gap between consecutive clips of one source."""
    max_clips: int = 8
    """The most clips to join."""
    multiple_choice: float = 0.5
    """Share of questions with options. Parts of one source are alike: wrong ones are other parts, or there are none."""
    fit: Fit = "letterbox"
    """How clips of another shape are put into the first one's."""

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        joined = joined_role(self.same_source, self.min_seconds, self.max_gap_seconds, self.max_clips)
        return (joined,) if self.same_source else (joined, DISTRACTORS)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        parts = placement.seen_parts(long_enough(clips, self.min_seconds), view, min_parts=2)
        first = int(rng.integers(len(parts) - 1))
        known, asked = rng.permutation([first, first + 1]).tolist()
        wording = questions.draw_wording(rng, self.multiple_choice)
        return {"ends": tuple(p.duration for p in parts), "known": known, "asked": asked, "wording": wording}

    def apply(self, clips: Cast, params: Params) -> Sample:
        known, asked, wording = params["known"], params["asked"], params["wording"]
        video, order = joined(self, clips, params, "order")
        if order is not None:
            return Sample(video, questions.converse(order, wording), shown(video, range(len(video.parts))), self.name)
        texts = wordings.EVENT_AFTER if known < asked else wordings.EVENT_BEFORE
        strangers = () if self.same_source else clips.get("distractor", ())
        talk = questions.neighbour(video.clips(), known, asked, strangers, texts, wording)
        talk = talk._replace(question=introduced(talk.question, self.same_source, wording))
        return Sample(video, questions.converse(talk, wording), shown(video, sorted((known, asked))), self.name)


@dataclass(frozen=True)
class TemporalNeedle(Augment):
    """A short clip inserted into a longer one, which goes on behind it (VISTA 2.2, Table 1 C)."""

    roles = (Role("haystack"), Role("needle"), DISTRACTORS)
    max_needle_seconds: float = 10.0
    """A longer needle is cut at its end (the paper gives no length)."""
    multiple_choice: float = 0.5
    """Share of questions with options."""
    fit: Fit = "letterbox"
    """How the needle is put into the haystack's frame."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        host, needle = placement.needle_in(clips, self.max_needle_seconds)
        host = placement.seen_host(host, needle.duration, needle.duration, view)
        times = view.sampled(host.duration + needle.duration, host.frame_measure + needle.frame_measure)
        start = placement.draw_start(rng, times, needle.duration, host.duration, view.min_visible)
        wording = questions.draw_wording(rng, self.multiple_choice)
        return {"host_end": host.duration, "start": start, "wording": wording}

    def apply(self, clips: Cast, params: Params) -> Sample:
        host, needle = placement.needle_in(clips, self.max_needle_seconds)
        start, wording = params["start"], params["wording"]
        video = Concat((host.subclip(0, start), needle, host.subclip(start, params["host_end"])), fit=self.fit)
        where = questions.one_of(wordings.TEMPORAL_NEEDLE, wording)
        asked = questions.about(needle, where, wording, (host,), clips.get("distractor", ()))
        return Sample(video, questions.converse(asked, wording), shown(video, (1,)), self.name)


@dataclass(frozen=True)
class TwoNeedle(Augment):
    """A short clip cut in half, both halves inserted in order at two times; a free-form question (VISTA 2.2, D)."""

    roles = (Role("haystack"), Role("needle"))
    max_needle_seconds: float = 10.0
    """A longer needle is cut at its end (the paper gives no length)."""
    fit: Fit = "letterbox"
    """How the needle is put into the haystack's frame."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        host, needle = placement.needle_in(clips, self.max_needle_seconds)
        half = needle.duration / 2
        host = placement.seen_host(host, half, needle.duration, view)
        duration = host.duration + needle.duration
        times = view.sampled(duration, host.frame_measure + needle.frame_measure)
        starts = placement.draw_two_starts(rng, times, (half, half), duration, view.min_visible)
        return {"host_end": host.duration, "starts": starts, "wording": questions.draw_wording(rng)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        host, needle = placement.needle_in(clips, self.max_needle_seconds)
        (first, second), wording, half = params["starts"], params["wording"], needle.duration / 2
        cut = second - half
        parts = (
            host.subclip(0, first),
            needle.subclip(0, half),
            host.subclip(first, cut),
            needle.subclip(half, needle.duration),
            host.subclip(cut, params["host_end"]),
        )
        video = Concat(parts, fit=self.fit)
        asked = questions.about(needle, questions.one_of(wordings.TWO_NEEDLE, wording), wording)
        return Sample(video, questions.converse(asked, wording), shown(video, (1, 3)), self.name)
