"""A recipe on the small world, its dataset, and a browser where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.preview.browser import Browser, found


@pytest.fixture
def recipe(world: Path, tmp_path: Path) -> Path:
    data = {
        "family": {"name": "tiny", "vision_width": 32, "language_width": 64, "language_layers": 2},
        "view": {"frames": 4, "width": 56, "height": 56, "min_pixels": 7},
        "data": {"root": str(world)},
        "augment": {"spatial_needle": {}, "temporal_needle": {}, "plain": {}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = found()
    if program is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium); VISTA_TRAIN_CHROMIUM may name one")
    opened = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
