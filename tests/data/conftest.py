"""Clips without a manifest, a codec without a tokenizer, and an augmentation that tells who was cast."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from vista_train.augment import Augment, Plain, Role, SpatialNeedle, TemporalNeedle, TwoNeedle, VideoGrid
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.sources import ClipSource
from vista_train.models.base import load_family
from vista_train.types import Encoded, Evidence, Message, Plan, Sample
from vista_train.video.composition import Clip
from vista_train.video.geometry import Span
from vista_train.video.sampling import View

VIEW = View(frames=4, width=56, height=56, min_pixels=7)


class ClipList:
    """What VistaDataset asks of a ClipSource, over a list."""

    def __init__(self, clips: list[Clip], digest: str = "list") -> None:
        self.clips, self.digest, self.unusable = clips, digest, ()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]

    def moving(self) -> ClipList:
        return self

    def run(self, index: int, max_gap_seconds: float) -> list[int]:
        return [i for i, clip in enumerate(self.clips) if clip.source == self.clips[index].source]


@dataclass(frozen=True)
class BareCodec:
    """A token for each letter, and a frame: enough to plan thousands of samples in a second."""

    view: View = VIEW
    patches_per_frame: int = 16

    def plan(self, sample: Sample) -> Plan:
        times = self.view.times(sample.video.duration, sample.video.frame_measure)
        words = sum(len(message.content) for message in sample.messages)
        answer = len(sample.messages[-1].content)
        patches = len(times) * self.patches_per_frame
        return Plan(times, words + len(times), patches, answer, float(words + 100 * patches))

    def encode(self, sample: Sample, plan: Plan, frames_TCHW: torch.Tensor, position: int = 0) -> Encoded:
        ids = torch.arange(plan.tokens)
        labels = torch.where(ids < plan.tokens - plan.labels, -100, ids)
        return Encoded(position, sample.kind, ids, labels, frames_TCHW)


def clip_list(prefix: str, num: int, captions: int = 0, seconds: float = 10) -> ClipList:
    """`num` clips of 10 s, each a file of its own; `captions` of them different, default all."""
    clips = []
    for number in range(num):
        caption = f"{prefix} scene {number % (captions or num)}."
        path = f"{prefix}/{number}.mp4"
        clips.append(Clip(path, Fraction(0), seconds, 160, 120, Fraction(10), caption, source=prefix))
    return ClipList(clips)


def same(first: Encoded, second: Encoded) -> bool:
    """Equal to the last bit."""
    facts = [(e.position, e.kind, e.attempt, e.failures) for e in (first, second)]
    names = ("input_ids", "labels", "frames_TCHW")
    return facts[0] == facts[1] and all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


@pytest.fixture
def recorder(augmentations: None) -> type[Augment]:
    """An augmentation whose answer is its cast, as JSON: [path, caption] of every clip by role."""

    @dataclass(frozen=True)
    class Recorder(Augment):
        roles = (Role("anchor"), Role("other", 3), Role("distractor", 2, "caption_only", min_count=0))
        note: str = ""

        def draw(self, rng, clips, view):
            return {}

        def apply(self, clips, params):
            (anchor,) = clips["anchor"]
            cast = {role: [[clip.path, clip.caption] for clip in entries] for role, entries in clips.items()}
            words = (Message("user", "Who?"), Message("assistant", json.dumps(cast)))
            return Sample(anchor, words, (Evidence(Span(Fraction(0), anchor.duration)),), self.name)

    return Recorder


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """What tests of this folder share: a test module cannot import another."""
    return SimpleNamespace(ClipList=ClipList, BareCodec=BareCodec, clip_list=clip_list, same=same, VIEW=VIEW)


@pytest.fixture(scope="session")
def tiny_codec() -> Callable:
    """The codec of a very small `tiny`, for a view of 4 frames of 56x56; keywords are the family's settings."""

    def make(view: View = VIEW, **settings):
        small = {"vision_width": 32, "language_width": 64, "language_layers": 2}
        return load_family("tiny", small | settings, view).codec

    return make


MIX = (
    Ingredient(TemporalNeedle()),
    Ingredient(TwoNeedle()),
    Ingredient(SpatialNeedle()),
    Ingredient(VideoGrid(rows=2, columns=2)),
    Ingredient(Plain()),
)


@pytest.fixture(scope="session")
def codec(tiny_codec):
    return tiny_codec()


@pytest.fixture
def of_world(world, codec):
    """A dataset over the rendered clips; keywords are VistaDataset's."""

    def make(root: Path = world, mix=MIX, **options) -> VistaDataset:
        source = ClipSource(world / "clips.jsonl", world)
        return VistaDataset({"clips": source}, mix, codec, root, **{"seed": 3, **options})

    return make


class Damaged(NamedTuple):
    root: Path
    harm: dict[str, str]
    """What is wrong with each bad file, by its path as in the manifest."""


@pytest.fixture
def damaged(world, tmp_path) -> Damaged:
    """The world's clips, five of the sixteen bad: gone, empty, cut in half, text, a folder."""
    root = tmp_path / "damaged"
    shutil.copytree(world, root)
    harm = {}
    for path, kind in zip(sorted(root.rglob("*.mp4"))[1::3], ("gone", "empty", "cut", "text", "folder"), strict=True):
        content = path.read_bytes()
        path.unlink()
        match kind:
            case "empty":
                path.write_bytes(b"")
            case "cut":
                path.write_bytes(content[: len(content) // 2])
            case "text":
                path.write_text("<html>404 Not Found</html>\n" * 40)
            case "folder":
                path.mkdir()
        harm[path.relative_to(root).as_posix()] = kind
    return Damaged(root, harm)
