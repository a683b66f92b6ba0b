"""Every recipe in the repository can be loaded, is what it says, and trains."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from vista_train.config import Recipe, load_recipe
from vista_train.train import train
from vista_train.training import checkpoint

REPO = Path(__file__).parents[1]
RECIPES = sorted((REPO / "recipes").rglob("*.yaml"))
KINDS = {"recipes/qwen2_5_vl.yaml": "qwen2_5_vl", "recipes/qwen3_vl.yaml": "qwen3_vl"}
"""Recipes whose family reads more than one kind of checkpoint."""
FAMILIES = {"longva", "mantis", "video_llava", "llava_onevision", "smolvlm", "internvl", "qwen_vl", "tiny"}
every = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def test_there_are_recipes() -> None:
    """One for every family, and for the paper's three one by adapters too."""
    loaded = {path.stem: load_recipe(path) for path in RECIPES if path.stem != "vista"}
    assert {recipe.family.name for recipe in loaded.values()} == FAMILIES
    for name in ("vista_longva", "vista_mantis", "vista_video_llava"):
        assert loaded[f"{name}_lora"].make_settings() == loaded[name].make_settings()
        assert loaded[f"{name}_lora"].make_view() == loaded[name].make_view()


@every
def test_a_recipe_loads(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.make_mix()
    assert sum(item.weight for item in recipe.make_mix()) > 0
    assert recipe.data.manifests
    assert not Path(recipe.output).is_absolute()
    assert recipe.output not in [load_recipe(other).output for other in RECIPES if other != path]


@pytest.mark.parametrize(
    ("name", "frames", "canvas", "rate", "vision"),
    [
        ("vista_longva", 64, (336, 336), 1e-7, False),
        ("vista_mantis", 24, (966, 546), 5e-7, True),
        ("vista_video_llava", 8, (224, 224), 1e-6, True),
    ],
)
def test_the_papers_runs(name: str, frames: int, canvas: tuple[int, int], rate: float, vision: bool) -> None:
    """Section 4.1 and supplement 8.2 of arXiv 2412.00927, and the published scripts."""
    recipe = load_recipe(REPO / "recipes" / f"{name}.yaml")
    view, loop, optimizer = recipe.make_view(), recipe.make_loop(), recipe.make_optimizer()
    assert (view.frames, view.sampling, view.canvas((1920, 1080))) == (frames, "midpoints", canvas)
    assert (loop.budget.batch_samples, loop.epochs, loop.num_steps(403_944)) == (128, 1, 3155)
    assert (optimizer.lr, optimizer.vision, optimizer.language) == (rate, vision, True)
    assert (optimizer.warmup_share, optimizer.weight_decay, optimizer.clip_norm) == (0.03, 0.01, 1.0)
    assert loop.gradient_checkpointing
    weights = {item.augment.name: item.weight for item in recipe.make_mix()}
    assert len(weights) == 7
    assert sum(weights.values()) == 403_944


def small(path: Path, world: Path, make_checkpoint: ModuleType, folder: Path) -> Recipe:
    """The recipe with its checkpoint, canvas and clips swapped for small ones; all else as it stands."""
    recipe = yaml.safe_load(load_recipe(path).to_yaml())
    if recipe["family"]["name"] != "tiny":
        kind = KINDS.get(path.relative_to(REPO).as_posix(), recipe["family"]["name"])
        side = make_checkpoint.make(kind, folder / "checkpoint").side
        native = recipe["view"]["fit"] == "native"
        recipe["family"]["path"] = str(folder / "checkpoint")
        recipe["view"] |= {"width": side * (1 + native), "height": side * (1 + native), "min_pixels": 2}
        if native:
            recipe["view"]["multiple"] = min(recipe["view"]["multiple"], side)
    recipe["output"] = str(folder / "out")
    recipe["data"] |= {"root": str(world), "cache": str(folder / "cache")}
    for manifest in recipe["data"]["manifests"]:
        manifest["path"] = "clips.jsonl"
    recipe["train"] |= {"steps": 2, "batch_samples": 4, "workers": 0, "save_every": 2}
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe))
    # Sixteen clips do not fill a grid of sixty-four.
    grid = recipe["augment"]["video_grid"]
    return load_recipe(
        folder / "small.yaml", ["augment.video_grid.rows=2", "augment.video_grid.columns=2"] if grid else []
    )


@every
def test_a_recipe_trains(path: Path, world: Path, make_checkpoint: ModuleType, tmp_path: Path) -> None:
    recipe = small(path, world, make_checkpoint, tmp_path)
    trainer = train(recipe)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < line["loss"] < 20 and line["grad_norm"] > 0 and line["failed"] == 0 for line in lines)
    assert trainer.step_number == 2
    assert checkpoint.published(tmp_path / "out")
    # What was trained is found again, whole.
    again = train(recipe)
    assert again.step_number == 2
