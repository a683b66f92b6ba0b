"""What is written of a result: JSON, tables and plots, also of cells that nothing was asked in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vista_train.evaluation import report
from vista_train.evaluation.choices import Question
from vista_train.evaluation.heatmap import Cell, HeatMap
from vista_train.evaluation.intervals import Tally, wilson
from vista_train.evaluation.multiple_choice import Answered, ChoiceResult
from vista_train.evaluation.needle import NeedleTest
from vista_train.evaluation.scoring import Scored


@pytest.fixture
def heat() -> HeatMap:
    test = NeedleTest((8, 64, 7200), (0.0, 1.0), trials=4)
    cells = [Cell(8, 0, Tally(4, 4), Tally(0, 4), (8, 8)), Cell(8, 1, Tally(2, 4, 1), Tally(1, 4, 1), (6, 8))]
    cells += [Cell(64, depth, Tally(1, 4), Tally(0, 4), (8, 8)) for depth in (0, 1)]
    cells += [Cell(7200, depth, unseen="frames are 900 s apart") for depth in (0, 1)]
    return HeatMap(test, tuple(cells))


@pytest.fixture
def choices() -> ChoiceResult:
    answered = [
        Answered(
            Question(f"q{n}", None, "?", ("x", "y", "z"), 0, groups={"category": "object" if n < 6 else "action"}),
            (
                Scored(failure="MediaMissing: gone")
                if n == 9
                else Scored((float(n % 2 == 0), 0.5, 0.1), (True,) * 3, 8),
            ),
        )
        for n in range(10)
    ]
    return ChoiceResult("Bench", tuple(answered), shifted=False)


def test_every_cell_has_its_count_and_interval(heat, tmp_path):
    report.write_json(tmp_path / "needle.json", heat.to_json())
    found = json.loads((tmp_path / "needle.json").read_text())
    low, high = wilson(2, 4)
    assert found["cells"][1]["choice"] == {
        "right": 2, "count": 4, "failed": 1, "share": 0.5, "low": low, "high": high,
    }  # fmt: skip
    assert found["cells"][4]["choice"] is found["cells"][4]["exact"] is None
    assert found["cells"][4]["unseen"] == "frames are 900 s apart"
    assert (found["overall"]["choice"]["right"], found["overall"]["choice"]["count"]) == (8, 16)
    assert list(tmp_path.iterdir()) == [tmp_path / "needle.json"]


def test_the_table_of_a_heat_map(heat):
    lines = report.heat_table(heat).splitlines()
    assert lines[0].startswith("multiple choice:  50.0%  [28.0%, 72.0%]  of 16, 1 failed")
    assert lines[1].split() == ["depth", "8", "s", "64", "s", "2", "h"]
    assert lines[2].split() == ["0.00", "100%", "25%", "not", "seen"]
    assert "1 trials failed and count as wrong" in lines
    assert lines[-1] == "not asked at 2 h, depth 1: frames are 900 s apart"


def test_the_table_of_choices(choices):
    lines = report.choice_table(choices).splitlines()
    assert lines[0] == "all                50.0%  [23.7%, 76.3%]  of 10, 1 failed"
    assert lines[1].startswith("category: action   50.0%")
    assert lines[-2] == "chance of a guesser: 33.3%"
    assert lines[-1] == "failed, and counted as wrong: MediaMissing: gone"


def test_the_heat_map_shows_shares_as_colours(heat, tmp_path):
    path = tmp_path / "needle.png"
    report.plot_heat_map(heat, path, "model")
    pixels_HWC = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert min(pixels_HWC.shape[:2]) > 300
    # Of viridis all and none, and the grey of what was not asked.
    for colour, least in (((253, 231, 37), 0.01), ((68, 1, 84), 0.02), ((230, 230, 230), 0.05)):
        near = (np.abs(pixels_HWC - colour).max(axis=2) <= 3).mean()
        assert near > least, colour


def test_bars_and_places_that_cannot_be_written(choices, tmp_path):
    path = tmp_path / "bench.png"
    report.plot_choices(choices, path, "model")
    assert Image.open(path).size[0] > 900
    with pytest.raises(ValueError, match="cannot be written"):
        report.plot_choices(choices, tmp_path / "no/bench.png")
    with pytest.raises(ValueError, match="cannot be written"):
        report.write_json(tmp_path / "no/bench.json", {})
