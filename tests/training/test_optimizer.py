"""The learning rate is a function of the step, and only matrices decay."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from vista_train.models.adapters import LoraSettings
from vista_train.training.optimizer import (
    OptimizerSettings,
    PartSettings,
    adamw,
    rate_share,
    set_rates,
    trainable_groups,
)


def parts() -> dict[str, list[tuple[str, nn.Parameter]]]:
    return {
        part: [(f"{part}.weight", nn.Parameter(torch.ones(2, 2))), (f"{part}.bias", nn.Parameter(torch.ones(2)))]
        for part in ("vision", "projector", "language")
    }


def test_warm_up_then_a_cosine_to_its_end() -> None:
    settings = OptimizerSettings(warmup_share=0.1, final_share=0.2)
    shares = [rate_share(step, 100, settings) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1.0
    assert shares[55] == pytest.approx(0.6)
    assert all(before > after for before, after in itertools.pairwise(shares[10:]))
    assert 0.2 < shares[-1] < 0.201


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert rate_share(0, 10, OptimizerSettings(warmup_share=0.0)) == 1.0


def test_groups_by_part_and_decay() -> None:
    settings = OptimizerSettings(lr=1e-3, vision=False, projector=2e-5, weight_decay=0.1)
    given = parts()
    groups = trainable_groups({part: iter(named) for part, named in given.items()}, settings)
    assert [(group["part"], group["names"], group["peak_lr"], group["weight_decay"]) for group in groups] == [
        ("projector", ["projector.weight"], 2e-5, 0.1),
        ("projector", ["projector.bias"], 2e-5, 0.0),
        ("language", ["language.weight"], 1e-3, 0.1),
        ("language", ["language.bias"], 1e-3, 0.0),
    ]
    assert [parameter.requires_grad for _, parameter in given["vision"]] == [False, False]
    optimizer = adamw(groups, settings)
    set_rates(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-5, 1e-5, 5e-4, 5e-4]


def test_beside_adapters_the_weights_are_frozen() -> None:
    given = parts()
    for name in ("lora_A.default.weight", "lora_magnitude_vector.default.weight"):
        ndim = 2 if "lora_A" in name else 1
        given["language"].append((f"language.{name}", nn.Parameter(torch.ones([2] * ndim))))
    settings = OptimizerSettings(lr=1e-3, vision=False, projector=False, language=PartSettings(2e-5, LoraSettings()))
    groups = trainable_groups({part: iter(named) for part, named in given.items()}, settings)
    assert [(group["names"], group["peak_lr"], group["weight_decay"]) for group in groups] == [
        (["language.lora_A.default.weight"], 2e-5, 0.01),
        (["language.lora_magnitude_vector.default.weight"], 2e-5, 0.0),
    ]
    assert [parameter.requires_grad for _, parameter in given["language"]] == [False, False, True, True]


def test_a_section_takes_the_rate_of_all_unless_it_has_its_own() -> None:
    lora = LoraSettings(r=3)
    settings = OptimizerSettings(lr=1e-3, vision=PartSettings(lora=lora), projector=PartSettings(2e-5), language=False)
    assert [settings.rate(part) for part in ("vision", "projector", "language")] == [1e-3, 2e-5, 0.0]
    assert settings.loras == {"vision": lora}
    assert settings.full == ("projector",)
    assert (lora.shape["alpha"], LoraSettings(alpha=5).shape["alpha"]) == (6.0, 5.0)


@pytest.mark.parametrize(
    ("vision", "projector", "language", "passes"),
    [
        (True, True, True, (3, 3)),
        (False, True, True, (3, 1)),
        (False, True, False, (2, 1)),
        (PartSettings(lora=LoraSettings()), False, False, (2, 2)),
        (False, False, PartSettings(lora=LoraSettings()), (2, 1)),
        (PartSettings(1e-5), False, PartSettings(1e-5), (3, 3)),
    ],
)
def test_work_is_three_passes_where_weights_train_and_two_where_gradients_pass(
    vision: bool | PartSettings, projector: bool, language: bool | PartSettings, passes: tuple[int, int]
) -> None:
    assert OptimizerSettings(vision=vision, projector=projector, language=language).passes == passes


def test_a_section_cannot_freeze_its_part() -> None:
    with pytest.raises(ValueError, match=r"lr is 0; it must lie between 0 and 1 \(a part is frozen by false\)"):
        PartSettings(lr=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", -1.0), ("vision", -1e-5), ("clip_norm", 0.0), ("warmup_share", 1.5), ("weight_decay", -0.1)],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"train.{field} is {value}"):
        OptimizerSettings(**{field: value})  # type: ignore[arg-type]


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing would train"):
        OptimizerSettings(vision=False, projector=False, language=False)
