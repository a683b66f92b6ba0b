"""Rows of even cost: every sample once, within the budget, in few micro-steps, and nobody waits for long."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from vista_train.data.deal import NEARLY_FULL, deal

MAX_TOKENS, MAX_PATCHES = 65_536, 1 << 40


@pytest.fixture(scope="module")
def bench():
    """The benchmark's mix of samples, and its bound."""
    path = Path(__file__).parents[2] / "scripts" / "bench" / "deal.py"
    spec = importlib.util.spec_from_file_location("bench_deal", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def sized(*samples):
    """Samples as (tokens,), (tokens, patches) or (tokens, patches, cost); a token costs 1."""
    filled = [(*sample, *(0, sample[0])[len(sample) - 1 :]) for sample in samples]
    return np.array([(cost, tokens, patches) for tokens, patches, cost in filled], dtype=np.float64).reshape(-1, 3)


def small(rng):
    """Up to ten samples that are hard to pack into rows of 100 tokens and 100 patches, and a number of ranks."""
    num = int(rng.integers(1, 11))
    samples = [(int(rng.integers(10, 100)), 10 * int(rng.integers(0, 8))) for _ in range(num)]
    return sized(*samples), int(rng.integers(1, 4))


def fewest_micro_steps(sizes_N3, ranks, max_tokens, max_patches):
    """By trying everything."""
    sizes = sorted(map(tuple, sizes_N3[:, 1:].tolist()), reverse=True)

    def fits(loads, index):
        if index == len(sizes):
            return True
        tokens, patches = sizes[index]
        for load in set(loads):
            put = (load[0] + tokens, load[1] + patches)
            if put[0] <= max_tokens and put[1] <= max_patches:
                rest = list(loads)
                rest[rest.index(load)] = put
                if fits(rest, index + 1):
                    return True
        return False

    micro_steps = 1
    while not fits([(0, 0)] * (ranks * micro_steps), 0):
        micro_steps += 1
    return micro_steps


def best_efficiency(sizes_N3, ranks, max_tokens):
    """By trying every way to cut the samples into rows, which then stand in order of cost."""
    best = np.inf

    def put(rows, index):
        nonlocal best
        if index == len(sizes_N3):
            costs = sorted((row[0] for row in rows), reverse=True)
            best = min(best, sum(costs[::ranks]))
            return
        cost, tokens, _ = sizes_N3[index]
        for row in rows:
            if row[1] + tokens <= max_tokens:
                row[0], row[1] = row[0] + cost, row[1] + tokens
                put(rows, index + 1)
                row[0], row[1] = row[0] - cost, row[1] - tokens
        put([*rows, [cost, tokens]], index + 1)

    put([], 0)
    return sizes_N3[:, 0].sum() / (ranks * best)


def check_dealt(sizes_N3, dealt, ranks, max_tokens, max_patches):
    rows = [row for micro in dealt.rows for row in micro]
    assert sorted(sample for row in rows for sample in row) == [*range(len(sizes_N3))]
    assert {len(micro) for micro in dealt.rows} == {ranks}
    loads_MW3 = np.array([[sizes_N3[list(row)].sum(axis=0) for row in micro] for micro in dealt.rows])
    assert loads_MW3[..., 1].max() <= max_tokens
    assert loads_MW3[..., 2].max() <= max_patches
    cost_MW = loads_MW3[..., 0]
    total = cost_MW.sum() / ranks
    assert dealt.efficiency == pytest.approx(total / cost_MW.max(axis=1).sum() if total else 1.0, rel=1e-6)
    assert dealt.once_efficiency == pytest.approx(total / cost_MW.sum(axis=0).max() if total else 1.0, rel=1e-6)
    assert dealt.efficiency <= dealt.once_efficiency + 1e-12


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num", [0, 1, 5, 40, 100])
def test_every_sample_is_dealt_once_within_the_budget(bench, num, ranks):
    sizes_N3 = bench.mix(num, seed=num)
    given_N3 = sizes_N3.copy()
    for max_patches in (MAX_PATCHES, bench.FEWER_PATCHES):
        check_dealt(sizes_N3, deal(sizes_N3, ranks, MAX_TOKENS, max_patches), ranks, MAX_TOKENS, max_patches)
    assert (sizes_N3 == given_N3).all()


def test_sizes_that_have_nothing_to_do_with_one_another_are_dealt_too():
    rng = np.random.default_rng(0)
    for ranks in (1, 2, 7):
        sizes_N3 = rng.integers(0, 100, size=(150, 3)).astype(np.float64)
        check_dealt(sizes_N3, deal(sizes_N3, ranks, 130, 120), ranks, 130, 120)


def test_patches_are_a_budget_of_their_own():
    sizes_N3 = sized(*[(10, 60)] * 6)
    dealt = deal(sizes_N3, 2, 1000, 100)
    check_dealt(sizes_N3, dealt, 2, 1000, 100)
    assert [[len(row) for row in micro] for micro in dealt.rows] == [[1, 1]] * 3


def test_micro_steps_are_the_fewest():
    """Where samples cost nothing, one more never pays. Packing is hard: trying everything is better now and then."""
    rng = np.random.default_rng(2)
    more = 0
    for _ in range(300):
        sizes_N3, ranks = small(rng)
        sizes_N3[:, 0] = 0.0
        dealt = deal(sizes_N3, ranks, 100, 100)
        check_dealt(sizes_N3, dealt, ranks, 100, 100)
        least = fewest_micro_steps(sizes_N3, ranks, 100, 100)
        assert len(dealt.rows) >= least
        more += len(dealt.rows) > least
    assert more <= 1


def test_many_micro_steps(bench):
    sizes_N3 = bench.mix(2000, seed=1)
    dealt = deal(sizes_N3, 2, MAX_TOKENS, MAX_PATCHES)
    check_dealt(sizes_N3, dealt, 2, MAX_TOKENS, MAX_PATCHES)
    assert 200 <= sizes_N3[:, 1].sum() / (2 * MAX_TOKENS) <= len(dealt.rows) <= 220
    assert dealt.efficiency >= 0.998


def test_one_more_micro_step_is_taken_where_it_pays(bench):
    """At 99.3 % of the budget of two micro-steps no row can be chosen freely; with room to spare two are kept."""
    sizes_N3 = bench.mix(128, seed=199)
    full = sizes_N3[:, 1].sum() / (8 * 2 * 131_072)
    assert NEARLY_FULL < full < 1
    dealt = deal(sizes_N3, 8, 131_072, MAX_PATCHES)
    check_dealt(sizes_N3, dealt, 8, 131_072, MAX_PATCHES)
    assert len(dealt.rows) == 3
    assert dealt.efficiency >= 0.998
    assert len(deal(sizes_N3, 8, 140_000, MAX_PATCHES).rows) == 2


@pytest.mark.parametrize("ranks", [8, 64])
def test_the_same_samples_are_dealt_alike_on_every_rank(bench, ranks):
    """Also where they hold their table in another layout, and whatever they drew before."""
    sizes_N3 = bench.mix(16 * ranks, seed=4)
    first = deal(sizes_N3, ranks, MAX_TOKENS, MAX_PATCHES)
    np.random.default_rng(0).random(100)
    assert deal(np.asfortranarray(sizes_N3), ranks, MAX_TOKENS, MAX_PATCHES) == first
    table_N4 = np.column_stack([np.arange(len(sizes_N3)), sizes_N3])
    assert deal(table_N4[:, 1:], ranks, MAX_TOKENS, MAX_PATCHES) == first
    assert deal(bench.mix(16 * ranks, seed=5), ranks, MAX_TOKENS, MAX_PATCHES) != first


def test_a_step_in_another_order_costs_the_same(bench):
    """Samples of one size are alike, so only their numbers change."""
    sizes_N3 = np.repeat(bench.mix(40, seed=9), 3, axis=0)
    shuffled_N3 = np.random.default_rng(0).permutation(sizes_N3)
    dealt, other = (deal(given_N3, 4, MAX_TOKENS, MAX_PATCHES) for given_N3 in (sizes_N3, shuffled_N3))
    assert dealt.rows != other.rows
    assert (dealt.efficiency, dealt.once_efficiency) == (other.efficiency, other.once_efficiency)


def test_the_order_of_costs_counts_and_not_their_unit(bench):
    sizes_N3 = bench.mix(60, seed=6)
    scaled_N3 = sizes_N3 * (2.0**-20, 1, 1)
    assert deal(scaled_N3, 4, MAX_TOKENS, MAX_PATCHES).rows == deal(sizes_N3, 4, MAX_TOKENS, MAX_PATCHES).rows


@pytest.mark.parametrize(("ranks", "below"), [(8, 0.015), (64, 0.007), (256, 0.004)])
def test_a_mixed_step_is_dealt_as_evenly_as_the_token_cap_allows(bench, ranks, below):
    for seed in range(max(1, 40 // ranks)):
        sizes_N3 = bench.mix(16 * ranks, seed)
        tight, wide = (deal(sizes_N3, ranks, row_tokens, MAX_PATCHES) for row_tokens in bench.ROW_TOKENS)
        check_dealt(sizes_N3, tight, ranks, bench.ROW_TOKENS[0], MAX_PATCHES)
        bound = bench.most_efficient(sizes_N3, ranks, bench.ROW_TOKENS[0])
        assert max(0.95, bound - below) <= tight.efficiency <= bound
        assert tight.efficiency < tight.once_efficiency
        assert wide.efficiency >= 0.99


def test_usual_packers_wait_far_more(bench):
    """As in the benchmark: rows in shuffled order, best fit and next fit."""
    sizes_N3 = bench.mix(16 * 64, seed=0)
    for pack in (bench.best_fit, bench.next_fit):
        costs = pack(sizes_N3, MAX_TOKENS, MAX_PATCHES)
        assert sum(costs) == pytest.approx(sizes_N3[:, 0].sum())
        assert bench.as_they_come(costs, 64) < 0.8


def test_nothing_beats_the_bound_and_ours_is_near_the_best(bench):
    """Up to seven samples whose cost grows with the square of their tokens, tried in every way."""
    rng = np.random.default_rng(3)
    short, slack = [], []
    for _ in range(150):
        num, ranks = int(rng.integers(1, 8)), int(rng.integers(1, 4))
        tokens = rng.integers(1, 101, size=num)
        sizes_N3 = np.column_stack([tokens * (100 + tokens), tokens, np.zeros(num)]).astype(np.float64)
        best = best_efficiency(sizes_N3, ranks, 100)
        bound = bench.most_efficient(sizes_N3, ranks, 100)
        assert best <= bound + 1e-9
        dealt = deal(sizes_N3, ranks, 100, 100)
        assert dealt.efficiency <= best + 1e-9
        short.append(best - dealt.efficiency)
        slack.append(bound - best)
    print(
        f"\nbelow the best: mean {np.mean(short):.4f}, most {max(short):.4f}; bound above it: mean {np.mean(slack):.4f}"
    )
    assert np.mean(short) <= 0.01
    assert np.mean(slack) <= 0.1


def test_rows_of_like_cost_stand_side_by_side():
    """One sample fills a row: nobody waits for the dearest but the one next to it, and who had most then has least."""
    sizes_N3 = sized((90, 0, 9), (90, 0, 1), (90, 0, 10), (90, 0, 2))
    dealt = deal(sizes_N3, 2, 100, 100)
    assert dealt.rows == (((2,), (0,)), ((1,), (3,)))
    assert dealt.efficiency == pytest.approx(22 / (2 * (10 + 2)))
    assert dealt.once_efficiency == pytest.approx(22 / (2 * (10 + 1)))


def test_what_the_first_dealing_leaves_uneven_is_mended():
    """The example against LPT: 3 + 2 + 2 and 3 + 2, until a 3 and a 2 change places."""
    sizes_N3 = sized(*[(10, 0, cost) for cost in (3, 3, 2, 2, 2)])
    dealt = deal(sizes_N3, 2, 100, 100)
    assert dealt.efficiency == pytest.approx(1.0)
    assert sorted(sorted(sizes_N3[sample, 0] for sample in row) for row in dealt.rows[0]) == [[2, 2, 2], [3, 3]]


def test_a_dear_sample_is_accompanied_in_its_micro_step():
    """The other rank waits for the sample of 90 tokens anyway, so its row is filled as far as the budget goes."""
    sizes_N3 = sized((90, 0, 90 * 90), *[(30, 0, 30 * 30)] * 9)
    dealt = deal(sizes_N3, 2, 100, 100)
    check_dealt(sizes_N3, dealt, 2, 100, 100)
    first, second = dealt.rows
    assert sorted(len(row) for row in first) == [1, 3]
    assert sorted(len(row) for row in second) == [3, 3]
    # 8100 + 9 * 900 over 2 * (8100 + 2700).
    assert dealt.efficiency == pytest.approx(0.75)


def test_one_giant_sample_is_all_that_a_step_waits_for():
    sizes_N3 = sized((100, 0, 1e6), *[(10, 0, 10)] * 20)
    dealt = deal(sizes_N3, 4, 100, 100)
    check_dealt(sizes_N3, dealt, 4, 100, 100)
    assert len(dealt.rows) == 1
    assert dealt.efficiency == pytest.approx(1_000_200 / (4 * 1e6))


@pytest.mark.parametrize(
    ("sample", "said"),
    [((101,), "plans 101 tokens and 0 patches"), ((5, 201), "plans 5 tokens and 201 patches")],
)
def test_a_sample_that_fits_no_row_is_named_with_the_way_out(sample, said):
    with pytest.raises(ValueError, match=f"sample 1 of the step {said}, over max_row_tokens 100 or max_row_patches"):
        deal(sized((10,), sample), 2, 100, 200)


def test_ranks_without_a_sample_get_empty_rows():
    dealt = deal(sized((10,), (20,)), 5, 100, 100)
    assert dealt.rows == (((1,), (0,), (), (), ()),)
    assert dealt.efficiency == pytest.approx(30 / 100)
    empty = deal(sized(), 3, 100, 100)
    assert (empty.rows, empty.efficiency, empty.once_efficiency) == ((((), (), ()),), 1.0, 1.0)


def test_lost_samples_cost_nothing_and_are_dealt_all_the_same():
    """Their rows carry the failures to the ledger."""
    sizes_N3 = sized((0,), (50,), (0,), (50,))
    dealt = deal(sizes_N3, 2, 100, 100)
    check_dealt(sizes_N3, dealt, 2, 100, 100)
    assert dealt.efficiency == 1.0
    lost_N3 = sized(*[(0,)] * 3)
    dealt = deal(lost_N3, 2, 100, 100)
    check_dealt(lost_N3, dealt, 2, 100, 100)
    assert dealt.efficiency == dealt.once_efficiency == 1.0
