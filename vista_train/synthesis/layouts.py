"""Layouts: how exported samples lie on disk: files and JSON as VISTA-400K has them, or the tars of webdataset."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

from vista_train.data.journal import Draft, writing
from vista_train.video.decode.members import members_of

Record: TypeAlias = Mapping[str, Any]
"""What became of a position: its `entry`, or why there is none."""
UNREPEATABLE = ("image", "psnr_db")
"""What a tar's JSON leaves out of an entry: the name, which the file beside it has, and what encoders make anew each
time. So it is the same to the byte, whoever makes it and how often."""


class Layout(Protocol):
    """Where the files of samples go as they are made, and what becomes of them."""

    told: str
    """What it adds to the plan: another layout does not go on in the same folder."""
    folder: Path
    """Where files are made, as `<kind>/<name>.mp4`."""

    def mine(self, positions: range, shard: tuple[int, int]) -> list[int]:
        """The positions that are the shard's to make."""

    def has(self, record: Record) -> bool:
        """Whether the file of a record's entry is there."""

    def check(self, records: Mapping[int, Record]) -> None:
        """`ValueError` where what is there does not agree with what is known to have been made."""

    def enter(self, position: int, records: Mapping[int, Record]) -> None:
        """A position has its record."""

    def publish(self, records: Mapping[int, Record]) -> None:
        """All that can be made is made."""


class Files:
    """`<kind>/<name>.mp4`, and `<kind>.json` with the entries of all of them."""

    told = ""

    def __init__(self, out: Path, part: str) -> None:
        self.folder, self._part = out, part

    def mine(self, positions: range, shard: tuple[int, int]) -> list[int]:
        """Every n-th."""
        return list(positions[shard[0] - 1 :: shard[1]])

    def has(self, record: Record) -> bool:
        return (self.folder / record["kind"] / record["entry"]["image"]).is_file()

    def check(self, records: Mapping[int, Record]) -> None:
        """Files of another recipe have other names."""

    def enter(self, position: int, records: Mapping[int, Record]) -> None:
        """Nothing more is done before the end."""

    def publish(self, records: Mapping[int, Record]) -> None:
        """The JSON files, whole or as they were."""
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for record in _in_order(records):
            by_kind.setdefault(record["kind"], []).append(record["entry"])
        for kind, entries in by_kind.items():
            with Draft(self.folder / f"{kind}{self._part}.json") as draft:
                draft.add("[\n" + ",\n".join(_json(entry) for entry in entries) + "\n]")
                draft.publish()


