"""Rows reach the device whole and in order, the next one while the present one computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vista_train.training.transfer import on_device
from vista_train.types import Encoded, Row


def row(number: int, frames: int) -> Row:
    """A row of one sample, all of whose tensors hold its number."""
    ids = torch.full((5,), number)
    frames_TCHW = torch.full((frames, 3, 64, 64), number, dtype=torch.uint8)
    return Row.packed([Encoded(number, "made", ids, ids, frames_TCHW, mrope_3L=torch.full((3, 5), number))])


def test_a_row_names_all_of_its_tensors() -> None:
    one = row(1, 2)
    assert [tuple(tensor.shape) for tensor in one.tensors] == [(1, 5), (1, 5), (1, 5), (2, 3, 64, 64), (3, 5)]
    assert len(replace(one, mrope_3L=None).tensors) == 4
    assert Row.packed([]).tensors[0].shape == (1, 0)


def test_on_a_cpu_rows_come_as_they_are() -> None:
    rows = [row(number, 2) for number in range(3)]
    found = list(on_device(rows, torch.device("cpu")))
    assert [one.samples for one in found] == [(0,), (1,), (2,)]
    for one, other in zip(rows, found, strict=True):
        assert all(a is b for a, b in zip(one.tensors, other.tensors, strict=True))
    assert list(on_device([], torch.device("cpu"))) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_what_computes_sees_the_row_it_was_given() -> None:
    """The computation is slow and rows are dropped at once: a copy that came too soon would be seen."""
    device = torch.device("cuda")
    rows = [row(number, 400).pin_memory() for number in range(12)]
    busy = torch.randn(4096, 4096, device=device)
    sums = []
    for one in on_device(rows, device):
        for _ in range(4):
            busy = (busy @ busy).clamp(-1, 1)
        sums.append(torch.stack([tensor.double().mean() for tensor in one.tensors]))
    for number, means in enumerate(sums):
        expected = torch.full_like(means, number)
        # Positions count from 0 in every row.
        expected[2] = 2
        torch.testing.assert_close(means, expected)
