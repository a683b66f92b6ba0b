"""One integer decides everything: streams that never change and never meet, permutations that cost no memory."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from vista_train.data.draws import draw_rng, permuted

LAST = (1 << 32) - 1


@pytest.mark.parametrize(
    ("key", "integers", "real"),
    [
        ((0, 0, 0, 0, 0), [106500010600983629, 2227898105101312729, 1027722119939102524], 0.011546754286331562),
        ((7, 3, 12345, 2, 1), [1109533014493874825, 7748386545637841516, 477789931914894731], 0.1202958104758649),
        ((7, 3, 12345, 1, 2), [2796932806733299009, 1739515565672144411, 4935708779057019051], 0.3032440625356222),
    ],
)
def test_a_draw_is_the_same_for_ever(key, integers, real):
    assert draw_rng(*key).integers(0, 1 << 63, size=3).tolist() == integers
    assert draw_rng(*key).random() == real


def test_a_permutation_is_the_same_for_ever():
    order = [permuted(index, 10, draw_rng(0, 0, 0, 2, 0)) for index in range(10)]
    assert order == [1, 2, 4, 5, 0, 8, 7, 9, 6, 3]
    assert [permuted(index, 10**12, draw_rng(0, 0, 0, 2, 0)) for index in range(2)] == [625524609211, 519769238362]


def test_no_two_draws_share_a_stream():
    places = list(itertools.product((0, 1, 10**9), (0, 1, 10**9), (0, 1, 2, LAST), (0, 1, 7, LAST)))
    blocks = [draw_rng(5, *place).bit_generator.random_raw(64).tolist() for place in places]
    assert len(places) == 144
    assert len({number for block in blocks for number in block}) == 144 * 64


def test_a_draw_never_counts_into_the_next_ones_stream():
    """Only the counter's first word moves, and it is 0 at the start: 2^64 blocks lie between two draws."""
    rng = draw_rng(5, 3, 2, 1, 4)
    before = rng.bit_generator.state["state"]["counter"].tolist()
    rng.random(100_000)
    after = rng.bit_generator.state["state"]["counter"].tolist()
    assert before == [0, 2, 4 << 32 | 1, 3]
    assert after == [25_000, 2, 4 << 32 | 1, 3]


def test_another_seed_is_another_stream():
    first = {draw_rng(seed, 0, 0, 0, 0).bit_generator.random_raw() for seed in (*range(200), 1 << 63, (1 << 64) - 1)}
    assert len(first) == 202


@pytest.mark.parametrize(("draw", "attempt"), [(LAST + 1, 0), (-1, 0), (0, LAST + 1), (0, -1)])
def test_a_draw_outside_its_word_is_refused(draw, attempt):
    with pytest.raises(ValueError, match="must each lie in"):
        draw_rng(0, 0, 0, draw, attempt)


def test_every_size_up_to_300_is_permuted_one_to_one():
    for size in range(1, 301):
        assert sorted(permuted(index, size, draw_rng(1, 0, size, 2, 0)) for index in range(size)) == [*range(size)]


@pytest.mark.parametrize("size", [2**20 + 1, 10**7, 2**40 - 1, 10**12 + 39])
def test_a_large_size_is_permuted_one_to_one_where_it_is_looked_at(size):
    picked = {0, size - 1, *np.random.default_rng(0).integers(size, size=1500).tolist()}
    images = {permuted(index, size, draw_rng(1, 0, 0, 2, 0)) for index in picked}
    assert len(images) == len(picked)
    assert 0 <= min(images) < max(images) < size
    # Uniform images: their mean lies within 5 of its standard errors of the middle.
    assert abs(np.mean([image / size for image in images]) - 0.5) < 5 * (1 / 12 / len(images)) ** 0.5


def test_the_permutation_differs_by_key():
    orders = {tuple(permuted(index, 50, draw_rng(0, epoch, 0, 2, 0)) for index in range(50)) for epoch in range(40)}
    assert len(orders) == 40


def test_over_all_keys_every_place_is_as_likely():
    """Chi-square of 7 places over 1400 keys, 6 degrees of freedom: above 22.5 in one of a thousand streams."""
    counts = np.bincount([permuted(3, 7, draw_rng(0, epoch, 0, 2, 0)) for epoch in range(1400)], minlength=7)
    assert ((counts - 200) ** 2 / 200).sum() < 22.5


def test_a_permutation_costs_no_memory():
    rng = draw_rng(0, 0, 0, 2, 0)
    tracemalloc.start()
    permuted(123_456_789, 10**15, rng)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_an_index_outside_the_range_is_refused(index, size):
    with pytest.raises(ValueError, match=f"index {index} lies outside"):
        permuted(index, size, draw_rng(0, 0, 0, 2, 0))
