"""Replies: from a model's text to question/answer pairs, or the reason why it cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from vista_train.augment.questions import NUM_DISTRACTORS, normal
from vista_train.synthesis.prompts import PROMPTS, STORY_QUESTION
from vista_train.video.composition import QA, QAKind

MAX_REPLY_CHARS = 1 << 16
MAX_QUESTION_CHARS = 300
MAX_ANSWER_CHARS = {"needle": 100, "choice": 200, "order": 300}
STORY_CHARS = (40, 6000)
"""The shortest and the longest story that is one."""
THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
"""What reasoning models say to themselves, where the server leaves it in."""
FENCED = re.compile(r"\A```(?:json|JSON)?[ \t]*\r?\n(.*?)\r?\n?```\Z", re.DOTALL)
JOINERS = "\u200c\u200d"
"""Unprintable, but part of how some scripts are written."""


class ReplyError(ValueError):
    """A reply that cannot be used. The message says why, in words of ours alone: it is told to the model."""


def pairs_of(kind: str, text: str, num_pairs: int, num_clips: int) -> tuple[QA, ...]:
    """The question/answer pairs of a reply to a prompt; `ReplyError` unless all of it is as it should be."""
    data = _object(text)
    match kind:
        case "needle":
            pairs = _needles(data, num_pairs)
        case "story":
            (story,) = _texts(data, ("story",))
            least, most = STORY_CHARS
            if not least <= len(story) <= most:
                raise ReplyError(f"the story has {len(story)} characters; it must have {least} to {most}")
            pairs = (QA(STORY_QUESTION, story, (), "story", num_clips),)
        case _:
            pairs = (_choice(data, kind, num_clips),)
    echoed = PROMPTS[kind].sentences
    for qa in pairs:
        asked = "" if kind == "story" else qa.question
        if any(sentence in normal(text) for text in (asked, qa.answer, *qa.distractors) for sentence in echoed):
            raise ReplyError("it repeats the instructions instead of following them")
    return pairs


def cleaned(text: str) -> str:
    """The text in one line, without what cannot be printed."""
    line = "".join(letter if letter.isprintable() or letter in JOINERS else " " for letter in text)
    return " ".join(line.split())


def _needles(data: dict[str, Any], num_pairs: int) -> tuple[QA, ...]:
    _check_keys(data, ("pairs",))
    entries = data["pairs"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ReplyError("`pairs` must be a list of objects")
    if not 1 <= len(entries) <= num_pairs:
        raise ReplyError(f"there are {len(entries)} pairs; there must be 1 to {num_pairs}")
    pairs = []
    for entry in entries:
        question, answer = _texts(entry, ("question", "answer"))
        _check_question(question, answer, MAX_ANSWER_CHARS["needle"])
        pairs.append(QA(question, answer))
    if len({normal(qa.question) for qa in pairs}) < len(pairs):
        raise ReplyError("two of the questions are the same")
    return tuple(pairs)


def _choice(data: dict[str, Any], kind: str, num_clips: int) -> QA:
    _check_keys(data, ("question", "answer", "distractors"))
    wrong = data["distractors"]
    if not isinstance(wrong, list) or not all(isinstance(text, str) for text in wrong):
        raise ReplyError("`distractors` must be a list of strings")
    if len(wrong) != NUM_DISTRACTORS:
        raise ReplyError(f"there are {len(wrong)} distractors; there must be {NUM_DISTRACTORS}")
    question, answer = _texts(data, ("question", "answer"), others=("distractors",))
    _check_question(question, answer, MAX_ANSWER_CHARS[kind])
    distractors = tuple(map(cleaned, wrong))
    compared = [normal(text) for text in (answer, *distractors)]
    if not all(compared):
        raise ReplyError("a distractor says nothing")
    if compared[0] in compared[1:]:
        raise ReplyError("a distractor is the same as the answer")
    if len(set(compared)) < len(compared):
        raise ReplyError("two of the distractors are the same")
    if max(map(len, distractors)) > MAX_ANSWER_CHARS[kind]:
        raise ReplyError(f"a distractor is longer than {MAX_ANSWER_CHARS[kind]} characters")
    about: QAKind = "order" if kind == "order" else "clip"
    return QA(question, answer, distractors, about, num_clips)


def _check_question(question: str, answer: str, most: int) -> None:
    if len(question) > MAX_QUESTION_CHARS:
        raise ReplyError(f"a question is longer than {MAX_QUESTION_CHARS} characters")
    if len(answer) > most:
        raise ReplyError(f"an answer is longer than {most} characters")
    if f" {normal(answer)} " in f" {normal(question)} ":
        raise ReplyError("a question contains its answer")


def _texts(data: dict[str, Any], keys: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    _check_keys(data, (*keys, *others))
    texts = []
    for key in keys:
        if not isinstance(data[key], str):
            raise ReplyError(f"`{key}` must be a string")
        text = cleaned(data[key])
        if not normal(text):
            raise ReplyError(f"`{key}` says nothing")
        texts.append(text)
    return texts


def _check_keys(data: dict[str, Any], keys: Sequence[str]) -> None:
    if set(data) != set(keys):
        raise ReplyError(f"an object must have the keys {', '.join(keys)}, and no others")


def _object(text: str) -> dict[str, Any]:
    """The one JSON object that a reply is, be it in a code fence."""
    if len(text) > MAX_REPLY_CHARS:
        raise ReplyError(f"it is longer than {MAX_REPLY_CHARS} characters")
    text = THOUGHT.sub("", text, count=1).strip()
    fenced = FENCED.match(text)
    try:
        data = json.loads(fenced[1] if fenced else text, object_pairs_hook=_unambiguous, parse_constant=_refuse)
    except (json.JSONDecodeError, RecursionError):
        raise ReplyError("it is not a JSON object and nothing else") from None
    if not isinstance(data, dict):
        raise ReplyError("it is JSON, but not an object")
    return data


def _unambiguous(members: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(members)) < len(members):
        raise ReplyError("an object has the same key twice")
    return dict(members)


def _refuse(name: str) -> NoReturn:
    raise ReplyError("it is not a JSON object and nothing else")
