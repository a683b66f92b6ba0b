"""What a learner is asked: held-out clips, composed in ways and lengths that the arms were trained on, and beyond.

Every question is asked of every arm and seed alike. Wrong options are answers to the same question: half of them, as
far as there are any, true of what is shown around the clip that is asked about, the rest of clips not shown; in every
second question, none of what is shown (`off_screen`). The right one's place is drawn evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from arms import lasting
from sizes import LENGTH, Size
from world import LONGEST, NAMES, is_held_out

from vista_train.augment import questions, wordings
from vista_train.augment.questions import Wording
from vista_train.evaluation.choices import Question
from vista_train.evaluation.prompts import Prompt
from vista_train.types import Message
from vista_train.video.composition import Clip, Concat, Grid, Overlay, Video
from vista_train.video.geometry import Box

OPTIONS = 4
NEEDLE_SECONDS = Fraction(5, 2)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = (1, 2, LONGEST)
SCALES = (0.25, 0.35, 0.45, 0.6)
"""Sides of insets, as shares of the frame's; the learners see 0.35 and more."""
SECONDS = Fraction(8)
"""Of videos with an inset."""
SKILLS = ("needle", "inset", "grid", "order", "caption")


@dataclass(frozen=True)
class Item:
    """One question of the exam, open, with its options as candidates."""

    key: str
    skill: str
    cell: str
    """Which of the skill's cells it belongs to: `1x/0.25`, `0.35`, `2x2`, `after`."""
    video: Video
    without: Video | None
    """The same without the clip that is asked about; None where its answer would still be shown, or nothing is left."""
    text: str
    options: tuple[str, ...]
    right: int
    is_off_screen: bool
    """Whether no wrong option is true of what is shown."""
    is_new: bool
    """Whether the clip's colours were never trained on together."""

    def prompts(self, letters: bool, video: Video | None = None) -> list[Prompt]:
        """How it is put: in words, or as multiple choice, once for each place that its options can be turned to."""
        shown = video or self.video
        if not letters:
            return [Prompt(self.key, shown, (Message("user", self.text),), self.options)]
        template = f"{{question}}\n{{options}}\n{wordings.CHOOSE[0]}"
        question = Question(self.key, shown, self.text, self.options, self.right, template=template)
        return [question.prompt(shift) for shift in range(OPTIONS)]


@dataclass(frozen=True)
class Cabinet:
    """The clips that an exam is made of, and the draws."""

    clips: Sequence[Clip]
    haystacks: Sequence[Clip]
    rng: np.random.Generator

    def some(self, clips: Sequence[Clip], count: int) -> list[Clip]:
        """So many different ones."""
        return [clips[i] for i in self.rng.choice(len(clips), count, replace=False).tolist()]

    def host_of(self, needle: Clip) -> Clip:
        """A haystack of which nothing that is asked of the needle is true."""
        for index in self.rng.permutation(len(self.haystacks)).tolist():
            mine = {qa.question: qa.answer for qa in needle.qa}
            if all(mine[qa.question] != qa.answer for qa in self.haystacks[index].qa):
                return self.haystacks[index]
        raise ValueError(f"every haystack shares an answer with {needle.path}; a world needs more of them")

    def wording(self) -> Wording:
        return Wording(pick=int(self.rng.integers(1 << 62)), letter=int(self.rng.integers(OPTIONS)))


