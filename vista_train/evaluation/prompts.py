"""A question about a video as it is put to a model, and how it becomes tokens and frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from vista_train.evaluation.footage import Footage
from vista_train.models.base import Codec
from vista_train.types import Encoded, Message, Sample
from vista_train.video.composition import Video

IGNORED = -100


@dataclass(frozen=True)
class Prompt:
    """A question about a video, and the answers to weigh."""

    key: str
    """Names it within an evaluation: the row or the trial, and the shift."""
    video: Video | None
    messages: tuple[Message, ...]
    """The conversation up to what the user asks."""
    candidates: tuple[str, ...] = ()
    failure: str = ""
    """Why there is nothing to be shown, where that is known already; no model is then asked."""


class NoRoomError(ValueError):
    """The words leave no room for a frame."""


class PromptEncoder:
    """Encodes one prompt with one answer after another; frames that several answers leave room for are decoded once."""

    def __init__(self, codec: Codec, footage: Footage, prompt: Prompt, number: int = 0) -> None:
        self.codec, self.footage, self.prompt, self.number = codec, footage, prompt, number
        self._shown: dict[tuple[Fraction, ...], torch.Tensor] = {}

    def encoded(self, answer: str) -> Encoded:
        """The prompt and the answer, as they are trained on; `MediaError`, `NoRoomError`."""
        prompt = self.prompt
        sample = Sample(prompt.video, (*prompt.messages, Message("assistant", answer)), (), "evaluation")
        try:
            plan = self.codec.plan(sample)
        except ValueError as error:
            raise NoRoomError(str(error)) from error
        if plan.times not in self._shown:
            self._shown[plan.times] = self._frames(plan.times)
        return self.codec.encode(sample, plan, self._shown[plan.times], self.number)

    def _frames(self, times: Sequence[Fraction]) -> torch.Tensor:
        if self.prompt.video is None:
            return torch.zeros((0, 3, 0, 0), dtype=torch.uint8)
        return self.footage.frames(self.prompt.video, times, self.codec.view)


def rows_of(samples: Sequence[Encoded], max_row_tokens: int) -> Iterator[list[int]]:
    """Samples, by number, packed in order into rows of at most so many tokens; a longer one has a row to itself."""
    row: list[int] = []
    tokens = 0
    for number, sample in enumerate(samples):
        length = len(sample.input_ids)
        if row and tokens + length > max_row_tokens:
            yield row
            row, tokens = [], 0
        row.append(number)
        tokens += length
    if row:
        yield row
