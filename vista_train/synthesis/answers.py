"""Answers: what was asked, what came of it and what it cost, in a journal that being killed cannot spoil."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from vista_train.data.journal import Journal, Place
from vista_train.synthesis.budget import Budget, Prices
from vista_train.video.composition import QA, qa_from_json

MAX_RAW_CHARS = 8000
"""Of a reply that was rejected, so much is kept."""


class Try(NamedTuple):
    """A reply that could not be used: why, and what it was."""

    reason: str
    raw: str


class Answers:
    """The journal of a work folder: answers by the key of what was asked, and the budget they are paid from.

    An answer is kept as it comes, and read again when it is needed; in memory is where it stands. With `again`, what
    was given up before is as if it had never been asked. Any number of threads may use it.
    """

    def __init__(self, path: Path, prices: Prices, dollars: float | None, again: bool = False) -> None:
        self._lock = threading.Lock()
        self._answered: dict[str, Place] = {}
        self._tries: dict[str, list[Place]] = {}
        self._given_up: set[str] = set()
        self.budget = Budget(prices, dollars, self._add)
        self._journal = Journal(path)
        for place, record in self._journal.records():
            self._recall(place, record)
            self.budget.recall(record)
        if again:
            self._tries.clear()
            self._given_up.clear()
        self.budget.forfeit()

    @property
    def any(self) -> bool:
        """Whether there is an answer at all."""
        return bool(self._answered)

    def pairs(self, key: str) -> tuple[QA, ...] | None:
        """What was answered; None where nothing was."""
        place = self._answered.get(key)
        return None if place is None else qa_from_json(self._journal.read(*place)["pairs"])

    def tries(self, key: str) -> list[Try]:
        """The replies that could not be used, in order."""
        records = (self._journal.read(*place) for place in self._tries.get(key, ()))
        return [Try(record["reason"], record["raw"]) for record in records]

    def is_over(self, key: str, most_tries: int) -> bool:
        """Whether there is an answer, or none is hoped for."""
        is_given_up = key in self._given_up or len(self._tries.get(key, ())) >= most_tries
        return key in self._answered or is_given_up

    def keep(self, key: str, pairs: Iterable[QA]) -> None:
        """An answer that can be used."""
        self._keep({"key": key, "pairs": [qa.to_json() for qa in pairs]})

    def reject(self, key: str, tried: Try, is_final: bool = False) -> None:
        """A reply that cannot; `is_final` says that no other will come."""
        self._keep({"key": key, "reason": tried.reason, "raw": tried.raw[:MAX_RAW_CHARS], "is_final": is_final})

    def close(self) -> None:
        with self._lock:
            self._journal.close()

    def _keep(self, record: dict[str, Any]) -> None:
        place = self._add(record)
        with self._lock:
            self._recall(place, record)

    def _add(self, record: dict[str, Any]) -> Place:
        with self._lock:
            return self._journal.add(record)

    def _recall(self, place: Place, record: dict[str, Any]) -> None:
        if "pairs" in record:
            self._answered[record["key"]] = place
        elif "reason" in record:
            self._tries.setdefault(record["key"], []).append(place)
            if record["is_final"]:
                self._given_up.add(record["key"])
