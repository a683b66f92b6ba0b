"""The whole mix in numbers: histograms of tokens and durations, and each augmentation's share of samples and tokens."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vista_train.data.dataset import Ingredient
from vista_train.preview.plans import Planned

NUM_BINS = 32
WIDE = 30
"""From this ratio of the largest value to the smallest on, bins are of equal ratio instead of equal width."""
STEPS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Histogram:
    """How often values fall between edges, by augmentation. B bins between B + 1 edges, each with its lower edge."""

    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]
    is_log: bool

    @property
    def ticks(self) -> tuple[tuple[float, float], ...]:
        """Round values on the axis, and where they lie on it, 0 to 1."""
        low, high = self.edges[0], self.edges[-1]
        if self.is_log:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            every = [base * 10.0**power for power in decades for base in (1, 2, 5)]
            values = [value for value in every if low <= value <= high]
            values = [v for v in values if math.log10(v) % 1 == 0] if len(values) > 7 else values
            return tuple((value, math.log(value / low) / math.log(high / low)) for value in values)
        step = _round_up((high - low) / 4)
        count = math.floor((high - low) / step + 1e-9)
        return tuple((low + step * n, step * n / (high - low)) for n in range(count + 1))


@dataclass(frozen=True)
class Share:
    """What one augmentation has of the mix."""

    kind: str
    asked: float
    """Its weight over all weights."""
    samples: int
    tokens: int
    of_samples: float
    of_tokens: float
    seconds: float | None
    """The mean duration of its videos."""


@dataclass(frozen=True)
class MixView:
    """What the first positions of a run hold."""

    num_positions: int
    num_lost: int
    """Positions for which nothing can be composed."""
    shares: tuple[Share, ...]
    tokens: Histogram | None
    seconds: Histogram | None


def mix_view(plans: Sequence[Planned], mix: Iterable[Ingredient]) -> MixView:
    """The mix as its plans have it; `mix` says how often each augmentation was asked for."""
    by_kind: dict[str, list[Planned]] = defaultdict(list)
    for plan in plans:
        by_kind[plan.kind].append(plan)
    lost = by_kind.pop("", [])
    weights: dict[str, float] = defaultdict(float)
    for item in mix:
        weights[item.augment.name] += item.weight
    kinds = sorted({*weights, *by_kind})
    num_samples, num_tokens = len(plans) - len(lost), sum(plan.tokens for plan in plans)
    shares = []
    for kind in kinds:
        own = by_kind.get(kind, [])
        tokens, lasting = sum(plan.tokens for plan in own), [plan.seconds for plan in own if plan.seconds is not None]
        asked = weights[kind] / (sum(weights.values()) or 1)
        mean = sum(lasting) / len(lasting) if lasting else None
        of_samples, of_tokens = len(own) / max(1, num_samples), tokens / max(1, num_tokens)
        shares.append(Share(kind, asked, len(own), tokens, of_samples, of_tokens, mean))
    tokens_of = {kind: [float(plan.tokens) for plan in by_kind.get(kind, [])] for kind in kinds}
    seconds_of = {kind: [plan.seconds for plan in by_kind.get(kind, []) if plan.seconds is not None] for kind in kinds}
    return MixView(len(plans), len(lost), tuple(shares), histogram(tokens_of), histogram(seconds_of))


def histogram(values: Mapping[str, Sequence[float]], num_bins: int = NUM_BINS) -> Histogram | None:
    """Counts over bins that all augmentations share; None without a value. Values are above 0."""
    every = [value for own in values.values() for value in own]
    if not every:
        return None
    least, most = min(every), max(every)
    is_log = most > WIDE * least
    if is_log:
        ratio = (most / least) ** (1 / num_bins)
        edges = [least * ratio**number for number in range(num_bins)]
    else:
        edges = [most * number / num_bins for number in range(num_bins)]
    counts = {}
    for kind, own in values.items():
        found = [0] * num_bins
        for value in own:
            # The greatest belongs to the last bin; rounding may put the least before the first.
            found[max(0, bisect_right(edges, value) - 1)] += 1
        counts[kind] = tuple(found)
    return Histogram((*edges, most), counts, is_log)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in STEPS if step * power >= value * (1 - 1e-9))
