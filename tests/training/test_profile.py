"""A profile of some steps: a trace with every span in it, a table that adds up, and nothing else changed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vista_train import train as command
from vista_train.config import Recipe
from vista_train.models.spans import COPY, PREFIX, SPANS, span
from vista_train.train import main, train
from vista_train.training.profile import Profiled, table


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("steps=10:15", Profiled(10, 15, 0)),
        ("steps=7", Profiled(7, 7, 0)),
        ("steps=2:2,rank=3", Profiled(2, 2, 3)),
    ],
)
def test_steps_are_read(text: str, asked: Profiled) -> None:
    assert Profiled.parse(text) == asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "steps=15:10",
            "'steps=15:10'; steps count from 1, and the last one, which is included, comes after the first",
        ),
        ("steps=0:3", "steps count from 1"),
        ("10:15", "'10:15'; it must be like steps=10:15, or steps=10:15,rank=3"),
        ("steps=1:2:3", "it must be like steps=10:15"),
        ("steps=-1:2", "it must be like steps=10:15"),
        ("steps=1:2,rank=x", "it must be like steps=10:15"),
        ("", "it must be like steps=10:15"),
    ],
)
def test_what_is_no_steps_is_told(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Profiled.parse(text)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Profiled(10, 15), "asks for steps 10 to 15; this run goes from step 4 to 8"),
        (Profiled(1, 3), "asks for steps 1 to 3; this run goes from step 4 to 8"),
        (Profiled(5, 6, 2), "asks for rank 2; there are 2, counted from 0"),
    ],
)
def test_what_does_not_come_is_told(asked: Profiled, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        asked.check(done=3, num_steps=8, ranks=2)
    Profiled(1, 4).check(3, 8, 1)
    Profiled(8, 20).check(3, 8, 1)


def events_of(trace: Path) -> list[dict[str, Any]]:
    with gzip.open(trace, "rt") as file:
        return [event for event in json.load(file)["traceEvents"] if str(event.get("name")).startswith(PREFIX)]


def test_the_asked_steps_are_in_the_trace_and_no_others(
    small_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = train(small_recipe(steps=4, save_every=4), profiled=Profiled(2, 3))
    folder = trainer.output / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["steps-2-3-rank-0.json.gz", "steps-2-3-rank-0.txt"]
    log = [json.loads(line) for line in (trainer.output / "log.jsonl").read_text().splitlines()]
    events = events_of(folder / "steps-2-3-rank-0.json.gz")
    rows = log[1]["rows"] + log[2]["rows"]
    names = [event["name"].removeprefix(PREFIX) for event in events]
    assert {name: names.count(name) for name in SPANS} == {**dict.fromkeys(SPANS, rows), "optimizer": 2}
    told = (folder / "steps-2-3-rank-0.txt").read_text()
    assert told in capsys.readouterr().err
    lines = told.splitlines()
    assert lines[0].startswith("profile of steps 2 to 3 on rank 0: ")
    seconds = float(lines[0].split()[-2])
    assert seconds <= log[1]["seconds"] + log[2]["seconds"] + 0.01
    spent = {line[:20].strip(): float(line[20:].split()[0]) for line in lines[1 : len(SPANS) + 2]}
    assert sum(spent.values()) == pytest.approx(seconds, abs=0.01)
    assert spent["all else"] >= 0
    for name in ("forward vision", "forward language", "backward"):
        assert spent[name] > 0
    assert any("aten::" in line for line in lines)


def test_a_profile_changes_nothing_and_goes_on_where_a_run_was_resumed(small_recipe: Callable[..., Recipe]) -> None:
    plain = train(small_recipe(output="plain", steps=4))
    train(small_recipe(output="run", steps=2))
    resumed = train(small_recipe(output="run", steps=4), profiled=Profiled(1, 3))
    assert (resumed.output / "profile" / "steps-3-3-rank-0.json.gz").is_file()
    for one, other in zip(plain.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not (plain.output / "profile").exists()


def test_the_command_tells_what_is_wrong_before_it_begins(
    small_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    recipe = small_recipe(steps=2)
    path.write_text(recipe.to_yaml())
    for asked, said in (("steps=15:10", "--profile is 'steps=15:10'"), ("steps=5", "this run goes from step 1 to 2")):
        assert command.main([str(path), "--profile", asked]) == 2
        assert said in capsys.readouterr().err
    assert not Path(recipe.output).exists()


def test_a_span_is_nothing_without_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vista_train.models.spans.record_function", pytest.fail)
    with span(COPY):
        pass


def test_operations_are_sorted_by_the_gpus_time_where_there_is_one() -> None:
    def entry(key: str, cpu: float, gpu: float) -> SimpleNamespace:
        return SimpleNamespace(
            key=key, count=1, cpu_time_total=cpu, self_cpu_time_total=cpu, self_device_time_total=gpu
        )

    entries = [entry("slow_here", 9e6, 1e6), entry("slow_there", 1e6, 3e6), entry(PREFIX + "backward", 4e6, 0)]
    lines = table(entries, [1], 0, 10.0).splitlines()
    assert lines[0] == "profile of steps 1 to 1 on rank 0: 10.000 s"
    assert "  backward                 4.000 s   40.0%" in lines
    assert "  all else                 6.000 s   60.0%" in lines
    assert [line.split()[0] for line in lines[-2:]] == ["slow_there", "slow_here"]
    on_cpu = table([entry("quick", 1e6, 0), entry("slow", 9e6, 0)], [1], 0, 10.0).splitlines()
    assert [line.split()[0] for line in on_cpu[-2:]] == ["slow", "quick"]


def test_the_option_may_stand_before_what_is_overridden(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.yaml", "--profile", "steps=1:2", "train.steps=2"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err
