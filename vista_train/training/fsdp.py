"""FSDP2: every weight, gradient and moment in shards over the ranks, gathered layer by layer (torch fully_shard)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from vista_train.training.engine import Engine
from vista_train.training.pieces import MOMENTS, Piece, Pieces


class FsdpEngine(Engine):
    """Sharded over the first dimension; gradients are reduced in every micro-step, so that none is ever held whole."""

    lockstep: ClassVar[bool] = True
    sharded: ClassVar[bool] = True

    def __init__(self, accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        plugin = accelerator.state.fsdp_plugin
        if plugin.mixed_precision_policy is not None:
            # What leaves the model is a sum of losses, and gradients are summed over ranks: bf16 has too few digits.
            policy = replace(plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32)
            plugin.mixed_precision_policy = policy
        # The layers of an earlier model of this process are not this one's.
        plugin.transformer_cls_names_to_wrap = None
        super().__init__(accelerator, module, optimizer)

    @property
    def told(self) -> str:
        """Its name, for a line on the run."""
        return "FSDP2"

    def no_exchange(self) -> contextlib.AbstractContextManager:
        """Gradients are exchanged in every micro-step; held back, they would take the memory that sharding saves."""
        return contextlib.nullcontext()

    def whole(self, tensor: torch.Tensor, copy: bool) -> torch.Tensor:
        """A whole tensor on the CPU of the first rank."""
        if not isinstance(tensor, DTensor):
            return super().whole(tensor, copy)
        full = tensor.full_tensor()
        return full.detach().cpu() if self.accelerator.is_main_process else tensor.detach()

    def pieces(self, named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[Piece]:
        """The rows of every parameter that this rank holds."""
        for name, parameter in named:
            state = self.optimizer.state.get(parameter, {})
            start, count = _stretch(parameter)
            if count and state:
                for key in MOMENTS:
                    yield Piece(key, name, start, _local(state[key]).detach().flatten())

    @torch.no_grad()
    def put_back(self, named: Iterable[tuple[str, nn.Parameter]], saved: Pieces, updates: int) -> None:
        """Fill the rows that this rank holds."""
        fused = any(group.get("fused") for group in self.optimizer.param_groups)
        for name, parameter in named:
            start, count = _stretch(parameter)
            device = _local(parameter).device
            state = {"step": torch.tensor(float(updates), device=device if fused else "cpu")}
            for key in MOMENTS:
                state[key] = torch.zeros_like(parameter)
                if count:
                    local = _local(state[key])
                    local.copy_(saved.find(key, name, start, count).view(local.shape))
            self.optimizer.state[parameter] = state


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _stretch(parameter: torch.Tensor) -> tuple[int, int]:
    """Where this rank's rows begin in the flattened parameter, and how many values they have."""
    if not isinstance(parameter, DTensor):
        return 0, parameter.numel()
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    row = parameter.numel() // parameter.shape[0] if parameter.shape[0] else 0
    return (offset[0] * row if offset else 0), torch.Size(shape).numel()
