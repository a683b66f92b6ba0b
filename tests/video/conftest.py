"""Clips in memory and random compositions of them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from vista_train.video.composition import Clip, Concat, Grid, Overlay, Video
from vista_train.video.geometry import FITS, Box

MakeClip = Callable[..., Clip]
MakeVideo = Callable[..., Video]


@pytest.fixture
def in_memory() -> MakeClip:
    """A clip of pictures of one colour each, `colours` being RGB triples, at equal shares of `seconds`."""

    def make(colours: list[tuple[int, int, int]], seconds: Any = 1, size: tuple[int, int] = (16, 12)) -> Clip:
        pixels_T311 = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None]
        return Clip.from_frames(pixels_T311.expand(-1, -1, size[1], size[0]).contiguous(), seconds)

    return make


@pytest.fixture
def on_disk() -> MakeClip:
    """A clip of a file that is named only, with everything that JSON must keep."""

    def make(name: str = "a.mp4", start: Any = 0, end: Any = 4, **known: Any) -> Clip:
        return Clip(name, start, end, **({"width": 64, "height": 48} | known))

    return make


@pytest.fixture
def random_video() -> MakeVideo:
    """A random composition of clips in memory, at most `depth` deep: of noise, or of `plain` colours."""

    def make(rng: np.random.Generator, depth: int = 3, plain: bool = False) -> Video:
        def again() -> Video:
            return make(rng, depth - 1, plain)

        fit = FITS[rng.integers(len(FITS))]
        kind = rng.integers(4) if depth else 0
        if kind == 0:
            return _random_clip(rng, plain)
        if kind == 1:
            return Concat(tuple(again() for _ in range(rng.integers(1, 4))), _random_size(rng), fit)
        if kind == 2:
            base = again()
            return Overlay(base, again(), base.duration * Fraction(int(rng.integers(8)), 8), _random_box(rng), fit)
        rows, columns = (int(number) for number in rng.integers(1, 4, size=2))
        return Grid(tuple(again() for _ in range(rows * columns)), rows, columns, _random_size(rng), fit)

    return make


def _random_clip(rng: np.random.Generator, plain: bool) -> Clip:
    num, (width, height) = int(rng.integers(1, 9)), _random_size(rng)
    shape = (num, 3, 1, 1) if plain else (num, 3, height, width)
    pixels_TCHW = torch.from_numpy(rng.integers(1, 256, size=shape, dtype=np.uint8)).expand(num, 3, height, width)
    clip = Clip.from_frames(pixels_TCHW.contiguous(), Fraction(int(rng.integers(1, 40)), int(rng.integers(3, 9))))
    start, end = sorted(clip.duration * Fraction(int(number), 64) for number in rng.choice(65, size=2, replace=False))
    return clip.subclip(start, end)


def _random_size(rng: np.random.Generator) -> tuple[int, int]:
    width, height = rng.integers(3, 41, size=2)
    return (int(width), int(height))


def _random_box(rng: np.random.Generator) -> Box:
    edges = [sorted(Fraction(int(number), 48) for number in rng.choice(49, size=2, replace=False)) for _ in "xy"]
    return Box(edges[0][0], edges[1][0], edges[0][1], edges[1][1])
