"""Our dataset and collator in other people's trainers: the same losses as our own loop, over two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.training.test_step import SMALL, VIEW, pack
from vista_train.augment import Plain, TemporalNeedle
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.sources import ClipSource
from vista_train.models import load_family
from vista_train.training.hosted import Hosted, HostedCollator, positions
from vista_train.training.loop import Trainer
from vista_train.training.optimizer import OptimizerSettings, adamw, rate_share, trainable_groups
from vista_train.training.settings import LoopSettings

STEPS, SAMPLES = 2, 4
SETTINGS = OptimizerSettings(lr=1e-3, clip_norm=1.0)


@pytest.fixture(scope="module")
def dataset(world: Path, tmp_path_factory: pytest.TempPathFactory) -> VistaDataset:
    source = ClipSource(world / "clips.jsonl", world, tmp_path_factory.mktemp("cache"))
    family = load_family("tiny", SMALL, VIEW)
    mix = [Ingredient(TemporalNeedle()), Ingredient(Plain())]
    return VistaDataset({"clips": source}, mix, family.codec, world)


@pytest.fixture(scope="module")
def expected(dataset: VistaDataset) -> list[float]:
    """The losses of our own loop."""
    trainer = Trainer(load_family("tiny", SMALL, VIEW), loop=LoopSettings(steps=STEPS), optimizer=SETTINGS)
    steps = [[dataset[SAMPLES * step + at] for at in range(SAMPLES)] for step in range(STEPS)]
    return [trainer.step([pack(samples)])["loss"] for samples in steps]


def hosted() -> tuple[Hosted, tuple[Any, Any]]:
    family = load_family("tiny", SMALL, VIEW)
    model = family.load()
    optimizer = adamw(trainable_groups(family.parts(model), SETTINGS), SETTINGS, "cpu")
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, STEPS, SETTINGS))
    return Hosted(family, model), (optimizer, rates)


def arguments(kind: type, folder: Path, micro_steps: int, **more: Any) -> Any:
    return kind(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=SAMPLES // micro_steps,
        gradient_accumulation_steps=micro_steps,
        max_grad_norm=SETTINGS.clip_norm,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        use_cpu=True,
        bf16=False,
        **more,
    )


class InOrder:
    """Takes samples in their order: a position decides everything, and shuffling has been done."""

    def _get_train_sampler(self, *args: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]


class InOrderTrainer(InOrder, transformers.Trainer):
    pass


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("micro_steps", [1, 2])
def test_the_trainer_of_transformers(dataset: VistaDataset, expected: list[float], tmp_path: Path, micro_steps) -> None:
    model, optimizers = hosted()
    found = losses(
        InOrderTrainer(
            model,
            arguments(transformers.TrainingArguments, tmp_path, micro_steps),
            HostedCollator(),
            dataset,
            optimizers=optimizers,
        )
    )
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_sft_trainer_of_trl(dataset: VistaDataset, expected: list[float], tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")

    class InOrderSFT(InOrder, trl.SFTTrainer):
        compute_loss = transformers.Trainer.compute_loss

    model, optimizers = hosted()
    settings = arguments(trl.SFTConfig, tmp_path, 1, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
    trainer = InOrderSFT(
        model,
        settings,
        HostedCollator(dataset),
        positions(dataset, count=STEPS * SAMPLES),
        processing_class=model.family.tokenizer,
        optimizers=optimizers,
    )
    assert losses(trainer) == pytest.approx(expected, rel=1e-4)


def test_a_position_needs_a_dataset() -> None:
    with pytest.raises(ValueError, match="give it one"):
        HostedCollator()([{"position": 3}])
