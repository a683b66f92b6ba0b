"""Engine: what one process, DDP, ZeRO and FSDP2 do differently in a step and in a checkpoint, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

import torch
from accelerate import Accelerator
from torch import nn

from vista_train.training.pieces import MOMENTS, Piece, Pieces


class Engine:
    """One process, or DDP: every rank holds everything, and gradients are exchanged in the last micro-step only."""

    lockstep: ClassVar[bool] = False
    """Whether ranks wait for each other in every micro-step, not only once a step."""
    sharded: ClassVar[bool] = False
    """Whether weights are whole only within the module that is called."""

    def __init__(self, accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if accelerator.gradient_accumulation_steps != 1:
            raise ValueError(
                f"gradient_accumulation_steps is {accelerator.gradient_accumulation_steps}; it must be 1: the recipe "
                f"says how many samples a step has, and rows are made as they fit"
            )
        self.accelerator = accelerator
        self.module, self.optimizer = accelerator.prepare(module, optimizer)

    @property
    def told(self) -> str:
        """Its name, for a line on the run."""
        return "DDP" if self.accelerator.num_processes > 1 else "one process"

    @property
    def averaging_factor(self) -> float:
        """What a loss must be multiplied by to undo the averaging of gradients over ranks.

        DDP, ZeRO and FSDP2 all divide by the number of ranks, in whatever order they add.
        """
        return float(self.accelerator.num_processes)

    @contextlib.contextmanager
    def micro_step(self, is_last: bool) -> Iterator[None]:
        """Forward and backward pass of one row run within; Accelerate learns whether the step ends with it."""
        self.accelerator.sync_gradients = is_last
        with contextlib.nullcontext() if is_last else self.no_exchange():
            yield

    def no_exchange(self) -> contextlib.AbstractContextManager:
        """Gradients add up on each rank until the last micro-step."""
        return self.accelerator.no_sync(self.module)

    def update(self, clip_norm: float) -> float:
        """Clip, update the weights, and forget the gradients; their norm before it."""
        norm = self.accelerator.clip_grad_norm_(self.trainable(), clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(_whole(norm))

    def trainable(self) -> list[nn.Parameter]:
        """What trains, in the order of the model."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def gathered(self, tensors: Mapping[str, torch.Tensor], copy: bool = False) -> dict[str, torch.Tensor]:
        """Whole tensors of the model on the first rank, nothing elsewhere; every rank calls this.

        They are the model's own storage where that is whole, unless copies are asked for; else copies on the CPU.
        """
        # Tied weights stay one.
        whole: dict[int, torch.Tensor] = {}
        for tensor in tensors.values():
            if id(tensor) not in whole:
                whole[id(tensor)] = self.whole(tensor, copy)
        is_first = self.accelerator.is_main_process
        return {name: whole[id(tensor)] for name, tensor in tensors.items()} if is_first else {}

    def whole(self, tensor: torch.Tensor, copy: bool) -> torch.Tensor:
        """One of them, on the first rank; every rank calls this."""
        return tensor.detach().to("cpu", copy=True) if copy and self.accelerator.is_main_process else tensor.detach()

    def updates(self) -> int:
        """How many updates the optimizer has made."""
        steps = [int(state["step"]) for state in self.optimizer.state.values() if "step" in state]
        return max(steps, default=0)

    def pieces(self, named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[Piece]:
        """This rank's share of the state of some parameters: an even stretch of all of them end to end."""
        entries = list(named)
        total = sum(parameter.numel() for _, parameter in entries)
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        first, last = total * rank // ranks, total * (rank + 1) // ranks
        offset = 0
        for name, parameter in entries:
            start, end = max(0, first - offset), min(parameter.numel(), last - offset)
            offset += parameter.numel()
            state = self.optimizer.state.get(parameter, {})
            if start < end and state:
                for key in MOMENTS:
                    yield Piece(key, name, start, state[key].detach().flatten()[start:end])

    @torch.no_grad()
    def put_back(self, named: Iterable[tuple[str, nn.Parameter]], saved: Pieces, updates: int) -> None:
        """Fill the state of some parameters from a checkpoint; every rank calls this, and reads its own share.

        The weights themselves are loaded already.
        """
        fused = any(group.get("fused") for group in self.optimizer.param_groups)
        for name, parameter in named:
            step = torch.tensor(float(updates), device=parameter.device if fused else "cpu")
            state = {"step": step}
            for key in MOMENTS:
                state[key] = saved.find(key, name, 0, parameter.numel()).view(parameter.shape).to(parameter.device)
            self.optimizer.state[parameter] = state


def _whole(value: float | torch.Tensor) -> float | torch.Tensor:
    """A number that may be spread over ranks."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value
