"""Needles in haystacks: what a model finds in videos of some lengths, by how deep in them it is hidden.

A haystack is clips in random order, joined and cut so that video and needle together last exactly the length that is
asked for: within a column all cells are looked at at the same times. The needle is part of another clip, or one picture
of it held for as long. It goes to its depth, the share of the haystack before it, or to the nearest place at which the
model's view shows it: a view of a few frames would pass most short needles by, and the cell would measure that.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from vista_train.augment import CannotComposeError, questions, wordings
from vista_train.augment.questions import Wording
from vista_train.augment.temporal import shown
from vista_train.evaluation.choices import LETTERS, Question
from vista_train.evaluation.prompts import Prompt
from vista_train.models.base import Codec
from vista_train.types import Evidence, Message, Sample
from vista_train.video.composition import Clip, Concat
from vista_train.video.decode import MediaError
from vista_train.video.geometry import exact
from vista_train.video.media import Media
from vista_train.video.render import render

NUM_OTHERS = 256
"""Clips besides the needle that a trial is made of, at most; longer haystacks show some again."""
NUM_ABSENT = 64
"""Those of them that are not shown, and that wrong answers may come from."""
INSET = 1 << 20
"""Bounds that a start must lie inside of are kept away from by such a part of the room between them."""
KINDS = ("video", "image")


class Clips(Protocol):
    """Clips by number, such as a data/sources.py ClipSource."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Clip: ...


class AllClips:
    """The clips of several sources, one source after another."""

    def __init__(self, sources: Sequence[Clips]) -> None:
        self.sources, self.ends = tuple(sources), list(itertools.accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int, /) -> Clip:
        which = bisect_right(self.ends, index)
        return self.sources[which][index - self.ends[which] + len(self.sources[which])]


@dataclass(frozen=True)
class NeedleTest:
    """Which cells there are, and what is hidden in them."""

    lengths_seconds: tuple[float, ...]
    """Seconds of the whole video, needle and all: a column each."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of the haystack that lie before the needle: a row each."""
    trials: int = 8
    """Needles a cell; the same ones, in the same haystacks, in every cell, so that cells differ in nothing else."""
    kind: Literal["video", "image"] = "video"
    """Part of a clip, or one picture of it held for as long."""
    needle_seconds: float = 2.0
    """How long the needle lasts; of a clip that is shorter, as long as it is."""
    options: int = 4
    """Options of a question, the right one among them."""
    shifted: bool = False
    """Ask each question once for each place its options can be turned to; it must be right in all."""

    def __post_init__(self) -> None:
        if not self.lengths_seconds or not self.depths:
            raise ValueError("a needle test needs at least one length and one depth")
        for name, values in (("lengths", self.lengths_seconds), ("depths", self.depths)):
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} are {_numbers(values)}; they must rise")
        if not 0 <= self.depths[0] <= self.depths[-1] <= 1:
            raise ValueError(f"depths are {_numbers(self.depths)}; they must lie in 0..1")
        if self.trials < 1:
            raise ValueError(f"trials is {self.trials}; it must be at least 1")
        if self.kind not in KINDS:
            raise ValueError(f"needle is {self.kind!r}; it must be {' or '.join(KINDS)}")
        if not 0 < 2 * self.needle_seconds <= self.lengths_seconds[0]:
            raise ValueError(
                f"needle_seconds is {self.needle_seconds:g}; it must be above 0, and at most half of the shortest "
                f"length, {self.lengths_seconds[0]:g} s"
            )
        if not 2 <= self.options <= len(LETTERS):
            raise ValueError(f"options is {self.options}; it must be 2 to {len(LETTERS)}")

    @property
    def tolerance(self) -> Fraction:
        """How far a needle may be moved, in depth: not nearer to another row than to its own."""
        gaps = [exact(b) - exact(a) for a, b in zip(self.depths, self.depths[1:], strict=False)]
        return min(gaps, default=Fraction(1)) / 2


@dataclass(frozen=True)
class Cast:
    """What one trial is made of, in every cell alike."""

    number: int
    needle: Clip
    haystack: tuple[Clip, ...]
    """In the order they are shown in; begun again from the first where they are too few."""
    absent: tuple[Clip, ...]
    wording: Wording
    letter: int
    """The place of the right option."""
    failure: str = ""
    """Why the needle's picture could not be had."""


