"""Does composing teach? A controlled study on a rendered world, from random weights, in one command.

    python scripts/study/run.py --size cpu --out out/study

Arms draw the same clips, questions, options and letters, and differ in what is shown: A2 the clip that is asked about,
alone and repeated; B the composed video. All of a seed go on from one common start. `--size cpu` trains A2 and B,
`--seeds 3` with multiple choice and three seeds, `--size gpu` all arms (with `--smoke`, so short that it only shows
that all of it runs). What is done is not done again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import report
import torch
from arms import arm_of
from exam import LENGTHS, OPTIONS, Item, make_exam
from lessons import exam_family, train_arm, train_base
from marks import Mark, read_marks, take, without_looking, write_marks
from sizes import LENGTH, Size, size_of
from text_only import guessed
from world import make_world

from vista_train.data.sources import ClipSource

EXAM_SEED = 7
"""The exam is the same for every arm and seed."""
CHECKED = "B"
"""The arm whose learner is asked with nothing to see: the one that has learnt to look."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--seeds", type=int, help="training seeds; default, 1 for cpu and 3 for gpu")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="default, the size's: A2 B, or all")
    parser.add_argument("--out", type=Path, default=Path("out/study"), help="the folder for everything")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="arms trained side by side")
    parser.add_argument("--smoke", action="store_true", help="two steps of everything: nothing is learnt")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--job", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    size = size_of(asked.size, asked.seeds, asked.smoke)
    try:
        arms = tuple(arm_of(name).name for name in asked.arms or size.arms)
    except ValueError as error:
        parser.error(str(error))
    if asked.job:
        job(size, asked.out, asked.job[0], int(asked.job[1]))
        return 0
    _check_same(asked.out, size)
    began = time.monotonic()
    made = make_world(asked.out / "world", size, 0, asked.jobs)
    print(f"world: {made} clips made, {time.monotonic() - began:.0f} s", flush=True)
    given = [part for part in (arguments or sys.argv[1:]) if part != "--json"]
    for jobs in ([("base", seed) for seed in range(size.seeds)], [(a, s) for s in range(size.seeds) for a in arms]):
        with ThreadPoolExecutor(max(1, asked.jobs)) as pool:
            list(pool.map(lambda one: _run(given, asked.out, *one), jobs))
    return conclude(size, asked.out, arms, time.monotonic() - began, asked.json)


def _check_same(out: Path, size: Size) -> None:
    """A folder holds one study: stop with a sentence where another one was begun in it."""
    told = json.dumps(dataclasses.asdict(size), indent=2)
    path = out / "study.json"
    if path.is_file() and path.read_text(encoding="utf-8") != told:
        raise SystemExit(f"study: {out} holds a study of other settings ({path}); name another folder by --out")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(told, encoding="utf-8")


def _run(given: Sequence[str], out: Path, name: str, seed: int) -> None:
    """One arm of one seed, in a process of its own of one thread; what it prints goes to a file."""
    folder = folder_of(out, name, seed)
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    began, command = time.monotonic(), [sys.executable, __file__, *given, "--job", name, str(seed)]
    env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **os.environ}
    with (folder / "printed.txt").open("w", encoding="utf-8") as printed:
        code = subprocess.run(command, stdout=printed, stderr=subprocess.STDOUT, env=env, check=False).returncode
    if code:
        raise SystemExit(f"study: {name} of seed {seed} ended with {code}; {folder / 'printed.txt'} says why")
    (folder / "done").touch()
    print(f"{name} of seed {seed}: {time.monotonic() - began:.0f} s", flush=True)


def folder_of(out: Path, name: str, seed: int) -> Path:
    return out / f"seed_{seed}" / name


def job(size: Size, out: Path, name: str, seed: int) -> None:
    """Train one arm, or the common start, and mark its exams."""
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    world, folder, start = out / "world", folder_of(out, name, seed), folder_of(out, "base", seed)
    base = train_base(size, world, start, seed)
    if name == "base":
        return
    trained = train_arm(size, world, folder / "run", base, name, seed)
    family, items = exam_family(size, trained, LENGTH * LENGTHS[-1]), exam_of(size, world)
    letters = size.multiple_choice > 0
    write_marks(folder / "marks.json", take(family, world, items, letters=False))
    if letters:
        write_marks(folder / "letters.json", take(family, world, items, letters=True))
    if name == CHECKED:
        for check, unseen in without_looking(items).items():
            write_marks(folder / f"{check}.json", take(family, world, unseen, letters=False))


