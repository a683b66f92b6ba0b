"""What a log says of its rate: smoothing, quarters, divergence, and which of several did best."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from vista_train.sweep.curves import Curve, curve_of, judge, table
from vista_train.sweep.plot import plot

NAN, INF = math.nan, math.inf


def curve(rate: float, *losses: float, **more: Any) -> Curve:
    norms = more.pop("norms", (1.0,) * len(losses))
    return Curve(rate, tuple(range(1, len(losses) + 1)), losses, norms, **more)


def falling(rate: float, to: float, steps: int = 40, **more: Any) -> Curve:
    return curve(rate, *(to + (8 - to) * 0.8**step for step in range(steps)), **more)


def test_a_log_becomes_a_curve(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 9.0 - step, "grad_norm": step / 2, "labels": 3, "lr": 1e-3} for step in (1, 2, 4)]
    lines.insert(2, {"step": 3, "loss": 0.0, "grad_norm": 0.0, "labels": 0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(text + '{"step": 5, "loss": 1')
    assert curve_of(tmp_path, 1e-3) == Curve(1e-3, (1, 2, 4), (8.0, 7.0, 5.0), (0.5, 1.0, 2.0))
    evaluated = [
        {"step": 0, "loss": 7.5, "losses": {"plain": 7.5}},
        {"step": 4, "loss": 4.5, "losses": {"plain": 4.0, "needle": 5.0}},
        {"step": 5, "loss": None},
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evaluated))
    found = curve_of(tmp_path, 1e-3, "exit code 2: no")
    assert (found.held_out, found.held_out_by, found.failure) == (4.5, {"plain": 4.0, "needle": 5.0}, "exit code 2: no")
    assert curve_of(tmp_path / "none", 1e-3) == Curve(1e-3)


def test_smoothing_makes_up_for_what_the_first_steps_lack() -> None:
    assert curve(1e-3, 5.0, 5.0, 5.0).smoothed == pytest.approx([5.0] * 3)
    assert curve(1e-3, 1.0, 2.0, 3.0).smoothed == pytest.approx([1.0, 2.9 / 1.9, (0.81 + 1.8 + 3) / 2.71])


def test_quarters_are_those_of_the_whole_run() -> None:
    whole = curve(1e-3, *map(float, range(10)))
    smooth = whole.smoothed
    assert whole.quarters(10) == [smooth[2], smooth[4], smooth[7], smooth[9]]
    # One that was cut short never came to the others.
    assert whole.quarters(20) == [smooth[4], smooth[9], None, None]
    assert Curve(1e-3).quarters(20) == [None] * 4
    assert curve(1e-3, 1.0).quarters(1) == [1.0] * 4
    gap = Curve(1e-3, (1, 2, 4), (3.0, 2.0, 1.0), (1.0,) * 3)
    assert gap.quarters(4) == [gap.smoothed[0], gap.smoothed[1], gap.smoothed[1], gap.smoothed[2]]


@pytest.mark.parametrize(
    ("losses", "more", "told"),
    [
        ((5.0, NAN, NAN), {}, "the loss is nan at step 2"),
        ((5.0, 6.0, INF), {}, "the loss is inf at step 3"),
        ((5.0, 50.0, 500.0), {}, "the loss ends at 202.6, and began at 5"),
        ((5.0, 4.0), {"norms": (1.0, NAN)}, "the gradient norm is nan at step 2"),
        ((5.0, 4.0), {"held_out": INF}, "the held-out loss is inf"),
        # A scaler of half precision lets such steps pass.
        ((5.0, 4.0), {"norms": (INF, 1.0)}, None),
        ((5.0, 4.0, 3.0), {}, None),
        # Steps are not alike: one that learns nothing ends a little above as often as a little below.
        ((5.0, 5.2, 5.1), {}, None),
        ((5.0, 5.6, 5.6), {}, "the loss ends at 5.421, and began at 5"),
        ((), {}, None),
    ],
)
def test_what_is_divergence(losses: tuple[float, ...], more: dict[str, Any], told: str | None) -> None:
    assert curve(1e-3, *losses, **more).divergence == told


def test_where_it_began_is_a_tenth_of_the_run() -> None:
    found = curve(1e-3, 9.0, 5.0, *[7.2] * 18)
    assert found.began == 7.0
    assert found.divergence is None


def test_the_lowest_of_what_is_stable_is_best() -> None:
    curves = [
        curve(1.0, 8.0, 1.0, NAN),
        falling(1e-3, 3.0),
        falling(1e-4, 2.0),
        falling(1e-5, 6.0),
        falling(1e-2, 1.0, failure="exit code 2: no"),
    ]
    found = judge(curves, 40)
    assert [one.rate for one in found.curves] == [1e-5, 1e-4, 1e-3, 1e-2, 1.0]
    assert (found.best, found.largest_stable, found.is_held_out) == (1e-4, 1e-3, False)
    lines = table(found).splitlines()
    assert lines[0].split() == ["rate", "loss", "at", "1/4", "1/2", "3/4", "end", "largest", "grad", "norm"]
    assert [line.split()[0] for line in lines[1:6]] == ["1e-05", "0.0001", "0.001", "0.01", "1"]
    assert lines[2].endswith("  best")
    assert lines[4].endswith("  failed: exit code 2: no")
    assert lines[5].endswith("  diverged: the loss is nan at step 3")
    assert lines[6:] == ["best by smoothed training loss: 0.0001; largest that was stable: 0.001"]


def test_the_held_out_loss_decides_where_every_stable_run_has_one() -> None:
    curves = [falling(1e-4, 3.0, held_out=4.0), falling(1e-3, 2.0, held_out=5.0), curve(1.0, 8.0, NAN)]
    found = judge(curves, 40)
    assert (found.best, found.is_held_out) == (1e-4, True)
    assert "held-out" in table(found).splitlines()[0]
    assert "best by held-out loss: 0.0001" in table(found)
    assert "that is the smallest rate that was tried" in table(found)
    assert judge([*curves, falling(1e-5, 1.0)], 40).best == 1e-5


def test_where_nothing_is_stable_nothing_is_best() -> None:
    found = judge([curve(1.0, 8.0, NAN), Curve(2.0, failure="exit code 1: no")], 2)
    assert (found.best, found.largest_stable) == (None, None)
    assert table(found).splitlines()[-1] == "no rate was stable; try smaller ones"
    assert table(judge([Curve(2.0, failure="x")], 2)).splitlines()[-1] == "no run came to its end"


def test_json_has_null_for_what_is_no_number() -> None:
    found = judge(
        [curve(1.0, 8.0, NAN, norms=(1.0, NAN)), falling(1e-3, 3.0, held_out=3.5, held_out_by={"plain": 3.5})], 40
    )
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    good, bad = said["runs"]
    assert (said["best"], said["largest_stable"], said["decided_by"]) == (1e-3, 1e-3, "held-out loss")
    assert (bad["loss"], bad["largest_grad_norm"], bad["is_stable"]) == (None, None, False)
    assert bad["diverged"] == "the loss is nan at step 2"
    assert (good["held_out"], good["held_out_by"], good["diverged"]) == (3.5, {"plain": 3.5}, None)
    assert good["loss_at_quarters"][3] == good["loss"] == pytest.approx(falling(1e-3, 3.0).last)


@pytest.mark.parametrize(
    "curves",
    [
        [falling(1e-4, 3.0), falling(1e-3, 2.0), curve(1.0, 8.0, 1e9, NAN)],
        [curve(1.0, NAN), Curve(2.0, failure="x")],
        [curve(1e-4, 5.0, held_out=4.0)],
    ],
)
def test_every_sweep_has_a_picture(curves: list[Curve], tmp_path: Path) -> None:
    plot(judge(curves, 40), tmp_path / "sweep.png", "a recipe")
    assert (tmp_path / "sweep.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
