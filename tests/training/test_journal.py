"""What a run leaves behind: one line a step, cut back where a resumed run starts, and the same to Weights & Biases."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from vista_train.data import ledger
from vista_train.training import journal
from vista_train.training.journal import Journal
from vista_train.training.meters import StepMeters, Stopwatch
from vista_train.training.report import Wait
from vista_train.types import Failure

BAD = Failure(ledger.NO_POSITION, 0, "bad.mp4", "empty")


def meters(step: int, loss: float = 1.0) -> StepMeters:
    return StepMeters(
        step=step,
        loss=loss,
        grad_norm=0.5,
        lr=1e-3,
        seconds=2.0,
        data_wait=0.25,
        waited_rank=1,
        waited_samples=(7, 9),
        tokens=3000,
        labels=100,
        frames=8,
        pictures={"file": 8},
        rows=1,
        step_efficiency=0.9,
        samples=4,
        failed=1,
        flops=4e15,
        devices=8,
        peak_tflops=1000.0,
    )


def steps_in(output: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines()]


def test_a_line_for_each_step_with_the_wait_in_its_rate(tmp_path: Path) -> None:
    book = Journal(tmp_path, num_steps=3, first_step=0)
    book.open(0, [BAD])
    for step in (1, 2):
        book.record(meters(step), [Failure(step, 0, "gone.mp4", "no such file")], num_failed=step)
    book.close()
    assert steps_in(tmp_path) == [1, 2]
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert line["tokens_per_second"] == 1500.0
    assert (line["data_wait"], line["step_efficiency"], line["failed"]) == (0.25, 0.9, 1)
    assert (line["waited_rank"], line["waited_samples"]) == (1, [7, 9])
    assert (line["tflops"], line["mfu"]) == (250.0, 0.25)
    found = ledger.read(tmp_path / "ledger.jsonl")
    assert [(failure.position, failure.key) for failure in found] == [(-1, "bad.mp4"), (1, "gone.mp4"), (2, "gone.mp4")]


def test_a_resumed_run_cuts_log_and_ledger_back_and_notes_nothing_twice(tmp_path: Path) -> None:
    first = Journal(tmp_path, num_steps=4, first_step=0)
    first.open(0, [BAD])
    for step in (1, 2, 3):
        first.record(meters(step), [Failure(4 * step - 1, 0, "gone.mp4", "no such file")], num_failed=step)
    first.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    again = Journal(tmp_path, num_steps=4, first_step=2)
    again.open(8, [BAD, Failure(-1, 0, "worse.mp4", "text")])
    again.record(meters(3, loss=2.0), [], num_failed=2)
    again.close()
    assert steps_in(tmp_path) == [1, 2, 3]
    found = ledger.read(tmp_path / "ledger.jsonl")
    assert sorted((failure.position, failure.key) for failure in found) == [
        (-1, "bad.mp4"),
        (-1, "worse.mp4"),
        (3, "gone.mp4"),
        (7, "gone.mp4"),
    ]


def test_weights_and_biases_get_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Run:
        def log(self, line: dict[str, Any], step: int) -> None:
            sent.append((step, line))

        def finish(self) -> None:
            sent.append("finished")

    monkeypatch.setattr(journal, "_start_wandb", lambda project, output: sent.append(project) or Run())
    book = Journal(tmp_path, num_steps=1, first_step=0, wandb_project="long-video")
    book.open(0, [])
    book.record(meters(1), [], num_failed=0)
    book.close()
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert [sent[0], json.loads(json.dumps(sent[1])), sent[2]] == ["long-video", [1, line], "finished"]


def test_a_stopwatch_tells_waiting_from_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 4.0, 9.0, 10.0, 11.0])
    monkeypatch.setattr("vista_train.training.meters.time.perf_counter", lambda: next(now))
    watch = Stopwatch()
    for samples in ((4,), (5, 6)):
        with watch.waiting(lambda samples=samples: samples, pytest.fail):
            pass
    assert watch.wait(rank=2) == Wait(7.0, (5, 6), 2)
    assert watch.lap() == 10.0
    assert watch.wait(rank=2) == Wait(0.0, (), 2)
    assert watch.lap() == 1.0


def test_who_waits_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vista_train.training.meters.PATIENCE_SECONDS", 0.01)
    said, twice = [], threading.Event()

    def say(seconds: float) -> None:
        said.append(seconds)
        if len(said) == 2:
            twice.set()

    with Stopwatch().waiting(lambda: (1,), say):
        assert twice.wait(10)
    assert 0.01 <= said[0] < said[1]


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    first = Journal(tmp_path, num_steps=1, first_step=0)
    with pytest.raises(ValueError, match="where another run is writing; choose another"):
        Journal(tmp_path, num_steps=1, first_step=0)
    first.close()
    Journal(tmp_path, num_steps=1, first_step=0).close()
