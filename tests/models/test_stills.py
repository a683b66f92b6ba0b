"""Videos, pictures and words of one file, as a family is trained on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vista_train.augment import Plain, TemporalNeedle
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.reading import Reading
from vista_train.data.sources import ClipSource
from vista_train.models import load_family
from vista_train.training.loop import Trainer
from vista_train.training.optimizer import OptimizerSettings
from vista_train.training.settings import LoopSettings
from vista_train.types import Row
from vista_train.video.media import Media
from vista_train.video.sampling import View

TINY = {"vision_width": 32, "language_width": 64, "language_layers": 2, "seed": 1}


@pytest.fixture(scope="module")
def llava(world: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipSource:
    """The world's clips, as many pictures, some turned, and conversations, in one LLaVA JSON."""
    root = tmp_path_factory.mktemp("llava")
    (root / "world").symlink_to(world)
    (root / "coco").mkdir()
    exif = Image.Exif()
    exif[274] = 6
    for number in range(16):
        pixels_HWC = np.random.default_rng(number).integers(0, 256, (60, 90, 3), np.uint8)
        Image.fromarray(pixels_HWC).save(root / f"coco/{number}.jpg", exif=exif if number % 2 else b"")
    films = [f"world/{json.loads(line)['video']}" for line in (world / "clips.jsonl").read_text().splitlines()]
    entries = []
    for number, film in enumerate(films):
        question, answer = {"from": "human", "value": f"<image>\nWhat is {number}?"}, {"from": "gpt", "value": "A dog."}
        asked = {"from": "human", "value": f"What is {number} and one?"}
        caption = f"Scene number {number}."
        entries.append({"id": f"v{number}", "video": film, "caption": caption, "conversations": [question, answer]})
        entries.append({"id": f"p{number}", "image": f"coco/{number}.jpg", "conversations": [question, answer]})
        entries.append({"id": f"t{number}", "conversations": [asked, {"from": "gpt", "value": str(number + 1)}]})
    (root / "mix.json").write_text(json.dumps(entries))
    media = Media(root, isolate="inline", allow_symlinks=True)
    return ClipSource(root / "mix.json", media, root / "cache", reading=Reading("llava"))


@pytest.mark.parametrize("kind", ["tiny", "llava_onevision"])
def test_two_steps_on_videos_pictures_and_words(kind: str, rigs: Callable, llava: ClipSource) -> None:
    view = View(frames=4, width=56, height=56, min_pixels=7)
    family = load_family("tiny", TINY, view) if kind == "tiny" else rigs(kind).family
    media = Media(llava.root, isolate="inline", allow_symlinks=True)
    mix = (Ingredient(Plain(turns="all"), 3.0), Ingredient(TemporalNeedle()))
    dataset = VistaDataset({"llava": llava}, mix, family.codec, media, seed=1)
    seen = set()
    steps = []
    for step in range(2):
        samples = [dataset[position] for position in range(12 * step, 12 * step + 12)]
        assert not [failure for sample in samples for failure in sample.failures]
        for sample in samples:
            video = dataset.sample(sample.position).video
            assert sample.picture == (video is not None and video.frame_measure <= 1)
            assert len(sample.frames_TCHW) == (
                0 if video is None else 1 if sample.picture else family.codec.view.frames
            )
            seen.add((sample.kind, sample.picture, len(sample.frames_TCHW) > 0))
        steps.append([Row.packed(samples[:6]), Row.packed(samples[6:])])
    assert seen == {
        ("plain", True, True), ("plain", False, True), ("plain", False, False), ("temporal_needle", False, True),
    }  # fmt: skip
    trainer = Trainer(family, loop=LoopSettings(steps=2), optimizer=OptimizerSettings(lr=1e-3))
    results = [trainer.step(rows) for rows in steps]
    assert all(math.isfinite(result["loss"]) and result["grad_norm"] > 0 for result in results)
    # Before anything is learnt, a word is about as likely as any other.
    assert results[0]["loss"] == pytest.approx(math.log(family.codec.tokenizer.vocab_size), rel=0.5)
