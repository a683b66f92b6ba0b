"""Same step, same result: packing, micro-steps and workers change nothing, on loss and gradient norm."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vista_train.config import Recipe
from vista_train.data.collate import PackedCollator
from vista_train.models import load_family
from vista_train.models.tiny import TinySettings
from vista_train.train import train
from vista_train.training.loop import Trainer
from vista_train.training.optimizer import OptimizerSettings
from vista_train.training.settings import LoopSettings
from vista_train.types import Encoded, Message, Row, Sample
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

TOLERANCE = 1e-5
SMALL = TinySettings(vision_width=32, language_width=64, language_layers=2, seed=1)
VIEW = View(frames=2, width=56, height=56, min_pixels=7)
pack = PackedCollator()


def encoded_samples(count: int, seed: int = 0) -> list[Encoded]:
    """Samples of unlike length: random pictures, and words that grow from sample to sample."""
    codec = load_family("tiny", SMALL, VIEW).codec
    noise = torch.Generator().manual_seed(seed)
    out = []
    for number in range(count):
        frames_TCHW = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8, generator=noise)
        clip = Clip.from_frames(frames_TCHW, 1)
        words = (Message("user", "What is it? " * (number + 1)), Message("assistant", "word " * (1 + 3 * number)))
        sample = Sample(clip, words, (), "made")
        plan = codec.plan(sample)
        out.append(codec.encode(sample, plan, frames_TCHW, number))
    return out


def trajectory(rows_of_step: Sequence[Sequence[Row]], **settings: object) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step."""
    trainer = Trainer(
        load_family("tiny", SMALL, VIEW),
        loop=LoopSettings(steps=len(rows_of_step), **settings),  # type: ignore[arg-type]
        optimizer=OptimizerSettings(lr=1e-3, clip_norm=1e9),
    )
    results = [trainer.step(rows) for rows in rows_of_step]
    return [(result["loss"], result["grad_norm"]) for result in results]


