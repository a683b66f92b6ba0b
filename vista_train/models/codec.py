"""MediaCodec: samples to tokens for every family; what differs between them is a ChatFormat and a Layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from transformers import PreTrainedTokenizerBase

from vista_train.models.base import Compute
from vista_train.models.chat import IGNORED, ChatFormat, ChatTokens, Piece, Spelling, tokenize
from vista_train.types import Encoded, Message, Plan, Row, Sample
from vista_train.video.composition import Video
from vista_train.video.sampling import View

DUMMY = (Message("user", "."), Message("assistant", "."))


@dataclass(frozen=True)
class Shown:
    """What a model is shown of a video."""

    times: tuple[Fraction, ...]
    """Seconds, one for each frame."""
    duration: Fraction
    """Seconds of the whole video."""
    canvas: tuple[int, int]
    """Width and height of a frame in pixels."""
    picture: bool
    """Whether it is a picture: one frame of a video that has no more."""

    @classmethod
    def of(cls, video: Video, times: Sequence[Fraction], view: View) -> Shown:
        """A video at some times, as a view shows it."""
        return cls(tuple(times), video.duration, view.canvas_of(video), video.frame_measure <= 1)


class Layout:
    """What a family makes of frames: the tokens that stand for them, and the patches that its vision tower sees."""

    def media(self, shown: Shown) -> Sequence[Piece]:
        """Tokens and words that the frames become."""
        raise TypeError(f"{type(self).__name__} must define media(shown)")

    def sequences(self, shown: Shown) -> tuple[int, int]:
        """How many sequences the vision tower attends in, such as frames that it looks at alone; patches of each."""
        raise TypeError(f"{type(self).__name__} must define sequences(shown)")

    def mrope(self, ids_L: torch.Tensor, shown: Shown | None) -> torch.Tensor | None:
        """Positions [3, L] of a sample's tokens in time, height and width, for families that rotate by them."""
        return None


