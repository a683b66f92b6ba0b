"""Decoded pictures kept on disk, for whoever wants them again: bounded, and shared by the processes of a machine."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from vista_train.video.decode.base import Wanted
from vista_train.video.decode.packets import Anomaly, PacketIndex

PAGE_BYTES = 4096
OVERHEAD_BYTES = PAGE_BYTES
"""What a picture takes on disk beyond its bytes, at most."""
WAIT_SECONDS = 5.0
"""How long a process waits for another one that writes; then it does without."""
AGING_SECONDS = 60
"""How old a picture's last use may be noted as too old; noting every use would make every look a change."""
EVICTED_SHARE = 0.1
"""When there is no room, so much of it is made at once."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS pictures (key BLOB PRIMARY KEY, used INTEGER, bytes INTEGER, content BLOB);
CREATE INDEX IF NOT EXISTS by_use ON pictures (used, bytes);
"""


class FrameCache:
    """Pictures by key, in one SQLite file in `folder`, on a disk of this machine.

    No more than `max_bytes` are kept, and 64 MiB of journal beside: pictures that were used longest ago make way.
    Nothing that goes wrong with it (a full disk, a damaged file, another process that holds it long) costs more than to
    decode anew.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"data.frame_cache_gib is {max_bytes / 2**30:g}; it must be above 0")
        self.path, self.max_bytes = Path(folder) / "frames.sqlite", max_bytes
        self._owner = 0
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"].parent, state["max_bytes"])  # type: ignore[misc]

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What there is of some pictures."""
        with suppress(sqlite3.Error, OSError), self._lock:
            connection, now = self._open(), int(time.time())
            found: dict[bytes, bytes] = {}
            aged: list[bytes] = []
            for key in keys:
                row = connection.execute("SELECT used, content FROM pictures WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = row[1]
                    if row[0] < now - AGING_SECONDS:
                        aged.append(key)
            if aged:
                with suppress(sqlite3.OperationalError), connection:
                    connection.executemany("UPDATE pictures SET used = ? WHERE key = ?", [(now, key) for key in aged])
            return found
        return {}

    def put(self, pictures: Mapping[bytes, bytes]) -> None:
        """Keep some pictures, if there is room for them at all."""
        new = sum(len(content) + OVERHEAD_BYTES for content in pictures.values())
        if not pictures or new > self.max_bytes:
            return
        with suppress(sqlite3.Error, OSError), self._lock:
            connection, now = self._open(), int(time.time())
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                (held,) = connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM pictures").fetchone()
                if held + new > self.max_bytes:
                    self._evict(connection, held + new - self.max_bytes + int(EVICTED_SHARE * self.max_bytes))
                connection.executemany(
                    "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)",
                    [(key, now, len(content) + OVERHEAD_BYTES, content) for key, content in pictures.items()],
                )

    def close(self) -> None:
        """Let go of the file; it is opened again when it is needed."""
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None

    def _evict(self, connection: sqlite3.Connection, wanted: int) -> None:
        gone, freed = [], 0
        for key, size in connection.execute("SELECT key, bytes FROM pictures ORDER BY used"):
            gone.append((key,))
            freed += size
            if freed >= wanted:
                break
        connection.executemany("DELETE FROM pictures WHERE key = ?", gone)

    def _open(self) -> sqlite3.Connection:
        """This process's connection; one made before a fork is not to be used after it."""
        if self._connection is None or self._owner != os.getpid():
            self._owner, self._connection = os.getpid(), self._connected()
        return self._connection

    def _connected(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _opened(self.path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            # Damaged; nothing in it that cannot be had again.
            for ending in ("", "-wal", "-shm"):
                Path(f"{self.path}{ending}").unlink(missing_ok=True)
            return _opened(self.path)


class Kept:
    """What of the pictures wanted of one file is kept, and what of the others is to be; nothing without a cache.

    `file` names the file as it is. A frame goes by its rank, whatever the time it was wanted for.
    """

    def __init__(self, cache: FrameCache | None, file: tuple[Any, ...], wanted: Sequence[Wanted]) -> None:
        self._cache, self._file, self._wanted = cache, file, list(wanted)
        self._numbers = list(range(len(wanted)))
        self._decoded: dict[int, bytes] = {}

    @property
    def left(self) -> list[Wanted]:
        """What has not been found."""
        return [self._wanted[number] for number in self._numbers]

    def look(self, index: PacketIndex | None) -> Iterator[tuple[int, np.ndarray]]:
        """(index into what was wanted, picture_HWC) of what is kept."""
        names = self._names(index)
        found = self._cache.get(sorted(set(names.values()))) if self._cache is not None and names else {}
        left = []
        for number in self._numbers:
            one, content = self._wanted[number], found.get(names.get(number, b""))
            picture_HWC = None if content is None else picture_of(content, one.width, one.height)
            if picture_HWC is None:
                left.append(number)
            else:
                yield number, picture_HWC
        self._numbers = left

    def through(self, decoded: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        """Pictures of what was left, as they come, by their numbers among all that was wanted."""
        for which, picture_HWC in decoded:
            number = self._numbers[which]
            if self._cache is not None:
                self._decoded[number] = picture_HWC.tobytes()
            yield number, picture_HWC

    def write(self, index: PacketIndex | None) -> None:
        """Keep what was decoded, if it can be found again."""
        names = self._names(index)
        if self._cache is not None:
            self._cache.put({names[number]: content for number, content in self._decoded.items() if number in names})

    def _names(self, index: PacketIndex | None) -> dict[int, bytes]:
        if self._cache is None or index is None:
            return {}
        names = {}
        # What the file has no more is told by whoever opens it.
        with suppress(Anomaly):
            for rank, members in index.ranks(self._wanted).items():
                for number in members:
                    one = self._wanted[number]
                    names[number] = key_of((*self._file, rank, one.width, one.height))
        return names


def key_of(parts: Iterable[Any]) -> bytes:
    """A name for the picture that these parts describe."""
    return blake2b(repr(tuple(parts)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def picture_of(content: bytes, width: int, height: int) -> np.ndarray | None:
    """picture_HWC uint8 of its bytes; None if they are not as many as there must be."""
    if len(content) != width * height * 3:
        return None
    return np.frombuffer(content, np.uint8).reshape(height, width, 3)


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    # What a power cut takes away is decoded again.
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.executescript(SCHEMA)
    return connection
