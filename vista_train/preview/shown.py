"""One position as the model will see it: its sample with pixels, or word of how every attempt was lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from vista_train.augment import CannotComposeError
from vista_train.data.dataset import VistaDataset
from vista_train.types import Evidence, Failure, Plan, Sample
from vista_train.video.geometry import Pixels
from vista_train.video.sampling import View


@dataclass(frozen=True)
class Shown:
    """One sample as it will be trained on."""

    position: int
    sample: Sample
    plan: Plan
    frames_TCHW: torch.Tensor
    failures: tuple[Failure, ...] = ()
    """The attempts that were lost before this one."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """The manifest that each of its files was drawn from, by path."""

    @property
    def note(self) -> str:
        """What it replaces, and why; nothing where it is the sample that was planned."""
        return told(self.failures)

    def seen(self, time: Fraction) -> list[Evidence]:
        """The evidence that the frame at `time` shows."""
        return [evidence for evidence in self.sample.evidence if time in evidence.span]

    def box(self, evidence: Evidence, view: View) -> Pixels:
        """Where the evidence lies on a frame of the canvas."""
        video = self.sample.shown
        return view.pixels(video.size, evidence.box, view.count(video.duration, video.frame_measure))


@dataclass(frozen=True)
class Lost:
    """A position whose every attempt was lost: its slot in the step stays empty."""

    position: int
    kind: str
    """The augmentation that was drawn first."""
    failures: tuple[Failure, ...]


def look(dataset: VistaDataset, position: int) -> Shown:
    """The sample at a position with its pixels; a replacement, and why, where the planned one cannot be decoded.

    `CannotComposeError` where every attempt was lost.
    """
    found = find(dataset, position)
    if isinstance(found, Lost):
        raise CannotComposeError(f"position {position}: every attempt was lost: {told(found.failures)}")
    return found


def find(dataset: VistaDataset, position: int) -> Shown | Lost:
    """The sample at a position with its pixels, or how all attempts at one were lost."""
    encoded = dataset[position]
    if not len(encoded.input_ids):
        return Lost(position, _first_drawn(dataset, position, encoded.failures), encoded.failures)
    # Of the attempt that came: its manifests are told by no other means.
    composed = dataset.planned(position, encoded.attempt)
    return Shown(
        position, composed.sample, composed.plan, encoded.frames_TCHW, encoded.failures, dict(composed.origins)
    )


def told(failures: tuple[Failure, ...]) -> str:
    """Lost attempts in one line."""
    return "; ".join(f"attempt {f.attempt} lost: {f.key} {f.reason}" for f in failures)


def _first_drawn(dataset: VistaDataset, position: int, failures: tuple[Failure, ...]) -> str:
    try:
        return dataset.planned(position).sample.kind
    except CannotComposeError:
        # Where nothing could be composed, a failure's key is the augmentation.
        return failures[0].key if failures else ""