@dataclass(frozen=True)
class Trial:
    """One needle in one haystack: an open question for exact match, and one with options."""

    open: Prompt
    choice: Question
    evidence: Evidence
    moved: Fraction
    """How far from its depth the needle lies, as a share of the haystack."""
    frames: int
    """How many frames are looked at."""


class UnseenError(ValueError):
    """The view's frames are too far apart: near its depth the needle would be on none of them."""


def casts(test: NeedleTest, clips: Clips, media: Media, rng: np.random.Generator) -> list[Cast]:
    """The trials' needles, all different, and what goes with each; `ValueError` where the clips are too few.

    A needle has words to ask for: questions of its own, or a caption that enough others differ from.
    """
    most = min(len(clips), NUM_OTHERS + 4 * test.trials)
    drawn = [clips[index] for index in rng.choice(len(clips), size=most, replace=False).tolist()]
    keys = rng.integers(1 << 62, size=test.trials).tolist()
    # Evenly over the places: who always says the same letter gets what chance gives.
    letters = rng.permutation(np.arange(test.trials) % test.options).tolist()
    made: list[Cast] = []
    for at, needle in enumerate(drawn):
        if len(made) == test.trials:
            break
        others = [clip for other, clip in enumerate(drawn) if other != at][-NUM_OTHERS:]
        number = len(made)
        cast = _cast(test, needle, others, number, keys[number], letters[number])
        if cast is not None:
            made.append(_with_picture(cast, media) if test.kind == "image" else cast)
    if len(made) < test.trials:
        raise ValueError(
            f"{len(made)} of {len(drawn)} clips can be needles, and trials is {test.trials}: each needs a caption, or "
            f"a question of its own, and {test.options - 1} clips of other files of which something else is said"
        )
    return made


