"""Reading: how the rows of a source are read, and which of its clips are taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vista_train.data import records, shards
from vista_train.data.layouts import LAYOUTS, Layout, columns_of, needed
from vista_train.data.records import HUB, Record
from vista_train.data.tars import Tars

MANIFEST, COLUMNS, FOLDER, WEBDATASET = "manifest", "columns", "folder", "webdataset"


@dataclass(frozen=True)
class Reading:
    """How the rows of a source are read, and which of its clips are taken."""

    format: str = MANIFEST
    """`manifest` is this project's own JSON lines; panda70m, internvid, openvid1m, miradata, finevideo, llava,
    vista400k and videochat2 are published layouts; `columns` is any other, by `columns` alone; `folder` is a folder of
    videos with a .txt or .json beside each; `webdataset` is a folder of tars with all of that in them."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column holds a key of the manifest: `a.b` inside objects, `a[]` a list with one entry a clip, `x/{a}.mp4`
    put together, `a|b` the first that is there; `span` is a pair of start and end. On top of the format's own."""
    tars: str | None = None
    """The videos lie in tars: a pattern of these, below the data root, such as `VISTA-400K/*/*.tar`. They are read
    where they lie."""
    split: str = "train"
    """The split of a data set on the Hub (`hub:owner/name`)."""
    revision: str | None = None
    """Its revision; default, the newest."""
    limit: int | None = None
    """Take the first so many clips."""
    share: float = 1.0
    """Take so much of the sources, chosen by their names: all clips of one source, or none."""
    held_out: float = 0.0
    """Hold so much of the sources out, chosen by their names."""
    part: Literal["train", "held_out"] = "train"
    """Which of them to take: those that are not held out, or those that are."""

    def __post_init__(self) -> None:
        if self.format not in (MANIFEST, COLUMNS, FOLDER, *LAYOUTS):
            raise ValueError(
                f"format is {self.format!r}; choose one of {', '.join((MANIFEST, COLUMNS, FOLDER, *LAYOUTS))}"
            )
        if self.columns and self.format in (MANIFEST, FOLDER):
            raise ValueError(f"columns are given, but format is {self.format!r}, which has its own; choose `columns`")
        if self.tars is not None and self.format in (MANIFEST, FOLDER, WEBDATASET):
            raise ValueError(f"tars are given, but format is {self.format!r}; choose a published one, or `columns`")
        if self.format not in (MANIFEST, FOLDER):
            columns_of(self.format, self.columns)
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie above 0, and be 1 at most")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must be 0 or more, and below 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; it must be 1 or more")
        if self.part == "held_out" and not self.held_out:
            raise ValueError("part is held_out, but nothing is held out; give held_out a share")

    @property
    def is_plain(self) -> bool:
        """Whether every line of a manifest is taken as it stands."""
        return self == Reading()

    @property
    def as_json(self) -> str:
        """A text that says all of it."""
        return json.dumps(asdict(self) | {"columns": dict(self.columns)}, sort_keys=True)

    def takes(self, source: str) -> bool:
        """Whether the clips of a source are taken; it depends on the source's name, and on nothing else."""
        if self.share < 1 and _place(source, "share") >= self.share:
            return False
        is_held_out = self.held_out > 0 and _place(source, "held out") < self.held_out
        return is_held_out == (self.part == "held_out")

    def open(self, path: str | Path, root: Path) -> tuple[list[Any], Iterator[Record]]:
        """What tells the source from what it was, and its lines as a manifest's, each with where it stands."""
        if self.format == FOLDER:
            folder = Path(path)
            if not folder.is_dir() or not folder.resolve().is_relative_to(root.resolve()):
                raise ValueError(f"{path}: format is folder, so it must be a folder below the data root, {root}")
            return records.folder_stamp(folder), records.folder_records(root, folder)
        if self.tars is not None:
            tars = Tars(root, self.tars)
            known, lines = replace(self, tars=None).open(path, root)
            return [known, tars.stamp], tars.found(lines)
        columns = columns_of(self.format, self.columns)
        if self.format == WEBDATASET:
            files = shards.files_of(root, Path(path))
            return records.stamps_of(files), _lines(shards.records(root, files), Layout(columns, self.format))
        names = needed(columns, self.format)
        if str(path).startswith(HUB):
            name = str(path).removeprefix(HUB)
            stamp, found = records.hub_records(name, self.split, self.revision, names)
            return [stamp], _lines(found, Layout(columns, self.format))
        files = records.files_of(Path(path))
        return records.stamps_of(files), _lines(records.records(files, names), Layout(columns, self.format))


def _lines(found: Iterator[Record], layout: Layout) -> Iterator[Record]:
    for where, record in found:
        if isinstance(record, ValueError):
            yield where, record
            continue
        try:
            for line in layout.lines(record):
                yield where, line
        except ValueError as error:
            yield where, error


def _place(source: str, what: str) -> float:
    """A number from 0 to 1 for a source."""
    digest = hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8, person=what.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64
