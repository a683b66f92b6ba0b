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


def rewind(path: Path, next_position: int) -> list[Failure]:
    """Keep only what was lost before `next_position`, and return the rest: what a resumed run will replay."""
    failures = read(path)
    before = [failure for failure in failures if failure.position < next_position]
    scratch = path.with_suffix(".rewound")
    scratch.unlink(missing_ok=True)
    append(scratch, before)
    if before:
        scratch.replace(path)
    else:
        path.unlink(missing_ok=True)
    return [failure for failure in failures if failure.position >= next_position]
