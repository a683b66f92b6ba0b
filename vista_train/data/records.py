"""Records: rows of published files (CSV, JSON, JSON lines, parquet), of folders and of the Hub, a plain dict each."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from vista_train.redact import phrase

HUB = "hub:"
"""What begins the name of a data set on the Hub."""
MAX_CELL_CHARS = 1 << 24
MAX_BESIDE_BYTES = 1 << 18
"""Of a caption beside a video, all that its downloader may have put there with it included."""
PARQUET_ROWS = 64
"""Read at a time: a few bytes of parquet may stand for millions."""
MAX_JSON_BYTES = 4 << 30
"""A JSON file is held in memory; JSON lines are not."""
VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".flv")
Record: TypeAlias = tuple[str, dict[str, Any] | ValueError]
"""Where it stands, and what it says or what is wrong with it."""


def files_of(path: Path) -> list[Path]:
    """The files that a path means: itself, what it matches (`*.parquet`), or those in the folder, all of one kind."""
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in KINDS)
    elif glob.has_magic(str(path)):
        found = sorted(Path(name) for name in glob.glob(str(path)))
    else:
        found = [path]
    if not found or not all(file.is_file() for file in found):
        raise ValueError(f"{path}: there is no such file, nor a folder with {', '.join(KINDS)} files")
    kinds = {file.suffix.lower() for file in found}
    if len(kinds) > 1 or not kinds <= set(KINDS):
        raise ValueError(f"{path}: files of {', '.join(sorted(kinds))}; all must be of one kind of {', '.join(KINDS)}")
    return found


def stamps_of(files: Iterable[Path]) -> list[Any]:
    """What tells files from what they were: name, size and time of change of each."""
    return [[str(file.resolve()), (status := file.stat()).st_size, status.st_mtime_ns] for file in files]


def records(files: Iterable[Path], columns: Set[str]) -> Iterator[Record]:
    """The records of files, with the columns named (others may come too), behind a progress bar."""
    files = list(files)
    total = sum(file.stat().st_size for file in files)
    with tqdm(total=total, desc="reading", unit="B", unit_scale=True, delay=2, disable=None) as bar:
        before = 0
        for file in files:
            yield from _records_of(file, columns, bar, before)
            before += file.stat().st_size
        bar.update(total - bar.n)


def _records_of(file: Path, columns: Set[str], bar: Any, before: int) -> Iterator[Record]:
    read = KINDS[file.suffix.lower()]
    with file.open("rb") as stream:
        for number, (line, record) in enumerate(read(stream, file, columns)):
            if not number % 1024:
                bar.update(before + stream.tell() - bar.n)
            yield f"{file}:{line}", record


def hub_records(name: str, split: str, revision: str | None, columns: Set[str]) -> tuple[str, Iterator[Record]]:
    """What names a data set on the Hub (or in a folder) as it is now, and its records, streamed.

    No code of a data set is run: `datasets` has no way to since version 4.
    """
    try:
        builder = datasets.load_dataset_builder(name, revision=revision)
        if builder.info.splits and split not in builder.info.splits:
            raise ValueError(f"split is {split!r}; {name} has {', '.join(builder.info.splits)}")
        rows = builder.as_streaming_dataset(split)
    except (OSError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ValueError(f"{HUB}{name} cannot be had: {phrase(str(error))}") from None
    there = columns & set(rows.column_names or [])
    if there:
        rows = rows.select_columns(sorted(there))

    def streamed() -> Iterator[Record]:
        for number, record in enumerate(tqdm(rows, desc=f"reading {name}", unit="row", delay=2, disable=None)):
            yield f"{HUB}{name}:{number}", record

    return f"{builder.hash} {split}", streamed()


def folder_records(root: Path, folder: Path) -> Iterator[Record]:
    """The videos below a folder of the root, each with the caption in the `.txt` or `.json` beside it.

    So video2dataset writes what it downloads; of a `.json` it is `caption`. A video with neither is refused.
    """
    root = root.resolve()
    for place, folders, names in os.walk(folder.resolve()):
        folders.sort()
        beside = set(names)
        for name in sorted(name for name in names if name.lower().endswith(VIDEOS)):
            path = Path(place, name)
            where, stem = str(path), Path(name).stem
            record: dict[str, Any] = {"video": path.relative_to(root).as_posix()}
            try:
                if f"{stem}.txt" in beside:
                    record["caption"] = _text_of(Path(place, f"{stem}.txt"))
                elif f"{stem}.json" in beside:
                    said = json.loads(_text_of(Path(place, f"{stem}.json")))
                    record["caption"] = said.get("caption") if isinstance(said, dict) else None
            except (OSError, ValueError, RecursionError) as error:
                yield where, ValueError(f"its caption cannot be read: {phrase(str(error))}")
                continue
            yield where, record


def _text_of(path: Path) -> str:
    """A small text file, reached by no link: a pipe or a device would be read for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BESIDE_BYTES:
            raise ValueError(f"{path.name} is no file of {MAX_BESIDE_BYTES >> 10} KiB at most")
        return file.read(MAX_BESIDE_BYTES).decode()


