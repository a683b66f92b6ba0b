"""Weighting: how much each label of a step counts, so that long answers do not drown those of one letter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from vista_train.training.loss import IGNORED
from vista_train.types import Row

Weighting = Literal["token", "sample", "sqrt"]
WEIGHTINGS = ("token", "sample", "sqrt")


def weighed(num_labels: int, weighting: Weighting) -> float:
    """What a sample with so many labels weighs against others, all its labels together; 0 without any."""
    if not num_labels:
        return 0.0
    return {"token": float(num_labels), "sample": 1.0, "sqrt": math.sqrt(num_labels)}[weighting]


def weight_of(rows: Sequence[Row], weighting: Weighting) -> float:
    """What all samples of some rows weigh together. A step's loss is divided by it."""
    if weighting == "token":
        return float(sum(row.num_labels for row in rows))
    counts = [
        int((labels_L != IGNORED).sum()) for row in rows for labels_L in row.labels_1L[0].split(list(row.lengths))
    ]
    # Added exactly, so that it does not depend on which rank has which sample.
    return math.fsum(weighed(count, weighting) for count in counts)


def weights_of(row: Row, weighting: Weighting) -> torch.Tensor | None:
    """weights_L fp32 [L] of a row's positions, equal within a sample; None where all are 1."""
    if weighting == "token":
        return None
    labels_L = row.labels_1L[0]
    lengths = torch.tensor(row.lengths, dtype=torch.int64, device=labels_L.device)
    sample_L = torch.repeat_interleave(torch.arange(len(lengths), device=labels_L.device), lengths)
    counts = torch.zeros(len(lengths), device=labels_L.device).index_add_(0, sample_L, (labels_L != IGNORED).float())
    share = counts.clamp(min=1) ** (-1.0 if weighting == "sample" else -0.5)
    return share[sample_L]
