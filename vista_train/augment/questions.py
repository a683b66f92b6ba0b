"""Words only: from captions to a question and its answer, open or as multiple choice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from vista_train.augment import wordings
from vista_train.augment.base import CannotComposeError
from vista_train.types import Message
from vista_train.video.composition import QA, Clip, QAKind

LETTERS = "ABCD"
NUM_DISTRACTORS = len(LETTERS) - 1
MARK = re.compile(r"[^\w\s]|_")
"""All punctuation, and symbols."""
Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class Wording:
    """The choices that turn clips into one question, drawn before any text is seen."""

    pick: int
    """Which wording, which of a clip's own questions, and in which order distractors are tried."""
    letter: int | None
    """The place of the right option, drawn first and uniformly; None asks an open question."""


class Asked(NamedTuple):
    """A question, its answer, and where wrong answers may come from."""

    question: str
    answer: str
    shown: tuple[str, ...] = ()
    """Wrong answers that are true of something else in the video."""
    absent: tuple[str, ...] = ()
    """Wrong answers that are true of clips not shown."""


def draw_wording(rng: np.random.Generator, multiple_choice: float = 0.0) -> Wording:
    """Draw the choices; `multiple_choice` is the share of questions with options."""
    letter = int(rng.integers(len(LETTERS)))
    asks_options = bool(rng.random() < multiple_choice)
    return Wording(pick=int(rng.integers(1 << 62)), letter=letter if asks_options else None)


def one_of(texts: Sequence[Chosen], wording: Wording, turn: int = 0) -> Chosen:
    """The one that was picked; each turn (0 to 4) picks independently of the others."""
    return texts[(wording.pick >> 12 * turn) % len(texts)]


def about(clip: Clip, where: str, wording: Wording, shown: Iterable[Clip] = (), absent: Iterable[Clip] = ()) -> Asked:
    """A question about one clip in a composed video, `where` saying how to find it.

    A clip's own question is used if it has one; wrong answers to it are those that other clips give to the same
    question. Otherwise the caption is asked for, and other captions are wrong. An open question has none.
    """
    if wording.letter is None:
        shown = absent = ()
    if pairs := own(clip):
        qa = one_of(pairs, wording, turn=1)
        return Asked(
            f"{where} {qa.question}".strip(),
            qa.answer,
            _answers(shown, qa),
            (*qa.distractors, *_answers(absent, qa)),
        )
    return Asked(
        f"{where} {one_of(wordings.ASK_CONTENT, wording, turn=1)}".strip(),
        told(clip),
        tuple(sentence(other.caption) for other in shown),
        tuple(sentence(other.caption) for other in absent),
    )


def own(clip: Clip) -> tuple[QA, ...]:
    """The questions about a clip by itself."""
    return tuple(qa for qa in clip.qa if qa.kind == "clip")


def joint(clips: Sequence[Clip], shown: Sequence[Clip], kind: QAKind, wording: Wording) -> Asked | None:
    """A question of a kind about all of `clips`, which follow one another in a source, if there is one and they are
    `shown` from the first to the last, none of them cut."""
    pairs = [qa for qa in clips[0].qa if (qa.kind, qa.clips) == (kind, len(clips))]
    if not pairs or [clip.duration for clip in clips] != [clip.duration for clip in shown]:
        return None
    qa = one_of(pairs, wording, turn=1)
    return Asked(qa.question, qa.answer, absent=qa.distractors)


def neighbour(
    parts: Sequence[Clip], known: int, asked: int, absent: Iterable[Clip], texts: Sequence[str], wording: Wording
) -> Asked:
    """A question about the part next to the `known` one, which its caption names; `CannotComposeError` if that
    caption names another part as well.

    Wrong answers are the other parts, then strangers: of parts that look alike, none should be among them, since it
    is found out without a look at the video.
    """
    event, answer = phrase(told(parts[known])), told(parts[asked])
    captions = [normal(part.caption) for part in parts]
    if captions.count(captions[known]) > 1:
        raise CannotComposeError(f"two parts of the video have the caption {parts[known].caption!r}")
    question = one_of(texts, wording).format(event=event)
    if wording.letter is None:
        return Asked(question, answer)
    wrong = [
        sentence(part.caption)
        for part in parts
        if not _overlap(part, parts[known]) and not _overlap(part, parts[asked])
    ]
    strangers = [sentence(clip.caption) for clip in absent if normal(clip.caption) not in captions]
    lacking = max(0, NUM_DISTRACTORS - len({normal(text) for text in wrong} - {normal(answer)}))
    return Asked(question, answer, tuple(wrong), tuple(strangers[:lacking]))


