"""Manifests: JSONL checked line by line, then held on disk as Arrow so that ten million clips cost no memory."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from vista_train.data.lines import FEATURES, LineCheck
from vista_train.data.reading import MANIFEST, Reading
from vista_train.data.records import HUB, KINDS, Record
from vista_train.data.sidecars import cache_folder, key_of, publish
from vista_train.redact import phrase
from vista_train.video.kinds import STILL

MAX_LINE_BYTES = 1 << 20
BATCH_ROWS = 8192
BATCH_BYTES = 64 << 20
MAX_ERRORS = 5
SOURCE = list(FEATURES).index("source")
REFUSED = pa.schema([("where", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class Manifest:
    """One manifest, checked: its rows and what follows from them alone, in a folder of the cache."""

    path: Path
    folder: Path
    key: str
    """Names this content of this file: a hash of its resolved path, size and modification time, and how it is read."""
    sha256: str

    def rows(self) -> datasets.Dataset:
        """The lines in order, memory-mapped."""
        return datasets.Dataset.from_file(str(self.folder / "rows.arrow"))

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """(where it stands, reason) of what could not be taken over from a published file, in its order."""
        file = self.folder / "refused.arrow"
        if not file.exists():
            return ()
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        return tuple(zip(table["where"].to_pylist(), table["reason"].to_pylist(), strict=True))

    def unprobed(self) -> pa.Array:
        """The distinct files of which some line leaves the length, size or frame rate open."""
        return (
            pa.ipc.open_file(pa.memory_map(str(self.folder / "unprobed.arrow"))).read_all().column(0).combine_chunks()
        )

    def stills(self) -> np.ndarray:
        """The rows of pictures, and of words without anything to see; in order."""
        file = self.folder / "stills.npy"
        return np.load(file, mmap_mode="r") if file.exists() else np.zeros(0, np.int32)

    def chronology(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row ids by source and time within it, whether a new source begins there, and when the clip begins in it.

        The time is NaN in a source of separate files without `source_start`: only the order of lines is known.
        """
        order, begins, at = (np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ("order", "begins", "at"))
        return order, begins, at


def open_manifest(
    path: str | Path,
    cache: str | Path | None = None,
    allow_absolute: bool = False,
    reading: Reading = Reading(),  # noqa: B008 - it is frozen
    root: str | Path = ".",
) -> Manifest:
    """The manifest at `path`, read and checked unless a cache of this very file is there already.

    `allow_absolute` lets paths lie outside the data root, `root`. `reading` may say that the file is not a manifest but
    a published one, or a folder, or on the Hub; what cannot be taken over from those is refused, and kept beside.
    `ValueError` names the file, the line, the key, what is wrong and what would be right.
    """
    rules = ["absolute"] if allow_absolute else []
    check = LineCheck(allow_absolute)
    if reading.format == MANIFEST:
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"manifest {path} is not a file")
        stat = path.stat()
        chosen = [] if reading.is_plain else [reading.as_json]
        key = key_of(str(path.resolve()), stat.st_size, stat.st_mtime_ns, *rules, *chosen)
        folder = cache_folder(cache) / "manifests" / key
        publish(folder, lambda building: _build_own(path, stat, check, reading, building))
    else:
        stamp, lines = reading.open(path, Path(root))
        # Its pictures, and what has neither, were refused once, and that may be kept.
        rules += ["stills"] if reading.format == "llava" else []
        key = key_of(str(path), str(Path(root).resolve()), stamp, *rules, reading.as_json)
        folder = cache_folder(cache) / "manifests" / key
        publish(folder, lambda building: _build_foreign(str(path), lines, check, reading, building))
    return Manifest(Path(path), folder, key, json.loads((folder / "done.json").read_text())["sha256"])


def line_of(path: Path, row: int) -> int:
    """The line, from 1, on which row `row`, from 0, of the manifest stands."""
    with path.open("rb") as stream:
        lines = (number for number, line in enumerate(stream, 1) if not line.isspace())
        return next(number for index, number in enumerate(lines) if index == row)


