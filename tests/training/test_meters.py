"""What a step is worth in FLOPs, as its samples came and whatever the row; and what share of a GPU's peak that is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vista_train.config import Recipe
from vista_train.data.collate import PackedCollator
from vista_train.data.dataset import VistaDataset
from vista_train.models.base import Compute
from vista_train.train import train
from vista_train.training.meters import StepMeters, peak_named, peak_of
from vista_train.types import Encoded, Failure

COMPUTE = Compute(
    language_params=1000, language_layers=3, language_width=8, vocab_size=50,
    vision_params=70, vision_layers=2, vision_width=4,
)  # fmt: skip


def meters(**changes: Any) -> StepMeters:
    figures: dict[str, Any] = dict.fromkeys(StepMeters.__dataclass_fields__, 0)
    return StepMeters(**{**figures, "waited_samples": (), "peak_tflops": None, "devices": 1, **changes})


def lost(position: int) -> Encoded:
    """A slot that holds nothing but its failure."""
    empty = torch.zeros(0, dtype=torch.int64)
    frames = torch.zeros((0, 3, 56, 56), dtype=torch.uint8)
    return Encoded(position, "lost", empty, empty, frames, failures=(Failure(position, 0, "a.mp4", "gone"),))


def test_rates_are_of_one_device_and_its_peak() -> None:
    step = meters(seconds=4.0, flops=8e15, devices=2, peak_tflops=2000.0, tokens=100)
    assert (step.tflops, step.mfu, step.tokens_per_second) == (1000.0, 0.5, 25.0)
    unknown = meters(seconds=4.0, flops=8e15).line()
    assert (unknown["tflops"], unknown["mfu"], unknown["peak_tflops"]) == (2000.0, None, None)
    assert json.loads(json.dumps(unknown))["mfu"] is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla V100-SXM2-16GB", None),
        ("cpu", None),
    ],
)
def test_a_gpu_has_the_peak_of_its_data_sheet(name: str, tflops: float | None) -> None:
    assert peak_named(name) == tflops


def test_a_cpu_has_no_peak() -> None:
    assert peak_of(torch.device("cpu")) is None


@pytest.mark.parametrize(("window", "tokens"), [(None, 9), (20, 9), (9, 9), (4, 9), (1, 9)])
def test_attention_counts_the_pairs_that_see_each_other(window: int | None, tokens: int) -> None:
    bare = replace(COMPUTE, language_passes=1, attention_width=32, window=window)
    # A diagonal counts half, as where a causal square is taken for half of a whole one.
    pairs = sum(min(at + 1, window or tokens) - 0.5 for at in range(min(tokens, window or tokens)))
    pairs += sum(window for at in range(window or tokens, tokens))
    products = 2 * 1000 * tokens + 2 * 50 * 8 * 2
    assert bare.flops(tokens, 2, 0, 0) == products + 2 * 2 * 3 * 32 * pairs


@pytest.mark.parametrize(("passes", "attention"), [(3, 3), (2, 3), (1, 1)])
def test_frozen_weights_spare_their_gradients_and_attention_has_none(passes: int, attention: int) -> None:
    kind = replace(COMPUTE, language_passes=passes, vision_passes=passes)
    language = passes * (2 * 1000 * 10 + 2 * 50 * 8 * 3) + attention * 2 * 3 * 8 * 10**2
    vision = 5 * (passes * 2 * 70 * 6 + attention * 4 * 2 * 4 * 6**2)
    assert kind.flops(10, 3, 5, 6) == language + vision


def test_a_row_is_worth_what_its_samples_cost(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe()
    codec: Any = recipe.make_family().codec
    dataset = recipe.make_dataset(codec)
    row = PackedCollator()([*(dataset[position] for position in range(5)), lost(5)])
    costs = [dataset.plan(position).cost for position in range(5)]
    assert min(costs) > 0
    assert codec.flops(row) == pytest.approx(sum(costs), rel=1e-12)
    assert codec.flops(PackedCollator()([lost(5)])) == 0


def test_what_a_run_achieves_is_what_its_samples_came_to(
    small_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    intact = VistaDataset._encoded
    monkeypatch.setattr(VistaDataset, "_encoded", lambda *given: lost(1) if given[1] == 1 else intact(*given))
    trainer = train(small_recipe(steps=2))
    assert trainer.dataset is not None
    first, second = map(json.loads, Path(trainer.output / "log.jsonl").read_text().splitlines())
    costs = [trainer.dataset.plan(position).cost for position in range(8)]
    assert first["flops"] == pytest.approx(costs[0] + costs[2] + costs[3], rel=1e-12)
    assert second["flops"] == pytest.approx(sum(costs[4:]), rel=1e-12)
    for line in (first, second):
        assert line["tflops"] == pytest.approx(line["flops"] / line["seconds"] / 1e12)
        assert (line["devices"], line["peak_tflops"], line["mfu"]) == (1, None, None)
