"""The multiple-choice runner: questions with options in, shares answered right out, by any groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vista_train.evaluation.answers import Answers
from vista_train.evaluation.choices import LETTERS, Question
from vista_train.evaluation.intervals import Tally
from vista_train.evaluation.scoring import Scored


@dataclass(frozen=True)
class Answered:
    """One question and what was chosen, for each shift of its options that was asked."""

    question: Question
    scored: tuple[Scored, ...]

    @property
    def failure(self) -> str:
        """Why it could not be put; "" if it could."""
        return next((scored.failure for scored in self.scored if scored.failure), "")

    @property
    def is_right(self) -> bool:
        """Right in every shift."""
        return all(scored.best == self.question.right_after(shift) for shift, scored in enumerate(self.scored))

    def to_json(self) -> dict[str, Any]:
        question = self.question
        return {
            "key": question.key,
            "groups": dict(question.groups),
            "right": LETTERS[question.right],
            "chosen": [None if scored.best is None else LETTERS[scored.best] for scored in self.scored],
            "is_right": self.is_right,
            "frames": self.scored[0].frames,
            "failure": self.failure,
        }


@dataclass(frozen=True)
class ChoiceResult:
    """What came of a benchmark."""

    name: str
    answered: tuple[Answered, ...]
    shifted: bool

    @property
    def overall(self) -> Tally:
        return tally(self.answered)

    @property
    def groups(self) -> Mapping[str, Mapping[str, Tally]]:
        """By the name of a group and the value in it, in the order of names."""
        sorted_out: dict[str, dict[str, list[Answered]]] = defaultdict(lambda: defaultdict(list))
        for one in self.answered:
            for name, value in one.question.groups.items():
                sorted_out[name][value].append(one)
        return {
            name: {value: tally(found[value]) for value in sorted(found)} for name, found in sorted(sorted_out.items())
        }

    @property
    def chance(self) -> float:
        """What a guesser gets right: of each question one option, in each shift anew."""
        shares = [1 / one.question.count ** len(one.scored) for one in self.answered]
        return sum(shares) / len(shares)

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "shifted": self.shifted,
            "chance": self.chance,
            "overall": self.overall.to_json(),
            "groups": {
                name: {value: found.to_json() for value, found in values.items()}
                for name, values in self.groups.items()
            },
            "questions": [one.to_json() for one in self.answered],
        }


def tally(answered: Sequence[Answered]) -> Tally:
    """All of them are counted; those that failed are wrong."""
    return Tally(
        right=sum(one.is_right for one in answered),
        count=len(answered),
        failed=sum(bool(one.failure) for one in answered),
    )


def answer(questions: Sequence[Question], answers: Answers, name: str, shifted: bool = False) -> ChoiceResult:
    """Put every question; with `shifted`, once for each place its options can be turned to.

    `ValueError` where two questions have one key, or none are left.
    """
    if not questions:
        raise ValueError(f"{name} has no questions")
    keys = [question.key for question in questions]
    if len(set(keys)) < len(keys):
        double = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise ValueError(f"{name} has two questions with the id {double!r}; results are kept by id")
    shifts = [range(question.count if shifted else 1) for question in questions]
    prompts = [question.prompt(shift) for question, turns in zip(questions, shifts, strict=True) for shift in turns]
    scored = answers.of(prompts, name)
    found = tuple(
        Answered(question, tuple(next(scored) for _ in turns))
        for question, turns in zip(questions, shifts, strict=True)
    )
    return ChoiceResult(name, found, shifted)
