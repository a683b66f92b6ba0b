"""Manifests: JSONL checked line by line, then held on disk as Arrow so that ten million clips cost no memory."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from vista_train.data.sidecars import cache_folder, key_of, publish
from vista_train.redact import phrase, redacted

MAX_LINE_BYTES = 1 << 20
BATCH_ROWS = 8192
BATCH_BYTES = 64 << 20
MAX_ERRORS = 5
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What moves a terminal, or ends a string in C; no file that is meant to be found has it in its name."""

FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("video", "caption", "source", "qa")}
    | {
        name: datasets.Value("float64")
        for name in ("start", "end", "source_start", "duration", "width", "height", "fps")
    }
    | {"after_gap": datasets.Value("bool")}
)
"""One column a key. `source` and `start` hold their defaults, `qa` is JSON text, all else unknown is null."""
KEYS = frozenset(FEATURES)
QA_KEYS = frozenset(("question", "answer", "distractors"))


@dataclass(frozen=True)
class Manifest:
    """One manifest, checked: its rows and what follows from them alone, in a folder of the cache."""

    path: Path
    folder: Path
    key: str
    """Names this content of this file: a hash of its resolved path, size and modification time."""
    sha256: str

    def rows(self) -> datasets.Dataset:
        """The lines in order, memory-mapped."""
        return datasets.Dataset.from_file(str(self.folder / "rows.arrow"))

    def unprobed(self) -> pa.Array:
        """The distinct files of which some line leaves the length, size or frame rate open."""
        return (
            pa.ipc.open_file(pa.memory_map(str(self.folder / "unprobed.arrow"))).read_all().column(0).combine_chunks()
        )

    def chronology(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row ids by source and time within it, whether a new source begins there, and when the clip begins in it.

        The time is NaN in a source of separate files without `source_start`: only the order of lines is known.
        """
        order, begins, at = (np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ("order", "begins", "at"))
        return order, begins, at


def open_manifest(path: str | Path, cache: str | Path | None = None, allow_absolute: bool = False) -> Manifest:
    """The manifest at `path`, read and checked unless a cache of this very file is there already.

    `allow_absolute` lets paths lie outside the data root.
    `ValueError` names the file, the line, the key, what is wrong and what would be right.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"manifest {path} is not a file")
    stat = path.stat()
    key = key_of(str(path.resolve()), stat.st_size, stat.st_mtime_ns, *(["absolute"] if allow_absolute else []))
    check = LineCheck(allow_absolute)
    folder = publish(cache_folder(cache) / "manifests" / key, lambda building: _build(path, stat, check, building))
    return Manifest(path, folder, key, json.loads((folder / "done.json").read_text())["sha256"])


def line_of(path: Path, row: int) -> int:
    """The line, from 1, on which row `row`, from 0, of the manifest stands."""
    with path.open("rb") as stream:
        lines = (number for number, line in enumerate(stream, 1) if not line.isspace())
        return next(number for index, number in enumerate(lines) if index == row)


