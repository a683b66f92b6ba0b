"""Moving clips: those of a source that have a length in time, which pictures and words have not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vista_train.video.composition import Clip


class Clips(Protocol):
    """Clips by number, and which of them follow one another (data/sources.py, ClipSource)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Clip: ...

    def run(self, index: int, max_gap_seconds: float) -> list[int]:
        """See `ClipSource.run`."""
        ...


class Moving:
    """The clips of a source with these numbers, which rise: what is composed in time is drawn from them."""

    def __init__(self, source: Clips, numbers: Sequence[int] | np.ndarray) -> None:
        self._source, self._numbers = source, numbers

    @classmethod
    def of(cls, source: Clips, rows: np.ndarray, stills: np.ndarray) -> Moving | None:
        """Those of a source whose clips are these rows of its manifest, of which some are still; None if all move."""
        if not len(stills):
            return None
        is_still = np.zeros(1 + max(int(rows.max()), int(stills[-1])), dtype=bool)
        is_still[stills] = True
        is_still = is_still[rows]
        return cls(source, np.flatnonzero(~is_still).astype(np.int32)) if is_still.any() else None

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int, /) -> Clip:
        return self._source[int(self._numbers[index])]

    def run(self, index: int, max_gap_seconds: float) -> list[int]:
        """The clips that follow one another around clip `index`, up to the first that does not move."""
        numbers = self._source.run(int(self._numbers[index]), max_gap_seconds)
        places = [self._place(number) for number in numbers]
        first = last = places.index(index % len(self))
        while first > 0 and places[first - 1] is not None:
            first -= 1
        while last + 1 < len(places) and places[last + 1] is not None:
            last += 1
        return [place for place in places[first : last + 1] if place is not None]

    def _place(self, number: int) -> int | None:
        at = bisect_left(self._numbers, number)
        return at if at < len(self) and self._numbers[at] == number else None
