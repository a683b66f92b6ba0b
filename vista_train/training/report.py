"""What each rank tells of a step before its first forward pass, and what all of them together then know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vista_train.models.base import Family
from vista_train.training.loss import head_calls
from vista_train.training.weighting import Weighting, weight_of
from vista_train.types import Failure, Row


@dataclass(frozen=True)
class Wait:
    """How long a rank waited for its rows of a step, and for which samples longest."""

    seconds: float = 0.0
    samples: tuple[int, ...] = ()
    rank: int = 0


class Calls(NamedTuple):
    """How often every rank calls, in a micro-step, what gathers weights: no rank may do so less often."""

    head: int = 1
    tower_passes: tuple[int, ...] = ()
    mlp_tiles: int = 1


@dataclass(frozen=True)
class Report:
    """One rank's part of a step, once its rows are decoded."""

    labels: int
    weight: float
    """What its labels weigh (training/weighting.py)."""
    tokens: int
    frames: int
    head_calls: tuple[int, ...]
    """For each micro-step, how often its loss calls the head."""
    tower_passes: tuple[tuple[int, ...], ...]
    """For each micro-step, how many passes of each vision tower its row takes."""
    mlp_tiles: tuple[int, ...]
    """For each micro-step, in how many tiles the decoder's MLPs take its row."""
    samples: tuple[tuple[int, ...], ...]
    """The training positions in each row."""
    flops: float = 0.0
    """What the rows are worth (models/base.py, Compute)."""
    drawn: Mapping[str, int] = field(default_factory=dict)
    """How many pictures came from where."""
    failures: tuple[Failure, ...] = ()
    wait: Wait = field(default_factory=Wait)
    stop: str | None = None
    """The signal to stop that the rank got."""
    is_saving: bool = False
    """Whether the rank is still writing an earlier checkpoint."""

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        family: Family,
        wait: Wait,
        stop: str | None = None,
        is_saving: bool = False,
        weighting: Weighting = "token",
    ) -> Report:
        """The report on a rank's rows."""
        return cls(
            labels=sum(row.num_labels for row in rows),
            weight=weight_of(rows, weighting),
            tokens=sum(row.num_tokens for row in rows),
            frames=sum(row.num_frames for row in rows),
            head_calls=tuple(head_calls(row.num_labels) for row in rows),
            tower_passes=tuple(family.tower_passes(row) for row in rows),
            mlp_tiles=tuple(family.mlp_tiles(row) for row in rows),
            samples=tuple(row.samples for row in rows),
            flops=sum(family.codec.flops(row) for row in rows),
            drawn=sum((Counter(row.drawn) for row in rows), Counter()),
            failures=tuple(failure for row in rows for failure in row.failures),
            wait=wait,
            stop=stop,
            is_saving=is_saving,
        )


@dataclass(frozen=True)
class Agreed:
    """What all ranks' reports of a step come to; the same on every rank."""

    reports: tuple[Report, ...]

    def __post_init__(self) -> None:
        counts = [len(report.samples) for report in self.reports]
        if len(set(counts)) > 1:
            odd = next(rank for rank, count in enumerate(counts) if count != counts[0])
            rows = [list(samples) for samples in self.reports[odd].samples]
            raise ValueError(
                f"rank 0 brings {counts[0]} rows to the step, rank {odd} {counts[odd]} (of samples {rows}); every rank "
                f"must bring as many"
            )

    @property
    def labels(self) -> int:
        return sum(report.labels for report in self.reports)

    @property
    def weight(self) -> float:
        return math.fsum(report.weight for report in self.reports)

    @property
    def tokens(self) -> int:
        return sum(report.tokens for report in self.reports)

    @property
    def frames(self) -> int:
        return sum(report.frames for report in self.reports)

    @property
    def flops(self) -> float:
        return sum(report.flops for report in self.reports)

    @property
    def drawn(self) -> dict[str, int]:
        return dict(sum((Counter(report.drawn) for report in self.reports), Counter()))

    @property
    def calls(self) -> list[Calls]:
        """For each micro-step, the calls of the rank that needs most of each kind."""
        heads = zip(*(report.head_calls for report in self.reports), strict=True)
        towers = zip(*(report.tower_passes for report in self.reports), strict=True)
        tiles = zip(*(report.mlp_tiles for report in self.reports), strict=True)
        return [
            Calls(max(head), tuple(max(each) for each in zip(*tower, strict=True)), max(tile))
            for head, tower, tile in zip(heads, towers, tiles, strict=True)
        ]

    @property
    def failures(self) -> list[Failure]:
        """All losses, in rank order."""
        return [failure for report in self.reports for failure in report.failures]

    @property
    def longest(self) -> Wait:
        """The wait of the rank that waited longest for its data."""
        return max((report.wait for report in self.reports), key=lambda wait: wait.seconds)

    @property
    def stop(self) -> tuple[int, str] | None:
        """The first rank that was told to stop, and by which signal."""
        return next(((rank, report.stop) for rank, report in enumerate(self.reports) if report.stop), None)

    @property
    def is_saving(self) -> bool:
        """Whether any rank is still writing."""
        return any(report.is_saving for report in self.reports)