def cell(number: int, rows: int, columns: int, wording: Wording) -> str:
    """How to find cell `number` (row-major, from 0) of a grid: by row and column, from 1."""
    row, column = (index + 1 for index in divmod(number, columns))
    return one_of(wordings.GRID, wording).format(
        row=row,
        column=column,
        row_th=ordinal(row),
        column_th=ordinal(column),
        rows=rows,
        columns=columns,
        cells=rows * columns,
    )


def converse(asked: Asked, wording: Wording) -> tuple[Message, ...]:
    """The conversation: with options where a letter was drawn and three distinct wrong answers exist, else open.

    Wrong answers come half from what is shown and half from what is not, the odd one by turns; where one kind runs
    short the other fills in.
    """
    if wording.letter is not None:
        wrong = _distractors(asked, wording)
        if len(wrong) == NUM_DISTRACTORS:
            # An option is one line: a line break in an answer would make two of it.
            options = [
                " ".join(text.split()) for text in (*wrong[: wording.letter], asked.answer, *wrong[wording.letter :])
            ]
            lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
            question = "\n".join([asked.question, *lines, one_of(wordings.CHOOSE, wording, turn=3)])
            return (Message("user", question), Message("assistant", LETTERS[wording.letter]))
    return (Message("user", asked.question), Message("assistant", asked.answer))


def conversation(pairs: Iterable[QA]) -> tuple[Message, ...]:
    """Questions and answers as they are, one after the other."""
    return tuple(message for qa in pairs for message in (Message("user", qa.question), Message("assistant", qa.answer)))


def normal(text: str) -> str:
    """The text without case, punctuation and spacing: what two answers are compared by."""
    kept = MARK.sub(lambda mark: "" if unicodedata.category(mark[0]).startswith("P") else mark[0], text.casefold())
    return " ".join(kept.split())


def sentence(caption: str) -> str:
    """The caption as a sentence: a capital first, a full stop last."""
    text = " ".join(caption.split())
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…", '."', "。")) else text + "."


def told(clip: Clip) -> str:
    """The clip's caption as a sentence; `CannotComposeError` where it has none."""
    if not clip.caption.strip():
        raise CannotComposeError(f"clip {clip.path} has no caption")
    return sentence(clip.caption)


def phrase(caption: str) -> str:
    """The caption without its full stop, to be put into a question."""
    return " ".join(caption.split()).rstrip(".")


def chronicle(scenes: Sequence[Clip], wording: Wording) -> str:
    """The captions of consecutive scenes as one account."""
    account = [told(scenes[0])]
    first = one_of(range(len(wordings.THEN)), wording, turn=4)
    for index, scene in enumerate(scenes[1:]):
        last = index == len(scenes) - 2 and len(scenes) > 2
        link = "Finally" if last else wordings.THEN[(first + index) % len(wordings.THEN)]
        account.append(f"{link}: {told(scene)}")
    return " ".join(account)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ... 11th, 12th, 13th, ... 21st."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _overlap(one: Clip, other: Clip) -> bool:
    """Whether two clips show some of the same footage: what is said of one may then be true of the other."""
    return one.path == other.path and one.start < other.end and other.start < one.end


def _answers(clips: Iterable[Clip], asked: QA) -> tuple[str, ...]:
    question = normal(asked.question)
    return tuple(qa.answer for clip in clips for qa in own(clip) if normal(qa.question) == question)


def _distractors(asked: Asked, wording: Wording) -> list[str]:
    """Three wrong answers that differ from the right one and from each other, in a random order; or fewer."""
    rng = np.random.Generator(np.random.Philox(key=wording.pick))
    taken = {"", normal(asked.answer)}
    pools = []
    # Of those not shown, more than three are never used; of those shown, each rules out an equal one that is not.
    for texts, most in ((asked.shown, len(asked.shown)), (asked.absent, NUM_DISTRACTORS)):
        pool: list[str] = []
        for index in rng.permutation(len(texts)):
            if len(pool) == most:
                break
            compared = normal(texts[index])
            if compared not in taken:
                taken.add(compared)
                pool.append(texts[index])
        pools.append(pool)
    shown, absent = pools
    num_shown = NUM_DISTRACTORS // 2 + int(rng.integers(2))
    num_shown = max(num_shown, NUM_DISTRACTORS - len(absent))
    wrong = [*shown[:num_shown], *absent][:NUM_DISTRACTORS]
    return [wrong[index] for index in rng.permutation(len(wrong))]
