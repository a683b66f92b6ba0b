"""What media files say of themselves: probed once, and remembered by path, size and modification time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from vista_train.data.manifest import Manifest
from vista_train.data.sidecars import beside
from vista_train.video.decode import Header, MediaError
from vista_train.video.decode.members import stat_of
from vista_train.video.kinds import is_picture

Probe: TypeAlias = Callable[[str], Header]
"""The header of a media file, by its path as manifests have it."""

THREADS = 16
FILES_PER_THREAD = 64
"""Each thread that probes has a decoding process of its own, which few files are not worth."""
PORTION = 2048
NUMBERS = ("duration_num", "duration_den", "width", "height", "fps_num", "fps_den")
SCHEMA = pa.schema(
    [("key", pa.string()), *((name, pa.int64()) for name in NUMBERS), ("reason", pa.string())],
)


@dataclass(frozen=True)
class Headers:
    """The headers of F files, in the order they were asked for."""

    numbers_F6: np.ndarray
    """int64: duration as a ratio, width, height, fps as a ratio; zeros where there is a reason."""
    reasons: list[str | None]
    """Why a file cannot be used, None where it can."""


def survey(
    manifest: Manifest, root: str | Path, folder: Path, probe: Probe, limit: int | None = None, retry: bool = False
) -> Headers:
    """The headers of the manifest's open files under `root`; only those unknown to the records in `folder` are probed.

    `ValueError` when more than `limit` files would have to be. A file that failed is remembered too; `retry` probes it
    once more. Records are small files that never change, so any number of processes may read and add at once.
    """
    paths = manifest.unprobed().to_pylist()
    keys, reasons = _keys(paths, root)
    records, index = _find(keys, folder, retry)
    unknown = [at for at, key in enumerate(keys) if key is not None and index[at] < 0]
    if limit is not None and len(unknown) > limit:
        raise ValueError(
            f"{manifest.path}: {len(unknown)} files lack duration, width, height or fps, and at most {limit} are "
            f"probed at the start of a run; run `vista-train check {manifest.path}` first, and train on the manifest "
            f"that it writes"
        )
    if unknown:
        _probe_all([paths[at] for at in unknown], [keys[at] for at in unknown], folder, probe)
        records, index = _find(keys, folder, retry=False)
    known = index >= 0
    numbers = np.zeros((len(paths), len(NUMBERS)), dtype=np.int64)
    for column, name in enumerate(NUMBERS):
        numbers[known, column] = records[name].to_numpy()[index[known]]
    found = records["reason"].take(pa.array(index[known])).to_pylist()
    for at, reason in zip(np.flatnonzero(known), found, strict=True):
        reasons[at] = reason
    return Headers(numbers, reasons)


def read_header(path: str, probe: Probe) -> tuple[tuple[int, ...], str | None]:
    """The six numbers of one file, or zeros and the reason why not."""
    none = (0,) * len(NUMBERS)
    try:
        header = probe(path)
    except MediaError as error:
        return none, error.reason
    duration, fps = header.duration, header.fps
    numbers = (*duration.as_integer_ratio(), header.width, header.height, *fps.as_integer_ratio())
    if not all(0 < number < 1 << 63 for number in numbers):
        return none, "its header tells no length, size or frame rate above 0"
    return numbers, None


def _keys(paths: Sequence[str], root: str | Path) -> tuple[list[str | None], list[str | None]]:
    """For every file, what names its record, or why there is no such file."""

    def look(start: int) -> list[tuple[str | None, str | None]]:
        return [_key(root, path) for path in paths[start : start + PORTION]]

    with ThreadPoolExecutor(THREADS) as threads:
        found = [pair for pairs in threads.map(look, range(0, len(paths), PORTION)) for pair in pairs]
    return [key for key, _ in found], [reason for _, reason in found]


def _key(root: str | Path, path: str) -> tuple[str | None, str | None]:
    try:
        size, mtime_ns, is_file = stat_of(os.path.join(root, path))
    except OSError as error:
        return None, f"cannot be opened: {error.strerror}"
    if not is_file:
        return None, "is not a file"
    # What is known of a picture by the name of a video is that it is none.
    return f"{'picture:' if is_picture(path) else ''}{size}:{mtime_ns}:{path}", None


def _find(keys: Sequence[str | None], folder: Path, retry: bool) -> tuple[pa.Table, np.ndarray]:
    """All records, and for each key which of them is its own, -1 for none; a success goes before a failure."""
    files = sorted(folder.glob("*.arrow"))
    tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
    records = pa.concat_tables([SCHEMA.empty_table(), *tables])
    good = pc.is_null(records["reason"])
    parts = [records.filter(good)] if retry else [records.filter(good), records.filter(pc.invert(good))]
    records = pa.concat_tables(parts).combine_chunks()
    wanted = pa.array(keys, type=pa.string())
    index = pc.index_in(wanted, value_set=records["key"].combine_chunks(), skip_nulls=True)
    return records, pc.fill_null(index, -1).to_numpy()


def _probe_all(paths: Sequence[str], keys: Sequence[str | None], folder: Path, probe: Probe) -> None:
    with (
        ThreadPoolExecutor(min(THREADS, -(-len(paths) // FILES_PER_THREAD))) as threads,
        tqdm(total=len(paths), desc="reading headers", unit="file", delay=2, disable=None) as progress,
    ):
        for start in range(0, len(paths), PORTION):
            portion = paths[start : start + PORTION]
            read = []
            for result in threads.map(lambda path: read_header(path, probe), portion):
                read.append(result)
                progress.update()
            _write(folder, keys[start : start + PORTION], read)


def _write(folder: Path, keys: Sequence[str | None], read: Sequence[tuple[tuple[int, ...], str | None]]) -> None:
    columns = [list(keys), *(list(column) for column in zip(*(numbers for numbers, _ in read), strict=True))]
    columns.append([reason for _, reason in read])
    table = pa.table([pa.array(c, type=f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.arrow"
    building = beside(target)
    with building.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    building.replace(target)
