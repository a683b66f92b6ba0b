"""The nouns that cross rooms: Message, Evidence, Sample, Encoded, Row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch

from vista_train.video.composition import Video, box_from_json, video_from_json
from vista_train.video.geometry import Box, Span


@dataclass(frozen=True)
class Message:
    """One turn of the conversation: who speaks ("system", "user" or "assistant"), and the plain text."""

    role: str
    content: str


@dataclass(frozen=True)
class Evidence:
    """Where and when in the composed video the answer can be seen."""

    span: Span
    box: Box = Box()


@dataclass(frozen=True)
class Sample:
    """A composed video, the words about it, and the evidence for them."""

    video: Video | None
    """What is shown; a video of one source frame is a picture, and None is a conversation without either."""
    messages: tuple[Message, ...]
    evidence: tuple[Evidence, ...]
    kind: str
    """The name of the augmentation that made it."""

    @property
    def shown(self) -> Video:
        """The video; `ValueError` where there is none."""
        if self.video is None:
            raise ValueError(f"this {self.kind} sample is words alone; it shows no video")
        return self.video

    def to_json(self) -> dict[str, Any]:
        """The trace: with the sampled times and a size, it gives the same pixels again."""
        return {
            "kind": self.kind,
            "video": None if self.video is None else self.video.to_json(),
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            "evidence": [
                {"span": [str(e.span.start), str(e.span.end)], "box": [str(edge) for edge in e.box.edges]}
                for e in self.evidence
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sample:
        return cls(
            video=None if data["video"] is None else video_from_json(data["video"]),
            messages=tuple(Message(m["role"], m["content"]) for m in data["messages"]),
            evidence=tuple(
                Evidence(Span(Fraction(e["span"][0]), Fraction(e["span"][1])), box_from_json(e["box"]))
                for e in data["evidence"]
            ),
            kind=data["kind"],
        )


@dataclass(frozen=True)
class Plan:
    """What a sample will cost, known from metadata before anything is decoded."""

    times: tuple[Fraction, ...]
    """The sampled times in seconds, in order; one visual frame each."""
    tokens: int
    patches: int
    """Vision tower patches over all frames."""
    labels: int
    """Tokens that carry loss."""
    cost: float
    """Training FLOPs of the sample (design: k (2 N_lm sum(L) + ...)), for dealing rows of even cost."""


@dataclass(frozen=True)
class Failure:
    """One attempt at a position that was lost, and why."""

    position: int
    attempt: int
    key: str
    """The media file, relative to the data root, or the augmentation that could not be made."""
    reason: str
    source: str = ""
    """The manifest that the file is in."""

    @property
    def kind(self) -> str:
        """The kind of reason: `MediaMissing` and so on; `left out` and `not composed` where no file was opened."""
        name, colon, _ = self.reason.partition(":")
        if self.position < 0:
            return "left out"
        return name if colon and name.startswith("Media") else "not composed"


@dataclass(frozen=True)
class Encoded:
    """One sample as the model takes it. L tokens, T frames."""

    position: int
    kind: str
    input_ids: torch.Tensor
    """int64 [L]."""
    labels: torch.Tensor
    """int64 [L]: the token itself where it is to be learnt, else -100. Not shifted; the first is always -100."""
    frames_TCHW: torch.Tensor
    """uint8 [T, 3, H, W]; T may be 0."""
    attempt: int = 0
    failures: tuple[Failure, ...] = ()
    picture: bool = False
    """Whether the frame is a picture, which some families show otherwise than a video."""
    mrope_3L: torch.Tensor | None = None
    """int64 [3, L]: time, height and width of every token, for families that rotate by all three (M-RoPE)."""
    drawn: Mapping[str, int] = field(default_factory=dict)
    """How many of its pictures came from where: file, proxy, tiles, cache, shared with another sample."""

    @property
    def num_labels(self) -> int:
        return int((self.labels != -100).sum())


@dataclass(frozen=True)
class Row:
    """Several samples packed into one sequence without padding. L tokens over all samples.

    `positions_1L` restarts at 0 with every sample, which is what keeps attention inside it. A row may be empty
    (L = 0): it stands for a rank without work in this micro-step and weighs nothing.
    """

    input_ids_1L: torch.Tensor
    labels_1L: torch.Tensor
    positions_1L: torch.Tensor
    frames: tuple[torch.Tensor, ...]
    """uint8 [T, 3, H, W] of each sample; T may be 0, and H x W another for each."""
    lengths: tuple[int, ...]
    """Tokens of each sample."""
    samples: tuple[int, ...]
    """The training position of each sample."""
    kinds: tuple[str, ...]
    pictures: tuple[bool, ...]
    failures: tuple[Failure, ...] = ()
    mrope_3L: torch.Tensor | None = None
    drawn: Mapping[str, int] = field(default_factory=dict)
    """How many pictures came from where, over all samples."""

    @classmethod
    def packed(cls, samples: Sequence[Encoded]) -> Row:
        """One Row of all samples in order. A sample that was lost (no tokens) leaves only its failures."""
        kept = [sample for sample in samples if len(sample.input_ids)]
        lengths = tuple(len(sample.input_ids) for sample in kept)
        empty = torch.zeros(0, dtype=torch.int64)
        mrope = [sample.mrope_3L for sample in kept if sample.mrope_3L is not None]
        return cls(
            input_ids_1L=torch.cat([empty, *(sample.input_ids for sample in kept)])[None],
            labels_1L=torch.cat([empty, *(sample.labels for sample in kept)])[None],
            positions_1L=torch.cat([empty, *(torch.arange(length) for length in lengths)])[None],
            frames=tuple(sample.frames_TCHW for sample in kept),
            lengths=lengths,
            samples=tuple(sample.position for sample in kept),
            kinds=tuple(sample.kind for sample in kept),
            pictures=tuple(sample.picture for sample in kept),
            failures=tuple(failure for sample in samples for failure in sample.failures),
            mrope_3L=torch.cat(mrope, dim=1) if mrope else None,
            drawn=sum((Counter(sample.drawn) for sample in samples), Counter()),
        )

    def followed_by(self, other: Row) -> Row:
        """Both rows as one; `other` lies on the same device."""
        mrope = [row.mrope_3L for row in (self, other) if row.mrope_3L is not None]
        joined: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in TUPLES}
        for name in TENSORS:
            joined[name] = torch.cat([getattr(self, name), getattr(other, name)], dim=1)
        mrope_3L = torch.cat(mrope, dim=1) if mrope else None
        return Row(**joined, mrope_3L=mrope_3L, drawn=Counter(self.drawn) + Counter(other.drawn))

    @property
    def num_labels(self) -> int:
        return int((self.labels_1L != -100).sum())

    @property
    def num_tokens(self) -> int:
        return self.input_ids_1L.shape[1]

    @property
    def shown(self) -> list[tuple[torch.Tensor, bool]]:
        """The frames of each sample that has some, and whether they are a picture."""
        return [(f, picture) for f, picture in zip(self.frames, self.pictures, strict=True) if len(f)]

    @property
    def frame_counts(self) -> tuple[int, ...]:
        return tuple(len(frames_TCHW) for frames_TCHW in self.frames)

    @property
    def num_frames(self) -> int:
        return sum(self.frame_counts)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that it holds."""
        mrope = [] if self.mrope_3L is None else [self.mrope_3L]
        return [self.input_ids_1L, self.labels_1L, self.positions_1L, *self.frames, *mrope]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Row:
        """The row with its tensors on `device`; frames stay uint8."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Row:
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Row:
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in TENSORS}
        mrope_3L = None if self.mrope_3L is None else change(self.mrope_3L)
        return replace(self, **changed, frames=tuple(map(change, self.frames)), mrope_3L=mrope_3L)


TENSORS = ("input_ids_1L", "labels_1L", "positions_1L")
TUPLES = ("frames", "lengths", "samples", "kinds", "pictures", "failures")
"""The fields of a Row that are joined end to end, as tensors and as tuples; M-RoPE's may be missing."""
