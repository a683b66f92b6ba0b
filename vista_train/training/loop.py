"""The loop in plain sight: a step's rows, one exact loss over all of them, one update, a line in the log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import nn

from vista_train.data import ledger
from vista_train.data.dataset import VistaDataset
from vista_train.data.rows import RowPlan, RowPlanner, row_loader
from vista_train.models.adapters import load_tuned, save_adapter
from vista_train.models.attention import describe_attention
from vista_train.models.base import Family
from vista_train.training import checkpoint
from vista_train.training.journal import Journal
from vista_train.training.loss import summed_cross_entropy
from vista_train.training.meters import StepMeters, Stopwatch
from vista_train.training.optimizer import OptimizerSettings, adamw, rate_share, set_rates, trainable_groups
from vista_train.training.settings import LoopSettings
from vista_train.types import Failure, Row

MIN_SAMPLES_JUDGED = 100
"""The share of lost samples is taken of at least so many, so that one early loss does not stop a run."""


MAX_RANKS = 1 << 20
"""Each rank's dropout has a seed of its own: the run's times this, plus the rank."""


class RunStoppedError(RuntimeError):
    """The run cannot go on as it is; the message says why and what to do."""


class StepModule(nn.Module):
    """The model as the engine wraps it: a packed row in, its summed cross entropy out."""

    def __init__(self, family: Family, model: nn.Module) -> None:
        super().__init__()
        self.family = family
        self.model = model

    def forward(self, row: Row) -> torch.Tensor:
        hidden_LD = self.family.hidden_states(self.model, row)
        return summed_cross_entropy(hidden_LD, row.labels_1L[0], self.family.head(self.model))


def averaging_factor(accelerator: Accelerator) -> float:
    """What a loss must be multiplied by to undo the engine's averaging of gradients over ranks."""
    return float(accelerator.num_processes)