def _cast(test: NeedleTest, needle: Clip, others: Sequence[Clip], number: int, key: int, letter: int) -> Cast | None:
    """The trial of a needle; None where it cannot be asked about."""
    rng = np.random.Generator(np.random.Philox(key=key))
    name = questions.normal(needle.caption)
    # What looks or reads like the needle would make two of it.
    fit = [one for one in others if one.path != needle.path and (not name or questions.normal(one.caption) != name)]
    fit = [fit[i] for i in rng.permutation(len(fit))]
    half = min(NUM_ABSENT, len(fit) // 2)
    absent, haystack = tuple(fit[:half]), tuple(fit[half:])
    seconds = min(needle.duration, exact(test.needle_seconds))
    start = (needle.duration - seconds) / 2
    wording = Wording(pick=int(rng.integers(1 << 62)), letter=0)
    cast = Cast(number, needle.subclip(start, start + seconds), haystack, absent, wording, letter)
    plain = replace(cast, needle=replace(cast.needle, qa=()))
    for one in (cast, plain) if questions.own(needle) else (plain,):
        # A needle without words cannot be asked about.
        with suppress(CannotComposeError):
            if haystack and len(_options(one, test)) == test.options:
                return one
    return None


def _with_picture(cast: Cast, media: Media) -> Cast:
    """The cast with the needle's middle picture, held, for its needle."""
    needle, middle = cast.needle, cast.needle.duration / 2
    try:
        frames_TCHW = render(needle, [middle], needle.size, media=media)
    except MediaError as error:
        return replace(cast, failure=f"{type(error).__name__}: {error}")
    held = Clip.from_frames(frames_TCHW, needle.duration, needle.caption, qa=needle.qa, source=needle.source)
    return replace(cast, needle=held)


def _asked(cast: Cast) -> questions.Asked:
    where = questions.one_of(wordings.TEMPORAL_NEEDLE, cast.wording)
    return questions.about(cast.needle, where, cast.wording, cast.haystack, cast.absent)


def _options(cast: Cast, test: NeedleTest) -> list[str]:
    """The options, the right one at its place; fewer where not enough of the clips say something else.

    Wrong ones are of the same kind, captions or answers to the same question, in turns from what is shown and from what
    is not: which clips there are does not tell them apart.
    """
    asked = _asked(cast)
    taken, wrong = {"", questions.normal(asked.answer)}, list[str]()
    pools = [list(asked.shown), list(asked.absent)]
    if cast.wording.pick % 2:
        pools.reverse()
    while len(wrong) < test.options - 1 and any(pools):
        text = pools[0].pop(0) if pools[0] else pools[1].pop(0)
        if questions.normal(text) not in taken:
            taken.add(questions.normal(text))
            wrong.append(" ".join(text.split()))
            pools.reverse()
    return [*wrong[: cast.letter], " ".join(asked.answer.split()), *wrong[cast.letter :]]


def trial(test: NeedleTest, cast: Cast, length_seconds: float, depth: float, codec: Codec) -> Trial:
    """A cast at one length and depth; `UnseenError` where the needle cannot be shown there."""
    needle, length = cast.needle, exact(length_seconds)
    room = length - needle.duration
    wanted = exact(depth) * room
    key = f"{length_seconds:g}s/{depth:g}/{cast.number}"
    asked, options = _asked(cast), _options(cast, test)
    ask = questions.one_of(wordings.CHOOSE, cast.wording, turn=3)
    question = Question(
        key, None, asked.question, tuple(options), cast.letter, template=f"{{question}}\n{{options}}\n{ask}"
    )
    open_messages = (Message("user", asked.question),)
    # Words decide how many frames there is room for; where the needle lies does not.
    anywhere = _hidden(cast, room, wanted)
    looks = [
        codec.plan(Sample(anywhere, (*messages, Message("assistant", answer)), (), "needle")).times
        for messages, answer in ((question.prompt().messages, LETTERS[cast.letter]), (open_messages, asked.answer))
    ]
    start = _nearest(looks[0], needle.duration, room, wanted, codec.view.min_visible)
    moved = None if start is None else abs(start - wanted) / room
    if start is None or moved is None or moved > test.tolerance:
        apart = looks[0][1] - looks[0][0] if len(looks[0]) > 1 else length
        raise UnseenError(
            f"frames are {float(apart):.3g} s apart: no needle of {float(needle.duration):.3g} s is on "
            f"{codec.view.min_visible} of them within {float(test.tolerance):.3g} of depth {depth:g}"
        )
    video = _hidden(cast, room, start)
    (evidence,) = shown(video, [next(number for number, part in enumerate(video.parts) if part is needle)])
    for times in looks:
        _check_seen(codec, times, video, evidence)
    return Trial(
        Prompt(f"{key}/open", video, open_messages, (asked.answer,), cast.failure),
        replace(question, video=video, failure=cast.failure),
        evidence,
        moved,
        len(looks[0]),
    )


def _check_seen(codec: Codec, times: Sequence[Fraction], video: Concat, evidence: Evidence) -> None:
    """The needle is on the frames that are looked at, and large enough; anything else would be scored as not found."""
    view, frames = codec.view, codec.view.count_of(video)
    if not view.shows(times, video.size, evidence.span, evidence.box, frames):
        area = view.pixels(video.size, evidence.box, frames)
        raise UnseenError(
            f"the needle, {area.width}x{area.height} px on the canvas, is not on {view.min_visible} of {len(times)} "
            f"frames at {view.min_pixels} px or more"
        )


def _hidden(cast: Cast, room: Fraction, start: Fraction) -> Concat:
    """`room` seconds of haystack with the needle at second `start` of it."""
    before, after = list[Clip](), list[Clip]()
    at, turn = Fraction(0), 0
    while at < room:
        clip = cast.haystack[turn % len(cast.haystack)]
        clip = clip.subclip(0, min(clip.duration, room - at))
        cut = min(max(start - at, Fraction(0)), clip.duration)
        if cut > 0:
            before.append(clip.subclip(0, cut))
        if cut < clip.duration:
            after.append(clip.subclip(cut, clip.duration))
        at, turn = at + clip.duration, turn + 1
    # The frame's shape is the haystack's, wherever the needle lies.
    return Concat((*before, cast.needle, *after), cast.haystack[0].size)


def _nearest(
    times: Sequence[Fraction], length: Fraction, latest: Fraction, wanted: Fraction, min_visible: int
) -> Fraction | None:
    """The start in [0, latest] nearest to `wanted` that shows `length` seconds on `min_visible` of the times; None if
    there is none."""
    best: Fraction | None = None
    for first, last in zip(times, times[min_visible - 1 :], strict=False):
        # Shown from `first` to `last`: it begins no later than the one, and ends after the other.
        low, high = last - length, min(first, latest)
        if low >= high or high < 0:
            continue
        low = Fraction(0) if low < 0 else low + (high - low) / INSET
        start = min(max(wanted, low), high)
        if best is None or abs(start - wanted) < abs(best - wanted):
            best = start
    return best


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
