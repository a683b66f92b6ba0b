"""Benchmarks still run after what they measure has changed; their times are nobody's test."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]


def figures(name: str, *options: object) -> Any:
    done = subprocess.run(
        [sys.executable, f"scripts/bench/{name}.py", *map(str, options), "--json"],
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=REPO,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


SMALL = ("--frames", 4, "--size", 56, "--repeats", 1)


@pytest.mark.slow
def test_every_way_to_compose_runs_in_small(tmp_path: Path) -> None:
    found = figures(
        "compose", *SMALL, "--heights", 90, "--seconds", 25, "--grid", 2, "--renders", 1, "--finalists", 1,
        "--loaders", "decord", "PyAV in order", "--out", tmp_path,
    )  # fmt: skip
    assert found["loaders"] == ["PyAV in order", "decord"]
    haystack, grid = found["cases"]["haystack 90p"], found["cases"]["grid 2x2"]
    assert (haystack["frames"], haystack["files"], grid["frames"], grid["files"]) == (4, 2, 4, 4)
    for case, small in ((haystack, "ours proxies"), (grid, "ours tiles of 48")):
        assert case["failed"] == {}
        assert case["b"] in found["loaders"]
        assert {"ours cold", "ours warm", "ours process", "ours snap", small} < set(case["cpu_seconds"])
    assert haystack["turns"]["(a) to a file"] == 1


@pytest.mark.slow
def test_growth_is_measured_with_and_without_a_table(tmp_path: Path) -> None:
    found = figures("growth", *SMALL, "--minutes", 1.25, "--height", 90, "--matroska", "--out", tmp_path)
    assert [(row["minutes"], row["kind"], row["packets"]) for row in found["figures"]] == [
        (minutes, kind, round(1800 * minutes)) for minutes in (1.25,) for kind in ("mp4", "mkv")
    ]
    assert all(row["warm"] > 0 and row["cold"] > 0 for row in found["figures"])


def test_a_start_is_told_by_its_parts(world: Path, tmp_path: Path) -> None:
    options = ("--clips", 40, "--workers", 0, "--repeats", 1, "--cold-repeats", 0)
    found = figures("start", *options, "--root", world, "--out", tmp_path)["figures"]
    assert [(row["clips"], row["sidecars"]) for row in found] == [(40, "warm")]
    assert all(0 < row["row"] < row["run"] < row["total"] for row in found)


@pytest.mark.slow
def test_the_loader_tells_where_its_time_goes(world: Path, tmp_path: Path) -> None:
    options = ("--kinds", "plain", "mix", "--workers", 1, "--samples", 2, *SMALL)
    found = figures("loader", *options, "--manifest", world / "clips.jsonl", "--out", tmp_path)["figures"]
    assert [(row["kind"], row["source"]) for row in found] == [
        (kind, source) for kind in ("plain", "mix") for source in ("originals", "small")
    ]
    for row in found:
        assert row["per_core_1"] > 0
        parts = [row[name] for name in ("compose", "decode", "convert", "paint", "encode", "pack", "rest")]
        assert min(parts) >= 0
        assert abs(sum(parts) - row["all"]) < 1e-6


@pytest.mark.slow
def test_resuming_far_into_a_plan_plans_nothing_before(world: Path) -> None:
    found = figures("resume", "--steps", 0, 5000, "--workers", 0, "--repeats", 1, "--root", world)["figures"]
    assert [(row["step"], row["planned"], row["before"]) for row in found] == [(0, 16, 0), (5000, 16, 0)]


@pytest.mark.slow
def test_dealing_is_more_even_than_packing_and_never_beats_the_bound() -> None:
    found = figures("deal", "--ranks", 8, "--seeds", 1, "--repeats", 1)["figures"]
    assert {row["row_tokens"] for row in found} == {65_536, 131_072}
    assert all(max(row["best_fit"], row["next_fit"]) < row["ours"] <= row["bound"] for row in found)


@pytest.mark.slow
def test_every_attention_agrees_with_the_dense_mask() -> None:
    found = figures("attention", "--rows", "3x20", "30,9,1", "--repeats", 1)["figures"]
    assert [row["row"] for row in found] == ["3x20", "30,9,1"]
    for row in found:
        assert {"dense", "by_sample"} <= set(row["ways"])
        for way in row["ways"].values():
            assert way["value_error"] < 1e-6
            assert way["gradient_error"] < 1e-6
            assert way["memory_mb"] >= 0


@pytest.mark.slow
def test_every_loss_agrees_with_full_logits() -> None:
    sizes = ("--tokens", 200, "--width", 32, "--vocab", 100)
    found = figures("loss", *sizes, "--repeats", 1)["figures"]
    assert set(found) == {"fp32", "bf16"}
    for name, way in found["fp32"].items():
        assert way["value_error"] < 1e-6, name
        assert way["gradient_error"] < 1e-6, name
    for name, way in found["bf16"].items():
        assert way["value_error"] < 1e-3, name
        assert way["gradient_error"] < 2e-2, name


@pytest.mark.slow
def test_every_phase_of_the_gpu_bench_runs_in_small(world: Path, tmp_path: Path) -> None:
    found = figures(
        "gpu", "--tiny", "--root", world, "--out", tmp_path, "--steps", 3, "--batch", 2, "--workers", 0
    )  # fmt: skip
    assert [(case["tuning"], case["row_tokens"]) for case in found["throughput"]] == [
        ("full", 512), ("full", 1024), ("lora", 512), ("lora", 1024),
    ]  # fmt: skip
    for case in found["throughput"]:
        for part in ("ours", "beside", "bound"):
            assert case[part]["tokens_per_second"] > 0
        assert 0 <= case["ours"]["data_wait"] <= 1
    assert {name: (case["frames"], case["at_least"]) for name, case in found["longest"].items()} == {
        "plain": (16, True),
        "spared": (16, True),
    }


def test_the_longest_row_is_found_by_doubling_and_halving() -> None:
    gpu = script("gpu")
    for limit, most in ((0, 8192), (1, 8192), (37, 8192), (1000, 8192), (9000, 8192)):
        tried: list[int] = []
        found = gpu.most_that_fit(lambda at, tried=tried, limit=limit: tried.append(at) or at <= limit, 512, most)
        assert found <= min(limit, most) <= found * gpu.PRECISE + 1
        assert len(set(tried)) == len(tried) < 16


def test_the_bound_is_what_its_formula_says() -> None:
    """One sample of 100 tokens, 10 labels and two frames of 4 patches, counted by hand."""
    gpu = script("gpu")
    compute = gpu.Compute(1000, 2, 8, 50, 300, 3, 4, language_passes=2, vision_passes=1)
    rates = {"matmul_tflops": 1e-6, "attention_tflops": {"100": {"forward": 5e-7, "both": 2.5e-7}}}
    found = gpu.bound(compute, [(100, 10, 2, 4)], False, rates)
    products = 2 * 1000 * 100 + 2 * 50 * 8 * 10
    seen = 2 * 2 * 8 * 100**2
    vision = 2 * (2 * 300 * 4 + 4 * 3 * 4 * 4**2)
    seconds = (3 * products + vision) / 1e6 + seen / 5e5 + 3 * seen / 2.5e5
    assert abs(found["tokens_per_second"] - 100 / seconds) < 1e-9 * 100 / seconds


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", REPO / "scripts" / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