class Trainer:
    """Trains a family on a dataset; `train()` runs it whole, `step(rows)` is one exact optimizer step.

    The result of a step does not depend on how its samples are cut into rows and spread over ranks (at dropout 0).
    """

    def __init__(
        self,
        family: Family,
        dataset: VistaDataset | None = None,
        output: str | Path = "out/run",
        loop: LoopSettings | None = None,
        optimizer: OptimizerSettings | None = None,
        accelerator: Accelerator | None = None,
        resume_from: Path | None = None,
        recipe_text: str = "",
        unusable: Sequence[tuple[str, str]] = (),
        seed: int = 0,
    ) -> None:
        self.family, self.dataset, self.output = family, dataset, Path(output)
        self.loop, self.settings = loop or LoopSettings(), optimizer or OptimizerSettings()
        self.accelerator = accelerator or make_accelerator()
        self.recipe_text, self.unusable = recipe_text, tuple(unusable)
        self._check_world()
        # Dropout is the one draw that no position decides: each rank has a stream of its own, the same in every run.
        torch.manual_seed(seed * MAX_RANKS + self.accelerator.process_index)
        loras, full, device = self.settings.loras, self.settings.full, self.accelerator.device
        self.model = load_tuned(family, loras, full, device.type, seed, resume_from)
        if self.loop.gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        self.model.train()
        groups = trainable_groups(family.parts(self.model), self.settings)
        if not any(lora.quantize for lora in loras.values()):
            # Quantized weights were loaded onto the GPU; not every bitsandbytes can move them.
            self.model.to(device)
        self.trainable = [parameter for group in groups for parameter in group["params"]]
        self.module, self.optimizer = self.accelerator.prepare(
            StepModule(family, self.model), adamw(groups, self.settings)
        )
        self.num_steps = self.loop.num_steps(len(dataset)) if dataset is not None else self.loop.steps or 1
        self.step_number = 0
        self.failures: list[Failure] = []
        self.num_failed = 0
        if resume_from is not None:
            self._resume(resume_from)

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def step(self, rows: Sequence[Row]) -> dict[str, float]:
        """One optimizer step over this rank's rows: sum of losses / labels of the whole step, all ranks.

        Every rank must bring the same number of rows. Returns loss, grad_norm, lr and the step's totals over ranks.
        """
        counts = self._summed(
            [sum(row.num_labels for row in rows), sum(row.num_tokens for row in rows),
             sum(row.num_frames for row in rows)]
        )  # fmt: skip
        labels = int(counts[0])
        share = rate_share(self.step_number, self.num_steps, self.settings)
        set_rates(self.optimizer, share)
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for micro, row in enumerate(rows):
            with self._boundary(is_last=micro == len(rows) - 1):
                loss_sum = self.module(row.to(self.accelerator.device, non_blocking=True))
                self.accelerator.backward(loss_sum * (averaging_factor(self.accelerator) / max(1, labels)))
                total += loss_sum.detach().double()
        grad_norm = self.accelerator.clip_grad_norm_(self.trainable, self.settings.clip_norm)
        if labels:
            self.optimizer.step()
        self.optimizer.zero_grad()
        loss = self._summed([total.item()])[0] / max(1, labels)
        self.step_number += 1
        return {
            "loss": loss,
            "grad_norm": float(grad_norm),
            "lr": self.settings.lr * share,
            "labels": labels,
            "tokens": int(counts[1]),
            "frames": int(counts[2]),
        }

    @torch.no_grad()
    def evaluate(self, rows: Sequence[Row]) -> float:
        """Mean cross entropy over the label positions of this rank's rows and every other rank's; nothing changes."""
        self.model.eval()
        device = self.accelerator.device
        total = sum(float(self.module(row.to(device))) for row in rows)
        self.model.train()
        loss, labels = self._summed([total, sum(row.num_labels for row in rows)])
        return loss / max(1.0, labels)

    def train(self) -> None:
        """Run from `step_number` to the end: load, step, log, save."""
        assert self.dataset is not None, "Trainer.train needs a dataset"
        planner = self._planner(self.step_number)
        # It plans the next step: one that cannot be dealt is told before anything is written.
        banner = self.banner(planner) if self.is_main else ""
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"output is {str(self.output)!r}; no folder can be made there: {error.strerror}"
            ) from error
        # Every rank has read the ledger by now (known_failures); the first one may cut it back.
        self.accelerator.wait_for_everyone()
        journal = Journal(self.output, self.num_steps, self.step_number, self.loop.wandb) if self.is_main else None
        try:
            if journal is not None:
                print(banner, file=sys.stderr, flush=True)
                journal.open(self.step_number * self.loop.budget.batch_samples, self.unusable)
            self._run(planner, journal)
        finally:
            if journal is not None:
                journal.close()

    def _run(self, planner: RowPlanner, journal: Journal | None) -> None:
        watch = Stopwatch()
        for plans, rows in self._steps(planner, watch):
            # What was lost is known before the first backward pass, on every rank, and so is the decision to stop.
            failures = self._gathered([failure for row in rows for failure in row.failures])
            num_failed = len({failure.position for failure in failures})
            self.failures += failures
            self.num_failed += num_failed
            self._stop_if_too_many_failed(journal, failures)
            meters = self._measured_step(plans, rows, num_failed, watch)
            if journal is not None:
                journal.record(meters, failures, self.num_failed)
            if self.step_number % self.loop.save_every == 0 or self.step_number == self.num_steps:
                self.save()
                watch.lap()

    def save(self) -> Path:
        """Write a checkpoint of the current step; every rank calls this."""
        assert self.dataset is not None, "Trainer.save needs a dataset, whose plan the state names"
        folder = checkpoint.folder_of(self.output, self.step_number)
        state = checkpoint.RunState(
            next_position=self.step_number * self.loop.budget.batch_samples,
            step=self.step_number,
            world_size=self.accelerator.num_processes,
            batch_samples=self.loop.budget.batch_samples,
            plan_digest=self.dataset.digest(),
            failures=tuple(self.failures),
        )
        checkpoint.write(
            folder,
            state,
            self._save_model,
            self.optimizer,
            self.accelerator.process_index,
            self.accelerator.wait_for_everyone,
            self.loop.keep,
        )
        return folder

    def banner(self, planner: RowPlanner) -> str:
        """One look at what is about to run: world, model, rows and tokens of the next step, data."""
        assert self.dataset is not None
        rows = planner.rows(self.step_number) if self.step_number < self.num_steps else []
        accelerator, first = self.accelerator, rows[0] if rows else None
        parts = {part: [p for _, p in named] for part, named in self.family.parts(self.model).items()}
        sizes = ", ".join(f"{part} {_sizes_told(members)}{self.settings.told(part)}" for part, members in parts.items())
        precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
        view = self.dataset.codec.view
        mix = ", ".join(f"{item.augment.name} {item.weight:g}" for item in self.dataset.mix)
        clips = sum(len(source) for source in self.dataset.sources.values())
        attention = describe_attention(self.model.config._attn_implementation)
        lines = [
            f"processes  {accelerator.num_processes} on {accelerator.device.type}, {precision}",
            f"model      {self.family.name}: {sizes}",
            f"attention  {attention}",
            f"view       {view.told()}",
            f"data       {clips} clips, {len(self.unusable)} left out; {len(self.dataset)} samples an epoch; {mix}",
            f"steps      {self.step_number} done of {self.num_steps}, {self.loop.budget.batch_samples} samples each",
        ]
        if first is not None:
            lines.append(
                f"next step  {len(rows)} x {accelerator.num_processes} rows, {first.step_tokens} tokens, "
                f"step efficiency {first.efficiency:.3f}"
            )
        return "\n".join(lines)

    def _steps(self, planner: RowPlanner, watch: Stopwatch) -> Iterator[tuple[list[RowPlan], list[Row]]]:
        """Each step's rows, once all of them are decoded: only then is it known what was lost."""
        pin = self.accelerator.device.type == "cuda"
        loader = iter(row_loader(planner, self.loop.workers, self.loop.prefetch_rows, pin))
        for _ in range(planner.first_step, planner.last_step):
            since = time.perf_counter()
            got = [next(loader)]
            got += [next(loader) for _ in range(got[0][0].num_micro - 1)]
            watch.got_data(since)
            yield [plan for plan, _ in got], [row for _, row in got]

    def _measured_step(
        self, plans: Sequence[RowPlan], rows: Sequence[Row], num_failed: int, watch: Stopwatch
    ) -> StepMeters:
        result = self.step(rows)
        seconds, waited = watch.lap()
        slowest = max(self._gathered([waited]))
        return StepMeters(
            step=self.step_number,
            loss=result["loss"],
            grad_norm=result["grad_norm"],
            lr=result["lr"],
            seconds=seconds,
            data_wait=min(1.0, slowest / seconds),
            tokens=int(result["tokens"]),
            labels=int(result["labels"]),
            frames=int(result["frames"]),
            rows=len(rows),
            step_efficiency=plans[0].efficiency,
            samples=self.loop.budget.batch_samples,
            failed=num_failed,
        )

    def _stop_if_too_many_failed(self, journal: Journal | None, failures: Sequence[Failure]) -> None:
        samples = (self.step_number + 1) * self.loop.budget.batch_samples
        if self.num_failed <= self.loop.max_failed_share * max(MIN_SAMPLES_JUDGED, samples):
            return
        if journal is not None:
            journal.lose(failures)
        raise RunStoppedError(
            f"{self.num_failed} of {samples} samples were lost, more than train.max_failed_share "
            f"{self.loop.max_failed_share:g} allows; {self.output / 'ledger.jsonl'} names each file and reason"
        )

    def _planner(self, first_step: int) -> RowPlanner:
        assert self.dataset is not None
        accelerator = self.accelerator
        return RowPlanner(
            self.dataset,
            self.loop.budget,
            first_step,
            self.num_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )

    def _boundary(self, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged in the last micro-step only."""
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.module)

    def _summed(self, values: Sequence[float]) -> list[float]:
        """Each value summed over ranks, in float64: exact for counts."""
        local = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(local, "sum").tolist()

    def _gathered(self, values: list[Any]) -> list[Any]:
        """All ranks' lists, joined in rank order."""
        if self.accelerator.num_processes == 1:
            return values
        joined: list[Any] = [None] * self.accelerator.num_processes
        torch.distributed.all_gather_object(joined, values)
        return [value for part in joined for value in part]

    def _save_model(self, folder: Path) -> None:
        if self.settings.loras:
            save_adapter(self.model, self.family, folder, self.settings.full)
        else:
            self.family.save(self.model, folder)
        if self.recipe_text:
            (folder / "recipe.yaml").write_text(self.recipe_text, encoding="utf-8")

    def _resume(self, folder: Path) -> None:
        """Take up a run where a checkpoint left it; its weights are loaded already."""
        assert self.dataset is not None, "resuming needs a dataset, whose plan is compared"
        state = checkpoint.read_state(folder)
        if state.batch_samples != self.loop.budget.batch_samples:
            raise ValueError(
                f"train.batch_samples is {self.loop.budget.batch_samples}, {folder} was trained with "
                f"{state.batch_samples}; it decides what a step is and cannot change within a run"
            )
        if state.plan_digest != self.dataset.digest() and not self.loop.allow_plan_change:
            raise ValueError(
                f"the data, or the recipe fields that decide the samples, are not those of {folder}; "
                f"choose another output, or set train.allow_plan_change=true to go on with other samples"
            )
        checkpoint.restore(folder, self.optimizer, self.accelerator.process_index, self.accelerator.num_processes)
        self.step_number = state.step
        self.failures = list(state.failures)
        self.num_failed = len({failure.position for failure in state.failures})

    def _check_world(self) -> None:
        expected, found = self.loop.expected_world, self.accelerator.num_processes
        if expected is not None and expected != found:
            raise ValueError(
                f"train.expected_world is {expected}, but {found} process{'es' * (found > 1)} run; on a CPU, "
                f"`accelerate launch` starts several only with ACCELERATE_USE_CPU=1 and --multi_gpu (see README)"
            )


def _sizes_told(parameters: Sequence[nn.Parameter]) -> str:
    """How many parameters there are, and how many of them train."""
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    some = f" ({trained / 1e6:.2f} M of them train)" if trained else " (frozen)"
    return f"{total / 1e6:.2f} M{'' if trained == total else some}"


def make_accelerator() -> Accelerator:
    """An Accelerator in bf16 where it runs on a GPU that can, else in fp32; rows are moved by us, not dispatched."""
    on_gpu = torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
    half = on_gpu and torch.cuda.is_bf16_supported()
    return Accelerator(mixed_precision="bf16" if half else "no")


def known_failures(output: Path, folder: Path | None) -> list[Failure]:
    """What a run resumed from `folder` must take as lost again: the ledger's attempts from its position on."""
    if folder is None:
        return []
    return ledger.known(output / "ledger.jsonl", checkpoint.read_state(folder).next_position)


def shut_down() -> None:
    """Leave the process group, where there is one, so that no rank's exit is taken for a failure."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
