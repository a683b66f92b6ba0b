"""How a learner is trained: the common start of a seed, and an arm that goes on from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arms import Arm, Instead, arm_of
from learner import write_learner
from parted import PartedCodec
from sizes import LENGTH, Size
from world import QUESTIONS, SETS

from vista_train.augment import CannotComposeError
from vista_train.config import Recipe, parse_recipe
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.models.base import Family
from vista_train.training import checkpoint
from vista_train.training.loop import Trainer

MAX_TOKENS = 1024
"""More than the exam's longest question takes."""
DONORS = 4096
"""Samples whose answers are parted from them, at most."""
MIN_PIXELS = 6
NEEDLE_SECONDS = 2.5


def mix_of(size: Size) -> dict[str, Any]:
    """The seven augmentations, evenly, as the `augment` section of a recipe."""
    needle = {"sources": {"haystack": ["haystacks"], "needle": ["clips"]}}
    joined = {"sources": {"clip": ["clips"]}, "min_seconds": 8, "max_clips": 3}
    asked = {"multiple_choice": size.multiple_choice}
    rows, columns = size.grid
    return {
        "long_video_caption": joined,
        "event_relationship": joined | asked,
        "temporal_needle": needle | asked | {"max_needle_seconds": NEEDLE_SECONDS},
        "two_needle": needle | {"max_needle_seconds": 4.0},
        "spatial_needle": needle | asked | {"needle_scale": [0.35, 0.6]},
        "spatio_temporal_needle": needle | asked | {"max_needle_seconds": 4.0, "needle_scale": [0.35, 0.65]},
        "video_grid": {
            "sources": {"cell": ["clips"]},
            "rows": rows,
            "columns": columns,
            "cell_size": [size.side, size.side],
        }
        | asked,
    }


def recipe_of(size: Size, world: Path, path: Path, output: Path, seed: int, is_base: bool) -> Recipe:
    """The recipe of the common start, or of an arm's composed samples."""
    plain = {"plain": {"turns": "all", "sources": {"clip": ["clips", "haystacks"]}}}
    return parse_recipe(
        {
            "output": str(output),
            "seed": seed,
            "family": {"name": "tiny", "path": str(path), "max_tokens": MAX_TOKENS},
            "view": {
                "frames": 2 if is_base else LENGTH,
                "sampling": "midpoints" if is_base else "fps",
                "width": size.canvas,
                "height": size.canvas,
                "min_pixels": MIN_PIXELS,
            },
            "data": {
                "root": str(world),
                "isolate": "inline",
                "cache": str(world / "cache"),
                "manifests": [{"path": f"{name}.jsonl"} for name in SETS[:2]],
            },
            "augment": plain if is_base else mix_of(size),
            "train": {
                "steps": size.base_steps if is_base else size.arm_steps,
                "lr": size.base_lr if is_base else size.arm_lr,
                "batch_samples": size.batch,
                "max_row_tokens": 8 * MAX_TOKENS,
                "warmup_share": 0.1,
                "workers": 1,
                "save_every": 500,
            },
        }
    )


def study_words(world: Path) -> Iterator[str]:
    """All that is said in the world: captions, questions and answers; in sentences, too, as captions are joined."""
    for name in SETS:
        for line in (world / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from (row["caption"], f"Then: {row['caption']} Finally: {row['caption']}")
            yield from (text for qa in row["qa"] for text in (qa["question"], qa["answer"], f" {qa['answer']}"))
    yield from ("user\n", "assistant\n", *(f"{letter}. " for letter in "ABCD"))


def train_base(size: Size, world: Path, folder: Path, seed: int) -> Path:
    """The common start of a seed: from random weights, single clips and all questions about them; its checkpoint."""
    random = folder / "random"
    if not (random / "config.json").is_file():
        shutil.rmtree(random, ignore_errors=True)
        unfinished = folder / "random.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_learner(unfinished, size, study_words(world), seed)
        os.replace(unfinished, random)
    recipe = recipe_of(size, world, random, folder / "base", seed, is_base=True)
    return _trained(recipe, None)


def train_arm(size: Size, world: Path, folder: Path, base: Path, name: str, seed: int) -> Path:
    """An arm from the common start; its checkpoint. What it was shown is written down in `exposure.json`."""
    arm = arm_of(name)
    recipe = recipe_of(size, world, base, folder, seed, is_base=False)
    return _trained(recipe, arm)


def _trained(recipe: Recipe, arm: Arm | None) -> Path:
    """Train, or go on, to the last step; the newest checkpoint."""
    output = Path(recipe.output)
    done = checkpoint.published(output)
    newest = done[-1] if done else None
    if newest is not None and checkpoint.read_state(newest).step >= recipe.make_loop().num_steps(1):
        return newest
    family = recipe.make_family(str(newest) if newest else None)
    dataset = recipe.make_dataset(family.codec) if arm is None else dataset_of(recipe, family, arm)
    trainer = Trainer(
        family,
        dataset,
        output,
        recipe.make_loop(),
        recipe.make_optimizer(),
        resume_from=newest,
        recipe_text=recipe.to_yaml(),
        seed=recipe.seed,
    )
    trainer.train()
    if arm is not None:
        told = exposure(dataset, recipe.make_loop().num_steps(1) * recipe.make_loop().budget.batch_samples)
        (output / "exposure.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return checkpoint.published(output)[-1]


def dataset_of(recipe: Recipe, family: Family, arm: Arm) -> VistaDataset:
    """The arm's samples: at every position the clips, questions, options and letters that B has there."""
    composed = recipe.make_dataset(family.codec)
    mix = [
        Ingredient(Instead(of=item.augment, how=arm.shown[item.augment.name]), item.weight, item.sources)
        for item in composed.mix
    ]
    dataset = VistaDataset(
        composed.sources, mix, composed.codec, composed.media, seed=recipe.seed, epoch_samples=composed.epoch_samples
    )
    if arm.is_parted:
        donors = (dataset.sample(position) for position in range(min(len(dataset), DONORS)))
        dataset.codec = PartedCodec(family.codec, list(donors), tuple(QUESTIONS.values()))
    return dataset


def exposure(dataset: VistaDataset, num_samples: int) -> Mapping[str, float]:
    """What so many samples show: frames, visual tokens, labels, and how often any clip is part of one."""
    totals = dict.fromkeys(("samples", "frames", "tokens", "labels", "clips"), 0)
    for position in range(num_samples):
        try:
            composed = dataset.planned(position)
        except CannotComposeError:
            continue
        totals["samples"] += 1
        totals["frames"] += len(composed.plan.times)
        totals["tokens"] += composed.plan.tokens
        totals["labels"] += composed.plan.labels
        totals["clips"] += len({clip.path for clip in composed.sample.shown.clips()})
    return totals


def exam_family(size: Size, trained: Path, longest: int) -> Family:
    """The trained learner with a view of as many frames as the longest videos of the exam have seconds."""
    recipe = recipe_of(size, Path("."), trained, Path("."), 0, is_base=False)
    view = recipe.view.model_copy(update={"frames": longest})
    return recipe.model_copy(update={"view": view}).make_family()
