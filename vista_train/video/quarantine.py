"""Quarantine: which files are not tried again, known at once to all processes that share it."""

from __future__ import annotations

import hashlib

import torch

from vista_train.video.decode.base import KINDS

SLOTS = 1 << 16
"""Files that can be held. More than that are tried every time."""
PROBES = 32
NAMES = tuple(KINDS)
COSTLY = ("MediaTimeout", "MediaCrashed")
"""Failures that have cost a process, and maybe were an attack: one is enough."""
NOBODYS_FAULT = ("(SIGKILL)", "(SIGALRM)")
"""How reasons end where a process was killed from outside: for the machine's memory, or after it was stopped."""


class Quarantine:
    """Files by key, each with how it failed and the training position from which on it is refused.

    It lies in memory that data workers share with whoever started them, and is written without a lock: when two write
    in the same instant, one file may be forgotten, and is tried once more.
    """

    def __init__(self) -> None:
        self._table_S2 = torch.zeros((SLOTS, 2), dtype=torch.int64).share_memory_()
        """For each file: a hash of its key; its position times the kinds there are, plus the kind."""

    def add(self, key: str, kind: str, position: int = 0) -> None:
        """Refuse a file from `position` on; `kind` is the name of its error. The earliest position counts."""
        slot = self._slot(key)
        if slot is None or kind not in NAMES:
            return
        table_S2, wanted = self._table_S2.numpy(), _hash(key)
        value = position * len(NAMES) + NAMES.index(kind)
        table_S2[slot, 1] = min(value, int(table_S2[slot, 1])) if table_S2[slot, 0] == wanted else value
        table_S2[slot, 0] = wanted

    def kind(self, key: str, position: int) -> str | None:
        """How a file has failed that is refused at `position`; None for every other."""
        slot = self._slot(key)
        if slot is None:
            return None
        known, value = self._table_S2[slot].tolist()
        first, kind = divmod(value, len(NAMES))
        return NAMES[kind] if known == _hash(key) and position >= first else None

    def _slot(self, key: str) -> int | None:
        """Where a file stands or would stand."""
        wanted = _hash(key)
        table_S2 = self._table_S2.numpy()
        for step in range(PROBES):
            slot = (wanted + step) % SLOTS
            if table_S2[slot, 0] in (0, wanted):
                return slot
        return None


def is_costly(kind: str, reason: str) -> bool:
    """Whether a failure of this kind is enough to refuse a file from then on."""
    return kind in COSTLY and not reason.endswith(NOBODYS_FAULT)


def _hash(key: str) -> int:
    """Of 62 bits, and never 0."""
    return 1 + int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") // 4