def folder_stamp(folder: Path) -> list[Any]:
    """What tells a folder from what it was: names, sizes and times of change of all below it."""
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            status = os.stat(os.path.join(place, name), follow_symlinks=False)
            found.append([os.path.relpath(os.path.join(place, name), folder), status.st_size, status.st_mtime_ns])
    return found


def _csv(stream: BinaryIO, file: Path, columns: Set[str], delimiter: str = ",") -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(MAX_CELL_CHARS)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        names = next(rows, None)
        if names is None:
            raise ValueError(f"{file}: an empty file; its first line must name the columns")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{file}: two columns are called {twice[0]!r}; which is meant cannot be told")
        for row in rows:
            if len(row) == len(names):
                yield rows.line_num, dict(zip(names, row, strict=True))
            elif row:
                yield rows.line_num, ValueError(f"{len(row)} cells, but {len(names)} columns")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file}:{rows.line_num + 1}: not CSV in UTF-8: {error}") from None
    finally:
        # The stream is closed by whoever opened it.
        text.detach()


def _tsv(stream: BinaryIO, file: Path, columns: Set[str]) -> Iterator[tuple[int, Any]]:
    return _csv(stream, file, columns, "\t")


def _json_lines(stream: BinaryIO, file: Path, columns: Set[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(iter(lambda: stream.readline(MAX_CELL_CHARS + 1), b""), 1):
        if len(line) > MAX_CELL_CHARS:
            raise ValueError(f"{file}:{number}: line is longer than {MAX_CELL_CHARS >> 20} MiB; is this JSON lines?")
        if not line.isspace():
            yield number, _object(line)


def _json(stream: BinaryIO, file: Path, columns: Set[str]) -> Iterator[tuple[int, Any]]:
    if os.fstat(stream.fileno()).st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file}: over {MAX_JSON_BYTES >> 30} GiB of JSON; write it as JSON lines")
    try:
        listed = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON: {phrase(str(error))}") from None
    if not isinstance(listed, list):
        raise ValueError(f"{file}: a {type(listed).__name__}; it must be a list of objects")
    for number, record in enumerate(listed):
        right = isinstance(record, dict)
        yield number, record if right else ValueError(f"is {record!r:.60}; it must be an object")


def _parquet(stream: BinaryIO, file: Path, columns: Set[str]) -> Iterator[tuple[int, Any]]:
    try:
        table = pq.ParquetFile(stream)
        # Some sets hold their videos in a column: they are not to be read here.
        wanted = [name for name in table.schema_arrow.names if name in columns]
        number = 0
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=wanted):
            for record in batch.to_pylist():
                yield number, record
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not parquet, or damaged: {phrase(str(error))}") from None


def _object(line: bytes) -> dict[str, Any] | ValueError:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"line is not JSON: {phrase(str(error))}")
    return record if isinstance(record, dict) else ValueError(f"line is {record!r:.60}; it must be an object")


KINDS: dict[str, Callable[[BinaryIO, Path, Set[str]], Iterator[tuple[int, Any]]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
"""What reads a kind of file: (line or row, record or what is wrong with it)."""
