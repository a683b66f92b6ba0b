"""The nouns that cross rooms: Message, Evidence, Sample, Encoded, Row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    video: Video
    messages: tuple[Message, ...]
    evidence: tuple[Evidence, ...]
    kind: str
    """The name of the augmentation that made it."""

    def to_json(self) -> dict[str, Any]:
        """The trace: with the sampled times and a size, it gives the same pixels again."""
        return {
            "kind": self.kind,
            "video": self.video.to_json(),
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            "evidence": [
                {"span": [str(e.span.start), str(e.span.end)], "box": [str(edge) for edge in e.box.edges]}
                for e in self.evidence
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sample:
        return cls(
            video=video_from_json(data["video"]),
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

    @property
    def num_labels(self) -> int:
        return int((self.labels != -100).sum())


@dataclass(frozen=True)
class Row:
    """Several samples packed into one sequence without padding. L tokens, T frames over all samples.

    `positions_1L` restarts at 0 with every sample, which is what keeps attention inside it. A row may be empty
    (L = 0): it stands for a rank without work in this micro-step and weighs nothing.
    """

    input_ids_1L: torch.Tensor
    labels_1L: torch.Tensor
    positions_1L: torch.Tensor
    frames_TCHW: torch.Tensor
    lengths: tuple[int, ...]
    """Tokens of each sample."""
    frame_counts: tuple[int, ...]
    samples: tuple[int, ...]
    """The training position of each sample."""
    kinds: tuple[str, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def num_labels(self) -> int:
        return int((self.labels_1L != -100).sum())

    @property
    def num_tokens(self) -> int:
        return self.input_ids_1L.shape[1]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Row:
        """The row with its tensors on `device`; frames stay uint8."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Row:
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Any) -> Row:
        names = ("input_ids_1L", "labels_1L", "positions_1L", "frames_TCHW")
        return replace(self, **{name: change(getattr(self, name)) for name in names})
