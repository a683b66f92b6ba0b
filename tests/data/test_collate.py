"""Samples packed end to end: no padding, positions from 0 with each, and a lost one leaves only its failures."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from vista_train.data.collate import PackedCollator
from vista_train.types import Encoded, Failure, Row

LOST = (Failure(7, 0, "a.mp4", "MediaMissing: no such file"), Failure(7, 1, "b.mp4", "MediaUnreadable: not a video"))


def encoded(position, length, frames, kind="plain", failures=()):
    ids = torch.arange(length) + 100 * position
    labels = torch.where(ids % 2 == 0, -100, ids)
    pixels = torch.full((frames, 3, 4, 6), position, dtype=torch.uint8)
    return Encoded(position, kind, ids, labels, pixels, len(failures), tuple(failures))


def lost(position=7, failures=LOST):
    empty = torch.zeros(0, dtype=torch.int64)
    return Encoded(position, "lost", empty, empty, torch.zeros((0, 3, 0, 0), dtype=torch.uint8), 0, failures)


@pytest.fixture
def row():
    samples = [encoded(3, 5, 2), encoded(1, 2, 0, "text"), encoded(9, 4, 3, failures=LOST[:1])]
    return PackedCollator()(samples)


def test_tokens_and_labels_stand_end_to_end_in_the_order_given(row):
    assert row.input_ids_1L.tolist() == [[300, 301, 302, 303, 304, 100, 101, 900, 901, 902, 903]]
    assert row.labels_1L.tolist() == [[-100, 301, -100, 303, -100, -100, 101, -100, 901, -100, 903]]
    assert (row.num_tokens, row.num_labels) == (11, 5)
    assert row.input_ids_1L.dtype == row.labels_1L.dtype == row.positions_1L.dtype == torch.int64


def test_positions_begin_again_with_every_sample(row):
    assert row.positions_1L.tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3]]
    assert row.lengths == (5, 2, 4)


def test_frames_stay_bytes_in_the_order_of_their_samples(row):
    assert all(frames.dtype == torch.uint8 for frames in row.frames)
    assert [tuple(frames.shape) for frames in row.frames] == [(2, 3, 4, 6), (0, 3, 4, 6), (3, 3, 4, 6)]
    assert torch.cat(row.frames)[:, 0, 0, 0].tolist() == [3, 3, 9, 9, 9]
    assert (row.frame_counts, row.num_frames) == ((2, 0, 3), 5)


def test_whose_tokens_they_are_is_told(row):
    assert row.samples == (3, 1, 9)
    assert row.kinds == ("plain", "text", "plain")
    assert row.failures == LOST[:1]


def test_a_lost_sample_leaves_only_its_failures():
    with_lost = PackedCollator()([encoded(3, 5, 2), lost(), encoded(1, 2, 1)])
    without = PackedCollator()([encoded(3, 5, 2), encoded(1, 2, 1)])
    assert with_lost.failures == LOST
    assert (with_lost.lengths, with_lost.samples, with_lost.frame_counts) == ((5, 2), (3, 1), (2, 1))
    for name in ("input_ids_1L", "labels_1L", "positions_1L"):
        assert torch.equal(getattr(with_lost, name), getattr(without, name))
    assert all(map(torch.equal, with_lost.frames, without.frames))


@pytest.mark.parametrize(("samples", "failures"), [([], ()), ([lost()], LOST), ([lost(), lost(8)], (*LOST, *LOST))])
def test_a_row_may_be_empty(samples, failures):
    row = PackedCollator()(samples)
    assert (row.num_tokens, row.num_labels, row.lengths, row.samples) == (0, 0, (), ())
    assert row.input_ids_1L.shape == row.labels_1L.shape == row.positions_1L.shape == (1, 0)
    assert (row.frames, row.num_frames, row.mrope_3L) == ((), 0, None)
    assert row.failures == failures


def test_a_row_of_words_alone_has_no_frames():
    row = PackedCollator()([encoded(1, 3, 0), encoded(2, 3, 0)])
    assert row.num_frames == 0
    assert row.frame_counts == (0, 0)


def test_rows_are_joined_end_to_end():
    first = [replace(encoded(3, 5, 2), mrope_3L=torch.full((3, 5), 7)), lost()]
    second = [replace(encoded(9, 4, 1), picture=True, mrope_3L=torch.full((3, 4), 8))]
    joined, whole = Row.packed(first).followed_by(Row.packed(second)), Row.packed(first + second)
    for field in fields(Row):
        one, other = getattr(joined, field.name), getattr(whole, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else len(one) == len(other), field.name
    assert (joined.pictures, joined.lengths, joined.failures) == ((False, True), (5, 4), LOST)
    assert joined.mrope_3L.tolist() == [[7] * 5 + [8] * 4] * 3
    assert torch.cat(joined.frames)[:, 0, 0, 0].tolist() == [3, 3, 9]
    moved = joined.to("meta")
    assert {tensor.device.type for tensor in (moved.mrope_3L, moved.input_ids_1L, *moved.frames)} == {"meta"}
