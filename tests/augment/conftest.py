"""Casts for any augmentation, built from nothing but its roles; and what can be read out of a conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from vista_train.augment import Augment, CannotComposeError, Cast, Role
from vista_train.types import Sample
from vista_train.video.composition import Clip, qa_from_json
from vista_train.video.geometry import exact
from vista_train.video.sampling import View

SIZES = ((32, 24), (24, 32), (48, 20), (30, 30))
VOCABULARY = [a + b for a in ("ba", "ko", "ri", "mu", "sel") for b in ("ta", "no", "li", "fra", "den", "ost")]
# Five levels a channel, far enough apart to be told; without black, which bars have.
COLOURS = [(r, g, b) for r in range(0, 256, 60) for g in range(0, 256, 60) for b in range(0, 256, 60)][1:]


class Choice(NamedTuple):
    """A question as it was put: what stands before the options, the options, the right one's place."""

    question: str
    options: tuple[str, ...]
    right: int | None

    @property
    def answer(self) -> str | None:
        return None if self.right is None else self.options[self.right]

    @property
    def wrong(self) -> tuple[str, ...]:
        return tuple(option for place, option in enumerate(self.options) if place != self.right)


@pytest.fixture
def choice() -> Callable[[Sample], Choice]:
    """Takes a conversation apart; an open question has no options, and no right one."""

    def take(sample: Sample) -> Choice:
        asked, answered = (message.content for message in sample.messages)
        lines = asked.split("\n")
        if len(lines) == 1:
            return Choice(asked, (), None)
        assert [line[:3] for line in lines[1:5]] == ["A. ", "B. ", "C. ", "D. "]
        assert len(lines) == 6
        return Choice(lines[0], tuple(line[3:] for line in lines[1:5]), "ABCD".index(answered))

    return take


@pytest.fixture
def told(choice) -> Callable[[Sample], list[int]]:
    """The numbers of the clips whose captions the question and its right answer speak of, in that order."""

    def numbers(sample: Sample) -> list[int]:
        asked = choice(sample)
        text = f"{asked.question} {asked.answer or sample.messages[-1].content}"
        return [int(number) for number in re.findall(r"number (\d{3})", text)]

    return numbers


def caption(number: int) -> str:
    return f"The number {number:03d} is painted on a wall"


def cast_by(augment: Augment, rng: np.random.Generator, clip: Callable[[int, Fraction], Clip]) -> Cast:
    """Clips for every role; `clip` makes them from a number and a length. A first role that one clip plays lasts
    long, the others are short."""
    cast, number = {}, 0
    for order, role in enumerate(augment.roles):
        long = order == 0 and role.count == 1
        clips = []
        for _ in range(role.count):
            clips.append(clip(number, Fraction(int(rng.integers(*((160, 240) if long else (12, 36)))), 4)))
            number += 1
        cast[role.name] = tuple(clips)
    return cast


@pytest.fixture
def coloured() -> Callable[[Augment, np.random.Generator], Cast]:
    """A cast of clips in memory, each of one colour of its own (its number in COLOURS), of unlike shapes."""

    def make(augment: Augment, rng: np.random.Generator) -> Cast:
        def clip(number: int, seconds: Fraction) -> Clip:
            width, height = SIZES[rng.integers(len(SIZES))]
            pixels_T3HW = torch.tensor(COLOURS[number], dtype=torch.uint8)[None, :, None, None]
            pixels_T3HW = pixels_T3HW.expand(int(seconds * 4), 3, height, width)
            return Clip.from_frames(pixels_T3HW, seconds, caption(number))

        return cast_by(augment, rng, clip)

    return make


@pytest.fixture
def named() -> Callable[[Augment, np.random.Generator], Cast]:
    """A cast of clips of files that need not exist; for questions, and for what `draw` chooses."""

    def make(augment: Augment, rng: np.random.Generator) -> Cast:
        return cast_by(augment, rng, lambda n, seconds: Clip(f"{n:03d}.mp4", 0, seconds, 64, 48, 4, caption(n)))

    return make