def make_exam(size: Size, clips: Sequence[Clip], haystacks: Sequence[Clip], seed: int) -> list[Item]:
    """All items, skill by skill; each set of needles is dealt without repeats, as far as there are clips."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 8]))
    cabinet = Cabinet(clips, haystacks, rng)
    makers: dict[str, Callable[[Cabinet, Size], Iterator[Item]]] = {
        "needle": _needles,
        "inset": _insets,
        "grid": _grids,
        "order": _orders,
        "caption": _captions,
    }
    return [item for skill in SKILLS for item in makers[skill](cabinet, size)]


def _needles(cabinet: Cabinet, size: Size) -> Iterator[Item]:
    """Needle retrieval over depth and length: a haystack of one clip, long enough for all lengths."""
    for times in LENGTHS:
        each = size.needles_a_cell if times == 1 else max(1, size.needles_a_cell // 2)
        dealt = _deal(cabinet, each * len(DEPTHS))
        for number, (depth, clip) in enumerate(zip(DEPTHS * each, dealt, strict=True)):
            needle = clip.subclip(0, min(clip.duration, NEEDLE_SECONDS))
            room = LENGTH * times - needle.duration
            start, around = Fraction(depth) * room, cabinet.host_of(clip)
            host = lasting(around, Fraction(LENGTH * times))
            parts = [host.subclip(a, b) for a, b in ((Fraction(0), start), (start, room)) if a < b]
            at = 0 if start == 0 else 1
            video = Concat((*parts[:at], needle, *parts[at:]), host.size)
            place = (f"needle/{times}x/{depth:g}/{number}", "needle", f"{times}x/{depth:g}")
            yield _about(cabinet, clip, wordings.TEMPORAL_NEEDLE, [around], place, video, host)


def _insets(cabinet: Cabinet, size: Size) -> Iterator[Item]:
    """Small videos over large ones, by the inset's side."""
    for scale in SCALES:
        for number, clip in enumerate(_deal(cabinet, size.questions_a_cell)):
            host, side = cabinet.host_of(clip).subclip(0, SECONDS), Fraction(round(scale * 100), 100)
            left, top = (Fraction(int(cabinet.rng.integers(101)), 100) * (1 - side) for _ in range(2))
            inset = lasting(clip, SECONDS)
            video = Overlay(host, inset, Fraction(0), Box(left, top, left + side, top + side))
            place = (f"inset/{scale:g}/{number}", "inset", f"{scale:g}")
            yield _about(cabinet, clip, wordings.SPATIAL_NEEDLE, [host], place, video, host)


def _grids(cabinet: Cabinet, size: Size) -> Iterator[Item]:
    """Cells of grids, by rows and columns: the trained shape, and a smaller and a larger one beside it."""
    rows, columns = size.grid
    for shape in ((rows - 1, columns), (rows, columns), (rows, columns + 1)):
        for number, clip in enumerate(_deal(cabinet, size.questions_a_cell)):
            cells = shape[0] * shape[1]
            others = [other for other in cabinet.some(cabinet.clips, cells + 1) if other.path != clip.path]
            at, wording = int(cabinet.rng.integers(cells)), cabinet.wording()
            shown = [*others[:at], clip, *others[at : cells - 1]]
            seconds = min(Fraction(3), *(one.duration for one in shown))
            full = (shape[1] * size.side, shape[0] * size.side)
            video = Grid(tuple(one.subclip(0, seconds) for one in shown), *shape, full)
            place = (f"grid/{shape[0]}x{shape[1]}/{number}", "grid", f"{shape[0]}x{shape[1]}")
            where = (questions.cell(at, *shape, wording),)
            yield _about(cabinet, clip, where, others[: cells - 1], place, video, None)


