"""One integer decides everything: counter-based random draws, and permutations in constant memory."""

from __future__ import annotations

import numpy as np

MASK = (1 << 64) - 1
ROUNDS = 6


def draw_rng(seed: int, epoch: int, index: int, draw: int, attempt: int) -> np.random.Generator:
    """The generator of one draw: Philox keyed by the run's seed, counted by epoch, index, draw and attempt.

    The counter's first word is left to the generator, which counts blocks of output in it; no two draws overlap.
    """
    if not (0 <= draw < 1 << 32 and 0 <= attempt < 1 << 32):
        raise ValueError(f"draw {draw} and attempt {attempt} must each lie in 0..2^32 - 1")
    counter = np.array([0, index, attempt << 32 | draw, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=np.array([seed & MASK, 0], dtype=np.uint64)))


def permuted(index: int, size: int, rng: np.random.Generator) -> int:
    """Where a random permutation of range(size), chosen by `rng`, puts `index`.

    A balanced Feistel network over the next even number of bits, walked until the value falls inside the range
    (cycle walking; Black and Rogaway, 2002): O(1) memory for any size.
    """
    if not 0 <= index < size:
        raise ValueError(f"index {index} lies outside 0..{size - 1}")
    keys = [int(key) for key in rng.integers(0, 1 << 63, size=ROUNDS)]
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    value = index
    while True:
        value = _feistel(value, half, keys)
        if value < size:
            return value


def _feistel(value: int, half: int, keys: list[int]) -> int:
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return left << half | right


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31
