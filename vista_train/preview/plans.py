"""What positions will cost, known from metadata alone: nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tqdm import tqdm

from vista_train.augment import CannotComposeError
from vista_train.data.dataset import VistaDataset


class Planned(NamedTuple):
    """A position's plan, as numbers."""

    position: int
    kind: str
    """The augmentation; nothing where the position cannot be composed."""
    tokens: int
    patches: int
    labels: int
    cost: float
    """Training FLOPs."""
    seconds: float | None
    """The composed video's duration; None for words alone."""


def planned(dataset: VistaDataset, positions: Iterable[int]) -> dict[int, Planned]:
    """The plans of positions, each made once."""
    wanted = sorted(set(positions))
    return {at: _of(dataset, at) for at in tqdm(wanted, "planning", unit="sample", delay=2, disable=None)}


def _of(dataset: VistaDataset, position: int) -> Planned:
    try:
        composed = dataset.planned(position)
    except CannotComposeError:
        return Planned(position, "", 0, 0, 0, 0.0, None)
    sample, plan = composed.sample, composed.plan
    seconds = None if sample.video is None else float(sample.video.duration)
    return Planned(position, sample.kind, plan.tokens, plan.patches, plan.labels, plan.cost, seconds)