def exam_of(size: Size, world: Path, seed: int = EXAM_SEED) -> list[Item]:
    """The exam; with another seed, one that draws otherwise from the same clips."""
    names = ("held_out_clips", "held_out_haystacks")
    clips, haystacks = (ClipSource(world / f"{name}.jsonl", world, world / "cache") for name in names)
    return make_exam(size, list(clips), list(haystacks), seed)


def leaks(size: Size, out: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Right and asked, by check and skill: with nothing to see, and for a classifier of words alone."""
    found: dict[str, dict[str, list[bool]]] = {}
    for check in ("blank", "removed"):
        for mark in read_marks(folder_of(out, CHECKED, 0) / f"{check}.json"):
            found.setdefault(f"{CHECKED}, {check}", {}).setdefault(mark.skill, []).append(mark.is_right)
    items = exam_of(size, out / "world")
    more = dataclasses.replace(size, needles_a_cell=4 * size.needles_a_cell, questions_a_cell=8 * size.questions_a_cell)
    # It learns from questions drawn as the exam's are: what words can tell, they tell it.
    chosen = guessed(exam_of(more, out / "world", EXAM_SEED + 1), items, EXAM_SEED)
    for item, is_right in zip(items, chosen, strict=True):
        found.setdefault("words alone", {}).setdefault(item.skill, []).append(is_right)
    return {check: {skill: (sum(hits), len(hits)) for skill, hits in skills.items()} for check, skills in found.items()}


def conclude(size: Size, out: Path, arms: Sequence[str], seconds: float, as_json: bool) -> int:
    """Tables, plots and JSON of all that was marked; 1 where a leak check fails."""
    marks: dict[str, list[list[Mark]]] = {
        arm: [read_marks(folder_of(out, arm, seed) / "marks.json") for seed in range(size.seeds)] for arm in arms
    }
    shown = {
        arm: json.loads((folder_of(out, arm, 0) / "run" / "exposure.json").read_text(encoding="utf-8")) for arm in arms
    }
    told: dict[str, object] = {"seconds": round(seconds, 1), "exposure": shown}
    holds, parts = True, ["what was shown, seed 0, and how far from B", report.exposure_table(shown)]
    if CHECKED in arms:
        checks = leaks(size, out)
        table, holds = report.leak_table(checks)
        parts += ["", table]
        told["leaks"] = checks
    parts += ["", f"right answers in %, open questions, likelihood over {OPTIONS} options; {size.seeds} seed(s)"]
    parts += [report.arm_table(marks)]
    parts += [part for skill in ("needle", "inset", "grid") for part in ("", report.cell_table(marks, skill))]
    if size.multiple_choice:
        letters = {a: [read_marks(folder_of(out, a, s) / "letters.json") for s in range(size.seeds)] for a in arms}
        parts += ["", "multiple choice, mean over all turns of the options", report.arm_table(letters)]
        told["letters"] = _brief(letters)
    if {"A2", "B"} <= set(arms):
        found = report.at_1x(marks, "B", "A2")
        clear = "clear of zero" if found.is_clear else "not clear of zero"
        parts += ["", f"B less A2, needles at 1x: {found.told()} points, unit: {found.unit}; {clear}"]
        told["b_less_a2_at_1x"] = dataclasses.asdict(found)
    parts += ["", f"{seconds:.0f} s; leak checks {'hold' if holds else 'FAIL'}; plots and JSON in {out}"]
    text = "\n".join(parts)
    (out / "report.txt").write_text(text + "\n", encoding="utf-8")
    report.plot_bars(marks, out / "bars.png")
    report.plot_heat(marks, out / "needles.png")
    report.write_json(out / "report.json", marks, told)
    print(text, flush=True)
    if as_json:
        print(json.dumps(told | {"right": _brief(marks)}))
    return 0 if holds else 1


def _brief(marks: Mapping[str, Sequence[Sequence[Mark]]]) -> dict[str, dict[str, float]]:
    return {
        arm: {
            name: round(statistics.fmean(report.share(report.of(found, which)) for found in seeds), 4)
            for name, which in report.COLUMNS.items()
        }
        for arm, seeds in marks.items()
    }


if __name__ == "__main__":
    sys.exit(main())
