"""The summed loss against plain cross entropy over all logits, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from vista_train.training.loss import head_calls, summed_cross_entropy


class CountingHead(nn.Linear):
    """A head that remembers how many rows of hidden states each call saw."""

    def __init__(self) -> None:
        super().__init__(16, 50, bias=False)
        self.seen: list[int] = []

    def forward(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(hidden_ND))
        return super().forward(hidden_ND)


def problem(length: int = 61, labelled: float = 0.4) -> tuple[torch.Tensor, torch.Tensor, CountingHead]:
    generator = torch.Generator().manual_seed(3)
    hidden_LD = torch.randn(length, 16, generator=generator, requires_grad=True)
    labels_L = torch.randint(50, (length,), generator=generator)
    labels_L[torch.rand(length, generator=generator) > labelled] = -100
    labels_L[0] = -100
    head = CountingHead()
    with torch.no_grad():
        head.weight.copy_(torch.randn(50, 16, generator=generator))
    return hidden_LD, labels_L, head


def plain(hidden_LD: torch.Tensor, labels_L: torch.Tensor, head: nn.Module) -> torch.Tensor:
    return functional.cross_entropy(head(hidden_LD)[:-1], labels_L[1:], ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("calls", [1, 40])
def test_value_and_gradients_are_those_of_full_logits(chunk: int, calls: int) -> None:
    hidden_LD, labels_L, head = problem()
    expected = plain(hidden_LD, labels_L, head)
    expected_grads = torch.autograd.grad(expected, (hidden_LD, head.weight))
    loss = summed_cross_entropy(hidden_LD, labels_L, head, chunk=chunk, calls=calls)
    grads = torch.autograd.grad(loss, (hidden_LD, head.weight))
    assert expected.item() > 50
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        assert (grad - wanted).abs().max() <= 1e-6 * wanted.abs().max()


def test_packed_samples_sum_to_their_separate_losses() -> None:
    hidden_LD, labels_L, head = problem()
    labels_L[30] = -100
    whole = summed_cross_entropy(hidden_LD, labels_L, head)
    apart = [summed_cross_entropy(hidden_LD[part], labels_L[part], head) for part in (slice(0, 30), slice(30, None))]
    assert whole.item() == pytest.approx(sum(apart).item(), rel=1e-6)


@pytest.mark.parametrize("length", [0, 1, 9])
def test_without_labels_the_loss_is_zero_and_connected(length: int) -> None:
    _, _, head = problem()
    body = nn.Linear(4, 16)
    hidden_LD = body(torch.ones(9, 4))[:length]
    loss = summed_cross_entropy(hidden_LD, torch.full((length,), -100), head)
    assert loss.item() == 0
    loss.backward()
    for parameter in (*head.parameters(), *body.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() == 0


def test_only_label_positions_go_through_the_head_in_chunks() -> None:
    hidden_LD, labels_L, head = problem()
    num = int((labels_L != -100).sum())
    loss = summed_cross_entropy(hidden_LD, labels_L, head, chunk=10)
    forward = list(head.seen)
    assert sum(forward) == num < 40
    assert max(forward) == 10
    assert len(forward) == head_calls(num, 10)
    loss.backward()
    assert sum(head.seen[len(forward) :]) == num


def test_calls_are_made_up_to_the_number_ranks_agreed_on() -> None:
    hidden_LD, labels_L, head = problem()
    summed_cross_entropy(hidden_LD, labels_L, head, chunk=10, calls=9).backward()
    assert len(head.seen) == 2 * 9
    assert [head_calls(num, 10) for num in (0, 1, 10, 11)] == [1, 1, 1, 2]


def test_logits_of_half_precision_are_summed_in_fp32() -> None:
    hidden_LD, labels_L, head = problem()
    hidden_LD, head = hidden_LD.bfloat16(), head.bfloat16()
    loss = summed_cross_entropy(hidden_LD, labels_L, head, chunk=5)
    assert loss.dtype == torch.float32
    logits_LV = head(hidden_LD).float()
    exact = functional.cross_entropy(logits_LV[:-1], labels_L[1:], ignore_index=-100, reduction="sum")
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


def test_what_does_not_fit_is_an_error() -> None:
    hidden_LD, labels_L, head = problem()
    with pytest.raises(ValueError, match="chunk is 0"):
        summed_cross_entropy(hidden_LD, labels_L, head, chunk=0)
    with pytest.raises(ValueError, match="61 hidden states do not match 60 labels"):
        summed_cross_entropy(hidden_LD, labels_L[1:], head)
