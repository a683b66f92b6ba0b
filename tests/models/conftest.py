"""Every family on a tiny checkpoint of its real classes, and samples of every kind that a row can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vista_train.models import load_family
from vista_train.models.hub_family import HubFamily
from vista_train.types import Encoded, Message, Row, Sample
from vista_train.video.composition import Clip, Video
from vista_train.video.sampling import View

GENERATIONS = {"qwen2_5_vl": "qwen_vl", "qwen3_vl": "qwen_vl"}
"""Checkpoints of one family that differ in what it does with them."""
NATIVE = ("mantis", "qwen2_5_vl", "qwen3_vl")
"""Families whose frames have shapes of their own."""
TALK = (
    Message("user", "What is it?"),
    Message("assistant", "A cat."),
    Message("user", "And now?"),
    Message("assistant", "A dog runs."),
)


@dataclass
class Rig:
    """A family on its checkpoint, and what tests ask of it."""

    kind: str
    family: HubFamily
    folder: Path
    models: list[Any] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The model, loaded once; tests that change weights load their own."""
        if not self.models:
            self.models.append(self.family.load())
        return self.models[0]

    def sample(self, video: Video | None, messages: tuple[Message, ...] = TALK) -> Sample:
        return Sample(video, messages, (), "made")

    def frames(self, video: Video | None, count: int, seed: int = 0) -> torch.Tensor:
        """Noise in the shape that the view has for the video."""
        if video is None:
            return torch.zeros((0, 3, 0, 0), dtype=torch.uint8)
        width, height = self.family.codec.view.canvas_of(video)
        noise = torch.Generator().manual_seed(seed)
        return torch.randint(256, (count, 3, height, width), generator=noise, dtype=torch.uint8)

    def encoded(self, video: Video | None, messages: tuple[Message, ...] = TALK, seed: int = 0) -> Encoded:
        sample = self.sample(video, messages)
        plan = self.family.codec.plan(sample)
        return self.family.codec.encode(sample, plan, self.frames(video, len(plan.times), seed), seed)

    def mixed(self) -> list[Encoded]:
        """Videos of unlike shapes and frame counts, the first and last of one shape, words alone, and a picture."""
        return [
            self.encoded(VIDEO, seed=1),
            self.encoded(None, TALK[:2], seed=2),
            self.encoded(PICTURE, TALK[2:], seed=3),
            self.encoded(SHORT, TALK[:2], seed=4),
            self.encoded(None, seed=5),
            self.encoded(VIDEO, TALK[:2], seed=6),
        ]

    def hidden(self, model: Any, samples: list[Encoded]) -> torch.Tensor:
        return self.family.hidden_states(model, Row.packed(samples))


VIDEO = Clip("video.mp4", Fraction(0), Fraction(10), 320, 240)
SHORT = Clip("short.mp4", Fraction(0), Fraction(3), 240, 400, 1)
"""Three source frames, so three are sampled."""
PICTURE = Clip("picture.png", Fraction(0), Fraction(1), 300, 300, 1)


def view_of(kind: str, side: int, **changes: Any) -> View:
    """A small view that suits a checkpoint, of five frames so that pairs are left with one."""
    if kind in NATIVE:
        shape = {"width": 2 * side, "height": 2 * side, "fit": "native", "multiple": 14 if kind == "mantis" else side}
    else:
        shape = {"width": side, "height": side}
    return View(**{"frames": 5, "min_pixels": 2, **shape, **changes})


@pytest.fixture(scope="session")
def rigs(make_checkpoint: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rig]:
    """Each kind's rig, made when it is first asked for."""
    made: dict[str, Rig] = {}

    def rig(kind: str) -> Rig:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            view = view_of(kind, make_checkpoint.make(kind, folder).side)
            family = load_family(GENERATIONS.get(kind, kind), {"path": str(folder)}, view)
            made[kind] = Rig(kind, family, folder)
        return made[kind]

    return rig


KINDS = ("longva", "video_llava", "mantis", "llava_onevision", "smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest, rigs: Callable[[str], Rig]) -> Iterator[Rig]:
    """Every family, one after another."""
    made = rigs(request.param)
    yield made
    for model in made.models:
        model.zero_grad()
        model.eval()