def assert_same(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> None:
    assert len(one) == len(other) > 0
    for (loss, norm), (other_loss, other_norm) in zip(one, other, strict=True):
        assert loss == pytest.approx(other_loss, rel=TOLERANCE)
        assert norm == pytest.approx(other_norm, rel=TOLERANCE)


def test_packed_equals_one_sample_a_row() -> None:
    samples = encoded_samples(6)
    packed = trajectory([[pack(samples)]] * 3)
    apart = trajectory([[pack([sample]) for sample in samples]] * 3)
    assert_same(packed, apart)


def test_micro_steps_order_and_empty_rows_change_nothing() -> None:
    samples = encoded_samples(6)
    whole = trajectory([[pack(samples)]] * 3)
    cut = trajectory([[pack(samples[4:]), pack([]), pack(samples[:1]), pack(samples[1:4])]] * 3)
    assert_same(whole, cut)


def test_gradient_checkpointing_changes_nothing() -> None:
    samples = encoded_samples(4)
    plain = trajectory([[pack(samples)]] * 3)
    recomputed = trajectory([[pack(samples)]] * 3, gradient_checkpointing=True)
    assert_same(plain, recomputed)


def test_loss_is_the_mean_over_all_label_tokens_of_the_step() -> None:
    samples = encoded_samples(5)
    losses = [trajectory([[pack([sample])]])[0][0] for sample in samples]
    counts = [sample.num_labels for sample in samples]
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert len(set(counts)) == len(counts)
    assert trajectory([[pack(samples[:2]), pack(samples[2:])]])[0][0] == pytest.approx(expected, rel=TOLERANCE)


def test_samples_in_a_row_do_not_see_one_another() -> None:
    first, second, third = encoded_samples(3)
    other = replace(first, frames_TCHW=255 - first.frames_TCHW)
    assert pack([second]).lengths == (len(second.input_ids),)
    trainer = Trainer(load_family("tiny", SMALL, VIEW), loop=LoopSettings(steps=1))
    alone = trainer.evaluate([pack([second, third])])
    beside = (trainer.evaluate([pack([first, second, third])]), trainer.evaluate([pack([other, second, third])]))
    own = (trainer.evaluate([pack([first])]), trainer.evaluate([pack([other])]))
    labels = [sample.num_labels for sample in (first, second, third)]
    for whole, part in zip(beside, own, strict=True):
        rest = (whole * sum(labels) - part * labels[0]) / (labels[1] + labels[2])
        assert rest == pytest.approx(alone, rel=TOLERANCE)


def test_a_step_without_targets_changes_no_weight() -> None:
    trainer = Trainer(load_family("tiny", SMALL, VIEW), loop=LoopSettings(steps=2))
    trainer.step([pack(encoded_samples(2))])
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    result = trainer.step([pack([]), pack([])])
    assert (result["loss"], result["labels"], result["grad_norm"]) == (0.0, 0, 0.0)
    assert all(torch.equal(before[name], parameter) for name, parameter in trainer.model.named_parameters())


def test_workers_change_nothing(small_recipe: Callable[..., Recipe]) -> None:
    runs = [logged_steps(small_recipe(f"workers{workers}", workers=workers)) for workers in (0, 2)]
    assert len(runs[0]) == 4
    assert runs[0] == runs[1]


def logged_steps(recipe: Recipe) -> list[tuple[float, float]]:
    train(recipe)
    lines = (Path(recipe.output) / "log.jsonl").read_text().splitlines()
    return [(entry["loss"], entry["grad_norm"]) for entry in map(json.loads, lines)]


@pytest.mark.parametrize("frozen", ["vision", "projector", "language"])
def test_parts_that_train_move_and_frozen_ones_do_not(frozen: str) -> None:
    family = load_family("tiny", SMALL, VIEW)
    settings = OptimizerSettings(lr=1e-3, **{frozen: False})  # type: ignore[arg-type]
    trainer = Trainer(family, loop=LoopSettings(steps=2), optimizer=settings)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    for _ in range(2):
        trainer.step([pack(encoded_samples(3))])
    for part, named in family.parts(trainer.model).items():
        for name, parameter in named:
            assert torch.equal(before[name], parameter) == (part == frozen), name
            # What is frozen costs no gradient either.
            assert parameter.requires_grad == (part != frozen), name


def test_each_part_has_its_own_learning_rate() -> None:
    settings = OptimizerSettings(lr=1e-3, vision=1e-5, projector=2e-4, warmup_share=0.0)
    trainer = Trainer(load_family("tiny", SMALL, VIEW), loop=LoopSettings(steps=10), optimizer=settings)
    trainer.step([pack(encoded_samples(1))])
    rates = {group["part"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {"vision": 1e-5, "projector": 2e-4, "language": 1e-3}


ANSWERS = "ABCDEFGHIJKLMNOP"


def test_it_learns_from_the_video_and_from_nothing_else() -> None:
    """16 samples with one question, their answers different: learnt with their videos, and wrong with others'."""
    codec = load_family("tiny", SMALL, VIEW).codec
    noise = torch.Generator().manual_seed(5)
    coarse = torch.randint(0, 256, (16, 1, 3, 4, 4), dtype=torch.uint8, generator=noise)
    videos = coarse.repeat(1, 2, 1, 1, 1).repeat_interleave(14, 3).repeat_interleave(14, 4)
    samples = []
    for answer, frames_TCHW in zip(ANSWERS, videos, strict=True):
        sample = Sample(
            Clip.from_frames(frames_TCHW, 1), (Message("user", "Which one?"), Message("assistant", answer)), (), "made"
        )
        samples.append(codec.encode(sample, codec.plan(sample), frames_TCHW))
    swapped = [
        replace(sample, frames_TCHW=other.frames_TCHW)
        for sample, other in zip(samples, samples[1:] + samples[:1], strict=True)
    ]
    trainer = Trainer(
        load_family("tiny", SMALL, VIEW),
        loop=LoopSettings(steps=150),
        optimizer=OptimizerSettings(lr=3e-3),
    )
    first = trainer.evaluate([pack(samples)])
    for _ in range(150):
        trainer.step([pack(samples)])
    learnt, wrong = trainer.evaluate([pack(samples)]), trainer.evaluate([pack(swapped)])
    assert learnt < 0.1 * first, (learnt, first)
    assert wrong > 0.5 * first, (wrong, first)
