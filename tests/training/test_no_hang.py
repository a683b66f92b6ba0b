"""Ranks whose rows have nothing in common: no step hangs, and each is the one that a single process takes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.training.random_rows import (
    EVALUATED,
    FAMILIES,
    WAYS,
    differences,
    launch_ranks,
    make_checkpoints,
    trajectory,
    unlike,
)

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("launches")]
STEPS = {"zero3": {"tiny": 8, "mantis": 5, "qwen2_5_vl": 5}, "fsdp2": dict.fromkeys(FAMILIES, 3)}
"""scripts/test_long.sh has 200 of each family."""
LIMIT_SECONDS = 60
"""A step takes less than one."""


@pytest.fixture(scope="module")
def folder(make_checkpoint: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("no_hang")
    make_checkpoints(make_checkpoint.make, made)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, list[tuple[float, float]]]:
    return {kind: trajectory(kind, folder, max(steps.get(kind, 0) for steps in STEPS.values())) for kind in FAMILIES}


@pytest.mark.parametrize("kind", STEPS["zero3"])
def test_ranks_draw_unlike_rows(folder: Path, kind: str) -> None:
    """Else the others would show nothing."""
    counts = unlike(kind, folder, STEPS["zero3"][kind])
    assert counts["labels"] >= STEPS["zero3"][kind] - 1
    assert counts["empty"] > 0
    assert counts["head_calls"] > 0
    assert counts["tower_passes"] > STEPS["zero3"][kind] // 2
    assert (counts["mlp_tiles"] > 0) == ("tiled_mlp" in WAYS[kind])


@pytest.mark.parametrize("engine", STEPS)
def test_no_step_hangs_and_each_is_that_of_one_process(
    folder: Path, alone: dict[str, list[tuple[float, float]]], engine: str
) -> None:
    found = launch_ranks(engine, STEPS[engine], folder, LIMIT_SECONDS, 1200)
    assert {kind: len(steps) for kind, steps in found.items()} == {
        kind: steps + steps // EVALUATED + (steps + EVALUATED - 2) // EVALUATED for kind, steps in STEPS[engine].items()
    }
    told = {kind: differences(steps, alone[kind]) for kind, steps in found.items()}
    assert told == {kind: [] for kind in STEPS[engine]}