def _orders(cabinet: Cabinet, size: Size) -> Iterator[Item]:
    """What comes right after, and right before: three clips, asked in captions, of which other parts are options."""
    for direction, texts in (("after", wordings.EVENT_AFTER), ("before", wordings.EVENT_BEFORE)):
        for number in range(size.questions_a_cell):
            first = int(cabinet.rng.integers(len(cabinet.clips) // 3)) * 3
            parts = list(cabinet.clips[first : first + 3])
            known = int(cabinet.rng.integers(2)) + (direction == "before")
            asked = known + (1 if direction == "after" else -1)
            wording = cabinet.wording()
            event = questions.phrase(parts[known].caption)
            text = questions.one_of(texts, wording).format(event=event)
            # All are parts of one source, and so have its ground; wrong ones from elsewhere have, too.
            ground = parts[0].caption.rsplit(" ", 1)[-1]
            alike = [clip.caption for clip in cabinet.clips if clip.caption.endswith(f" {ground}")]
            shown = [part.caption for part in (parts[3 - known - asked], parts[known])]
            place = (f"order/{direction}/{number}", "order", direction)
            video = Concat(tuple(parts))
            right = parts[asked]
            yield _item(cabinet, place, (video, None), text, right.caption, [shown[:1], alike], shown, right)


def _captions(cabinet: Cabinet, size: Size) -> Iterator[Item]:
    """Single clips, and which caption fits."""
    for number, clip in enumerate(_deal(cabinet, size.questions_a_cell)):
        text = questions.one_of(wordings.PLAIN, cabinet.wording())
        absent = [other.caption for other in cabinet.some(cabinet.clips, 24)]
        place = (f"caption/{number}", "caption", "caption")
        yield _item(cabinet, place, (clip, None), text, clip.caption, [[], absent], [], clip)


def _deal(cabinet: Cabinet, count: int) -> list[Clip]:
    """So many clips to ask about, every colour of a shape equally often: were right answers oftener one than another, a
    learner that likes or dislikes that one would be off chance without looking."""
    by_colour: dict[str, list[Clip]] = {}
    for clip in cabinet.some(cabinet.clips, len(cabinet.clips)):
        by_colour.setdefault(clip.caption.split()[0], []).append(clip)
    colours = sorted(by_colour)
    dealt = [by_colour[colours[n % len(colours)]] for n in range(count)]
    chosen = [clips[n // len(colours) % len(clips)] for n, clips in enumerate(dealt)]
    return [chosen[index] for index in cabinet.rng.permutation(count).tolist()]


def _about(
    cabinet: Cabinet,
    clip: Clip,
    where: Sequence[str],
    shown: Sequence[Clip],
    place: tuple[str, str, str],
    video: Video,
    without: Video | None,
) -> Item:
    """A question of the clip's own, with the answers that other clips give to it."""
    wording = cabinet.wording()
    asked = questions.about(clip, questions.one_of(where, wording), wording, shown, cabinet.clips)
    # Each answer once: wrong ones are as evenly spread as right ones.
    pools = [sorted(set(asked.shown)), sorted(set(asked.absent))]
    return _item(cabinet, place, (video, without), asked.question, asked.answer, pools, asked.shown, clip)


def _item(
    cabinet: Cabinet,
    place: tuple[str, str, str],
    videos: tuple[Video, Video | None],
    text: str,
    answer: str,
    pools: Sequence[Sequence[str]],
    shown: Sequence[str],
    clip: Clip,
) -> Item:
    """`pools` are wrong answers, true of what is shown and not; of the first, half are taken, in every second item."""
    rng = cabinet.rng
    off_screen = bool(rng.integers(2))
    wrong: list[str] = []
    seen, unseen = list(pools[0]), [text for text in pools[1] if text not in shown]
    # Where too few are not shown, as in a grid that shows nearly all there is, others fill in.
    for pool, most in ((seen, 0 if off_screen else OPTIONS // 2), (unseen, OPTIONS - 1), (seen, OPTIONS - 1)):
        for index in rng.permutation(len(pool)).tolist():
            if len(wrong) < most and pool[index] not in (answer, *wrong):
                wrong.append(pool[index])
    if len(wrong) < OPTIONS - 1:
        raise ValueError(
            f"{place[0]}: {len(wrong)} wrong options, of {OPTIONS - 1}; the world is too small for an exam"
        )
    right = int(rng.integers(OPTIONS))
    wrong = [wrong[i] for i in rng.permutation(len(wrong)).tolist()]
    options = (*wrong[:right], answer, *wrong[right:])
    colour, ground = clip.caption.split()[0].lower(), clip.caption.rsplit(" ", 1)[-1].rstrip(".")
    is_new = colour in NAMES and is_held_out(colour, ground)
    is_off_screen = not set(wrong) & set(shown)
    return Item(*place, *videos, text, options, right, is_off_screen, is_new)


def blanked(item: Item) -> Item:
    """The item over grey frames alone."""
    grey = torch.full((1, 3, *reversed(item.video.size)), 127, dtype=torch.uint8)
    second = Clip.from_frames(grey, 1)
    count = max(1, round(item.video.duration))
    return replace(item, video=Concat((second,) * count), without=None)
