"""Benchmarks still run after what they measure has changed; their times are nobody's test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]


def figures(name: str, *options: object) -> Any:
    done = subprocess.run(
        [sys.executable, f"scripts/bench/{name}.py", *map(str, options), "--json"],
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=REPO,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_resuming_far_into_a_plan_plans_nothing_before(world: Path) -> None:
    found = figures("resume", "--steps", 0, 5000, "--workers", 0, "--repeats", 1, "--root", world)["figures"]
    assert [(row["step"], row["planned"], row["before"]) for row in found] == [(0, 16, 0), (5000, 16, 0)]


def test_dealing_is_more_even_than_packing_and_never_beats_the_bound() -> None:
    found = figures("deal", "--ranks", 8, "--seeds", 1, "--repeats", 1)["figures"]
    assert {row["row_tokens"] for row in found} == {65_536, 131_072}
    assert all(max(row["best_fit"], row["next_fit"]) < row["ours"] <= row["bound"] for row in found)
