"""ZeRO (arXiv 1910.02054) by DeepSpeed: optimizer states, gradients and weights sharded over ranks, by stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from vista_train.training.engine import Engine
from vista_train.training.pieces import MASTER, MOMENTS, Piece, Pieces

FIXED = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
"""What the engine must believe: rows and micro-steps vary, and the loop tells it where a step ends."""


class ZeroEngine(Engine):
    """DeepSpeed's engine updates the weights within the last backward pass, and clips by its own setting."""

    def __init__(
        self, accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float
    ) -> None:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        for key, value in FIXED.items():
            if config.get(key, value) not in (value, "auto"):
                raise ValueError(f"{key} in the DeepSpeed config is {config[key]}; it must be {value}")
            config[key] = value
        if config.get("gradient_clipping", "auto") not in ("auto", clip_norm):
            raise ValueError(
                f"gradient_clipping in the DeepSpeed config is {config['gradient_clipping']}, train.clip_norm "
                f'{clip_norm}; leave it "auto"'
            )
        config["gradient_clipping"] = clip_norm
        # DeepSpeed rounds the module before it takes its fp32 weights from it.
        exact = {parameter: parameter.detach() for parameter in module.parameters() if parameter.requires_grad}
        super().__init__(accelerator, module, optimizer)
        # The next engine of this process may be asked for another.
        config["gradient_clipping"] = "auto"
        self.stage = int(self.module.zero_optimization_stage())
        if self.stage < 1:
            raise ValueError(
                "zero_optimization.stage in the DeepSpeed config is 0; that is DDP, see ds_configs/ddp.yaml"
            )
        self._keep_exact(exact)

    @torch.no_grad()
    def _keep_exact(self, exact: Mapping[nn.Parameter, torch.Tensor]) -> None:
        """Update weights as they were loaded, not rounded ones."""
        for parameter, weight in exact.items():
            held = self._held(parameter)
            if held is not None and parameter.dtype != held[0].dtype:
                flat, where, start, count = held
                flat.narrow(0, where, count).copy_(weight.flatten()[start : start + count])

    @property
    def told(self) -> str:
        """Its name, for a line on the run."""
        offload = self.module.zero_offload_optimizer()
        beside = " with CPU offload" if offload is not None and str(offload.device) != "none" else ""
        return f"ZeRO-{self.stage}{beside}"

    @property
    def lockstep(self) -> bool:  # type: ignore[override]
        """From stage 2 on, gradients are reduced in every micro-step."""
        return self.stage >= 2

    @property
    def sharded(self) -> bool:  # type: ignore[override]
        """Stage 3 gathers the weights of each module while it is called."""
        return self.stage == 3

    def no_exchange(self) -> contextlib.AbstractContextManager:
        """The engine itself holds back what its stage lets it; it refuses to be told."""
        return contextlib.nullcontext()

    def update(self, clip_norm: float) -> float:
        """The update is made already; the norm of its gradients."""
        return float(self.module.get_global_grad_norm())

    def whole(self, tensor: torch.Tensor, copy: bool) -> torch.Tensor:
        """A whole tensor on the first rank; of one that stage 3 has cut up, a copy on its CPU."""
        if not _is_sharded(tensor):
            return super().whole(tensor, copy)
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        with GatheredParameters([tensor]):
            found = super().whole(tensor, copy=True) if self.accelerator.is_main_process else None
        # Elsewhere nothing may hold on to what was gathered.
        return tensor.detach() if found is None else found

    def updates(self) -> int:
        """How many updates the optimizer has made."""
        states = self._zero.optimizer.state
        return max((int(states[flat]["step"]) for flat in self._flats() if "step" in states.get(flat, {})), default=0)

    def pieces(self, named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[Piece]:
        """The stretches that this rank updates, with the fp32 weights where the model's own are rounded."""
        for name, parameter in named:
            held = self._held(parameter)
            if held is None:
                continue
            flat, where, start, count = held
            state = self._zero.optimizer.state.get(flat, {})
            for key in MOMENTS if state else ():
                yield Piece(key, name, start, state[key].detach().narrow(0, where, count))
            if parameter.dtype != flat.dtype:
                yield Piece(MASTER, name, start, flat.detach().narrow(0, where, count))

    @torch.no_grad()
    def put_back(self, named: Iterable[tuple[str, nn.Parameter]], saved: Pieces, updates: int) -> None:
        """Fill the stretches that this rank updates."""
        inner = self._zero.optimizer
        states = inner.state
        fused = any(group.get("fused") for group in inner.param_groups)
        # DeepSpeed's CPU optimizer counts in whole numbers.
        in_whole = type(inner).__name__ == "DeepSpeedCPUAdam"
        for flat in self._flats():
            states[flat] = {key: torch.zeros_like(flat) for key in MOMENTS}
            step = torch.tensor(float(updates), device=flat.device if fused else "cpu")
            states[flat]["step"] = updates if in_whole else step
        for name, parameter in named:
            held = self._held(parameter)
            if held is None:
                continue
            flat, where, start, count = held
            for key in MOMENTS:
                states[flat][key].narrow(0, where, count).copy_(saved.find(key, name, start, count))

    @property
    def _zero(self) -> Any:
        return self.module.optimizer

    def _flats(self) -> list[torch.Tensor]:
        """The flat fp32 tensors that this rank's optimizer updates, one a group (at stage 3, a sub-group)."""
        from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

        if self.stage == 3:
            return list(self._zero.fp32_partitioned_groups_flat)
        if isinstance(self._zero, BF16_Optimizer):
            return list(self._zero.fp32_groups_flat_partition)
        return list(self._zero.single_partition_of_fp32_groups)

    def _held(self, parameter: nn.Parameter) -> tuple[torch.Tensor, int, int, int] | None:
        """Of a parameter: the flat tensor with this rank's stretch and where in it that lies; where in the parameter
        it begins, and how many values it has. None if this rank has none of it."""
        if self.stage == 3:
            zero = self._zero
            group, where, room = zero.grad_position[zero.get_param_id(parameter)]
            start = room * zero._get_param_partition_rank(parameter)
            # The last rank's stretch is filled up.
            count = min(room, int(parameter.ds_numel) - start)  # type: ignore[attr-defined]
            return (self._flats()[group], where, start, count) if count > 0 else None
        held = parameter._hp_mapping  # type: ignore[attr-defined]
        if held is None:
            return None
        inside, outside = held.hp_fragment_address, held.lp_fragment_address
        return self._flats()[held.param_group_index], inside.start, outside.start, inside.numel


def _is_sharded(tensor: torch.Tensor) -> bool:
    from deepspeed.runtime.zero.partition_parameters import is_zero_param

    return bool(is_zero_param(tensor))
