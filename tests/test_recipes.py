"""Every recipe in the repository can be loaded, and is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from vista_train.config import load_recipe

REPO = Path(__file__).parents[1]
RECIPES = sorted((REPO / "recipes").rglob("*.yaml"))


def test_there_are_recipes():
    assert RECIPES, f"no recipe under {REPO / 'recipes'}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_a_recipe_loads(path):
    recipe = load_recipe(path)
    assert recipe.make_mix()
    assert sum(item.weight for item in recipe.make_mix()) > 0
    assert recipe.data.manifests
    assert not Path(recipe.output).is_absolute()
    assert recipe.output not in [load_recipe(other).output for other in RECIPES if other != path]
