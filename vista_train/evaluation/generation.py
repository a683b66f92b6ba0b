"""What a model says to a prompt with a video: greedy decoding, one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from vista_train.evaluation.footage import Footage
from vista_train.evaluation.prompts import IGNORED, NoRoomError, Prompt, PromptEncoder, rows_of
from vista_train.evaluation.scoring import undisturbed
from vista_train.models.base import Family
from vista_train.models.likelihood import Look, Reader
from vista_train.types import Encoded, Row
from vista_train.video.decode import MediaError

PROBE = "A"
"""An answer that shows where answers begin."""


@dataclass(frozen=True)
class Answered:
    """What a model said to one prompt."""

    text: str = ""
    tokens: int = 0
    """How many tokens it took, the one that ends it aside."""
    frames: int = 0
    """How many frames were shown."""
    failure: str = ""
    """Why the model could not be asked."""


@dataclass
class _Speech:
    """A prompt's tokens, and those said so far."""

    opening: Encoded
    """The prompt up to where the answer begins, its frames with it."""
    stops: frozenset[int]
    """Tokens that end the answer."""
    said: list[int] = field(default_factory=list)

    @property
    def ends(self) -> bool:
        return bool(self.said) and self.said[-1] in self.stops

    @property
    def words(self) -> list[int]:
        """What was said, without the token that ended it."""
        return self.said[:-1] if self.ends else self.said

    def so_far(self) -> Encoded:
        """The prompt and what was said."""
        opening, said = self.opening, torch.tensor(self.said, dtype=torch.int64)
        input_ids = torch.cat([opening.input_ids, said])
        mrope_3L = opening.mrope_3L
        if mrope_3L is not None:
            mrope_3L = torch.cat([mrope_3L, mrope_3L.max() + 1 + torch.arange(len(said)).expand(3, -1)], dim=1)
        labels = torch.full_like(input_ids, IGNORED)
        return replace(opening, input_ids=input_ids, labels=labels, mrope_3L=mrope_3L)

    def newest(self) -> Row:
        """The last token alone, at its place behind all others."""
        row = Row.packed([self.so_far()])
        mrope_3L = None if row.mrope_3L is None else row.mrope_3L[:, -1:]
        return replace(
            row,
            input_ids_1L=row.input_ids_1L[:, -1:],
            labels_1L=row.labels_1L[:, -1:],
            positions_1L=row.positions_1L[:, -1:],
            frames=(torch.zeros((0, 3, 0, 0), dtype=torch.uint8),),
            lengths=(1,),
            mrope_3L=mrope_3L,
        )


class Generator:
    """A family's model that answers prompts greedily, on whatever device and in whatever precision it is.

    What was computed for earlier tokens is kept, and every frame passes the tower once.
    """

    def __init__(self, family: Family, model: nn.Module, footage: Footage) -> None:
        self.family, self.model, self.footage = family, model, footage

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int, until: Sequence[str] = ()) -> list[Answered]:
        """One answer for each prompt, of at most so many tokens, cut before the first of the words in `until`."""
        answers = []
        for number, prompt in enumerate(prompts):
            found = opened(self.family, self.footage, prompt, number)
            if isinstance(found, _Speech):
                with undisturbed(self.model):
                    self._speak(found, max_new_tokens, until)
            answers.append(_answered(self.family, found, until))
        return answers

    def _speak(self, speech: _Speech, max_new_tokens: int, until: Sequence[str]) -> None:
        device, cache = next(self.model.parameters()).device, None
        row = Row.packed([speech.opening])
        while len(speech.said) < max_new_tokens and not _is_over(self.family, speech, until):
            hidden_LD, cache = self.family.continued(self.model, row.to(device), cache)
            logits_V = self.family.head(self.model)(hidden_LD[-1:])[0]
            speech.said.append(int(logits_V.argmax()))
            row = speech.newest()


def spoken(
    family: Family,
    read: Reader,
    footage: Footage,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    max_row_tokens: int = 0,
    any_goes_on: Callable[[bool], bool] = bool,
) -> list[Answered]:
    """The same by a reader, which computes the whole prompt again for every token: for models that a run is training,
    whose engine takes rows and keeps nothing.

    Where several ranks share the model, each brings prompts of its own, any number; all call the reader as often, as
    `any_goes_on` tells them.
    """
    found = [opened(family, footage, prompt, number) for number, prompt in enumerate(prompts)]
    speeches = [one for one in found if isinstance(one, _Speech)]
    for _ in range(max_new_tokens):
        going = [speech for speech in speeches if not speech.ends]
        if not any_goes_on(bool(going)):
            break
        samples = [speech.so_far() for speech in going]
        rows = list(rows_of(samples, max_row_tokens))
        looks = [_last_of([samples[number] for number in row]) for row in rows]
        for row, said in zip(rows, read(looks), strict=True):
            for number, token in zip(row, said.likeliest_N.tolist(), strict=True):
                going[number].said.append(token)
    return [_answered(family, one, ()) for one in found]


def opened(family: Family, footage: Footage, prompt: Prompt, number: int = 0) -> _Speech | str:
    """A prompt up to where its answer begins; or why it cannot be put."""
    if prompt.failure:
        return prompt.failure
    try:
        encoded = PromptEncoder(family.codec, footage, prompt, number).encoded(PROBE)
    except MediaError as error:
        return f"{type(error).__name__}: {error}"
    except NoRoomError as error:
        return str(error)
    places = (encoded.labels != IGNORED).nonzero()[:, 0]
    # Of a conversation, the last answer; all labels of one follow one another.
    begins = torch.cat([torch.ones(1, dtype=torch.bool), places.diff() > 1]).nonzero()[-1, 0]
    first = int(places[begins])
    mrope_3L = None if encoded.mrope_3L is None else encoded.mrope_3L[:, :first]
    ids, labels = encoded.input_ids[:first], torch.full((first,), IGNORED)
    return _Speech(replace(encoded, input_ids=ids, labels=labels, mrope_3L=mrope_3L), family.codec.stops)


def _last_of(samples: Sequence[Encoded]) -> Look:
    """A row, and what comes behind the last token of each of its samples."""
    row = Row.packed(samples)
    places_N = torch.tensor(row.lengths).cumsum(0) - 1
    return Look(row, places_N, torch.zeros_like(places_N))


def _is_over(family: Family, speech: _Speech, until: Sequence[str]) -> bool:
    return speech.ends or (bool(until) and any(word in family.codec.text_of(speech.words) for word in until))


def _answered(family: Family, found: _Speech | str, until: Sequence[str]) -> Answered:
    if isinstance(found, str):
        return Answered(failure=found)
    text = family.codec.text_of(found.words)
    cuts = [place for word in until if (place := text.find(word)) >= 0]
    return Answered(text[: min(cuts, default=len(text))].strip(), len(found.words), len(found.opening.frames_TCHW))
