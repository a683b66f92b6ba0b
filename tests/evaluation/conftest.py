"""Clips in memory of one colour each, and a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from vista_train.evaluation.footage import Footage
from vista_train.evaluation.scoring import ModelScorer
from vista_train.models import load_family
from vista_train.models.base import Codec
from vista_train.video.composition import QA, Clip
from vista_train.video.media import Media
from vista_train.video.sampling import View

COLOURS = [(r, g, b) for r in range(0, 256, 60) for g in range(0, 256, 60) for b in range(0, 256, 60)][1:]
"""Far enough apart to be told; without black, which bars have."""
ANSWERS = ("red", "green", "blue", "white", "pink", "brown", "grey", "cyan")
SETTINGS = {"vision_width": 32, "language_width": 64, "language_layers": 2, "seed": 1}


@pytest.fixture
def coloured_clips() -> list[Clip]:
    """40 clips in memory of 4 s, each of a colour of its own; every other one has a question of its own."""
    clips = []
    for number in range(40):
        pixels_T3HW = torch.tensor(COLOURS[number], dtype=torch.uint8)[None, :, None, None].expand(16, 3, 24, 32)
        asked = (QA("Which colour?", f"{ANSWERS[number // 2 % 8]} {number // 16}"),) if number % 2 else ()
        clips.append(Clip.from_frames(pixels_T3HW, 4, f"The number {number:03d} is painted on a wall", qa=asked))
    return clips


@pytest.fixture
def tiny() -> Callable[..., ModelScorer]:
    """A scorer by an untrained tiny model; keywords change its view."""

    def make(root: Any = ".", max_row_tokens: int = 0, settings: Mapping[str, Any] | None = None, **view: Any):
        chosen = View(**{"frames": 8, "width": 56, "height": 56, "min_pixels": 4, **view})
        family = load_family("tiny", {**SETTINGS, **(settings or {})}, chosen)
        return ModelScorer(family, family.load(), Footage(Media(root, isolate="inline")), max_row_tokens)

    return make


@pytest.fixture(scope="session")
def codec() -> Callable[..., Codec]:
    """A tiny codec; keywords change its view."""

    def make(max_tokens: int = 100_000, **view: Any) -> Codec:
        chosen = View(**{"frames": 64, "width": 56, "height": 56, "min_pixels": 4, **view})
        return load_family("tiny", {**SETTINGS, "max_tokens": max_tokens}, chosen).codec

    return make
