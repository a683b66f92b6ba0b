"""The configurations of ds_configs belong together, and one that would change the step is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from vista_train.training.engines import make_accelerator, make_engine
from vista_train.training.zero import ZeroEngine

CONFIGS = Path(__file__).parents[2] / "ds_configs"
ZERO = sorted(path.stem for path in CONFIGS.glob("*.json"))


def test_there_is_one_for_every_engine() -> None:
    assert ZERO == ["zero1", "zero2", "zero3", "zero3_hpz", "zero3_offload"]
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted([*ZERO, "cpu_2", "ddp", "fsdp2"])


@pytest.mark.parametrize("name", ZERO)
def test_deepspeed_is_left_nothing_that_the_recipe_decides(name: str) -> None:
    settings = json.loads((CONFIGS / f"{name}.json").read_text())
    launch = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert launch["distributed_type"] == "DEEPSPEED"
    assert launch["deepspeed_config"]["deepspeed_config_file"] == f"ds_configs/{name}.json"
    # Accelerate refuses these beside a file of DeepSpeed's own.
    assert not {"mixed_precision", "gradient_clipping", "zero_stage"} & {*launch, *launch["deepspeed_config"]}
    assert (settings["train_micro_batch_size_per_gpu"], settings["gradient_accumulation_steps"]) == (1, 1)
    assert settings["gradient_clipping"] == settings["bf16"]["enabled"] == "auto"
    assert not {"optimizer", "scheduler", "train_batch_size"} & settings.keys()
    assert settings["zero_optimization"]["stage"] == int(re.findall(r"\d", name)[0])


def module_and_optimizer() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    module = torch.nn.Linear(2, 1)
    return module, torch.optim.AdamW(module.parameters())


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps in the DeepSpeed config is 4; it must be 1"),
        ({"train_micro_batch_size_per_gpu": 2}, "train_micro_batch_size_per_gpu in the DeepSpeed config is 2"),
        ({"gradient_clipping": 0.3}, r'gradient_clipping .* is 0.3, train.clip_norm 1.0; leave it "auto"'),
    ],
)
def test_a_config_that_would_change_the_step_is_refused(config: dict[str, Any], wrong: str) -> None:
    accelerator: Any = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=config)))
    with pytest.raises(ValueError, match=wrong):
        ZeroEngine(accelerator, *module_and_optimizer(), 1.0)


@pytest.mark.parametrize(("variable", "engine"), [("DEEPSPEED", "DEEPSPEED"), ("FSDP", "FSDP")])
def test_an_engine_that_was_asked_for_and_did_not_come_is_an_error(
    variable: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = make_accelerator()
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    with pytest.raises(ValueError, match=f"asks for {engine}, but NO came of it; is ACCELERATE_USE_CPU set"):
        make_engine(accelerator, *module_and_optimizer(), 1.0)
