"""Small runs on the rendered world, in fp32 on the CPU, for the tests of the step and the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vista_train.config import Recipe, parse_recipe


@pytest.fixture
def small_recipe(world: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of a few seconds a step: a quarter-size canvas, five kinds of sample. Keywords change `train`."""

    def make(output: str = "run", **train: Any) -> Recipe:
        return parse_recipe(small_recipe_data(world, tmp_path, output, **train))

    return make


def small_recipe_data(world: Path, folder: Path, output: str = "run", **train: Any) -> dict[str, Any]:
    return {
        "output": str(folder / output),
        "seed": 3,
        "family": {"name": "tiny", "vision_width": 32, "language_width": 64, "language_layers": 2, "seed": 1},
        "view": {"frames": 4, "width": 56, "height": 56, "min_pixels": 7},
        "data": {"root": str(world), "cache": str(folder / "cache")},
        "augment": {
            "temporal_needle": {},
            "two_needle": {},
            "spatio_temporal_needle": {},
            "video_grid": {"rows": 2, "columns": 2},
            "plain": {},
        },
        "train": {
            "steps": 4,
            "batch_samples": 4,
            "max_row_tokens": 4096,
            "workers": 0,
            "save_every": 2,
            "lr": 1e-3,
            **train,
        },
    }
