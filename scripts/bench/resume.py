"""How long a run takes to its first row, from step 0 and resumed at later steps of a long plan.

    python scripts/bench/resume.py [--steps 0 5000 50000] [--workers 0 2] [--repeats 7] [--json]

The tiny family and the recipe of the quickstart, on clips that `scripts/make_clips.py` renders. Every repeat has a new
dataset, planner and loader; steps and workers take turns. Samples differ, so each repeat begins a step further on, and
medians count.

trainer: family and Trainer, made new at step 0, else with weights, optimizer and random state read back from a
checkpoint. first row: from the start of making the loader to the first row, decoded and packed, in hand. first step:
to all rows of that step. planned: calls of `dataset.plan` at positions up to the end of the step; were positions not
planned by arithmetic, the steps before would be among them. before: those at positions before the step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vista_train.config import Recipe, load_recipe
from vista_train.data.rows import RowPlanner, row_loader
from vista_train.training import checkpoint
from vista_train.training.loader import Loader
from vista_train.training.loop import Trainer

SCRIPTS = Path(__file__).parents[1]
FIGURES = ("trainer", "first_row", "first_step", "planned", "before")
Measured = dict[tuple[int, int], dict[str, list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 5_000, 50_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--root", type=Path, default=Path("out/bench_resume"), help="where clips are made, and kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not (args.root / "clips.jsonl").is_file():
        subprocess.run([sys.executable, SCRIPTS / "make_clips.py", "--out", str(args.root)], check=True)
    with TemporaryDirectory() as folder:
        measured = measure(args.root, Path(folder), args.steps, args.workers, args.repeats)
    figures = [
        {"step": step, "workers": workers, **{name: statistics.median(found[name]) for name in FIGURES}}
        for (step, workers), found in measured.items()
    ]
    print(
        f"{'workers':>8}{'step':>9}{'trainer s':>12}{'first row s':>13}{'first step s':>14}{'planned':>9}{'before':>8}"
    )
    for each in sorted(figures, key=lambda each: (each["workers"], each["step"])):
        print(
            f"{each['workers']:>8}{each['step']:>9,}{each['trainer']:>12.3f}{each['first_row']:>13.3f}"
            f"{each['first_step']:>14.3f}{each['planned']:>9.0f}{each['before']:>8.0f}"
        )
    if args.json:
        print(json.dumps({"repeats": args.repeats, "figures": figures}))


def measure(root: Path, folder: Path, steps: Sequence[int], workers: Sequence[int], repeats: int) -> Measured:
    """All figures of all repeats, by step and workers; the first round, in which files are first read, is left out."""
    last = max(steps) + repeats + 2
    overrides = [f"data.root={root}", f"data.cache={folder / 'cache'}", f"train.steps={last}", f"output={folder}/run"]
    recipe = load_recipe(str(SCRIPTS.parent / "recipes" / "quickstart.yaml"), overrides)
    saved = write_checkpoint(recipe)
    measured: Measured = defaultdict(lambda: defaultdict(list))
    for repeat in range(repeats + 1):
        for step in steps:
            for number in workers:
                found = start(recipe, saved, step + repeat, step > 0, number)
                for name, value in found.items() if repeat else ():
                    measured[step, number][name].append(value)
    return measured


def write_checkpoint(recipe: Recipe) -> Path:
    """A checkpoint after one step of the recipe."""
    family = recipe.make_family()
    trainer = Trainer(family, recipe.make_dataset(family.codec), recipe.output, recipe.make_loop())
    loader = Loader(planner_of(trainer, 0, {}), dataclasses.replace(trainer.loop, workers=0), 0, 1, False)
    rows = row_loader(loader.planner, 0, 1, False)
    trainer.step([row for _, (_, row) in zip(loader.first, rows, strict=False)])
    folder = trainer.save()
    trainer.saver.finish()
    return folder


def start(recipe: Recipe, saved: Path, step: int, is_resumed: bool, workers: int) -> dict[str, float]:
    """What it takes to the first row of a step; resumed, from the checkpoint as if it had been written there."""
    if is_resumed:
        path = saved / "training" / checkpoint.STATE
        state = checkpoint.read_state(saved)
        moved = dataclasses.replace(state, step=step, next_position=step * state.batch_samples)
        path.write_text(json.dumps(moved.to_json()), encoding="utf-8")
    since = time.perf_counter()
    family = recipe.make_family(str(saved) if is_resumed else None)
    dataset = recipe.make_dataset(family.codec)
    resume_from = saved if is_resumed else None
    trainer = Trainer(family, dataset, recipe.output, recipe.make_loop(), resume_from=resume_from)
    made = time.perf_counter()
    planned: dict[int, int] = defaultdict(int)
    first_step = trainer.step_number if is_resumed else step
    planner = planner_of(trainer, first_step, planned)
    loader = Loader(planner, dataclasses.replace(trainer.loop, workers=workers), workers, 1, pin_memory=False)
    # As the loader itself begins, but that it hands out whole steps.
    rows = iter(row_loader(planner, loader.workers, loader.rows_ahead, False))
    next(rows)
    first_row = time.perf_counter()
    for _ in loader.first[1:]:
        next(rows)
    first, end = (number * trainer.loop.budget.batch_samples for number in (first_step, first_step + 1))
    return {
        "trainer": made - since,
        "first_row": first_row - made,
        "first_step": time.perf_counter() - made,
        # Behind the step, a thread plans the next one meanwhile.
        "planned": sum(count for position, count in list(planned.items()) if position < end),
        "before": sum(count for position, count in list(planned.items()) if position < first),
    }


def planner_of(trainer: Trainer, step: int, planned: dict[int, int]) -> RowPlanner:
    """The planner of a run alone, from a step on; `planned` counts what is planned, by position."""
    dataset: Any = trainer.dataset
    plan = dataset.plan

    def counted(position: int) -> Any:
        planned[position] = planned.get(position, 0) + 1
        return plan(position)

    dataset.plan = counted
    return RowPlanner(dataset, trainer.loop.budget, step, trainer.num_steps, 0, 1)


if __name__ == "__main__":
    main()
