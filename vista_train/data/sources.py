"""Where clips come from: a manifest's usable rows as clips, and which of them follow one another in a source."""

from __future__ import annotations

import bisect
import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vista_train.data.headers import Headers, Probe, survey
from vista_train.data.lines import FEATURES
from vista_train.data.manifest import Manifest, open_manifest
from vista_train.data.moving import Moving
from vista_train.data.reading import Reading
from vista_train.data.sidecars import cache_folder, key_of, publish
from vista_train.video.composition import Clip, qa_from_json
from vista_train.video.geometry import exact
from vista_train.video.media import Media

PROBE_LIMIT = 50_000
OVERRUN_SECONDS = 0.5
"""A span may end this much beyond its file, and is cut to it: containers round, and annotations do."""
OVERLAP_SECONDS = 0.05
"""Neighbours may overlap this much: cutters work on whole frames."""
ARRAYS = ("rows", "header_of", "headers", "order", "rank", "gap")


class ClipSource:
    """The usable clips of one manifest: `len`, `[i]`, and `run` for those that follow one another.

    `media` are the files that the manifest names; a plain path is the folder they are relative to. Sidecars go to
    `cache` (`cache_folder` tells the default) and are built once, whoever comes first. `probe` (default: the media's)
    reads a file's header where the manifest leaves something open. `reading` says how the manifest is read, where it is
    not one of this project's own, and which of its clips are taken. `ValueError` when the manifest is wrong, when more
    than `probe_limit` files would have to be probed, or when no clip is usable.
    """

    def __init__(
        self,
        manifest: str | Path,
        media: Media | str | Path,
        cache: str | Path | None = None,
        probe: Probe | None = None,
        probe_limit: int | None = PROBE_LIMIT,
        retry: bool = False,
        reading: Reading = Reading(),  # noqa: B008 - it is frozen
    ) -> None:
        media = media if isinstance(media, Media) else Media(media)
        self.root = media.root
        self.manifest = open_manifest(manifest, cache, media.allow_absolute, reading, media.root)
        folder = cache_folder(cache)
        records = folder / "headers" / key_of(str(self.root.resolve()), media.rules)
        headers = survey(self.manifest, self.root, records, probe or media.probe, probe_limit, retry)
        media.close()
        facts = hashlib.sha256(headers.numbers_F6.tobytes() + json.dumps(headers.reasons).encode()).hexdigest()
        self._folder = publish(
            folder / "pools" / key_of(self.manifest.key, facts),
            lambda building: _build_pool(self.manifest, headers, building),
        )
        self._open()

    def _open(self) -> None:
        self.digest: str = json.loads((self._folder / "done.json").read_text())["digest"]
        """Names the clips: the manifest's content, which of its rows are usable, and what their files' headers say."""
        table = self.manifest.rows().data.table
        self._columns = [table[name].chunks for name in FEATURES]
        lengths = [len(chunk) for chunk in table["video"].chunks]
        self._batch_starts = [0, *np.cumsum(lengths)[:-1].tolist()]
        arrays = (np.load(self._folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
        # A plain view of a memmap: the same pages, without the subclass's cost at every item.
        self._rows, self._header_of, self._headers, self._order, self._rank, self._gap = map(np.asarray, arrays)
        self._moving = Moving.of(self, self._rows, self.manifest.stills())

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "manifest": self.manifest, "_folder": self._folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Clip:
        video, caption, source, qa, start, end, _, duration, width, height, fps, _ = self._values(index)
        header = int(self._header_of[index])
        known = None if duration is None else exact(duration)
        last = known if end is None else exact(end)
        if header >= 0:
            num, den, header_width, header_height, fps_num, fps_den = self._headers[header].tolist()
            known = Fraction(num, den)
            width, height = width or header_width, height or header_height
            fps = fps or Fraction(fps_num, fps_den)
        if known is not None:
            last = known if last is None else min(last, known)
        assert last is not None, "a row without an end is not usable"
        return Clip(
            path=video,
            start=start,
            end=last,
            width=int(width),
            height=int(height),
            fps=fps,
            caption=caption,
            qa=qa_from_json(json.loads(qa)) if qa else (),
            source=source,
        )

    def key(self, index: int) -> str:
        """The media file of clip `index`, relative to the data root."""
        batch, offset = self._place(index)
        return self._columns[0][batch][offset].as_py()

    def run(self, index: int, max_gap_seconds: float) -> list[int]:
        """The clips of one source that follow one another around clip `index`, itself among them, in time order.

        The run is as long as can be: every clip begins at most `max_gap_seconds` after the one before ends, and
        overlaps it by 0.05 s at most.
        """
        first = last = int(self._rank[index])
        while first > 0 and -OVERLAP_SECONDS <= self._gap[first - 1] <= max_gap_seconds:
            first -= 1
        while -OVERLAP_SECONDS <= self._gap[last] <= max_gap_seconds:
            last += 1
        return self._order[first : last + 1].tolist()

    def moving(self) -> ClipSource | Moving:
        """Its clips without pictures, and without words that show nothing; itself, where it has none of these."""
        return self if self._moving is None else self._moving

    @property
    def unusable(self) -> tuple[tuple[str, str], ...]:
        """(media file, reason) of every clip that was left out, in the manifest's order; read from disk.

        Before them what could not be taken over from a published file, by where it stands there.
        """
        table = pa.ipc.open_file(pa.memory_map(str(self._folder / "unusable.arrow"))).read_all()
        clips = zip(table["video"].to_pylist(), table["reason"].to_pylist(), strict=True)
        return (*self.manifest.refused, *clips)

    def _place(self, index: int) -> tuple[int, int]:
        row = int(self._rows[index])
        batch = bisect.bisect_right(self._batch_starts, row) - 1
        return batch, row - self._batch_starts[batch]

    def _values(self, index: int) -> list[Any]:
        batch, offset = self._place(index)
        return [column[batch][offset].as_py() for column in self._columns]


def check(
    manifest: str | Path, media: Media | str | Path, cache: str | Path | None = None, probe: Probe | None = None
) -> ClipSource:
    """The source with every header probed, however many, and those that failed before once more."""
    return ClipSource(manifest, media, cache, probe, probe_limit=None, retry=True)


def clip_of(media: Media | str | Path, path: str, caption: str = "") -> Clip:
    """The whole of one file of `media`, or under a folder, as a clip; `MediaError` if it cannot be probed."""
    header = (media if isinstance(media, Media) else Media(media)).probe(path)
    return Clip(path, Fraction(0), header.duration, header.width, header.height, header.fps, caption, source=path)


def _build_pool(manifest: Manifest, headers: Headers, folder: Path) -> dict[str, Any]:
    table = manifest.rows().data.table
    header_of, start, end, known = _spans(table, manifest, headers)
    why = [*headers.reasons, None]
    failed = np.array([reason is not None for reason in why])[header_of]
    # NaN, a length that nobody knows, compares false.
    outside = (start >= known - 1e-6) | (end > known + OVERRUN_SECONDS + 1e-9)
    usable = ~(failed | outside)
    rows = np.flatnonzero(~usable)
    reasons = [
        why[header_of[row]] or f"its span {start[row]}..{end[row]} s lies outside the file, which lasts {known[row]} s"
        for row in rows.tolist()
    ]
    videos = table["video"].take(pa.array(rows)).cast(pa.string())
    if not usable.any():
        raise ValueError(f"{manifest.path}: no usable clips; the first, {videos[0].as_py()}: {reasons[0]}")
    unusable = pa.table({"video": videos, "reason": pa.array(reasons, type=pa.string())})
    with pa.ipc.new_file(str(folder / "unusable.arrow"), unusable.schema) as writer:
        writer.write_table(unusable)
    order, rank, gap = neighbours(manifest, usable, np.fmin(end, known) - start)
    kept = (np.flatnonzero(usable).astype(np.int32), header_of[usable], headers.numbers_F6, order, rank, gap)
    digest = hashlib.sha256(manifest.sha256.encode())
    for name, array in zip(ARRAYS, kept, strict=True):
        np.save(folder / f"{name}.npy", array)
        if name in ARRAYS[:3]:
            digest.update(array.tobytes())
    return {"digest": digest.hexdigest(), "clips": len(kept[0])}


def _spans(
    table: pa.Table, manifest: Manifest, headers: Headers
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For every row: its header (-1 for none), where its span starts and ends, and its file's length; NaN if unknown.

    Seconds in floats, for sorting out; a clip's own times are exact.
    """
    found = pc.index_in(table["video"], value_set=manifest.unprobed(), skip_nulls=True)
    header_of = pc.fill_null(found, -1).to_numpy()
    numbers = headers.numbers_F6
    probed = np.append(numbers[:, 0] / np.maximum(numbers[:, 1], 1), np.nan)[header_of]
    start, end, duration = (table[name].to_numpy() for name in ("start", "end", "duration"))
    known = np.where(header_of >= 0, probed, duration)
    end = np.where(np.isnan(end), np.where(np.isnan(duration), probed, duration), end)
    return header_of, start, end, known


def neighbours(
    manifest: Manifest, usable: np.ndarray, seconds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The usable clips by source and time, each one's place in that order, and the gap to the next in seconds.

    A gap is NaN, which is within no bounds, where the source ends and where a clip without a time of its own lost a
    neighbour: how long that one lasted nobody knows. Rounded to the microsecond, so that decimal times that meet have
    a gap of 0.
    """
    order, begins, at = manifest.chronology()
    places = np.flatnonzero(usable[order])
    rows = order[places]
    source, at, seconds = np.cumsum(begins)[places], at[places], seconds[rows]
    between = np.round(at[1:] - (at[:-1] + seconds[:-1]), 6)
    # Of clips without times, those between which none was lost, neither here nor by whoever wrote the manifest.
    after_gap = pc.fill_null(manifest.rows().data.table["after_gap"], False).to_numpy()[rows][1:]
    touching = np.where((np.diff(places) == 1) & ~after_gap, 0.0, np.nan)
    between = np.where(np.isnan(between), touching, between)
    gap = np.full(len(rows), np.nan)
    gap[:-1] = np.where(source[1:] == source[:-1], between, np.nan)
    order = (np.cumsum(usable, dtype=np.int32) - 1)[rows]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return order, rank, gap
