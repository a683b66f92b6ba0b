"""Shards: tars in which the files of a sample lie side by side under one name, as webdataset has it, read in place."""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from vista_train.data.records import VIDEOS, Record
from vista_train.redact import phrase
from vista_train.video.decode.members import key_of, members_of
from vista_train.video.kinds import PICTURES

VIDEO, SOURCE = "__video__", "__source__"
"""What a record says beside what its .json does: where its video lies, and a name that no other record has."""
MAX_SAID_BYTES = 4 << 20
"""Of what stands beside one video; the composition of a long one takes its room."""


class Part(NamedTuple):
    """A file of a sample."""

    name: str
    offset: int
    size: int


def files_of(root: Path, path: Path) -> list[Path]:
    """The tars that a path means: itself, what it matches, or those in the folder; `ValueError` unless there are some,
    and all below the root."""
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
    elif glob.has_magic(str(path)):
        found = sorted(Path(name) for name in glob.glob(str(path)))
    else:
        found = [path]
    above = root.resolve()
    if not found or not all(file.is_file() and file.suffix == ".tar" for file in found):
        raise ValueError(f"{path}: format is webdataset, so it must be .tar files, or a folder of them")
    for file in found:
        if not file.resolve().is_relative_to(above):
            raise ValueError(f"{file}: format is webdataset, so it must lie below the data root, {root}")
    return found


def records(root: Path, files: Iterable[Path]) -> Iterator[Record]:
    """What the .json of each sample says, its caption from the .txt if it has one, and where its video, or else its
    picture, lies."""
    above = root.resolve()
    for tar in tqdm(list(files), desc="reading tars", unit="tar", delay=2, disable=None):
        below, known = tar.resolve().relative_to(above).as_posix(), set[str]()
        with tar.open("rb") as stream:
            for name, files_of_it in _samples(tar):
                where = f"{tar}:{name}"
                try:
                    parts = {named(part.name)[1]: part for part in files_of_it}
                    record = _record(parts, stream) | {SOURCE: f"{below}/{name}", VIDEO: _seen(parts, below)}
                    _check_once(name in known or len(parts) < len(files_of_it))
                    known.add(name)
                    yield where, record
                except (ValueError, RecursionError) as error:
                    yield where, ValueError(phrase(str(error)))


def named(name: str) -> tuple[str, str]:
    """The name that the files of a sample share, up to the first dot after the folders, and what follows that dot."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return (path.parent / stem).as_posix().lstrip("/") if stem else "", ending.lower()


def _samples(tar: Path) -> Iterator[tuple[str, list[Part]]]:
    """The files that follow one another and share a name."""
    members = (Part(*member) for member in members_of(tar))
    # A name that begins with its dot is that of what some systems put beside, and between, files of their own accord.
    own = (part for part in members if named(part.name)[0])
    for name, group in itertools.groupby(own, lambda part: named(part.name)[0]):
        yield name, list(group)


def _check_once(is_twice: bool) -> None:
    if is_twice:
        raise ValueError("the tar has it, or a file of it, twice; what belongs together cannot be told")


def _record(parts: Mapping[str, Part], stream: BinaryIO) -> dict[str, Any]:
    said = json.loads(_text(parts["json"], stream)) if "json" in parts else {}
    if not isinstance(said, dict):
        raise ValueError(f"its .json holds {said!r:.60}; it must be an object")
    return said | ({"caption": _text(parts["txt"], stream).strip()} if "txt" in parts else {})


def _text(part: Part, stream: BinaryIO) -> str:
    if part.size > MAX_SAID_BYTES:
        raise ValueError(f"{part.name} has {part.size} bytes; {MAX_SAID_BYTES} are the most")
    return os.pread(stream.fileno(), part.size, part.offset).decode()


def _seen(parts: Mapping[str, Part], tar: str) -> str:
    """The key of the video; of the picture where there is none."""
    for kinds in (VIDEOS, PICTURES):
        found = [part for ending, part in parts.items() if f".{ending}" in kinds]
        if len(found) > 1:
            raise ValueError(f"it has {' and '.join(part.name for part in found)}; which one is meant cannot be told")
        if found:
            name = PurePosixPath(found[0].name).as_posix().lstrip("/")
            return key_of(tar, name, found[0].offset, found[0].size)
    raise ValueError(f"it has no video and no picture, only .{', .'.join(parts)}")