@dataclass(frozen=True)
class MediaCodec:
    """A family's codec: frozen, picklable, no tensors (models/base.py, Codec).

    It serves one thread at a time: a tokenizer holds what its last call was told.
    """

    view: View
    tokenizer: PreTrainedTokenizerBase = field(repr=False, compare=False)
    chat: ChatFormat
    layout: Layout
    max_tokens: int
    compute: Compute
    spelling: Spelling = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spelling", Spelling.of(self.tokenizer, self.chat))

    def plan(self, sample: Sample) -> Plan:
        """Exact tokens, patches, labels and cost; `ValueError` when the words leave no room for one frame."""
        shown, chat = self._fitted(sample.video, sample.messages)
        sequences, patches = self.layout.sequences(shown) if shown else (0, 0)
        tokens = len(chat.input_ids)
        return Plan(
            times=shown.times if shown else (),
            tokens=tokens,
            patches=sequences * patches,
            labels=chat.num_labels,
            cost=self.compute.flops(tokens, chat.num_labels, sequences, patches),
        )

    def encode(self, sample: Sample, plan: Plan, frames_TCHW: torch.Tensor, position: int = 0) -> Encoded:
        """Tokens, labels and frames; `ValueError` when frames, plan and sample do not belong together."""
        shown = None if sample.video is None else Shown.of(sample.video, plan.times, self.view)
        width, height = shown.canvas if shown else (0, 0)
        expected = (len(plan.times), 3, height, width)
        if frames_TCHW.dtype != torch.uint8 or tuple(frames_TCHW.shape) != expected:
            raise ValueError(
                f"frames are {frames_TCHW.dtype} {list(frames_TCHW.shape)}; the plan needs torch.uint8 {list(expected)}"
            )
        encoded = self._encoded(sample.messages, shown, frames_TCHW, position, sample.kind)
        if (len(encoded.input_ids), encoded.num_labels) != (plan.tokens, plan.labels):
            raise ValueError(
                f"the sample has {len(encoded.input_ids)} tokens and {encoded.num_labels} labels, "
                f"its plan {plan.tokens} and {plan.labels}: it was made for another sample"
            )
        return encoded

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that no answer goes on behind: what closes a turn, and what frames alone may be spelt with."""
        return self.spelling.reserved

    def text_of(self, tokens: Sequence[int]) -> str:
        """What tokens say, special ones aside."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def dummy(self) -> Encoded:
        """One black frame and nothing to learn: what a row without frames shows the vision tower."""
        width, height = self.view.canvas((1, 1), self.view.tiles)
        shown = Shown((Fraction(0),), Fraction(1), (width, height), picture=False)
        encoded = self._encoded(DUMMY, shown, torch.zeros((1, 3, height, width), dtype=torch.uint8), 0, "dummy")
        return replace(encoded, labels=torch.full_like(encoded.labels, IGNORED))

    def flops(self, row: Row) -> float:
        """FLOPs of all samples of a row, as they are: a replacement may be smaller than what was planned."""
        labels = row.labels_1L[0].split(row.lengths)
        samples = zip(row.lengths, labels, row.frames, row.pictures, strict=True)
        return sum((self._flops(*sample) for sample in samples), 0.0)

    def _flops(self, tokens: int, labels_L: torch.Tensor, frames_TCHW: torch.Tensor, picture: bool) -> float:
        sequences, patches = 0, 0
        if len(frames_TCHW):
            times, (height, width) = (Fraction(0),) * len(frames_TCHW), frames_TCHW.shape[2:]
            sequences, patches = self.layout.sequences(Shown(times, Fraction(1), (width, height), picture))
        return self.compute.flops(tokens, int((labels_L != IGNORED).sum()), sequences, patches)

    @property
    def bytes_per_patch(self) -> float:
        """Bytes of frames, uint8, for each patch that the vision tower sees of them."""
        width, height = self.view.canvas((1, 1), self.view.tiles)
        shown = Shown((Fraction(0), Fraction(1)), Fraction(2), (width, height), picture=False)
        sequences, patches = self.layout.sequences(shown)
        return 2 * 3 * width * height / (sequences * patches)

    def _encoded(
        self, messages: Sequence[Message], shown: Shown | None, frames_TCHW: torch.Tensor, position: int, kind: str
    ) -> Encoded:
        chat = self._tokens(messages, shown)
        ids_L = torch.tensor(chat.input_ids, dtype=torch.int64)
        labels_L = torch.tensor(chat.labels, dtype=torch.int64)
        picture, mrope_3L = shown is not None and shown.picture, self.layout.mrope(ids_L, shown)
        return Encoded(position, kind, ids_L, labels_L, frames_TCHW, picture=picture, mrope_3L=mrope_3L)

    def _tokens(self, messages: Sequence[Message], shown: Shown | None) -> ChatTokens:
        media = None if shown is None else self.layout.media(shown)
        return self._tokenized(messages, media, shown is not None and shown.picture)

    def _tokenized(self, messages: Sequence[Message], media: Sequence[Piece] | None, picture: bool) -> ChatTokens:
        return tokenize(self.tokenizer, self.chat, messages, media, picture, self.spelling)

    def _fitted(self, video: Video | None, messages: Sequence[Message]) -> tuple[Shown | None, ChatTokens]:
        """The most frames that fit beside the words, and all tokens."""
        shown = None if video is None else Shown.of(video, self._times(video), self.view)
        chat = self._tokens(messages, shown)
        if len(chat.input_ids) <= self.max_tokens:
            return shown, chat
        shows_nothing = None if shown is None else ()
        words = len(self._tokenized(messages, shows_nothing, bool(shown and shown.picture)).input_ids)
        if video is None or shown is None:
            raise ValueError(f"text of {words} tokens is longer than family.max_tokens, {self.max_tokens}")
        while len(chat.input_ids) > self.max_tokens:
            count, needed = len(shown.times), len(chat.input_ids) - words
            if count == 1:
                raise ValueError(
                    f"text of {words} tokens leaves no room for one frame of {needed} tokens; "
                    f"family.max_tokens is {self.max_tokens}"
                )
            # Tokens grow at most in proportion to frames, and two frames may share theirs: no count is passed over.
            most = max(1, count * (self.max_tokens - words) // needed + 1)
            shown = Shown.of(video, self._times(video, min(count - 1, most)), self.view)
            chat = self._tokens(messages, shown)
        return shown, chat

    def _times(self, video: Video, limit: int | None = None) -> tuple[Fraction, ...]:
        return self.view.times(video.duration, video.frame_measure, limit)