def _build_own(path: Path, stat: os.stat_result, check: LineCheck, reading: Reading, folder: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        built = _build(path, _batches(path, stream, check, digest, stat.st_size), reading, folder)
        after = os.fstat(stream.fileno())
    if (after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
        raise ValueError(f"{path}: the manifest changed while it was read; start again when it is whole")
    if not reading.is_plain:
        digest.update(reading.as_json.encode())
    return built | {"sha256": digest.hexdigest()}


def _build_foreign(
    path: str, lines: Iterator[Record], check: LineCheck, reading: Reading, folder: Path
) -> dict[str, Any]:
    digest = hashlib.sha256()
    refused: list[tuple[str, str]] = []

    def batches() -> Iterator[list[tuple]]:
        rows: list[tuple] = []
        folder, latest, same = _folder_of(path), "", 0
        for where, line in lines:
            same = same + 1 if where == latest else 0
            latest = where
            try:
                if isinstance(line, ValueError):
                    raise line
                # Wherever the files lie, the place within them is what names a line; of one record there may be many.
                place = where.removeprefix(folder)
                rows.append(check.values(line, f"{place}:{same}" if same else place))
            except ValueError as error:
                refused.append((phrase(where), phrase(str(error))))
                continue
            if len(rows) == BATCH_ROWS:
                digest.update(repr(rows).encode())
                yield rows
                rows = []
        digest.update(repr(rows).encode())
        if rows:
            yield rows

    try:
        built = _build(Path(path), batches(), reading, folder)
    except ValueError as error:
        where, reason = refused[0] if refused else ("", "")
        more = f"; {len(refused)} were refused, the first at {where}: {reason}" if refused else ""
        raise ValueError(f"{error}{more}") from None
    if refused:
        print(
            f"{path}: {len(refused)} of {len(refused) + built['rows']} clips left out, the first at {refused[0][0]}: "
            f"{refused[0][1]}",
            file=sys.stderr,
        )
    table = pa.table(
        {name: [row[at] for row in refused] for at, name in enumerate(("where", "reason"))}, schema=REFUSED
    )
    with pa.ipc.new_file(str(folder / "refused.arrow"), REFUSED) as writer:
        writer.write_table(table)
    return built | {"sha256": digest.hexdigest()}


def _folder_of(path: str) -> str:
    """The folder in which all files lie that `path` means, with a slash at its end; nothing for a set on the Hub."""
    if path.startswith(HUB):
        return ""
    folder = Path(path) if os.path.isdir(path) else Path(path).parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return f"{folder}/"


def _build(path: Path, batches: Iterator[list[tuple]], reading: Reading, folder: Path) -> dict[str, Any]:
    schema = FEATURES.arrow_schema
    num_rows = num_read = 0
    with pa.ipc.new_stream(str(folder / "rows.arrow"), schema) as writer:
        for rows in batches:
            num_read += len(rows)
            if not reading.is_plain:
                rows = [row for row in rows if reading.takes(row[SOURCE])]
                rows = rows if reading.limit is None else rows[: reading.limit - num_rows]
            if rows:
                columns = zip(*rows, strict=True)
                arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
            num_rows += len(rows)
            if num_rows == reading.limit:
                break
    if not num_rows:
        wanted = "a manifest has one JSON object a line, with `video` and `caption`"
        raise ValueError(f"{path}: no clips; " + (f"none of its {num_read} was chosen" if num_read else wanted))
    table = datasets.Dataset.from_file(str(folder / "rows.arrow")).data.table
    _write_unprobed(table, folder / "unprobed.arrow")
    stills = np.flatnonzero(pc.match_substring_regex(table["video"], STILL).to_numpy())
    if len(stills):
        np.save(folder / "stills.npy", stills.astype(np.int32))
    for name, array in zip(("order", "begins", "at"), _chronology(table, path, reading), strict=True):
        np.save(folder / f"{name}.npy", array)
    return {"rows": num_rows}


def _batches(path: Path, stream: IO[bytes], check: LineCheck, digest: Any, size: int) -> Iterator[list[tuple]]:
    """The file's rows, some thousands at a time; the first lines that are wrong, together, as one `ValueError`."""
    rows: list[tuple] = []
    errors: list[str] = []
    num_bytes = number = 0
    with tqdm(total=size, desc=f"reading {path.name}", unit="B", unit_scale=True, delay=2, disable=None) as progress:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            num_bytes += len(line)
            digest.update(line)
            if len(line) > MAX_LINE_BYTES:
                errors.append(f"{path}:{number}: line is longer than 1 MB; is this one JSON object a line (JSONL)?")
                break
            if not line.isspace():
                try:
                    rows.append(check.row(line, f"{path.name}:{number}"))
                except ValueError as error:
                    errors.append(f"{path}:{number}: {error}")
            full = len(rows) == BATCH_ROWS or (rows and num_bytes >= BATCH_BYTES)
            if len(errors) == MAX_ERRORS or (errors and full):
                break
            if full:
                progress.update(num_bytes)
                yield rows
                rows, num_bytes = [], 0
    if errors:
        if path.suffix.lower() in KINDS and path.suffix.lower() != ".jsonl":
            raise ValueError(f"{path} is no manifest, which is JSON lines; say by `format` and `columns` what it is")
        raise ValueError("\n".join(errors))
    if rows:
        yield rows


def _write_unprobed(table: pa.Table, file: Path) -> None:
    length = pc.and_(pc.is_null(table["end"]), pc.is_null(table["duration"]))
    open_ = length
    for name in ("width", "height", "fps"):
        open_ = pc.or_(open_, pc.is_null(table[name]))
    paths = pa.table({"video": pc.unique(table["video"].filter(open_))})
    with pa.ipc.new_file(str(file), paths.schema) as writer:
        writer.write_table(paths)


def _chronology(table: pa.Table, path: Path, reading: Reading) -> Sequence[np.ndarray]:
    source, video = (_codes(table[name]) for name in ("source", "video"))
    source_start = table["source_start"].to_numpy()
    given = ~np.isnan(source_start)
    num_clips, num_given = np.bincount(source), np.bincount(source, weights=given)
    mixed = (num_given > 0) & (num_given < num_clips)
    if mixed.any():
        row = int(np.flatnonzero(mixed[source] & ~given)[0])
        name = table["source"][row].as_py()
        line = line_of(path, row) if reading.is_plain else f"clip {row}"
        raise ValueError(
            f"{path}:{line}: source_start is missing, though other clips of source {name!r} have it; "
            "give it for all clips of a source or for none"
        )
    first = np.empty(len(num_clips), dtype=video.dtype)
    first[source[::-1]] = video[::-1]
    one_file = np.bincount(source, weights=video != first[source]) == 0
    timed = (one_file | (num_given > 0))[source]
    at = np.where(given, source_start, table["start"].to_numpy())
    keys = {"source": source, "at": np.where(timed, at, 0.0), "row": np.arange(len(source), dtype=np.int32)}
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    begins = np.diff(source[order], prepend=-1) != 0
    return order.astype(np.int32), begins, np.where(timed, at, np.nan)[order]


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number for every string, equal where the strings are."""
    return np.concatenate([chunk.indices.to_numpy() for chunk in column.dictionary_encode().chunks])
