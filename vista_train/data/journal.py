"""Files that being killed cannot spoil: a journal that only grows, and drafts that appear when they are whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

Place: TypeAlias = tuple[int, int]
"""Where a record stands in its file: the offset of its line, and the line's length, in bytes."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system has against writing to `path`, as a `ValueError`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ValueError(f"{path} cannot be written ({why}); name a place that can with --out") from error


class Journal:
    """JSON records, a line each, at `path`; made if it is not there. One process at a time may write to it.

    A last line that was not written to its end is dropped, and a line that is no JSON object is passed over.
    `ValueError` when the file cannot be written or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            # Unbuffered: what is written here is safe from whatever happens to this process.
            self._file = path.open("a+b", buffering=0)
            self._lock()
            self._size = self._file.truncate(self._whole_bytes())

    @property
    def is_empty(self) -> bool:
        return self._size == 0

    def add(self, record: dict[str, Any]) -> Place:
        """Write a record; `ValueError` when the disk does not take it."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with writing(self.path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        place = (self._size, len(line))
        self._size += len(line)
        return place

    def read(self, offset: int, length: int) -> dict[str, Any]:
        """The record at a place; any number of threads may ask."""
        record: dict[str, Any] = json.loads(os.pread(self._file.fileno(), length, offset))
        return record

    def records(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """All records that are there, in order."""
        return records(self.path)

    def close(self) -> None:
        """Let others have it, when all of it is on the disk."""
        with writing(self.path):
            os.fsync(self._file.fileno())
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f"{self.path} is in use: another run writes to it already; wait for it, or name another place with "
                "--out"
            ) from None
        except OSError as error:
            # Some network file systems have no locks.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise

    def _whole_bytes(self) -> int:
        """Where the last whole line ends."""
        end = self._file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - (1 << 16))
            newline = os.pread(self._file.fileno(), end - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
        return 0


def records(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The whole records of the journal at `path`, which somebody may be writing, each with its place."""
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            place = (offset, len(line))
            offset += len(line)
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                continue
            if isinstance(record, dict):
                yield place, record


class Draft:
    """A text file that is written beside `target`, and takes its name when it is whole."""

    def __init__(self, target: Path) -> None:
        self._target, self._beside = target, target.with_name(f".{target.name}.part")

    def __enter__(self) -> Draft:
        with writing(self._target):
            self._file = self._beside.open("wb")
        return self

    def __exit__(self, *error: object) -> None:
        # What a full disk did not take it does not take now.
        with suppress(OSError):
            self._file.close()
        self._beside.unlink(missing_ok=True)

    def add(self, line: str) -> None:
        with writing(self._target):
            self._file.write(line.encode() + b"\n")

    def publish(self) -> None:
        """It is whole."""
        with writing(self._target):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._beside.replace(self._target)
