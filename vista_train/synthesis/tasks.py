"""What is asked: for each clip, and for each row of clips that training may join."""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vista_train.data.manifest import Manifest
from vista_train.data.sources import OVERLAP_SECONDS, neighbours
from vista_train.synthesis.prompts import PROMPTS
from vista_train.video.geometry import exact
from vista_train.video.kinds import WORDS

KINDS = tuple(PROMPTS)
OF_ONE = ("needle", "choice")
"""Kinds that ask about one clip; the others ask about several in a row."""


@dataclass(frozen=True)
class Asking:
    """What is asked for. Rows of clips are chosen as `LongVideoCaption` and `EventRelationship` choose them."""

    kinds: tuple[str, ...] = KINDS
    pairs: int = 3
    """The most needle questions about a clip."""
    min_seconds: float = 30.0
    """Clips are added to a row until they last longer than this together."""
    max_gap_seconds: float = 5.0
    """The longest gap between clips in a row."""
    max_clips: int = 8
    """The most clips in a row."""
    overlapping: bool = False
    """Ask about the row that begins with each clip, as training draws them; else about rows that follow one another,
    which is several times cheaper, and fits as many times fewer of the drawn ones."""
    limit: int | None = None
    """Only the first so many clips, and the rows that begin with them."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds is {','.join(self.kinds)!r}; it must be some of {','.join(KINDS)}, each once")
        if not 1 <= self.pairs <= 20:
            raise ValueError(f"pairs is {self.pairs}; it must lie in 1..20")
        if self.max_clips < 2:
            raise ValueError(f"max-clips is {self.max_clips}; a row has at least 2")
        if self.min_seconds < 0 or self.max_gap_seconds < 0:
            raise ValueError("min-seconds and max-gap must be 0 seconds or more")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; it must be 1 or more")


@dataclass(frozen=True)
class Task:
    """One thing to ask for."""

    kind: str
    rows: tuple[int, ...]
    """The clips it is about, in order of time, by their rows in the manifest. What comes of it belongs to the first."""
    clips: tuple[tuple[str, float, float | None, str], ...]
    """Path, start, end and caption of each."""

    @property
    def captions(self) -> list[str]:
        return [caption for *_, caption in self.clips]

    def key(self, model: str, temperature: float, pairs: int) -> str:
        """Names all that its answer depends on."""
        parts: list[Any] = [self.kind, PROMPTS[self.kind].version, model, float(temperature), self.clips]
        parts += [pairs] if self.kind == "needle" else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Tasks:
    """All there is to ask about a manifest, `[number]`: kind after kind, each in the manifest's order."""

    def __init__(self, manifest: Manifest, asking: Asking) -> None:
        table = manifest.rows().data.table
        self._columns = [table[name] for name in ("video", "start", "end", "caption")]
        self._num_rows = min(table.num_rows, asking.limit or table.num_rows)
        self._ones = _rows_of_something(table["video"], self._num_rows)
        """The rows that show something, which can be asked about."""
        self._kinds = [kind for kind in KINDS if kind in asking.kinds]
        self._in_order, windows = np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64)
        self.num_unknown = 0
        """Clips whose length the manifest does not tell, so that they are in no row."""
        if set(self._kinds) - set(OF_ONE):
            seconds = _seconds(table)
            known = ~np.isnan(seconds)
            self.num_unknown = int(len(known) - known.sum())
            # What lasts no time is no part of a story, and ends one.
            known[manifest.stills()] = False
            if known.any():
                self._in_order, windows = _windows(manifest, table, known, seconds, asking)
        begins = self._in_order[windows[:, 0]] if len(windows) else np.empty(0, dtype=np.int64)
        windows, begins = windows[begins < self._num_rows], begins[begins < self._num_rows]
        self._windows_W2 = windows[np.argsort(begins, kind="stable")]
        self._begins_W = np.sort(begins, kind="stable")
        self._sizes = [len(self._ones) if kind in OF_ONE else len(windows) for kind in self._kinds]

    def __len__(self) -> int:
        return sum(self._sizes)

    def __getitem__(self, number: int) -> Task:
        for kind, size in zip(self._kinds, self._sizes, strict=True):
            if number < size:
                return self._task(kind, number)
            number -= size
        raise IndexError(number)

    def of_row(self, row: int) -> Iterator[Task]:
        """What belongs to a row of the manifest."""
        if row >= self._num_rows:
            return
        first, last = np.searchsorted(self._begins_W, [row, row + 1]).tolist()
        at = bisect_left(self._ones, row)
        own = [at] if at < len(self._ones) and self._ones[at] == row else []
        for kind in self._kinds:
            for number in own if kind in OF_ONE else range(first, last):
                yield self._task(kind, number)

    def _task(self, kind: str, number: int) -> Task:
        if kind in OF_ONE:
            rows = [int(self._ones[number])]
        else:
            first, count = self._windows_W2[number].tolist()
            rows = self._in_order[first : first + count].tolist()
        clips = tuple(tuple(column[row].as_py() for column in self._columns) for row in rows)
        return Task(kind, tuple(rows), clips)  # type: ignore[arg-type]


