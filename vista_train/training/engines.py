"""Which engine a run has: what `accelerate launch` was told, in the precision that its devices can."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs
from accelerate.utils import parse_flag_from_env
from torch import nn

from vista_train.training.engine import Engine
from vista_train.training.fsdp import FsdpEngine
from vista_train.training.zero import ZeroEngine

ASKED = {"ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED, "ACCELERATE_USE_FSDP": DistributedType.FSDP}
"""What the launcher says of the engine, and what Accelerate must have made of it."""


def make_accelerator() -> Accelerator:
    """An Accelerator in bf16 where it runs on a GPU that can or is told to, else in fp32.

    Rows are dealt and moved by us: no loader is prepared, nothing dispatched.
    """
    on_gpu = torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
    half = (on_gpu and torch.cuda.is_bf16_supported()) or os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"
    # DeepSpeed does not find out by itself that there is no GPU to talk over.
    is_blind = not on_gpu and parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    handlers = [InitProcessGroupKwargs(backend="gloo")] if is_blind else []
    config = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and config.endswith(".json") and not Path(config).is_file():
        raise ValueError(
            f"deepspeed_config_file is {config!r}; there is none in {Path.cwd()}: launch from the folder that it is "
            f"relative to"
        )
    accelerator = Accelerator(mixed_precision="bf16" if half else "no", kwargs_handlers=handlers)
    load_whole(accelerator)
    return accelerator


def load_whole(accelerator: Accelerator) -> None:
    """Keep transformers from sharding, under ZeRO-3, every model while it is made, even one that is only measured."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.dschf = None


def make_engine(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float
) -> Engine:
    """The engine around a module on the CPU and its optimizer; `ValueError` for one that is not known here."""
    kind = accelerator.distributed_type
    for asked, expected in ASKED.items():
        if parse_flag_from_env(asked) and kind != expected:
            raise ValueError(
                f"the launch asks for {expected.value}, but {kind.value} came of it; is ACCELERATE_USE_CPU set, or "
                f"distributed_type in the accelerate config another?"
            )
    if kind == DistributedType.DEEPSPEED:
        return ZeroEngine(accelerator, module, optimizer, clip_norm)
    if kind == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise ValueError("fsdp_version in the accelerate config is 1; it must be 2, see ds_configs/fsdp2.yaml")
        return FsdpEngine(accelerator, module, optimizer)
    if kind not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise ValueError(f"distributed_type in the accelerate config is {kind.value}; see ds_configs for what runs")
    return Engine(accelerator, module, optimizer)


def check_compiles(engine: Engine) -> None:
    """`ValueError` if an engine's weights come and go within a layer, which is compiled whole."""
    if isinstance(engine, ZeroEngine) and engine.sharded:
        raise ValueError(
            f"train.compile is true; {engine.told} gathers weights within each layer, which cannot be compiled so: it "
            f"must be false, or the engine another, such as ds_configs/fsdp2.yaml"
        )
