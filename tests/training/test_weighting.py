"""What labels count: every label alike, every sample alike, or between; whatever the rows."""

from __future__ import annotations

import math

import pytest
import torch

from tests.training.test_step import SMALL, VIEW, assert_same, encoded_samples, pack, trajectory
from vista_train.models import load_family
from vista_train.training.fused_loss import torch_kernel
from vista_train.training.loop import Trainer
from vista_train.training.loss import summed_cross_entropy
from vista_train.training.optimizer import OptimizerSettings
from vista_train.training.settings import LoopSettings
from vista_train.training.weighting import WEIGHTINGS, weighed, weight_of, weights_of
from vista_train.types import Encoded


def losses_of(samples: list[Encoded]) -> list[tuple[float, int]]:
    """(summed loss, labels) of each sample, of the model before its first step."""
    trainer = Trainer(load_family("tiny", SMALL, VIEW), loop=LoopSettings(steps=1))
    rows = [pack([sample]) for sample in samples]
    return [(trainer.evaluate([row]) * row.num_labels, row.num_labels) for row in rows]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_loss_of_a_step_is_what_its_samples_weigh(weighting) -> None:
    samples = encoded_samples(5)
    ((loss, _),) = trajectory([[pack(samples)]], loss_weight=weighting)
    known = losses_of(samples)
    assert len({labels for _, labels in known}) == 5, "all of unlike length"
    share = {"token": lambda n: 1.0, "sample": lambda n: 1 / n, "sqrt": lambda n: 1 / math.sqrt(n)}[weighting]
    total = sum(share(labels) * loss for loss, labels in known)
    assert loss == pytest.approx(total / sum(share(labels) * labels for _, labels in known), rel=1e-5)


@pytest.mark.parametrize("weighting", ["sample", "sqrt"])
def test_rows_change_nothing(weighting) -> None:
    samples = encoded_samples(6)
    whole = trajectory([[pack(samples)]] * 2, loss_weight=weighting)
    cut = trajectory([[pack(samples[4:]), pack([]), pack(samples[:1]), pack(samples[1:4])]] * 2, loss_weight=weighting)
    assert_same(whole, cut)
    by_token = trajectory([[pack(samples)]] * 2)
    assert abs(whole[0][0] - by_token[0][0]) > 1e-4, "it is another loss"


def test_a_longer_answer_pulls_no_harder() -> None:
    """By sample, the gradient of two samples is the mean of what each alone has, whatever their lengths."""
    samples = encoded_samples(5)
    gradients = []
    for rows in ([samples[0]], [samples[4]], [samples[0], samples[4]]):
        trainer = Trainer(load_family("tiny", SMALL, VIEW), loop=LoopSettings(steps=1, loss_weight="sample"))
        kept: list[torch.Tensor] = []
        trainer.engine.update = lambda clip, trainer=trainer, kept=kept: kept.append(gradient(trainer)) or 0.0  # type: ignore[method-assign]
        trainer.step([pack(rows)])
        gradients += kept
    first, second, both = gradients
    assert (both - (first + second) / 2).norm() < 1e-5 * both.norm()
    assert both.norm() > 0


def gradient(trainer: Trainer) -> torch.Tensor:
    return torch.cat(
        [parameter.grad.flatten() for parameter in trainer.engine.trainable() if parameter.grad is not None]
    )


def test_what_a_sample_weighs() -> None:
    samples = encoded_samples(4)
    counts = [int((sample.labels != -100).sum()) for sample in samples]
    assert weight_of([pack(samples[:3]), pack(samples[3:])], "sample") == 4
    assert weight_of([pack(samples)], "token") == sum(counts)
    assert weight_of([pack(samples)], "sqrt") == pytest.approx(sum(map(math.sqrt, counts)))
    assert [weighed(0, weighting) for weighting in WEIGHTINGS] == [0, 0, 0]
    row = pack(samples)
    weights_L = weights_of(row, "sample")
    assert weights_L is not None
    sums = [float(part[labels != -100].sum()) for part, labels in zip(
        weights_L.split(list(row.lengths)), row.labels_1L[0].split(list(row.lengths)), strict=True
    )]  # fmt: skip
    assert sums == pytest.approx([1.0] * 4)
    assert weights_of(row, "token") is None


def test_a_sample_without_labels_weighs_nothing() -> None:
    samples = encoded_samples(3)
    silent = samples[1]
    silent = Encoded(**{**vars(silent), "labels": torch.full_like(silent.labels, -100)})
    with_it = trajectory([[pack([samples[0], silent, samples[2]])]], loss_weight="sample")
    without = trajectory([[pack([samples[0], samples[2]])]], loss_weight="sample")
    assert with_it[0][0] == pytest.approx(without[0][0], rel=1e-5)


@pytest.mark.skipif(torch_kernel() is None, reason="this torch has no linear_cross_entropy")
def test_fused_kernels_weigh_alike() -> None:
    noise = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False)
    labels_L = torch.randint(0, 50, (40,), generator=noise)
    labels_L[::3] = -100
    weights_L = torch.repeat_interleave(torch.tensor([0.5, 0.125, 2.0]), torch.tensor([10, 18, 12]))
    found = []
    for kind in ("chunked", "torch"):
        hidden_LD = torch.randn(40, 16, generator=noise.manual_seed(1)).requires_grad_()
        loss = summed_cross_entropy(hidden_LD, labels_L, head, 7, kind=kind, weights_L=weights_L)
        head.weight.grad = None
        loss.backward()
        found.append((loss.item(), hidden_LD.grad.norm().item(), head.weight.grad.norm().item()))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    log_p = torch.log_softmax(head(hidden_LD), -1)
    plain = [-weights_L[i + 1] * log_p[i, labels_L[i + 1]] for i in range(39) if labels_L[i + 1] != -100]
    assert found[0][0] == pytest.approx(float(sum(plain).detach()), rel=1e-6)


def test_evaluating_counts_every_label_alike() -> None:
    samples = encoded_samples(4)
    trainers = [
        Trainer(
            load_family("tiny", SMALL, VIEW),
            loop=LoopSettings(steps=1, loss_weight=weighting),
            optimizer=OptimizerSettings(lr=1e-3),
        )
        for weighting in ("token", "sample")
    ]
    one, other = (trainer.evaluate([pack(samples)]) for trainer in trainers)
    assert one == other
    assert trainers[1].model.training