def window(seconds: Sequence[Fraction], at: int, least: Fraction, most: int) -> tuple[int, int] | None:
    """The first of the clips that are joined when clip `at` of a run is drawn, and how many; None for fewer than two.

    Onwards from it until they last longer than `least`, then from before it; and of these, from the first, no more
    than that takes.
    """
    first = last = at
    total = seconds[at]
    while last - first + 1 < most and (first == last or total <= least):
        if last + 1 < len(seconds):
            last += 1
            total += seconds[last]
        elif first > 0:
            first -= 1
            total += seconds[first]
        else:
            break
    count = min(2, last - first + 1)
    while first + count <= last and sum(seconds[first : first + count], Fraction(0)) <= least:
        count += 1
    return (first, count) if count >= 2 else None


def _rows_of_something(videos: pa.ChunkedArray, num_rows: int) -> Sequence[int] | np.ndarray:
    """Of the first rows, those that are not words alone."""
    is_words = pc.starts_with(videos, WORDS).to_numpy()[:num_rows]
    return np.flatnonzero(~is_words) if is_words.any() else range(num_rows)


def _seconds(table: pa.Table) -> np.ndarray:
    """How long each clip lasts as far as the manifest tells; NaN where it does not."""
    start, end, duration = (table[name].to_numpy() for name in ("start", "end", "duration"))
    return np.fmin(end, duration) - start


def _windows(
    manifest: Manifest, table: pa.Table, known: np.ndarray, seconds: np.ndarray, asking: Asking
) -> tuple[np.ndarray, np.ndarray]:
    """Rows by source and time, and where in that order each window begins, with how many clips it has."""
    order, _, gap = neighbours(manifest, known, seconds)
    in_order = np.flatnonzero(known)[order]
    is_joined = (gap >= -OVERLAP_SECONDS) & (gap <= asking.max_gap_seconds)
    edges = [0, *(np.flatnonzero(~is_joined) + 1).tolist()]
    starts, ends, durations = (table[name] for name in ("start", "end", "duration"))
    found = []
    for first, last in itertools.pairwise(edges):
        lasts = []
        for row in in_order[first:last].tolist() if last - first > 1 else []:
            outer = [exact(value) for value in (ends[row].as_py(), durations[row].as_py()) if value is not None]
            lasts.append(min(outer) - exact(starts[row].as_py()))
        found += [(first + begin, count) for begin, count in _cover(lasts, asking)]
    return in_order, np.array(found, dtype=np.int64).reshape(-1, 2)


def _cover(seconds: Sequence[Fraction], asking: Asking) -> list[tuple[int, int]]:
    """The windows of a run that are asked about, each once."""
    found: dict[tuple[int, int], None] = {}
    at = 0
    while at < len(seconds):
        taken = window(seconds, at, exact(asking.min_seconds), asking.max_clips)
        if taken is None:
            break
        found[taken] = None
        at = at + 1 if asking.overlapping else max(at + 1, sum(taken))
    return list(found)