def _build(path: Path, stat: os.stat_result, check: LineCheck, folder: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    schema = FEATURES.arrow_schema
    num_rows = 0
    with path.open("rb") as stream, pa.ipc.new_stream(str(folder / "rows.arrow"), schema) as writer:
        for rows in _batches(path, stream, check, digest, stat.st_size):
            columns = zip(*rows, strict=True)
            arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            num_rows += len(rows)
        after = os.fstat(stream.fileno())
    if (after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
        raise ValueError(f"{path}: the manifest changed while it was read; start again when it is whole")
    if not num_rows:
        raise ValueError(f"{path}: no clips; a manifest has one JSON object a line, with `video` and `caption`")
    table = datasets.Dataset.from_file(str(folder / "rows.arrow")).data.table
    _write_unprobed(table, folder / "unprobed.arrow")
    for name, array in zip(("order", "begins", "at"), _chronology(table, path), strict=True):
        np.save(folder / f"{name}.npy", array)
    return {"sha256": digest.hexdigest(), "rows": num_rows}


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
                    rows.append(check.row(line))
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
        raise ValueError("\n".join(errors))
    if rows:
        yield rows


class LineCheck:
    """Checks lines of a manifest and turns them into rows; remembers the foreign keys it has let pass."""

    def __init__(self, allow_absolute: bool = False) -> None:
        self._foreign: set[str] = set()
        self._allow_absolute = allow_absolute

    def row(self, line: bytes) -> tuple:
        """The line's values in the order of `FEATURES`; `ValueError` begins with the key that is wrong."""
        data = _parsed(line)
        self._refuse_misspelt(data, KEYS)
        video = _path(data, self._allow_absolute)
        start = _number(data, "start", zero=True) or 0.0
        end = _number(data, "end")
        if end is not None and end <= start:
            raise ValueError(
                f"end is {end}, start is {start}; end must be after start, both in seconds inside the file"
            )
        return (
            video,
            _text(data, "caption"),
            video if data.get("source") is None else _text(data, "source"),
            self._qa(data.get("qa")),
            start,
            end,
            _number(data, "source_start", zero=True),
            _number(data, "duration"),
            _number(data, "width", whole=True),
            _number(data, "height", whole=True),
            _number(data, "fps"),
            _flag(data, "after_gap"),
        )

    def _refuse_misspelt(self, data: dict[str, Any], known: frozenset[str], where: str = "") -> None:
        for key in data.keys() - known - self._foreign:
            if right := _nearest(key, known):
                raise ValueError(f"{where}{phrase(key)} is not a key of a manifest; did you mean `{right}`?")
            self._foreign.add(key)

    def _qa(self, entries: Any) -> str | None:
        if entries is None:
            return None
        if not isinstance(entries, list):
            raise ValueError(f"qa is {entries!r:.60}; it must be a list of objects with `question` and `answer`")
        pairs = []
        for index, entry in enumerate(entries):
            where = f"qa[{index}]."
            if not isinstance(entry, dict):
                raise ValueError(f"qa[{index}] is {entry!r:.60}; it must be an object with `question` and `answer`")
            self._refuse_misspelt(entry, QA_KEYS, where)
            wrong = entry.get("distractors")
            if not (wrong is None or (isinstance(wrong, list) and all(isinstance(text, str) for text in wrong))):
                raise ValueError(f"{where}distractors is {wrong!r:.60}; it must be a list of strings")
            pair: dict[str, Any] = {key: _text(entry, key, where) for key in ("question", "answer")}
            pairs.append(pair | {"distractors": wrong or []})
        return json.dumps(pairs) if pairs else None


def _nearest(key: str, known: frozenset[str]) -> str | None:
    """The known key that `key` seems to misspell: same first letter, as long to one letter, four fifths alike."""
    low = key.lower()
    near = [right for right in sorted(known) if right[0] == low[:1] and abs(len(right) - len(low)) <= 1]
    return next(iter(difflib.get_close_matches(low, near, 1, 0.8)), None)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        data = DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"line is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line is not JSON ({error.msg} at column {error.colno}); it must be one object") from None
    except RecursionError:
        raise ValueError("line is not JSON that can be read: it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError(f"line is {data!r:.60}; it must be a JSON object with `video` and `caption`")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"line holds {name}, which is not JSON; numbers must be finite, and unknown ones left out")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _text(data: dict[str, Any], key: str, where: str = "") -> str:
    value = data.get(key)
    if not isinstance(value, str):
        found = "missing" if value is None else f"{value!r:.60}"
        raise ValueError(f"{where}{key} is {found}; it must be a string")
    value = value.strip()
    if not value:
        raise ValueError(f"{where}{key} is empty; it must say something")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where}{key} holds half a surrogate pair, which is not text") from None
    return value


def _path(data: dict[str, Any], allow_absolute: bool) -> str:
    video = _text(data, "video")
    if (
        (video.startswith("/") and not allow_absolute)
        or "://" in video
        or ".." in video.split("/")
        or CONTROL.search(video)
    ):
        shown = f"{redacted(repr(video)):.200}"
        raise ValueError(
            f"video is {shown}; it must be a path under the data root, relative to it, without `..`, and printable"
        )
    return video


def _number(data: dict[str, Any], key: str, zero: bool = False, whole: bool = False) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r:.60}; it must be {kind}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{key} is not finite; it must be {kind}")
    if number < 0 or (number == 0 and not zero) or (whole and not number.is_integer()):
        raise ValueError(f"{key} is {value}; it must be {kind}, {'0 or more' if zero else 'above 0'}")
    return number


def _flag(data: dict[str, Any], key: str) -> bool | None:
    value = data.get(key)
    if not (value is None or isinstance(value, bool)):
        raise ValueError(f"{key} is {value!r:.60}; it must be true or false")
    return value


def _write_unprobed(table: pa.Table, file: Path) -> None:
    length = pc.and_(pc.is_null(table["end"]), pc.is_null(table["duration"]))
    open_ = length
    for name in ("width", "height", "fps"):
        open_ = pc.or_(open_, pc.is_null(table[name]))
    paths = pa.table({"video": pc.unique(table["video"].filter(open_))})
    with pa.ipc.new_file(str(file), paths.schema) as writer:
        writer.write_table(paths)


def _chronology(table: pa.Table, path: Path) -> Sequence[np.ndarray]:
    source, video = (_codes(table[name]) for name in ("source", "video"))
    source_start = table["source_start"].to_numpy()
    given = ~np.isnan(source_start)
    num_clips, num_given = np.bincount(source), np.bincount(source, weights=given)
    mixed = (num_given > 0) & (num_given < num_clips)
    if mixed.any():
        row = int(np.flatnonzero(mixed[source] & ~given)[0])
        name = table["source"][row].as_py()
        raise ValueError(
            f"{path}:{line_of(path, row)}: source_start is missing, though other clips of source {name!r} have it; "
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
