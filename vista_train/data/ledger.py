"""The ledger: one JSON line for every attempt that was lost, with position, key and reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from vista_train.redact import phrase, redacted
from vista_train.types import Failure

NAME = "ledger.jsonl"
"""Its file in the output of a run."""
NO_POSITION = -1
"""The position of a clip that was left out before any sample was made of it."""
MOST_FILES = 20
"""Files that a table names."""


def append(path: Path, failures: Iterable[Failure]) -> None:
    """Add failures to the ledger at `path`, each on a line of its own, without what is secret in foreign words."""
    lines = [json.dumps({**asdict(failure), "reason": redacted(failure.reason)}) + "\n" for failure in failures]
    if lines:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(lines)


def read(path: Path) -> list[Failure]:
    """All failures in the ledger at `path`; none if there is no such file. A line cut short by a kill is left out."""
    if not path.exists():
        return []
    failures = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            failures.append(Failure(**json.loads(line)))
        except json.JSONDecodeError:
            continue
        except (TypeError, UnicodeDecodeError):
            raise ValueError(f"{path}:{number}: this is no line of a ledger") from None
    return failures


def by_kind(failures: Iterable[Failure]) -> list[tuple[str, str, int, int]]:
    """(kind of reason, source, losses, files) of all failures, the most frequent first."""
    losses: Counter[tuple[str, str]] = Counter()
    files: dict[tuple[str, str], set[str]] = {}
    for failure in failures:
        entry = (failure.kind, failure.source or "-")
        losses[entry] += 1
        files.setdefault(entry, set()).add(failure.key)
    return [(*entry, count, len(files[entry])) for entry, count in losses.most_common()]


def summary(failures: Sequence[Failure]) -> str:
    """One line on what was lost, by kind of reason."""
    if not failures:
        return "nothing was lost"
    kinds = Counter(failure.kind for failure in failures)
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def table(failures: Sequence[Failure]) -> str:
    """What was lost by kind of reason and source, and the files that cost most, as lines of text."""
    if not failures:
        return "nothing was lost"
    entries, positions = by_kind(failures), {failure.position for failure in failures if failure.position >= 0}
    width = 2 + max(len("source"), *(len(source) for _, source, _, _ in entries))
    lines = [f"{len(failures)} losses, of {len(positions)} samples", ""]
    lines.append(f"{'reason':<18}{'source':<{width}}{'losses':>7}{'files':>7}")
    lines += [f"{kind:<18}{source:<{width}}{count:>7}{files:>7}" for kind, source, count, files in entries]
    by_file = Counter((failure.key, failure.reason) for failure in failures)
    lines += ["", "losses  file: reason"]
    lines += [
        f"{count:>6}  {phrase(key)}: {phrase(reason)}" for (key, reason), count in by_file.most_common(MOST_FILES)
    ]
    if len(by_file) > MOST_FILES:
        lines.append(f"        and {len(by_file) - MOST_FILES} more; --json prints all")
    return "\n".join(lines)


def pending(path: Path) -> Path:
    """Where the losses wait that a resumed run has yet to come to; beside the ledger at `path`."""
    return path.with_suffix(".pending.jsonl")


def give_up(path: Path, failures: Iterable[Failure]) -> None:
    """Enter the losses that ended a run, and let the next one try all anew that its checkpoint does not have: what was
    wrong, a disk that was not there, say, will have been mended."""
    append(path, failures)
    given_up(path).touch()


def given_up(path: Path) -> Path:
    """What is there where a run ended for its losses; beside the ledger at `path`."""
    return path.with_suffix(".given_up")


def known(path: Path, next_position: int) -> list[Failure]:
    """Every loss from `next_position` on that this ledger, or the ones before it, have seen: what a resumed run
    must replay, however often it is resumed."""
    if given_up(path).exists():
        return []
    found = [*read(path), *read(pending(path))]
    return list(dict.fromkeys(failure for failure in found if failure.position >= next_position))


def rewind(path: Path, next_position: int) -> None:
    """Keep only what was lost before `next_position`; the rest waits in `pending` until it is lost again. A run that
    starts over, at 0, has nothing to replay."""
    later = known(path, next_position) if next_position else []
    _rewrite(pending(path), later)
    _rewrite(path, [failure for failure in read(path) if failure.position < next_position])
    given_up(path).unlink(missing_ok=True)


def _rewrite(path: Path, failures: list[Failure]) -> None:
    scratch = path.with_suffix(".rewound")
    scratch.unlink(missing_ok=True)
    append(scratch, failures)
    if failures:
        scratch.replace(path)
    else:
        path.unlink(missing_ok=True)
