"""Manifests: JSONL checked line by line, then held on disk as Arrow so that ten million clips cost no memory."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, get_args

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from vista_train.data.reading import MANIFEST, Reading
from vista_train.data.records import KINDS, Record
from vista_train.data.sidecars import cache_folder, key_of, publish
from vista_train.redact import phrase, redacted
from vista_train.video.composition import QAKind

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
SOURCE = list(FEATURES).index("source")
REFUSED = pa.schema([("where", pa.string()), ("reason", pa.string())])
QA_KEYS = frozenset(("question", "answer", "distractors", "kind", "clips"))
QA_KINDS = get_args(QAKind)


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
        for where, line in lines:
            try:
                if isinstance(line, ValueError):
                    raise line
                rows.append(check.values(line))
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
        if path.suffix.lower() in KINDS and path.suffix.lower() != ".jsonl":
            raise ValueError(f"{path} is no manifest, which is JSON lines; say by `format` and `columns` what it is")
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
        return self.values(_parsed(line))

    def values(self, data: dict[str, Any]) -> tuple:
        """The same of a line that has been read."""
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
            "" if data.get("caption") is None and data.get("qa") else _text(data, "caption"),
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
            pairs.append(pair | {"distractors": wrong or []} | _asked_about(entry, where))
        return json.dumps(pairs) if pairs else None


def _asked_about(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """What a question is about, `kind` and number of `clips`, where that is not the one clip by itself."""
    kind, clips = entry.get("kind"), entry.get("clips")
    if kind is not None and kind not in QA_KINDS:
        raise ValueError(f"{where}kind is {kind!r:.60}; it must be one of {', '.join(QA_KINDS)}")
    is_one = kind in (None, "clip")
    clips = 1 if clips is None and is_one else clips
    if isinstance(clips, bool) or not isinstance(clips, int) or (clips != 1 if is_one else clips < 2):
        right = "1 for a question about one clip" if is_one else f"2 or more for one of kind {kind}"
        raise ValueError(f"{where}clips is {clips!r:.60}; it must be {right}")
    return {} if is_one else {"kind": kind, "clips": clips}


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
