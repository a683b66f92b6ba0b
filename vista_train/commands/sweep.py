"""Try several learning rates on the very same samples: short runs of a recipe that differ in `train.lr` alone, each
with the warm-up and decay of a run of `--steps` steps. Exit code 1 where every run failed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vista_train.config import load_recipe
from vista_train.evaluation.report import write_json
from vista_train.sweep.curves import judge, table
from vista_train.sweep.plot import plot
from vista_train.sweep.runs import planned, sweep


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change")
    parser.add_argument(
        "--rates", required=True, help="peak learning rates, such as 1e-5,3e-5,1e-4; parts with a rate of their own "
        "keep its proportion to train.lr",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps of each run, warm-up and decay included")
    parser.add_argument("--out", type=Path, help="where the runs go (default: the recipe's output with -sweep behind)")
    parser.add_argument(
        "--launch", metavar="COMMAND", help="what starts the runs, such as 'accelerate launch --num_processes 8' "
        "(default: this Python, on one device)",
    )  # fmt: skip
    parser.add_argument("--keep-checkpoints", action="store_true", help="keep those of finished runs")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, not as a table")


def run(arguments: argparse.Namespace) -> int:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    out = arguments.out or Path(f"{recipe.output}-sweep")
    runs = planned(recipe, _rates(arguments.rates), arguments.steps, out)
    curves = sweep(runs, out, arguments.launch, arguments.keep_checkpoints)
    judged = judge(curves, arguments.steps)
    result = {"recipe": arguments.recipe, **judged.to_json(), "plot": str(out / "sweep.png")}
    write_json(out / "sweep.json", result)
    plot(judged, out / "sweep.png", Path(arguments.recipe).stem)
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(f"{table(judged)}\nplot {out / 'sweep.png'}; numbers {out / 'sweep.json'}")
    return 1 if all(curve.failure for curve in curves) else 0


def _rates(text: str) -> list[float]:
    try:
        return [float(rate) for rate in text.split(",")]
    except ValueError:
        raise ValueError(f"--rates is {text!r}; write numbers, such as 1e-5,3e-5,1e-4") from None