class Tars:
    """`000012.tar`: of `size` positions from 12 x `size` on, each one's `<name>.mp4` and `<name>.json` side by side.

    Files are made in a folder beside, and a tar is packed when all the positions of it that are asked for have their
    records: beside its name, which it gets when it has been read back. Which positions a tar holds follows from its
    number alone, so any number of machines make the same tars, and later positions join those that are there.
    """

    def __init__(self, out: Path, part: str, size: int) -> None:
        if size < 1:
            raise ValueError(f"--shard-size is {size}; at least 1 sample must be in a tar")
        self._out, self._size, self._asked = out, size, dict[int, set[int]]()
        self.told, self.folder = f" in tars of {size}", out / f".made{part}"
        self._inside: dict[int, dict[str, tuple[int, int]]] = {}

    def mine(self, positions: range, shard: tuple[int, int]) -> list[int]:
        """Those of every n-th tar."""
        kept = [position for position in positions if position // self._size % shard[1] == shard[0] - 1]
        for position in kept:
            self._asked.setdefault(position // self._size, set()).add(position)
        return kept

    def has(self, record: Record) -> bool:
        is_packed = f"{_name(record)}.mp4" in self._members(record["position"] // self._size)
        return is_packed or (self.folder / record["kind"] / record["entry"]["image"]).is_file()

    def check(self, records: Mapping[int, Record]) -> None:
        """`ValueError` where a tar holds what the journal does not know: it would be lost when the tar is packed."""
        for number in self._asked:
            known = {name for name, _ in self._expected(number, records)}
            strangers = self._members(number).keys() - known
            if strangers:
                raise ValueError(
                    f"{self._tar(number)} holds {min(strangers)!r}, which this export has not made (another recipe, or "
                    f"another --shard); choose another place with --out, or delete it"
                )

    def enter(self, position: int, records: Mapping[int, Record]) -> None:
        number = position // self._size
        if all(other in records for other in self._asked[number]):
            self._pack(number, records)

    def publish(self, records: Mapping[int, Record]) -> None:
        """Pack what a run before had made, and not yet packed."""
        for number in self._asked:
            self._pack(number, records)
        # What is left there was given up, or made twice.
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pack(self, number: int, records: Mapping[int, Record]) -> None:
        """Write a tar anew, unless it is as it should be; what it holds already comes from itself."""
        expected = self._expected(number, records)
        if list(self._members(number)) == [name for name, _ in expected]:
            return
        target = self._tar(number)
        draft = target.with_name(f".{target.name}.part")
        digests: dict[str, str] = {}
        with writing(target):
            with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as tar:
                for name, record in expected:
                    with self._content(name, record) as (stream, size):
                        digests[name] = _add(tar, name, stream, size)
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            _read_back(draft, digests)
            draft.replace(target)
            for _, record in expected:
                (self.folder / record["kind"] / record["entry"]["image"]).unlink(missing_ok=True)
        del self._inside[number]

    def _expected(self, number: int, records: Mapping[int, Record]) -> list[tuple[str, Record]]:
        """The members of a tar in their order, each with the record of its sample."""
        there = [records[at] for at in range(number * self._size, (number + 1) * self._size) if at in records]
        return [(f"{_name(one)}{ending}", one) for one in there if "entry" in one for ending in (".mp4", ".json")]

    @contextmanager
    def _content(self, name: str, record: Record) -> Iterator[tuple[BinaryIO, int]]:
        """What is to stand under a name: words, a file that was made, or what the tar that is there has."""
        made = self.folder / record["kind"] / record["entry"]["image"]
        number = record["position"] // self._size
        if name.endswith(".json"):
            text = _json(_said(record)).encode() + b"\n"
            yield io.BytesIO(text), len(text)
        elif made.is_file():
            with made.open("rb") as stream:
                yield stream, os.fstat(stream.fileno()).st_size
        else:
            offset, size = self._members(number)[name]
            with self._tar(number).open("rb") as stream:
                stream.seek(offset)
                yield stream, size

    def _members(self, number: int) -> dict[str, tuple[int, int]]:
        """The names in a tar in their order, with first byte and size; none where there is no tar, or a torn one."""
        if number not in self._inside:
            try:
                found = {name: (offset, size) for name, offset, size in members_of(self._tar(number))}
            except ValueError:
                found = {}
            self._inside[number] = found
        return self._inside[number]

    def _tar(self, number: int) -> Path:
        return self._out / f"{number:06d}.tar"


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.hash = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        found = self._stream.read(size)
        self.hash.update(found)
        return found


def _add(tar: tarfile.TarFile, name: str, stream: BinaryIO, size: int) -> str:
    """Add a file; the digest of its bytes. Nothing of the machine or the hour is in a tar."""
    member, hashed = tarfile.TarInfo(name), _Hashed(stream)
    member.size, member.mode = size, 0o644
    tar.addfile(member, hashed)  # type: ignore[arg-type]
    return hashed.hash.hexdigest()


def _read_back(path: Path, digests: Mapping[str, str]) -> None:
    """`ValueError` unless a tar holds these files, each whole, in this order."""
    found = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None, f"{member.name} was written as a file"
            found[member.name] = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    if list(found.items()) != list(digests.items()):
        raise ValueError(f"{path} does not hold what was written into it; is the disk sound?")


def publish_lost(out: Path, part: str, records: Iterable[Record]) -> None:
    """What could not be made, and why: `lost.jsonl`."""
    with Draft(out / f"lost{part}.jsonl") as draft:
        for record in records:
            if record["lost"]:
                draft.add(_json({"position": record["position"], "attempts": record["lost"]}))
        draft.publish()


def _said(record: Record) -> dict[str, Any]:
    entry = {key: value for key, value in record["entry"].items() if key not in UNREPEATABLE}
    return {"kind": record["kind"], **entry}


def _name(record: Record) -> str:
    """What the files of a sample are called in a tar: no dot is in it, for the first one ends the name."""
    return Path(record["entry"]["image"]).stem


def _in_order(records: Mapping[int, Record]) -> Sequence[Record]:
    """Those of samples, by position."""
    return [record for _, record in sorted(records.items()) if "entry" in record]


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False)
