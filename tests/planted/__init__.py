"""The planted bugs that `tests/mutants.py` checks the suite with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A bug, and the test that must catch it."""

    name: str
    file: str
    old: str
    new: str
    test: str
