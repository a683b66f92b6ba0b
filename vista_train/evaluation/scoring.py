"""A prompt with a video and candidate answers -> how likely a model finds each, teacher-forced, without gradients.

Nothing is generated (generation.py does that): of letters, the likeliest is what greedy decoding restricted to the
letters would say first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from vista_train.evaluation.footage import Footage
from vista_train.evaluation.prompts import IGNORED, NoRoomError, Prompt, PromptEncoder, rows_of
from vista_train.models.base import Codec, Family
from vista_train.models.likelihood import Found, Look, Reader, weighed
from vista_train.types import Encoded, Row
from vista_train.video.decode import MediaError


@dataclass(frozen=True)
class Scored:
    """What a model makes of a prompt's candidates, or why it could not be asked."""

    log_likelihoods: tuple[float, ...] = ()
    """Of each candidate's words, in nats, given all before them; the token that closes the turn is left out."""
    exact: tuple[bool, ...] = ()
    """Whether every token of the candidate's words is the likeliest, given the right ones before it (V-NIAH's rule)."""
    frames: int = 0
    """How many frames were shown."""
    failure: str = ""

    @property
    def best(self) -> int | None:
        """The likeliest candidate, the first of equals; None where the prompt failed."""
        if self.failure:
            return None
        return max(range(len(self.log_likelihoods)), key=lambda which: self.log_likelihoods[which])

    def to_json(self) -> dict[str, Any]:
        return {
            "log_likelihoods": list(self.log_likelihoods),
            "exact": list(self.exact),
            "frames": self.frames,
            "failure": self.failure,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scored:
        return cls(tuple(data["log_likelihoods"]), tuple(data["exact"]), data["frames"], data["failure"])


class Scorer(Protocol):
    """Whoever answers: a model, or in tests a guesser and an oracle."""

    codec: Codec
    """What knows how many frames of a video are looked at, and when."""

    def score(self, prompts: Sequence[Prompt]) -> list[Scored]:
        """One result for each prompt, in order; none depends on what else is asked with it."""
        ...


@dataclass(frozen=True)
class _Read:
    """Tokens of one candidate, and where in an encoded sample they are predicted."""

    prompt: int
    candidate: int
    positions: tuple[int, ...]
    """Places in the sample whose hidden states predict the tokens."""
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class _Entry:
    """One sample to be run, and all that is read of it."""

    encoded: Encoded
    reads: tuple[_Read, ...]


@dataclass
class ModelScorer:
    """A family's model as a scorer, on whatever device and in whatever precision its parameters are.

    Samples are packed into rows of at most `max_row_tokens` (a longer one has a row to itself); 0 is one by one.
    `reader` runs the model, once for all rows of a `score`, however few; default, `reader_of(family, model)`.
    """

    family: Family
    model: nn.Module | None
    footage: Footage
    max_row_tokens: int = 0
    reader: Reader | None = None
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.codec = self.family.codec
        if self.model is None and self.reader is None:
            raise ValueError("a ModelScorer needs a model, or a reader that runs one")

    def score(self, prompts: Sequence[Prompt]) -> list[Scored]:
        """One result for each prompt. A video that cannot be shown, and words that leave no room, are failures."""
        entries, failures, frames = list[_Entry](), dict[int, str](), dict[int, int]()
        for number, prompt in enumerate(prompts):
            if prompt.failure:
                failures[number] = prompt.failure
                continue
            try:
                made = self._entries(number, prompt)
            except MediaError as error:
                failures[number] = f"{type(error).__name__}: {error}"
                continue
            except NoRoomError as error:
                failures[number] = str(error)
                continue
            entries += made
            frames[number] = len(made[0].encoded.frames_TCHW)
        found = self._read(entries)
        return [
            Scored(failure=failures[number])
            if number in failures
            else Scored(
                tuple(found[number, which][0] for which in range(len(prompt.candidates))),
                tuple(found[number, which][1] for which in range(len(prompt.candidates))),
                frames[number],
            )
            for number, prompt in enumerate(prompts)
        ]

    def _entries(self, number: int, prompt: Prompt) -> list[_Entry]:
        """A sample for each candidate; but one for all that are a single token behind the same prompt."""
        encoder = PromptEncoder(self.codec, self.footage, prompt, number)
        entries: list[_Entry] = []
        for which, candidate in enumerate(prompt.candidates):
            encoded = encoder.encoded(candidate)
            read = _words(encoded, number, which)
            first = entries[0] if entries else None
            if first is not None and _predicts(first, encoded, read):
                entries[0] = _Entry(first.encoded, (*first.reads, read))
            else:
                entries.append(_Entry(encoded, (read,)))
        return entries

    def _read(self, entries: Sequence[_Entry]) -> dict[tuple[int, int], tuple[float, bool]]:
        """By prompt and candidate: the log-likelihood, and whether each token was the likeliest."""
        read = self.reader
        if read is None:
            assert self.model is not None
            read = reader_of(self.family, self.model)
        rows = [
            [entries[number] for number in row]
            for row in rows_of([entry.encoded for entry in entries], self.max_row_tokens)
        ]
        found: dict[tuple[int, int], tuple[float, bool]] = {}
        looks = [_look(row) for row in rows]
        for row, look, said in zip(rows, looks, read(looks), strict=True):
            hits_N, first = said.likeliest_N == look.tokens_N, 0
            for one in (one for entry in row for one in entry.reads):
                last = first + len(one.tokens)
                total, exact = float(said.logs_N[first:last].sum()), bool(hits_N[first:last].all())
                found[one.prompt, one.candidate] = (total, exact)
                first = last
        return found


def reader_of(family: Family, model: nn.Module) -> Reader:
    """A model of one process as a reader: row by row, disturbing nothing."""

    def read(looks: Sequence[Look]) -> list[Found]:
        device, found = next(model.parameters()).device, list[Found]()
        with undisturbed(model):
            for look in looks:
                hidden_LD = family.hidden_states(model, look.row.to(device))
                places_N, tokens_N = look.places_N.to(device), look.tokens_N.to(device)
                logs_N, likeliest_N = weighed(hidden_LD, family.head(model), places_N, tokens_N)
                found.append(Found(logs_N.double().cpu(), likeliest_N.cpu()))
        return found

    return read


def _look(entries: Sequence[_Entry]) -> Look:
    """What is read of a row of samples: all reads of the first, then all of the second, ..."""
    row = Row.packed([entry.encoded for entry in entries])
    starts = [sum(row.lengths[:which]) for which in range(len(entries))]
    reads = [(start, read) for start, entry in zip(starts, entries, strict=True) for read in entry.reads]
    places = [start + place for start, read in reads for place in read.positions]
    return Look(row, torch.tensor(places), torch.tensor([token for _, read in reads for token in read.tokens]))


def _words(encoded: Encoded, prompt: int, candidate: int) -> _Read:
    """Where the words of the one answer stand; the last label is the token that closes the turn."""
    places = (encoded.labels != IGNORED).nonzero()[:-1, 0].tolist()
    if not places:
        raise ValueError("a candidate answer has no words; it must have at least one")
    return _Read(prompt, candidate, tuple(place - 1 for place in places), tuple(encoded.input_ids[places].tolist()))


def _predicts(first: _Entry, encoded: Encoded, read: _Read) -> bool:
    """Whether the first sample's run predicts another candidate too: one token, behind the very same prompt."""
    if len(read.tokens) > 1 or read.positions != first.reads[0].positions[:1]:
        return False
    upto = read.positions[0] + 1
    return encoded.frames_TCHW is first.encoded.frames_TCHW and torch.equal(
        encoded.input_ids[:upto], first.encoded.input_ids[:upto]
    )


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within, the model is in eval mode and makes no gradients; after, every module's mode and all random states are
    as they were."""
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
