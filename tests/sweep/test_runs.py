"""Runs at several rates: what each is told to train, how they are stopped and go on, and what is said of failures."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import small_recipe_data
from vista_train.cli import main
from vista_train.config import load_recipe, parse_recipe
from vista_train.sweep.runs import at_rate, cause_in

STUB = f"{sys.executable} {Path(__file__).with_name('stub_run.py')}"


@pytest.fixture
def recipe(world: Path, tmp_path: Path) -> Path:
    """A small recipe; JSON is YAML too."""
    path = tmp_path / "small.yaml"
    data = small_recipe_data(world, tmp_path, batch_samples=2)
    path.write_text(json.dumps(data | {"augment": {"plain": {}}}))
    return path


@pytest.fixture
def swept(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """A sweep on the command line: its exit code, its JSON, and what it told."""

    def run(*more: str, launch: str = STUB, steps: int = 4) -> tuple[int, Any, str]:
        options = ["--rates", "1e-5,1e-4", "--steps", str(steps), "--out", str(tmp_path / "sweep"), "--json"]
        capsys.readouterr()
        code = main(["sweep", str(recipe), *options, *(["--launch", launch] if launch else []), *more])
        out, told = capsys.readouterr()
        return code, json.loads(out) if out else None, told

    return run


def interrupted(reached: Callable[[], bool]) -> threading.Thread:
    """Ctrl-C, as soon as it has come so far."""

    def wait() -> None:
        until = time.monotonic() + 120
        while not reached() and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_runs_differ_in_their_rate_alone(world: Path, tmp_path: Path) -> None:
    parts = {"vision": 2e-4, "projector": True, "language": {"lr": 5e-4, "lora": {"r": 4}}}
    recipe = parse_recipe(small_recipe_data(world, tmp_path, **parts))
    found = at_rate(recipe, 1e-4, 7, tmp_path / "there")
    now, before = found.make_optimizer(), recipe.make_optimizer()
    assert [now.rate(part) for part in ("vision", "projector", "language")] == pytest.approx([2e-5, 1e-4, 5e-5])
    assert now.loras == before.loras
    assert found.make_loop().num_steps(100) == 7
    was, said = recipe.model_dump(mode="json"), found.model_dump(mode="json")
    for section in (was, said):
        section["train"] |= dict.fromkeys(("lr", "vision", "language", "steps"))
        section["output"] = None
    assert said == was
    frozen = at_rate(parse_recipe(small_recipe_data(world, tmp_path, vision=False)), 1e-4, 7, tmp_path)
    assert [frozen.make_optimizer().rate(part) for part in ("vision", "language")] == [0, 1e-4]
    with pytest.raises(ValueError, match=r"train\.vision has a rate of its own; its proportion cannot be kept"):
        at_rate(parse_recipe(small_recipe_data(world, tmp_path, lr=0.0, vision=1e-4)), 1e-4, 7, tmp_path)


def test_a_sweep_runs_each_rate_once(swept, tmp_path: Path) -> None:
    code, said, _ = swept()
    assert (code, said["best"], said["largest_stable"], said["steps"]) == (0, 1e-4, 1e-4, 4)
    assert [run["logged_steps"] for run in said["runs"]] == [4, 4]
    out = tmp_path / "sweep"
    assert json.loads((out / "sweep.json").read_text()) == said
    assert (out / "sweep.png").stat().st_size > 10_000
    ran = load_recipe(out / "lr-1e-05/recipe.yaml")
    assert (ran.train.lr, ran.train.steps, ran.seed, ran.output) == (1e-5, 4, 3, str(out / "lr-1e-05"))
    # Of no more use, and large.
    assert not list(out.glob("*/step-*"))
    assert swept()[1] == said
    assert lines_of(out / "lr-1e-05/starts.txt") == [""]
    more = swept("--rates", "1e-5,2e-4", "--keep-checkpoints")[1]
    assert [run["rate"] for run in more["runs"]] == [1e-5, 2e-4]
    assert lines_of(out / "lr-1e-05/starts.txt") == [""]
    assert [path.name for path in out.glob("*/step-*")] == ["step-000004"]


def test_one_that_fails_is_told_and_stops_nobody(swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB", json.dumps({"1e-05": "fails"}))
    code, said, _ = swept()
    bad, good = said["runs"]
    assert bad["failed"] == "exit code 2: data.root is 'nowhere'; it must be a folder"
    assert (bad["logged_steps"], bad["is_stable"]) == (1, False)
    assert (code, said["best"], good["logged_steps"]) == (0, 1e-4, 4)
    monkeypatch.setenv("STUB", json.dumps({"1e-05": "fails", "0.0002": "fails"}))
    assert swept("--rates", "1e-5,2e-4")[0] == 1
    monkeypatch.setenv("STUB", "{}")
    code, said, _ = swept()
    assert (code, [run["failed"] for run in said["runs"]]) == (0, [None, None])
    starts = [lines_of(tmp_path / f"sweep/{name}/starts.txt") for name in ("lr-1e-05", "lr-0.0001")]
    assert starts == [["fails", "fails", ""], [""]]


GONE = "another process of the run is gone or does not answer"
SCORED = "vista_train: step 0: held-out loss 5.5"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ([SCORED, "vista_train: lr is -1; it must be 0"], "lr is -1; it must be 0"),
        (["  0%|  | 0/4vista_train: rank 1: no folder", f"vista_train: {GONE}", "====="], "rank 1: no folder"),
        (
            [
                SCORED,
                "[rank1]: Traceback (most recent call last):",
                "[rank1]: torch.OutOfMemoryError: CUDA out of memory.",
                f"vista_train: rank 0: {GONE}",
                "    raise ChildFailedError(",
                "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
                "=======",
            ],
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
        ([f"vista_train: {GONE}", "====="], GONE),
        (["Killed"], "Killed"),
        ([], "nothing was told"),
    ],
)
def test_the_cause_is_told_among_all_that_launchers_say(lines: list[str], cause: str) -> None:
    assert cause_in("\n".join(lines)) == cause


def test_a_run_that_somebody_else_stopped_is_not_finished(swept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB", json.dumps({"1e-05": "is stopped"}))
    code, said, _ = swept("--rates", "1e-5")
    told = "stopped from outside after step 2; the same command goes on"
    assert (code, said["best"], said["runs"][0]["failed"]) == (1, None, told)
    monkeypatch.setenv("STUB", "{}")
    assert swept("--rates", "1e-5")[1]["runs"][0]["logged_steps"] == 4


def test_ctrl_c_reaches_ranks_behind_a_launcher_and_the_sweep_goes_on(
    swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "sweep/lr-1e-05"
    monkeypatch.setenv("STUB", json.dumps({"1e-05": "waits"}))
    asked = interrupted(lambda: len(lines_of(run / "log.jsonl")) == 1)
    code, _, told = swept()
    asked.join()
    assert code == 130
    assert "interrupted at a rate of 1e-05 after step 1; the same command goes on" in told
    assert (run / "stopped.json").exists()
    assert not (tmp_path / "sweep/lr-0.0001").exists()
    monkeypatch.setenv("STUB", "{}")
    code, said, _ = swept()
    assert (code, [one["logged_steps"] for one in said["runs"]]) == (0, [4, 4])
    assert [json.loads(line)["step"] for line in lines_of(run / "log.jsonl")] == [1, 2, 3, 4]
    assert lines_of(run / "starts.txt") == ["waits", ""]


def test_ctrl_c_twice_ends_a_run_that_does_not_listen(swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "sweep/lr-1e-05"
    monkeypatch.setenv("STUB", json.dumps({"1e-05": "is deaf"}))
    first = interrupted(lambda: len(lines_of(run / "log.jsonl")) == 1)
    second = interrupted(lambda: not first.is_alive() and time.sleep(0.5) is None)
    since = time.monotonic()
    code, _, told = swept()
    second.join()
    assert code == 130
    assert "Ctrl-C again ends it at once" in told
    assert time.monotonic() - since < 30
    # Nobody is left who writes there.
    assert swept("--rates", "1e-4")[0] == 0


def test_what_cannot_be_meant_is_told_before_anything_runs(swept, tmp_path: Path) -> None:
    assert swept("--rates", "1e-5")[0] == 0
    for more, message in (
        (["--rates", "1e-5,x"], "write numbers, such as"),
        (["--rates", "1e-5,0"], "write numbers above 0"),
        (["--rates", "1e-5,0.00001"], "the same twice"),
        (["--rates", "1e-5", "--steps", "0"], "--steps is 0"),
        (["--rates", "1e-5", "--steps", "9"], "lr-1e-05 was run by another recipe (train.steps 4 is now 9); choose"),
        (["--rates", "1e-5", "seed=4"], "another recipe (seed 3 is now 4)"),
        (
            ["--rates", "3e-5", "--launch", "no-such-launcher -n 8"],
            "starts with 'no-such-launcher', which cannot be run",
        ),
    ):
        code, _, told = swept(*more)
        assert code == 2
        assert message in told
    assert not (tmp_path / "sweep/lr-3e-05/log.jsonl").exists()


def test_two_sweeps_do_not_run_in_one_folder(swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep").mkdir()
    with (tmp_path / "sweep/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, told = swept()
    assert code == 2
    assert "another sweep runs there" in told


@pytest.mark.slow
def test_real_runs_are_stopped_and_go_on_and_a_rate_that_diverges_is_not_best(swept, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    asked = interrupted(lambda: (out / "lr-0.001/log.jsonl").exists() and bool(lines_of(out / "lr-0.001/log.jsonl")))
    rates = ["--rates", "1e-3,1e6"]
    code, _, told = swept(*rates, launch="", steps=6)
    asked.join()
    assert code == 130, told
    assert (out / "lr-0.001/stopped.json").exists(), told
    assert list(out.glob("lr-0.001/step-*")), "it saved when it was stopped"
    code, said, _ = swept(*rates, launch="", steps=6)
    good, bad = said["runs"]
    assert (code, said["best"], said["largest_stable"]) == (0, 1e-3, 1e-3)
    assert [json.loads(line)["step"] for line in lines_of(out / "lr-0.001/log.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert (good["failed"], good["diverged"], good["logged_steps"]) == (None, None, 6)
    assert bad["diverged"]
    assert not bad["is_stable"]
    # The very same samples: before the first update the rate has no say.
    first = [json.loads(lines_of(out / name / "log.jsonl")[0]) for name in ("lr-0.001", "lr-1000000.0")]
    assert first[0]["loss"] == first[1]["loss"]
    assert (first[0]["tokens"], first[0]["labels"]) == (first[1]["tokens"], first[1]["labels"])
