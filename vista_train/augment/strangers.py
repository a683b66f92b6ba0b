"""Clips that can be told apart by their words: what is said of one must not be true of another."""

from __future__ import annotations

from collections.abc import Iterable

from vista_train.augment import questions
from vista_train.augment.base import CannotComposeError
from vista_train.video.composition import Clip


def words(clip: Clip) -> frozenset[str]:
    """The words of a clip's caption, without case and punctuation."""
    return frozenset(questions.normal(clip.caption).split())


def overlap(one: Clip, other: Clip) -> bool:
    """Whether two clips show some of the same footage."""
    return one.path == other.path and one.start < other.end and other.start < one.end


def fits_too(asked: Clip, other: Clip) -> bool:
    """Whether the caption of `asked` is as true of the other clip: it says no more, or both show the same footage."""
    return words(asked) <= words(other) or overlap(asked, other)


def check_stranger(asked: Clip, others: Iterable[Clip]) -> None:
    """`CannotComposeError` if the clip has no caption, or one that fits another clip too."""
    questions.told(asked)
    for other in others:
        if fits_too(asked, other):
            raise CannotComposeError(f"what is said of {asked.path}, {asked.caption!r}, may be true of {other.path}")


def check_unrelated(one: Clip, other: Clip) -> None:
    """`CannotComposeError` for two clips of one recording: either may show what is said of the other."""
    if one.path == other.path or (one.source and one.source == other.source):
        raise CannotComposeError(f"{one.path} and {other.path} are of one recording")


def asked_for(clip: Clip, texts: tuple[str, ...], wording: questions.Wording) -> str:
    """A question that names a clip by its caption, in one of `texts`."""
    return questions.one_of(texts, wording).format(event=questions.phrase(questions.told(clip)))
