"""Questions with options: how they are put, how options turn round, and what letter an answer names."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vista_train.evaluation.prompts import Prompt
from vista_train.types import Message
from vista_train.video.composition import Video

LETTERS = string.ascii_uppercase
LEADS = ("the answer is", "answer:", "the option is")
"""What stands before the letter in a wordy answer (VISTA's eval/utils)."""
LABEL = re.compile(r"\s*(\(?)([A-Za-z])([.:)]\)?)(\s*)")
"""The letter that an option brings along: `A. `, `(A) `, `A) ` or `A: `."""
INSTRUCTION = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "({letters}) of the correct option."
)
"""HRVideoBench's, as published; VISTA asked Video-MME, MLVU, LVBench, LongVideoBench and NExT-QA by it too."""
TEMPLATE = INSTRUCTION + "\n{question}\n{options}"


def letter_of(text: str) -> str | None:
    """The letter that an answer names, a capital; None where it has none.

    VISTA's rule: what stands behind the last "the answer is", "answer:" or "the option is", if one of them is there;
    of that, the first letter of the alphabet.
    """
    said = text.lower()
    for lead in LEADS:
        said = said.rsplit(lead, 1)[-1]
    return next((character.upper() for character in said if character in string.ascii_lowercase), None)


@dataclass(frozen=True)
class Question:
    """A question about a video with options, of which one is right."""

    key: str
    """Names it within its benchmark."""
    video: Video | None
    text: str
    options: tuple[str, ...]
    """Without letters."""
    right: int
    labels: tuple[str, ...] = ()
    """What is put before each option, by place; default, `A. ` and so on."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """What it is counted under: the group's name, and which of them it is in."""
    template: str = TEMPLATE
    """How it is put: `{letters}`, `{question}` and `{options}` are filled in."""
    failure: str = ""
    """Why its video cannot be shown, where that is known already."""

    def __post_init__(self) -> None:
        if not 2 <= self.count <= len(LETTERS):
            raise ValueError(f"question {self.key!r} has {self.count} options; it must have 2 to {len(LETTERS)}")
        if not 0 <= self.right < self.count:
            raise ValueError(f"question {self.key!r}: option {self.right} is right, but there are {self.count}, from 0")

    @property
    def count(self) -> int:
        """How many options there are."""
        return len(self.options)

    def right_after(self, shift: int) -> int:
        """The place of the right option when all have moved up by `shift` places, the first ones to the end."""
        return (self.right - shift) % self.count

    def prompt(self, shift: int = 0) -> Prompt:
        """The question as it is put, its options moved up by `shift` places; candidates are the letters."""
        count = self.count
        labels = self.labels or tuple(f"{letter}. " for letter in LETTERS[:count])
        lines = [label + self.options[(place + shift) % count] for place, label in enumerate(labels)]
        filled = {"letters": listed(LETTERS[:count]), "question": self.text, "options": "\n".join(lines)}
        text = re.sub(r"\{(letters|question|options)\}", lambda found: filled[found[1]], self.template).rstrip()
        messages = (Message("user", text),)
        return Prompt(f"{self.key}#{shift}", self.video, messages, tuple(LETTERS[:count]), self.failure)


def listed(letters: Sequence[str]) -> str:
    """`A, B, C, or D`."""
    if len(letters) == 2:
        return " or ".join(letters)
    return f"{', '.join(letters[:-1])}, or {letters[-1]}"


def parted(options: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Options that bring their letters along, as labels by place and bare options; as they are where not all do."""
    found = [LABEL.match(option) for option in options]
    if not all(match and match[2].upper() == letter for match, letter in zip(found, LETTERS, strict=False)):
        return (), tuple(options)
    labels = tuple(match[0].lstrip() for match in found if match)
    return labels, tuple(option[match.end() :] for option, match in zip(options, found, strict=True) if match)
