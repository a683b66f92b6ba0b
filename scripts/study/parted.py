"""A codec under which answers belong to other samples: words and pixels are parted, and all else is as it was."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from vista_train.augment.questions import LETTERS
from vista_train.models.base import Codec
from vista_train.types import Encoded, Message, Plan, Sample


class PartedCodec:
    """Encodes a sample with the answer of another one that asks the same, chosen by a hash of the sample.

    `donors` are samples of the same mix: the answers keep their distribution, and nothing else of their videos.
    """

    def __init__(self, codec: Codec, donors: Iterable[Sample], questions: Sequence[str]) -> None:
        self.codec, self.view, self.questions = codec, codec.view, tuple(questions)
        answers: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for donor in donors:
            answers[self._form(donor)].append(donor.messages[-1].content)
        self.answers = {form: tuple(found) for form, found in answers.items()}

    def __repr__(self) -> str:
        """It decides what a sample is: runs are compared by it."""
        digest = hashlib.sha256(repr(sorted(self.answers.items())).encode()).hexdigest()
        return f"PartedCodec({self.codec!r}, {digest})"

    def plan(self, sample: Sample) -> Plan:
        return self.codec.plan(self.parted(sample))

    def encode(self, sample: Sample, plan: Plan, frames_TCHW: torch.Tensor, position: int = 0) -> Encoded:
        return self.codec.encode(self.parted(sample), plan, frames_TCHW, position)

    def parted(self, sample: Sample) -> Sample:
        """The sample with another's answer; with its own where nobody else asks the same, which no donor of a whole
        mix leaves."""
        answers = self.answers.get(self._form(sample), (sample.messages[-1].content,))
        key = hashlib.sha256(json.dumps(sample.to_json()).encode()).digest()
        answer = answers[int.from_bytes(key[:8], "big") % len(answers)]
        return replace(sample, messages=(*sample.messages[:-1], Message("assistant", answer)))

    def _form(self, sample: Sample) -> tuple[str, ...]:
        """What makes an answer fit: the augmentation, whether a letter is asked for, and which question it is."""
        asked, said = (message.content for message in sample.messages[-2:])
        which = next((question for question in self.questions if question in asked), "")
        return sample.kind, "letter" if said in LETTERS else "words", which