@pytest.fixture
def composed() -> Callable[..., tuple[Sample, Cast]]:
    """The first sample that can be made from a few random casts, and its cast; as the dataset tries again."""

    def make(augment: Augment, build: Callable, view: View, seed: int) -> tuple[Sample, Cast]:
        reasons = []
        for attempt in range(16):
            rng = np.random.default_rng([seed, attempt])
            cast = build(augment, rng)
            try:
                return augment(rng, cast, view), cast
            except CannotComposeError as error:
                reasons.append(str(error))
        pytest.fail(f"{augment.name}: no cast of 16 can be composed: {reasons}")

    return make


@pytest.fixture
def world_clips(world: Path) -> list[Clip]:
    """The clips of the rendered world, source by source in order of time."""
    lines = [json.loads(line) for line in (world / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        Clip(
            path=line["video"],
            start=line["start"],
            end=line["end"],
            width=line["width"],
            height=line["height"],
            fps=exact(line["fps"]),
            caption=line["caption"],
            qa=qa_from_json(line.get("qa", ())),
            source=line["source"],
        )
        for line in lines
    ]


@pytest.fixture
def from_world(world_clips: list[Clip]) -> Callable[[Augment, np.random.Generator], Cast]:
    """A cast of the world's clips: a long one for a first role that one clip plays, its neighbours for a run."""

    def make(augment: Augment, rng: np.random.Generator) -> Cast:
        by_length = sorted(world_clips, key=lambda clip: clip.duration)
        cast: dict[str, Sequence[Clip]] = {}
        for order, role in enumerate(augment.roles):
            first = 4 * int(rng.integers(4))
            if role.relation == "same_source_consecutive":
                cast[role.name] = tuple(world_clips[first : first + min(4, role.count)])
            elif order == 0 and role.count == 1:
                cast[role.name] = (by_length[-1 - int(rng.integers(4))],)
            else:
                cast[role.name] = tuple(by_length[int(k)] for k in rng.integers(12, size=role.count))
        return cast

    return make


@pytest.fixture(scope="session")
def pool() -> list[Clip]:
    """150 clips of 6 s with captions of 3 to 16 words, all different."""
    rng = np.random.default_rng(0)
    clips = []
    for number in range(150):
        words = [f"w{number}", *rng.choice(VOCABULARY, size=int(rng.integers(2, 16)))]
        clips.append(Clip(f"{number}.mp4", 0, 6, 64, 48, 10, " ".join(words)))
    return clips


@pytest.fixture
def cast_from() -> Callable[..., Cast]:
    """A cast as the dataset makes it: clip `index` of the pool is the anchor, the others are drawn with replacement."""

    def make(pool: Sequence[Clip], roles: Sequence[Role], index: int, rng: np.random.Generator) -> Cast:
        anchor, first = pool[index % len(pool)], roles[0]
        others = [one for one in pool if one is not anchor]
        cast = {role.name: [others[int(k)] for k in rng.integers(len(others), size=role.count)] for role in roles}
        if first.relation == "same_source_consecutive":
            begin = min(index % len(pool), len(pool) - first.count)
            cast[first.name] = list(pool[begin : begin + first.count])
        else:
            long = replace(anchor, end=60) if first.count == 1 else anchor
            cast[first.name] = [long, *cast[first.name][1:]]
        return cast

    return make


@pytest.fixture
def composed_from(cast_from) -> Callable[..., tuple[Sample, Cast]]:
    """The first sample of casts from the pool that can be composed, and its cast; as the dataset tries again."""

    def make(
        augment: Augment, pool: Sequence[Clip], index: int, rng: np.random.Generator, view: View
    ) -> tuple[Sample, Cast]:
        reasons = []
        for _ in range(16):
            cast = cast_from(pool, augment.roles, index, rng)
            try:
                return augment(rng, cast, view), cast
            except CannotComposeError as error:
                reasons.append(str(error))
        pytest.fail(f"{augment.name}: no cast of 16 can be composed: {reasons}")

    return make
