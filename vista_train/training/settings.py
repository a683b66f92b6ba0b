"""How long to train, how large rows are, and when to save."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from vista_train.data.rows import RowBudget
from vista_train.models.attention import Attention
from vista_train.models.memory import OFFLOAD, Memory
from vista_train.models.passes import DEFAULT_CHUNK
from vista_train.models.tiles import AUTO
from vista_train.training.loss import Loss
from vista_train.training.weighting import Weighting

QUARANTINE_STEPS = 256
"""Steps between the loss that makes a file one not to be tried again, and the first that does without it. Workers must
not make rows of further ahead, or some of them would know and others not."""


LEAST_TILE = 16


@dataclass(frozen=True)
class Recomputed:
    """Which parts' activations are computed again in the backward pass."""

    language: bool | str = True
    """Keep of each decoder layer its input alone; `offload`: in the memory of the host, where it is large."""
    vision: bool = True
    """Keep of each pass of the vision tower its features alone. One that does not train is never computed again."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    def __post_init__(self) -> None:
        if self.language not in (True, False, OFFLOAD):
            raise ValueError(f"language is {self.language!r}; it must be true, false or {OFFLOAD}")


@dataclass(frozen=True)
class LoopSettings:
    """How long to train, how large rows are, and when to save."""

    steps: int | None = None
    """Optimizer steps; default, as many as `epochs` take."""
    epochs: float = 1.0
    """Passes over `epoch_samples`, if `steps` is not given."""
    budget: RowBudget = RowBudget()
    """How many samples a step has, and how large a row may be."""
    workers: int = 2
    """Data worker processes per rank, of one thread each, and no more than the machine has cores for; 0 decodes in
    the training process."""
    prefetch_rows: int | None = None
    """Rows each worker makes ahead; default, as many as the whole next step takes, at least 2."""
    gradient_checkpointing: bool | Recomputed = False
    """Recompute activations in the backward pass: less memory, about a third more time. true for all parts, or
    {language: true | false | offload, vision: true | false}; what is not named is true."""
    vision_chunk: int = DEFAULT_CHUNK
    """Patches in one pass of the vision tower, at most: what it holds at a time grows with them, not with a row."""
    tiled_mlp: int | str = "none"
    """Compute the decoder's MLPs in tiles of so many tokens, or `auto` (as many as the decoder is wide), so that what
    is inside them never exists for a whole row; `none` for long rows to be computed whole."""
    compile: bool = False
    """Compile the norms and MLPs of the decoder (torch.compile), in the first steps; not under ZeRO-3."""
    loss: Loss = "auto"
    """What computes the loss: `liger` (its fused kernel, on a GPU), `torch` (its linear_cross_entropy, in fp32) or
    `chunked` (ours); `auto` is what was measured best of those that can run."""
    loss_weight: Weighting = "token"
    """What counts alike in a step: every label (`token`), every sample whatever the length of its answer (`sample`), or
    between them (`sqrt`: a sample by the root of its labels). In a mix, captions of hundreds of words otherwise leave
    answers of one letter little to say."""
    attention: Attention = "auto"
    """What computes attention in the decoder: `flash` (flash-attn), `varlen` (torch's kernel for packed rows),
    `by_sample` (sdpa, one sample at a time) or `dense` (sdpa, a mask over the row); `auto`
    is the first of them that can run."""
    save_every: int = 200
    """Steps between checkpoints; the last step always saves."""
    keep: int = 2
    """Finished checkpoints to keep, at least two."""
    save_in_background: bool = False
    """Write checkpoints while training goes on, from copies in the memory of the host."""
    max_failed_share: float = 0.05
    """The run stops when more than this share of the samples (of at least 100) was lost and replaced."""
    max_consecutive_failures: int = 64
    """The run stops when so many samples in a row were lost and replaced: then it is not the files."""
    quarantine_after: int = 3
    """A file that was lost so often is not tried again, from some steps later on; one that took too long or killed
    the process that decoded it, at once."""
    expected_world: int | None = None
    """Number of processes the run must have; a launcher can start one where two were asked for."""
    allow_plan_change: bool = False
    """Resume although the data or the recipe fields that decide the samples have changed."""
    wandb: str | None = None
    """A Weights & Biases project to log to, beside log.jsonl."""

    def __post_init__(self) -> None:
        if self.epochs <= 0:
            raise ValueError(f"train.epochs is {self.epochs}; it must be above 0")
        for name in ("save_every", "prefetch_rows", "max_consecutive_failures", "quarantine_after"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}; it must be at least 1")
        if self.vision_chunk < 1:
            raise ValueError(f"train.vision_chunk is {self.vision_chunk}; it must be at least 1 patch")
        is_number = isinstance(self.tiled_mlp, int) and self.tiled_mlp >= LEAST_TILE
        if not is_number and self.tiled_mlp not in (AUTO, "none"):
            raise ValueError(
                f"train.tiled_mlp is {self.tiled_mlp!r}; it must be none, {AUTO}, or tokens in a tile, {LEAST_TILE} or "
                f"more"
            )
        if self.keep < 2:
            raise ValueError(f"train.keep is {self.keep}; at least two, since the newest may turn out to be bad")
        if self.workers < 0:
            raise ValueError(f"train.workers is {self.workers}; it must be 0 or more")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"train.steps is {self.steps}; it must be at least 1")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"train.max_failed_share is {self.max_failed_share}; it must lie in 0..1")

    @property
    def memory(self) -> Memory:
        """What is computed again, moved or cut, to hold less at a time."""
        asked = self.gradient_checkpointing
        parts = asked if isinstance(asked, Recomputed) else Recomputed(asked, asked)
        tile = None if self.tiled_mlp == "none" else self.tiled_mlp
        return Memory(self.vision_chunk, parts.vision, parts.language, tile, self.compile)

    def num_steps(self, epoch_samples: int) -> int:
        """Optimizer steps of the whole run."""
        return self.steps or max(1, int(self.epochs * epoch_samples / self.budget.batch_samples))

    def workers_beside(self, ranks: int) -> int:
        """Data workers of one of `ranks` ranks on this machine: ranks x workers <= cores, where there are any."""
        cores = len(os.sched_getaffinity(0))
        return min(self.workers, max(1, cores // ranks))

    def rows_ahead(self, workers: int, micro_steps: int) -> int:
        """Rows each of some workers makes ahead, if a step takes so many."""
        wanted = self.prefetch_rows or max(2, -(-micro_steps // max(1, workers)))
        most = max(QUARANTINE_STEPS // 2, micro_steps)
        return min(wanted, max(1, most // max(1, workers)))
