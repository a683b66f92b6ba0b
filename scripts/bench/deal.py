"""How evenly a video-heavy step is dealt to 8, 64 and 512 ranks, beside usual packers and the most that can be had.

    python scripts/bench/deal.py [--ranks 8 64 512] [--seeds 5] [--repeats 5] [--json]

16 samples a rank: 30 % text, 40 % videos of 8 to 64 frames, 30 % of 64 to 440, at 144 tokens a frame. FLOPs are those
of LongVA-7B (Qwen2-7B and CLIP-L/14-336), decoder trained, tower frozen: three passes of the one, one of the other.

Efficiency is total cost over ranks x sum of each micro-step's dearest row, the mean over seeds. `at once` is that of
the same rows where ranks meet but once a step, as without ZeRO-3: total cost over ranks x the dearest rank's sum, for
which `bound` does not hold. `best fit` puts samples in shuffled order into the fullest row with room, `next fit` into
the last row or else a new one; their rows are cut into micro-steps as they come. `bound` is what no dealing under the
token cap can exceed. `ms` is the median time of dealing one step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from vista_train.data.deal import Deal, deal
from vista_train.models.base import Compute

LONGVA_7B = Compute(
    language_params=6_525_000_000,
    language_layers=28,
    language_width=3584,
    vocab_size=152_064,
    vision_params=320_000_000,
    vision_layers=24,
    vision_width=1024,
    language_passes=3,
    vision_passes=1,
)
PATCHES, TOKENS = 576, 144
"""Of each frame, in the tower and behind the pooling."""
SAMPLES_A_RANK = 16
ROW_TOKENS = (65_536, 131_072)
NO_LIMIT = 1 << 40
FEWER_PATCHES = PATCHES * 441
"""Just room for the longest video: it binds where 65,536 tokens would hold 455 frames."""
COLUMNS = ("ours", "worst", "at_once", "best_fit", "next_fit", "bound", "micro_steps", "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--seeds", type=int, default=5, help="so many steps are dealt")
    parser.add_argument("--repeats", type=int, default=5, help="so often is each dealt, for the time")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    settings = [(tokens, NO_LIMIT, ranks) for tokens in ROW_TOKENS for ranks in args.ranks]
    settings.append((ROW_TOKENS[0], FEWER_PATCHES, args.ranks[min(1, len(args.ranks) - 1)]))
    print(
        f"{'row tokens':>10}{'patches':>10}{'ranks':>7}" + "".join(f"{name.replace('_', ' '):>12}" for name in COLUMNS)
    )
    figures = []
    for row_tokens, row_patches, ranks in settings:
        found = measure(row_tokens, row_patches, ranks, args.seeds, args.repeats)
        limit = "any" if row_patches == NO_LIMIT else f"{row_patches:,}"
        print(
            f"{row_tokens:>10,}{limit:>10}{ranks:>7}"
            + "".join(f"{found[name]:>12.{4 if name in COLUMNS[:6] else 1}f}" for name in COLUMNS),
            flush=True,
        )
        figures.append({"row_tokens": row_tokens, "row_patches": row_patches, "ranks": ranks, **found})
    if args.json:
        print(json.dumps({"figures": figures}))


def mix(num: int, seed: int) -> np.ndarray:
    """FLOPs, tokens and patches of `num` samples [N, 3]."""
    rng = np.random.default_rng(seed)
    kind_N = rng.choice(3, size=num, p=[0.3, 0.4, 0.3])
    frames_N = np.choose(kind_N, [np.zeros(num, np.int64), rng.integers(8, 65, num), rng.integers(64, 441, num)])
    text_N = np.clip(rng.lognormal(np.log(300), 0.5, num), 40, 2000).astype(np.int64)
    labels_N = np.minimum(rng.integers(20, 301, num), text_N)
    tokens_N = text_N + TOKENS * frames_N
    counts = zip(tokens_N.tolist(), labels_N.tolist(), frames_N.tolist(), strict=True)
    cost_N = [LONGVA_7B.flops(tokens, labels, frames, PATCHES) for tokens, labels, frames in counts]
    return np.column_stack([cost_N, tokens_N, PATCHES * frames_N]).astype(np.float64)


def measure(row_tokens: int, row_patches: int, ranks: int, num_seeds: int, repeats: int) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for seed in range(num_seeds):
        sizes_N3 = mix(SAMPLES_A_RANK * ranks, seed)
        dealt, milliseconds = timed(sizes_N3, ranks, row_tokens, row_patches, repeats)
        found["ms"] += milliseconds
        found["ours"].append(dealt.efficiency)
        found["at_once"].append(dealt.once_efficiency)
        found["micro_steps"].append(len(dealt.rows))
        found["bound"].append(most_efficient(sizes_N3, ranks, row_tokens))
        shuffled_N3 = np.random.default_rng([seed, 1]).permutation(sizes_N3)
        limits = (row_tokens, row_patches)
        found["best_fit"].append(as_they_come(best_fit(shuffled_N3, *limits), ranks))
        found["next_fit"].append(as_they_come(next_fit(shuffled_N3, *limits), ranks))
    means = {name: statistics.mean(values) for name, values in found.items() if values}
    return means | {"worst": min(found["ours"]), "ms": statistics.median(found["ms"])}


def timed(
    sizes_N3: np.ndarray, ranks: int, row_tokens: int, row_patches: int, repeats: int
) -> tuple[Deal, list[float]]:
    milliseconds = []
    for _ in range(max(1, repeats)):
        since = time.perf_counter()
        dealt = deal(sizes_N3, ranks, row_tokens, row_patches)
        milliseconds.append(1000 * (time.perf_counter() - since))
    return dealt, milliseconds


def best_fit(sizes_N3: np.ndarray, row_tokens: int, row_patches: int) -> list[float]:
    """The cost of each row, where a sample goes to the row with the fewest tokens left that has room."""
    rows: list[tuple[float, int]] = []
    costs: list[float] = []
    patches: list[float] = []
    for cost, tokens, num_patches in sizes_N3.tolist():
        at = bisect_left(rows, (tokens, -1))
        while at < len(rows) and patches[rows[at][1]] + num_patches > row_patches:
            at += 1
        room, row = rows.pop(at) if at < len(rows) else (float(row_tokens), len(costs))
        if row == len(costs):
            costs.append(0.0)
            patches.append(0.0)
        costs[row] += cost
        patches[row] += num_patches
        insort(rows, (room - tokens, row))
    return costs


def next_fit(sizes_N3: np.ndarray, row_tokens: int, row_patches: int) -> list[float]:
    """The cost of each row, where a sample that the last row has no room for begins a new one."""
    rows = [np.zeros(3)]
    for size_3 in sizes_N3:
        if (rows[-1] + size_3 > (np.inf, row_tokens, row_patches)).any():
            rows.append(np.zeros(3))
        rows[-1] = rows[-1] + size_3
    return [float(row_3[0]) for row_3 in rows]


def as_they_come(costs: Sequence[float], ranks: int) -> float:
    """The efficiency of rows of these costs, `ranks` of them to a micro-step."""
    waited = sum(max(costs[first : first + ranks]) for first in range(0, len(costs), ranks))
    return sum(costs) / (ranks * waited) if waited else 1.0


def most_efficient(sizes_N3: np.ndarray, ranks: int, row_tokens: int) -> float:
    """An efficiency that no dealing under the token cap exceeds, in any number of micro-steps.

    Take any dealing, its rows in order of cost, r_1 >= r_2 >= ..., with as many empty ones behind as are needed, and
    its micro-steps in order of their dearest row. Those before the m-th hold (m - 1) ranks rows, so the m-th has one no
    cheaper than r_(1 + (m - 1) ranks), and `waited`, the sum of dearest rows, is at least the sum of these over m. For
    any g >= 0 that sum has two parts.

    The first g terms: `large` samples, over half the cap, are in different rows, so r_k is at least the k-th dearest
    large sample; and r_1 is at least the dearest sample of all.

    The others: each is at least the mean of the `ranks` rows from it on, so together they are at least
    (total - what the g ranks dearest rows cost) / ranks. A row with a large sample of t tokens has cap - t left, for
    samples no larger than that: it costs at most the large one and (cap - t) times the highest cost per token among
    samples of at most cap - t tokens. A row without one costs at most the cap times the highest among those of at most
    half of it. So the g ranks dearest rows cost at most the sum of the g ranks greatest of these limits.

    The bound is the best over g.
    """
    cost_N, tokens_N = sizes_N3[sizes_N3[:, 1] > 0, :2].T
    total = float(cost_N.sum())
    if not total:
        return 1.0
    order_N = np.argsort(tokens_N, kind="stable")
    # Behind nothing there is nothing.
    highest_N = np.concatenate([[0.0], np.maximum.accumulate((cost_N / tokens_N)[order_N])])

    def per_token(left: np.ndarray) -> np.ndarray:
        return highest_N[np.searchsorted(tokens_N[order_N], left, side="right")]

    is_large_N = tokens_N > row_tokens / 2
    large_L = -np.sort(-cost_N[is_large_N])
    left_L = row_tokens - tokens_N[is_large_N]
    limit_L = cost_N[is_large_N] + left_L * per_token(left_L)
    without = row_tokens * float(per_token(np.array([row_tokens / 2]))[0])
    waited, leading = total / ranks, 0.0
    for micro in range(len(large_L) // ranks + 1):
        first = large_L[micro * ranks] if micro * ranks < len(large_L) else 0.0
        leading += float(first if micro else cost_N.max())
        num_rows = (micro + 1) * ranks
        limits = -np.sort(-np.concatenate([limit_L, np.full(num_rows, without)]))[:num_rows]
        waited = max(waited, leading + max(0.0, total - float(limits.sum())) / ranks)
    return total / (ranks * waited)


if __name__ == "__main__":
    main()
