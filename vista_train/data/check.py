"""Check before you train: every file that a manifest names is inspected once, and the lines that hold are written anew.

What was found is kept in a journal beside the output as it comes, so that a check may be stopped at any moment and goes
on when it is started again; what it writes in the end is the same, to the byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from vista_train.data.crew import Crew, terminable
from vista_train.data.findings import Inspect, finding, judged, members_of, renewed, untimed_source
from vista_train.data.journal import Draft, Journal, records
from vista_train.data.manifest import Manifest, open_manifest
from vista_train.data.sidecars import key_of
from vista_train.video.decode import MediaMissing
from vista_train.video.decode.members import stat_of
from vista_train.video.isolate import IsolationError
from vista_train.video.kinds import is_words
from vista_train.video.media import Media

PORTION = 1 << 16
BAR_SECONDS = 30.0
"""How often the progress is shown where nobody watches it move."""


class Interrupted(Exception):
    """The check was told to stop; the message says how far it got, and how it goes on."""


@dataclass(frozen=True)
class Outcome:
    """What a check has found and written."""

    clean: Path
    report: Path
    num_clean: int
    seconds: float
    """Of video, in the clean lines."""
    refused: Mapping[str, int]
    """How many lines, by kind."""
    num_files: int
    num_inspected: int
    """Of the files, those that this run has looked at; what others say was known from one before."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.refused.items()))
        return (
            f"{self.num_files} files, {self.num_inspected} of them inspected now\n"
            f"{self.num_clean} lines are clean, {self.seconds:.1f} s of video: {self.clean}\n"
            f"{sum(self.refused.values())} lines are refused{f' ({kinds})' if kinds else ''}: {self.report}"
        )


def check_manifest(
    manifest: str | Path,
    media: Media,
    out: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    cache: str | Path | None = None,
    retry: bool = False,
    inspect: Inspect | None = None,
) -> Outcome:
    """Inspect the files of a manifest, and write its clean lines to `out` and the others' faults to a report.

    `out` is by default `<name>.clean.jsonl` beside the manifest; the report stands beside it. `shard` (i, n), i from
    1, takes every n-th file and all of its lines. `workers` (default: the cores there are) files are inspected at a
    time, by `inspect` (default: the media's). A file whose journal entry has its size and modification time is not
    looked at again, one that failed only with `retry`. `ValueError` for what the user can mend, `Interrupted` when the
    process is told to stop.
    """
    path, workers = Path(manifest), num_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one must look into the files")
    if not media.root.is_dir():
        raise ValueError(f"root {media.root} is not a folder; it must be the one that the manifest's paths start from")
    if not path.is_file():
        raise ValueError(f"manifest {path} is not a file")
    clean, report = outputs(path, out, shard)
    journal_path = clean.with_name(f"{clean.name}.journal")
    looked = Looked()
    with ExitStack() as stack:
        try:
            stack.enter_context(terminable())
            opened = open_manifest(path, cache, media.allow_absolute)
            journal = stack.enter_context(closing(Journal(journal_path)))
            stack.callback(media.close)
            survey = Survey(opened, media, inspect or media.inspect, journal, shard, retry, looked)
            survey.look(workers)
            return survey.write(clean, report)
        except KeyboardInterrupt:
            how_far = "before the first file" if not looked.files else f"after {looked.files} of {looked.total} files"
            raise Interrupted(f"interrupted {how_far}; the same command goes on from there") from None
        except IsolationError as error:
            raise ValueError(f"{error}; here that is --isolate inline") from error


def outputs(manifest: Path, out: str | Path | None, shard: tuple[int, int]) -> tuple[Path, Path]:
    """Where the clean lines and the report go; `ValueError` where they cannot."""
    part = "" if shard[1] == 1 else "-{}-of-{}".format(*shard)
    stem = manifest.name.removesuffix(".jsonl")
    clean, report = (manifest.with_name(f"{stem}.{name}{part}.jsonl") for name in ("clean", "report"))
    if out is not None:
        clean = Path(out)
        report = clean.with_name(f"{clean.name.removesuffix('.jsonl')}.report.jsonl")
    for path in (clean, report):
        if path.is_dir():
            raise ValueError(f"{path} is a folder; --out must name a file to write")
        if path.resolve() == manifest.resolve():
            raise ValueError(f"{path} is the manifest itself, which is left as it is; name another file with --out")
    return clean, report


