"""The loop in plain sight: a step's rows, one exact loss over all of them, one update, a line in the log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

import vista_train
from vista_train.data import ledger
from vista_train.data.dataset import VistaDataset
from vista_train.data.rows import RowPlan, RowPlanner
from vista_train.models.adapters import load_tuned, save_adapter
from vista_train.models.base import Family
from vista_train.models.likelihood import Found, Look
from vista_train.models.spans import BACKWARD, COPY, OPTIMIZER, span
from vista_train.training import checkpoint, stopped
from vista_train.training.banner import banner
from vista_train.training.checkpoint import RunState
from vista_train.training.engine import Engine
from vista_train.training.engines import check_compiles, load_whole, make_accelerator, make_engine
from vista_train.training.journal import Journal
from vista_train.training.loader import Loader
from vista_train.training.loss import choose_loss
from vista_train.training.meters import StepMeters, Stopwatch, peak_of
from vista_train.training.optimizer import OptimizerSettings, adamw, rate_share, set_rates, trainable_groups
from vista_train.training.pieces import Pieces, put_back_exact, tensors_of
from vista_train.training.profile import Profiled, StepProfiler
from vista_train.training.ranks import Ranks, lost
from vista_train.training.report import Agreed, Report, Wait
from vista_train.training.saver import Saver
from vista_train.training.settings import LoopSettings
from vista_train.training.signals import StopSignal
from vista_train.training.step_module import StepModule
from vista_train.training.tolerance import Tolerance
from vista_train.training.transfer import on_device
from vista_train.training.watch import Watch
from vista_train.types import Failure, Row

NOTHING = Look(Row.packed([]), *(torch.zeros(0, dtype=torch.int64),) * 2)
"""What a rank looks at that has less to look at than another."""
MAX_RANKS = 1 << 20
"""Each rank's dropout has a seed of its own: the run's times this, plus the rank."""


class RunStoppedError(RuntimeError):
    """The run cannot go on as it is; the message says why and what to do."""


class Trainer:
    """Trains a family on a dataset; `train()` runs it whole, `step(rows)` is one exact optimizer step.

    The result of a step does not depend on how its samples are cut into rows and spread over ranks (at dropout 0),
    nor on the engine that computes it.
    """

    def __init__(
        self,
        family: Family,
        dataset: VistaDataset | None = None,
        output: str | Path = "out/run",
        loop: LoopSettings | None = None,
        optimizer: OptimizerSettings | None = None,
        accelerator: Accelerator | None = None,
        ranks: Ranks | None = None,
        resume_from: Path | None = None,
        recipe_text: str = "",
        unusable: Sequence[Failure] = (),
        seed: int = 0,
        watch: Watch | None = None,
    ) -> None:
        self.family, self.dataset, self.output = family, dataset, Path(output)
        self.loop, self.settings = loop or LoopSettings(), optimizer or OptimizerSettings()
        self.accelerator = accelerator or make_accelerator()
        load_whole(self.accelerator)
        self.ranks = ranks or Ranks()
        self.recipe_text, self.unusable = recipe_text, tuple(unusable)
        self._check_world()
        # Dropout is the one draw that no position decides: each rank has a stream of its own, the same in every run.
        # Resumed in a world of another size, a run does not begin its streams again.
        step = checkpoint.read_state(resume_from).step if resume_from is not None else 0
        torch.manual_seed((seed * MAX_RANKS + self.ranks.rank + step * MAX_RANKS**2) % (1 << 63))
        loras, full, device = self.settings.loras, self.settings.full, self.accelerator.device
        self.model = load_tuned(family, loras, full, device.type, seed, resume_from, self.loop.attention)
        saved = checkpoint.pieces_of(resume_from) if resume_from is not None else None
        if saved is not None:
            # What was saved rounded is as exact again as it was trained.
            put_back_exact(self.model.named_parameters(), saved)
        self.model.train()
        groups = trainable_groups(family.parts(self.model), self.settings)
        family.arrange(self.model, self.loop.memory)
        self.part_sizes = {part: {n: p.numel() for n, p in named} for part, named in family.parts(self.model).items()}
        self.sizes = {
            name: parameter.numel()
            for group in groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }
        """How many values each parameter that trains has, by name."""
        module = StepModule(family, self.model, self.loop.loss_weight)
        self.engine: Engine = make_engine(
            self.accelerator, module, adamw(groups, self.settings, device.type), self.settings.clip_norm
        )
        if self.loop.compile:
            check_compiles(self.engine)
        in_half, head = self.accelerator.mixed_precision != "no", family.head(self.model)
        self.loss = module.loss = choose_loss(self.loop.loss, head, device.type, in_half, self.engine.sharded)
        self.saver = Saver(self.ranks, self.loop.keep, self.loop.save_in_background)
        self.num_steps = self.loop.num_steps(len(dataset)) if dataset is not None else self.loop.steps or 1
        self.step_number = 0
        self.tolerance = Tolerance(self.loop, dataset.media.quarantine if dataset is not None else None)
        self.stopped_by: str | None = None
        """The signal that ended `train` before its last step."""
        self.watch = watch
        self.saved_step = 0
        """The step of the newest checkpoint; an untrained model needs none."""
        if resume_from is not None and saved is not None:
            self._resume(resume_from, saved)

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, as the engine wraps it."""
        return self.engine.optimizer

    def step(self, rows: Sequence[Row]) -> dict[str, float]:
        """One optimizer step over this rank's rows: sum of losses / labels of the whole step, all ranks; each sample's
        labels weighed as `train.loss_weight` says.

        Every rank must bring the same number of rows. Returns loss, grad_norm, lr and the step's totals over ranks.
        A step without a label on any rank changes nothing.
        """
        return self._stepped(rows, self._agreed(rows))

    def evaluate(self, rows: Sequence[Row]) -> float | None:
        """Mean cross entropy over the label positions of all ranks' rows, None where they have none; nothing changes.

        Every rank must bring the same number of rows.
        """
        agreed, device = self._agreed(rows), self.accelerator.device
        with self._still():
            total = sum(
                float(self.engine.module(row.to(device), *calls)) for row, calls in zip(rows, agreed.calls, strict=True)
            )
        total = sum(self.ranks.gathered(total))
        return total / agreed.labels if agreed.labels else None

    def read(self, looks: Sequence[Look]) -> list[Found]:
        """What the model says at this rank's looks, of which each rank may bring another number; nothing changes.

        Every rank calls this equally often.
        """
        padded = [*looks, *[NOTHING] * (max(self.ranks.gathered(len(looks))) - len(looks))]
        agreed, device = self._agreed([look.row for look in padded]), self.accelerator.device
        heads = zip(*self.ranks.gathered([look.head_calls for look in padded]), strict=True)
        found = []
        with self._still():
            for look, calls, head in zip(padded, agreed.calls, heads, strict=True):
                asked = (look.places_N.to(device), look.tokens_N.to(device))
                calls = calls._replace(head=max(head))
                logs_N, likeliest_N = self.engine.module(look.row.to(device), *calls, asked=asked)
                found.append(Found(logs_N.double().cpu(), likeliest_N.cpu()))
        return found[: len(looks)]

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """Within, the model is in eval mode and makes no gradients."""
        self.engine.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.engine.module.train()

    def train(self, signals: StopSignal | None = None, profiled: Profiled | None = None) -> None:
        """Run from `step_number` to the end: load, step, log, save; or until `signals`, default those that come from
        now on, end it after a step, and `stopped_by` says which."""
        assert self.dataset is not None, "Trainer.train needs a dataset"
        profiler = self._profiler(profiled) if profiled is not None else None
        planner = self._planner(self.step_number)
        self._check_ranks()
        pin = self.accelerator.device.type == "cuda"
        # All ranks ask for equally many rows ahead, or one would plan a step that another has not come to.
        workers = min(self.ranks.gathered(self.loop.workers_beside(self.ranks.on_this_machine)))
        loader = Loader(planner, self.loop, workers, self.ranks.on_this_machine, pin)
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"output is {str(self.output)!r}; no folder can be made there: {error.strerror}"
            ) from error
        # Every rank has read the ledger by now (known_failures); the first one may cut it back.
        self.ranks.barrier()
        journal = Journal(self.output, self.num_steps, self.step_number, self.loop.wandb) if self.is_main else None
        own = StopSignal().listen() if signals is None else None
        try:
            if journal is not None:
                stopped.forget(self.output)
                print(banner(self, loader), file=sys.stderr, flush=True)
                journal.open(self.step_number * self.loop.budget.batch_samples, self.unusable)
            self.stopped_by = self._run(loader, journal, signals or own, profiler)
        except RuntimeError as error:
            # The engine's own collectives tell of a rank that is gone in words of their own.
            gone = lost(error)
            if gone is None:
                raise
            raise gone from error
        finally:
            if profiler is not None:
                profiler.finish()
            loader.close()
            if own is not None:
                own.close()
            if journal is not None:
                journal.close()

    def _run(
        self, loader: Loader, journal: Journal | None, signals: StopSignal | None, profiler: StepProfiler | None
    ) -> str | None:
        watch, looking = Stopwatch(), self.watch or Watch()
        ends = looking.begin(self, journal, signals)
        while not ends() and self.step_number < self.num_steps:
            watch.lap()
            if profiler is not None:
                profiler.begin(self.step_number + 1)
            plans, rows = loader.step(watch)
            # What was lost is known before the first backward pass, on every rank, and so is the decision to stop.
            agreed = self._agreed(rows, watch.wait(self.ranks.rank), signals.name if signals else None)
            self.saver.settle(agreed.is_saving)
            num_failed = self.tolerance.enter(self.step_number, agreed.failures)
            self._stop_if_too_many_failed(journal, agreed.failures)
            result = self._stepped(rows, agreed)
            seconds = watch.lap()
            if profiler is not None:
                profiler.end(self.step_number)
                # Writing a trace down is no part of any step.
                watch.lap()
            if journal is not None:
                meters = self._meters(plans[0], result, agreed, num_failed, seconds)
                journal.record(meters, agreed.failures, self.tolerance.num_failed)
            is_last = self.step_number == self.num_steps
            if self.step_number % self.loop.save_every == 0 or is_last or agreed.stop:
                self.save()
                watch.lap()
            if agreed.stop and not is_last:
                self.saver.finish()
                if self.is_main:
                    stopped.note(self.output, self.step_number, *agreed.stop)
                return agreed.stop[1]
        if self.saved_step < self.step_number:
            self.save()
        self.saver.finish()
        if self.is_main and self.tolerance.num_failed:
            told = ledger.summary(self.tolerance.failures)
            print(
                f"vista_train: {self.tolerance.num_failed} samples were replaced or lost ({told}); `vista-train ledger "
                f"{self.output}` lists them",
                file=sys.stderr,
                flush=True,
            )
        if looking.stopped and self.is_main:
            stopped.note(self.output, self.step_number, *looking.stopped)
        return looking.stopped[1] if looking.stopped else None

    def save(self) -> Path:
        """Write a checkpoint of the current step, or start to; every rank calls this."""
        assert self.dataset is not None, "Trainer.save needs a dataset, whose plan the state names"
        # An earlier one's copies are let go of before more are made.
        self.saver.finish()
        self.saved_step = self.step_number
        folder = checkpoint.folder_of(self.output, self.step_number)
        state = RunState(
            next_position=self.step_number * self.loop.budget.batch_samples,
            step=self.step_number,
            world_size=self.ranks.count,
            batch_samples=self.loop.budget.batch_samples,
            plan_digest=self.dataset.digest(),
            updates=self.engine.updates(),
            failures=tuple(self.tolerance.failures),
        )
        later = self.loop.save_in_background
        # Written in the background, they must be copies: training goes on and changes them.
        weights = self.engine.gathered(self._saved_weights(), copy=later)
        pieces = tensors_of(self.engine.pieces(self._trained()), later)
        self.saver.save(
            folder, state, self.sizes, pieces, checkpoint.random_state(), lambda path: self._save_model(path, weights)
        )
        return folder

    def _agreed(self, rows: Sequence[Row], wait: Wait | None = None, stop: str | None = None) -> Agreed:
        report = Report.of(rows, self.family, wait or Wait(), stop, self.saver.is_writing, self.loop.loss_weight)
        return Agreed(tuple(self.ranks.gathered(report)))

    def _stepped(self, rows: Sequence[Row], agreed: Agreed) -> dict[str, float]:
        """The step, once ranks have told each other what they bring to it."""
        share = rate_share(self.step_number, self.num_steps, self.settings)
        set_rates(self.engine.optimizer, share)
        total, grad_norm = torch.zeros((), dtype=torch.float64, device=self.accelerator.device), 0.0
        factor = self.engine.averaging_factor / (agreed.weight or 1.0)
        moved = on_device(rows, self.accelerator.device)
        for micro, calls in enumerate(agreed.calls if agreed.labels else ()):
            with self.engine.micro_step(is_last=micro == len(rows) - 1):
                with span(COPY):
                    row = next(moved)
                loss_sum = self.engine.module(row, *calls)
                with span(BACKWARD):
                    self.accelerator.backward(loss_sum * factor)
                total += loss_sum.detach().double()
        if agreed.labels:
            with span(OPTIMIZER):
                grad_norm = self.engine.update(self.settings.clip_norm)
        loss = sum(self.ranks.gathered(total.item())) / (agreed.weight or 1.0)
        self.step_number += 1
        return {
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": self.settings.lr * share,
            "labels": agreed.labels,
            "tokens": agreed.tokens,
            "frames": agreed.frames,
        }

    def _meters(
        self, plan: RowPlan, result: dict[str, float], agreed: Agreed, num_failed: int, seconds: float
    ) -> StepMeters:
        return StepMeters(
            step=self.step_number,
            loss=result["loss"],
            grad_norm=result["grad_norm"],
            lr=result["lr"],
            seconds=seconds,
            data_wait=min(1.0, agreed.longest.seconds / seconds),
            waited_rank=agreed.longest.rank,
            waited_samples=agreed.longest.samples,
            tokens=agreed.tokens,
            labels=agreed.labels,
            frames=agreed.frames,
            pictures=agreed.drawn,
            rows=plan.num_micro,
            step_efficiency=plan.efficiency if self.engine.lockstep else plan.once_efficiency,
            samples=self.loop.budget.batch_samples,
            failed=num_failed,
            flops=agreed.flops,
            devices=self.accelerator.num_processes,
            peak_tflops=peak_of(self.accelerator.device),
        )

    def _stop_if_too_many_failed(self, journal: Journal | None, failures: Sequence[Failure]) -> None:
        reason = self.tolerance.exceeded(self.step_number)
        if reason is None:
            return
        self.saver.finish()
        if journal is not None:
            journal.lose(failures)
        raise RunStoppedError(f"{reason}; {self.output / 'ledger.jsonl'} names each file and reason")

    def _profiler(self, asked: Profiled) -> StepProfiler | None:
        """What profiles this rank's steps, if it is the one that is asked for."""
        asked.check(self.step_number, self.num_steps, self.ranks.count)
        on_gpu = self.accelerator.device.type == "cuda"
        return StepProfiler(asked, self.output / "profile", on_gpu) if self.ranks.rank == asked.rank else None

    def _planner(self, first_step: int) -> RowPlanner:
        assert self.dataset is not None
        ranks = self.ranks
        exchange = ranks.tables if ranks.count > 1 else None
        return RowPlanner(self.dataset, self.loop.budget, first_step, self.num_steps, ranks.rank, ranks.count, exchange)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        """What trains, by its name in the model."""
        return [(name, parameter) for name, parameter in self.model.named_parameters() if name in self.sizes]

    def _saved_weights(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of the model: all of it, or of one with adapters what trains."""
        state = self.model.state_dict(keep_vars=True)
        if not self.settings.loras:
            return state
        buffers = {name for name, _ in self.model.named_buffers()}
        return {name: tensor for name, tensor in state.items() if name in self.sizes or name in buffers}

    def _save_model(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        if self.settings.loras:
            save_adapter(self.model, self.family, folder, self.settings.full, weights)
        else:
            self.family.save(self.model, folder, weights)
        if self.recipe_text:
            (folder / "recipe.yaml").write_text(self.recipe_text, encoding="utf-8")

    def _resume(self, folder: Path, saved: Pieces) -> None:
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
        if state.updates:
            checkpoint.restore_optimizer(saved, self.engine, self._trained(), state.updates)
        checkpoint.restore_random(folder, self.ranks.rank, self.ranks.count)
        self.step_number = self.saved_step = state.step
        self.tolerance.restore(state.step, state.failures)

    def _check_world(self) -> None:
        expected, found = self.loop.expected_world, self.accelerator.num_processes
        if expected is not None and expected != found:
            raise ValueError(
                f"train.expected_world is {expected}, but {found} process{'es' * (found > 1)} run; on a CPU, "
                f"`accelerate launch` starts several only with ACCELERATE_USE_CPU=1 and --multi_gpu (see README)"
            )

    def _check_ranks(self) -> None:
        """`RunStoppedError` unless all ranks are about to do the same; not told, they would wait for ever."""
        assert self.dataset is not None
        differences = self.ranks.same(
            [
                ("vista_train", vista_train.__version__),
                ("torch", torch.__version__),
                ("the plan of the samples", self.dataset.digest()[:12]),
                ("the engine", self.engine.told),
                ("the next step", str(self.step_number)),
                ("the number of samples known to be lost from there on", str(len(self.dataset.known_failures))),
                ("the last step", str(self.num_steps)),
                ("the size of a step and of its rows", str(self.loop.budget)),
            ]
        )
        if differences:
            raise RunStoppedError(
                f"{differences}; every machine must run the same recipe, data and versions, on an output they share"
            )


def shut_down() -> None:
    """Leave the process group, where there is one, so that no rank's exit is taken for a failure."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
