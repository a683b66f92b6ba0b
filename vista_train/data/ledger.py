"""The ledger: one JSON line for every attempt that was lost, with position, key and reason."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from vista_train.types import Failure

NO_POSITION = -1
"""The position of a clip that was left out before any sample was made of it."""


def append(path: Path, failures: Iterable[Failure]) -> None:
    """Add failures to the ledger at `path`, each on a line of its own."""
    lines = [json.dumps(asdict(failure)) + "\n" for failure in failures]
    if lines:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(lines)


def read(path: Path) -> list[Failure]:
    """All failures in the ledger at `path`; none if there is no such file. A line cut short by a kill is left out."""
    if not path.exists():
        return []
    failures = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            failures.append(Failure(**json.loads(line)))
        except json.JSONDecodeError:
            continue
    return failures


def pending(path: Path) -> Path:
    """Where the losses wait that a resumed run has yet to come to; beside the ledger at `path`."""
    return path.with_suffix(".pending.jsonl")


def known(path: Path, next_position: int) -> list[Failure]:
    """Every loss from `next_position` on that this ledger, or the ones before it, have seen: what a resumed run
    must replay, however often it is resumed."""
    found = [*read(path), *read(pending(path))]
    return list(dict.fromkeys(failure for failure in found if failure.position >= next_position))


def rewind(path: Path, next_position: int) -> None:
    """Keep only what was lost before `next_position`; the rest waits in `pending` until it is lost again. A run that
    starts over, at 0, has nothing to replay."""
    later = known(path, next_position) if next_position else []
    _rewrite(pending(path), later)
    _rewrite(path, [failure for failure in read(path) if failure.position < next_position])


def _rewrite(path: Path, failures: list[Failure]) -> None:
    scratch = path.with_suffix(".rewound")
    scratch.unlink(missing_ok=True)
    append(scratch, failures)
    if failures:
        scratch.replace(path)
    else:
        path.unlink(missing_ok=True)