def shard_of(text: str) -> tuple[int, int]:
    """(i, n) of `i/n`; `ValueError` unless i is 1 to n."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"shard is {text!r}; it must be i/n, the i-th of n parts, with i from 1 to n")
    return int(found[1]), int(found[2])


@dataclass
class Looked:
    """How many files are done, and of how many."""

    files: int = 0
    inspected: int = 0
    """Of those, the ones that this run has looked at; what the others are was known from one before."""
    total: int = 0


class Survey:
    """One manifest's files, what the journal knows of them, and the lines that follow from it.

    A file is a number, its place among the distinct files in the order in which the manifest first names them. In
    memory are the files' names, and 16 bytes for each.
    """

    def __init__(
        self,
        manifest: Manifest,
        media: Media,
        inspect: Inspect,
        journal: Journal,
        shard: tuple[int, int],
        retry: bool,
        looked: Looked,
    ) -> None:
        self._manifest, self._root, self._inspect, self._journal = manifest, media.root, inspect, journal
        self._shard, self._retry, self._looked = shard, retry, looked
        self._videos = manifest.rows().data.table["video"]
        self._names = pc.unique(self._videos)
        self._mine = range(shard[0] - 1, len(self._names), shard[1])
        self._rules = key_of(str(self._root.resolve()), media.rules)[:12]
        # Words without anything to see have no file.
        self._files = [at for at in self._mine if not is_words(self._names[at].as_py())]
        looked.total = len(self._files)
        self._places_F2 = self._remembered()

    def look(self, workers: int) -> None:
        """Every file of the shard is inspected unless the journal knows it as it is."""
        watched = sys.stderr.isatty()
        with tqdm(
            total=len(self._files), desc="checking", unit="file", mininterval=0.1 if watched else BAR_SECONDS
        ) as progress:

            def keep(index: int, record: dict[str, Any] | None) -> None:
                if record is not None:
                    self._looked.inspected += 1
                    if record != self._record(index):
                        self._places_F2[index] = self._journal.add(record)
                self._looked.files += 1
                progress.update()

            Crew(self._fresh, keep).run(iter(self._files), max(1, min(workers, len(self._files))))

    def write(self, clean: Path, report: Path) -> Outcome:
        """The manifest's lines in their order, each to where it belongs; both files appear when they are whole."""
        num_clean, seconds, refused = 0, 0.0, Counter[str]()
        # Where lines have no times, whoever comes after one that is left out must not be joined to who came before.
        gaps: set[str | None] = set()
        with Draft(clean) as kept, Draft(report) as faults:
            for number, index, line in self._lines():
                members = members_of(line.decode())
                source = untimed_source(members)
                if index not in self._mine:
                    gaps.add(source)
                    continue
                if is_words(self._names[index].as_py()):
                    kept.add(line.decode().strip())
                    num_clean += 1
                    continue
                found = self._record(index)
                kind, reason, line_seconds = judged({key: value for key, (_, value) in members.items()}, found)
                if kind is None:
                    kept.add(renewed(members, found["found"], source is not None and source in gaps))
                    gaps.discard(source)
                    num_clean += 1
                    seconds += line_seconds
                else:
                    refused[kind] += 1
                    gaps.add(source)
                    fault = {"line": number, "video": self._names[index].as_py(), "kind": kind, "reason": reason}
                    faults.add(json.dumps(fault, ensure_ascii=False))
            faults.publish()
            kept.publish()
        return Outcome(clean, report, num_clean, seconds, refused, self._looked.total, self._looked.inspected)

    def _remembered(self) -> np.ndarray:
        """Where in the journal each of the F files stands; zeros for none. The journal is marked as this check's."""
        ours = {"checks": self._manifest.path.name, "shard": "{}/{}".format(*self._shard)}
        is_marked = False
        if self._journal.is_empty and self._shard[1] == 1:
            self._gather()
        places_F2 = np.zeros((len(self._names), 2), dtype=np.int64)
        names: list[pa.Array] = []
        places = [np.empty((0, 2), dtype=np.int64)]
        known = self._journal.records()
        while portion := list(islice(known, PORTION)):
            for _, record in portion:
                if "checks" in record and record != ours:
                    raise ValueError(
                        f"{self._journal.path} belongs to a check of {record['checks']}, shard {record.get('shard')}; "
                        f"this is one of {ours['checks']}, shard {ours['shard']}: give it an --out of its own"
                    )
                is_marked = is_marked or "checks" in record
            usable = [(place, record["video"]) for place, record in portion if record.get("rules") == self._rules]
            places.append(np.array([place for place, _ in usable], dtype=np.int64).reshape(-1, 2))
            names.append(pa.array([name for _, name in usable], type=pa.string()))
        if not is_marked:
            self._journal.add(ours)
        index = pc.fill_null(pc.index_in(pa.chunked_array(names, pa.string()), value_set=self._names), -1).to_numpy()
        # Of several entries for a file the last counts.
        places_F2[index[index >= 0]] = np.concatenate(places)[index >= 0]
        return places_F2

    def _gather(self) -> None:
        """What the shards beside have found, for the check of the whole."""
        whole = self._journal.path.name.removesuffix(".jsonl.journal")
        for part in sorted(self._journal.path.parent.glob(f"{escape(whole)}-*-of-*.jsonl.journal")):
            for _, record in records(part):
                if "checks" not in record:
                    self._journal.add(record)

    def _record(self, index: int) -> dict[str, Any]:
        offset, length = self._places_F2[index].tolist()
        return self._journal.read(offset, length) if length else {}

    def _fresh(self, index: int) -> dict[str, Any] | None:
        """What a file turns out to be now; None when the journal tells."""
        name = self._names[index].as_py()
        known = self._record(index)
        mark = None
        # What cannot be reached is told better by whoever opens it.
        with suppress(OSError):
            size, mtime_ns, _ = stat_of(os.path.join(self._root, name))
            mark = [size, mtime_ns]
        # A file that was missing may be there by now with any time; looking costs nothing.
        is_final = "found" in known or not (self._retry or known.get("failed") == MediaMissing.__name__)
        if known and is_final and mark is not None and mark == known["mark"]:
            return None
        return {"video": name, "mark": mark, "rules": self._rules, **finding(self._inspect, name)}

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """(number from 1, file, text) of every line."""
        path = self._manifest.path
        index = pc.index_in(self._videos, value_set=self._names).to_numpy()
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != self._manifest.sha256:
                raise ValueError(f"{path}: the manifest changed while its files were checked; start again, to go on")
            stream.seek(0)
            lines = ((at, line) for at, line in enumerate(stream, 1) if not line.isspace())
            rows = zip(lines, index, strict=True)
            for (at, line), file in tqdm(rows, "writing", len(index), unit="line", delay=2, disable=None):
                yield at, int(file), line


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
