"""A prompt with a video and candidate answers -> how likely a model finds each, teacher-forced, without gradients.

Nothing is generated: families have a forward pass over packed rows and no decoding loop. Of letters, the likeliest is
what greedy decoding restricted to the letters would say first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import nn

from vista_train.evaluation.footage import Footage
from vista_train.models.base import Codec, Family
from vista_train.types import Encoded, Message, Plan, Row, Sample
from vista_train.video.composition import Video
from vista_train.video.decode import MediaError

IGNORED = -100
CHUNK = 256
"""Answer positions whose logits exist at a time."""


@dataclass(frozen=True)
class Prompt:
    """A question about a video, and the answers to weigh."""

    key: str
    """Names it within an evaluation: the row or the trial, and the shift."""
    video: Video | None
    messages: tuple[Message, ...]
    """The conversation up to what the user asks."""
    candidates: tuple[str, ...]
    failure: str = ""
    """Why there is nothing to be shown, where that is known already; no model is then asked."""


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
    """

    family: Family
    model: nn.Module
    footage: Footage
    max_row_tokens: int = 0
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.codec = self.family.codec

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
            except _NoRoom as error:
                failures[number] = str(error)
                continue
            entries += made
            frames[number] = len(made[0].encoded.frames_TCHW)
        found: dict[tuple[int, int], tuple[float, bool]] = {}
        with undisturbed(self.model):
            for row in self._rows(entries):
                found |= self._read(row)
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
        shown: dict[tuple[Fraction, ...], torch.Tensor] = {}
        entries: list[_Entry] = []
        for which, candidate in enumerate(prompt.candidates):
            sample = Sample(prompt.video, (*prompt.messages, Message("assistant", candidate)), (), "evaluation")
            plan = self._plan(sample)
            if plan.times not in shown:
                shown[plan.times] = self._frames(prompt.video, plan)
            encoded = self.codec.encode(sample, plan, shown[plan.times], number)
            read = _words(encoded, number, which)
            first = entries[0] if entries else None
            if first is not None and _predicts(first, encoded, read):
                entries[0] = _Entry(first.encoded, (*first.reads, read))
            else:
                entries.append(_Entry(encoded, (read,)))
        return entries

    def _plan(self, sample: Sample) -> Plan:
        try:
            return self.codec.plan(sample)
        except ValueError as error:
            raise _NoRoom(str(error)) from error

    def _frames(self, video: Video | None, plan: Plan) -> torch.Tensor:
        if video is None:
            return torch.zeros((0, 3, 0, 0), dtype=torch.uint8)
        return self.footage.frames(video, plan.times, self.codec.view)

    def _rows(self, entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
        row: list[_Entry] = []
        tokens = 0
        for entry in entries:
            length = len(entry.encoded.input_ids)
            if row and tokens + length > self.max_row_tokens:
                yield row
                row, tokens = [], 0
            row.append(entry)
            tokens += length
        if row:
            yield row

    def _read(self, entries: Sequence[_Entry]) -> dict[tuple[int, int], tuple[float, bool]]:
        """By prompt and candidate: the log-likelihood, and whether each token was the likeliest."""
        device = next(self.model.parameters()).device
        row = Row.packed([entry.encoded for entry in entries]).to(device)
        hidden_LD = self.family.hidden_states(self.model, row)
        head = self.family.head(self.model)
        starts = [sum(row.lengths[:which]) for which in range(len(entries))]
        reads = [(start, read) for start, entry in zip(starts, entries, strict=True) for read in entry.reads]
        places = torch.tensor([start + place for start, read in reads for place in read.positions], device=device)
        tokens_N = torch.tensor([token for _, read in reads for token in read.tokens], device=device)
        likely, likeliest = [], []
        for places_N, wanted_N in zip(places.split(CHUNK), tokens_N.split(CHUNK), strict=True):
            logits_NV = head(hidden_LD[places_N]).float()
            likely.append(logits_NV.log_softmax(-1).gather(1, wanted_N[:, None])[:, 0])
            likeliest.append(logits_NV.argmax(-1) == wanted_N)
        logs, hits = torch.cat(likely).double().cpu(), torch.cat(likeliest).cpu()
        found, first = {}, 0
        for _, read in reads:
            last = first + len(read.tokens)
            found[read.prompt, read.candidate] = (float(logs[first:last].sum()), bool(hits[first:last].all()))
            first = last
        return found


class _NoRoom(Exception):
    """The words leave no room for a frame."""


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
