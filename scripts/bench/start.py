"""How soon a run has its first packed row, and whether the number of its clips matters.

    python scripts/bench/start.py [--clips 2000 20000] [--workers 0 2] [--repeats 7] [--json]

The tiny family and the recipe of the quickstart, over spans of a few rendered files, all facts in the manifest; each
start is a process of its own, as a run's is, and numbers of clips take turns. `warm`: the manifest's index is there
from an earlier start; `cold` builds it first, as a run over a new manifest does.

imports: from the start of the process until the library is there. dataset: model, manifest and mix, all checked. row:
the loader, until the first row is decoded and packed. run: dataset and row together, which is what a start takes
without its imports. total: all of it. Seeds change from repeat to repeat, since the first row of another seed is
another; medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1]
FIGURES = ("imports", "dataset", "row", "run", "total")
COUNTED_FROM = "VISTA_TRAIN_BENCH_SINCE"
STEP_SECONDS = 0.0002
"""From one pair of spans of a file to the next: all of them differ."""
SPAN_SECONDS = (1.0, 1.3, 1.6, 1.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cold-repeats", type=int, default=5)
    parser.add_argument("--root", type=Path, default=Path("out/bench_start"), help="where clips are made, and kept")
    parser.add_argument("--out", type=Path, help="where manifests and sidecars go (default: the same)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--once", nargs=4, metavar=("MANIFEST", "CACHE", "SEED", "WORKERS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        manifest, cache, seed, workers = args.once
        print(json.dumps(start(args.root, manifest, cache, int(seed), int(workers))))
        return
    if not (args.root / "clips.jsonl").is_file():
        subprocess.run([sys.executable, SCRIPTS / "make_clips.py", "--out", str(args.root)], check=True)
    figures = measure(args.root, args.out or args.root, args.clips, args.workers, args.repeats, args.cold_repeats)
    print_table(figures)
    if args.json:
        print(json.dumps({"repeats": args.repeats, "figures": figures}))


def manifest_of(root: Path, out: Path, num: int) -> str:
    """A manifest of so many spans of the files that are there, each with words of its own."""
    path, lines = out.resolve() / f"spans_{num}.jsonl", []
    files = [json.loads(line) for line in (root / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    for number in range(num):
        # Pairs that follow one another, each pair a little later in its file than the one before.
        pair, second = divmod(number, 2)
        turn, which = divmod(pair, len(files))
        seconds = SPAN_SECONDS[pair % len(SPAN_SECONDS)]
        start = turn * STEP_SECONDS + second * seconds
        lines.append(
            {
                **{key: files[which][key] for key in ("video", "width", "height", "fps", "duration")},
                "caption": f"{files[which]['caption']} This is number {number}.", "source": f"{which} from {turn}",
                "start": round(start, 4), "end": round(start + seconds, 4),
            }
        )  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    # What it depends on changes with every writing.
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return str(path)


def measure(
    root: Path, out: Path, numbers: Sequence[int], workers: Sequence[int], repeats: int, cold_repeats: int
) -> list[dict[str, Any]]:
    """Medians for every number of clips and of workers, warm and cold."""
    manifests = {num: manifest_of(root, out, num) for num in numbers}
    spent: dict[Any, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for turn in range(repeats + 1):
        for num, manifest in manifests.items():
            for number in workers:
                found = started(root, manifest, out / "cache", turn, number)
                for name, value in found.items() if turn else ():
                    spent[num, number, "warm"][name].append(value)
    for turn in range(cold_repeats):
        for num, manifest in manifests.items():
            cache = out / "cache_cold"
            shutil.rmtree(cache, ignore_errors=True)
            for name, value in started(root, manifest, cache, turn, workers[0]).items():
                spent[num, workers[0], "cold"][name].append(value)
    return [
        {"clips": num, "workers": number, "sidecars": state}
        | {name: statistics.median(found[name]) for name in FIGURES}
        for (num, number, state), found in spent.items()
    ]


def started(root: Path, manifest: str, cache: Path, seed: int, workers: int) -> dict[str, float]:
    """What one start takes, in a process of its own."""
    program = [sys.executable, __file__, f"--root={root}", "--once", manifest, str(cache), str(seed), str(workers)]
    environment = {**os.environ, COUNTED_FROM: repr(time.time())}
    done = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def start(root: Path, manifest: str, cache: str, seed: int, workers: int) -> dict[str, float]:
    """As `train.py` begins, up to the first row in hand."""
    import dataclasses

    import torch

    from vista_train.config import load_recipe
    from vista_train.data.rows import RowPlanner, row_loader
    from vista_train.training.loader import Loader

    torch.set_num_threads(1)
    imported = time.time()
    entries = json.dumps([{"path": manifest}])
    overrides = [f"data.root={root}", f"data.manifests={entries}", f"data.cache={cache}", f"seed={seed}"]
    recipe = load_recipe(str(SCRIPTS.parent / "recipes" / "quickstart.yaml"), overrides)
    family = recipe.make_family()
    dataset = recipe.make_dataset(family.codec)
    made = time.time()
    loop = dataclasses.replace(recipe.make_loop(), workers=workers)
    planner = RowPlanner(dataset, loop.budget, 0, 1, 0, 1)
    loader = Loader(planner, loop, workers, 1, pin_memory=False)
    # As the loader itself begins, but that it hands out whole steps.
    next(iter(row_loader(planner, loader.workers, loader.rows_ahead, False)))
    done, since = time.time(), float(os.environ[COUNTED_FROM])
    return {
        "imports": imported - since, "dataset": made - imported, "row": done - made, "run": done - imported,
        "total": done - since,
    }  # fmt: skip


def print_table(figures: Sequence[dict[str, Any]]) -> None:
    print(
        f"{'clips':>8}{'workers':>9}{'sidecars':>10}"
        + "".join(f"{name + ' s':>11}" for name in FIGURES)
        + f"{'to least':>10}"
    )
    for found in figures:
        alike = [one for one in figures if all(one[key] == found[key] for key in ("workers", "sidecars"))]
        ratio = found["run"] / min(alike, key=lambda one: one["clips"])["run"]
        print(
            f"{found['clips']:>8,}{found['workers']:>9}{found['sidecars']:>10}"
            + "".join(f"{found[name]:>11.3f}" for name in FIGURES)
            + f"{ratio:>10.2f}"
        )


if __name__ == "__main__":
    main()
