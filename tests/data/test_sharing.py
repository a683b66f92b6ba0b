"""What several samples of a row show of one file is decoded once, and nothing else changes by it."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

from vista_train.augment import TemporalNeedle, VideoGrid
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.sources import ClipSource
from vista_train.video.decode import Limits
from vista_train.video.media import NOT_AGAIN, Media


def test_what_several_samples_show_of_a_file_is_decoded_once(of_world, damaged, tools, monkeypatch):
    asked: list[tuple[str, int]] = []
    original = Media._original

    def noted(self, key, wanted, predicted):
        asked.append((key, len(wanted)))
        return original(self, key, wanted, predicted)

    monkeypatch.setattr(Media, "_original", noted)
    dataset = of_world(mix=(Ingredient(VideoGrid(rows=3, columns=3)), Ingredient(TemporalNeedle())))
    positions = range(6)
    alone = [dataset[position] for position in positions]
    num_alone = len(asked)
    asked.clear()
    together = dataset.__getitems__(positions)
    assert all(tools.same(one, other) for one, other in zip(alone, together, strict=True))
    by_file = Counter(key for key, _ in asked)
    assert num_alone > 1.3 * len(asked), "the world is small: they share files"
    assert max(by_file.values()) == 1, "each file was opened once"
    drawn = sum((Counter(sample.drawn) for sample in together), Counter())
    assert drawn["shared"] > 0
    assert sum((Counter(sample.drawn) for sample in alone), Counter())["file"] >= drawn["file"]


def test_a_file_that_several_samples_lose_is_lost_by_each_as_if_alone(damaged, of_world, tools):
    mix = (Ingredient(VideoGrid(rows=2, columns=2)), Ingredient(TemporalNeedle()))
    dataset = of_world(root=damaged.root, mix=mix)
    alone = [dataset[position] for position in range(8)]
    assert sum(bool(sample.failures) for sample in alone) >= 2
    together = of_world(root=damaged.root, mix=mix).__getitems__(range(8))
    for one, other in zip(alone, together, strict=True):
        assert tools.same(one, other)
        assert one.failures == other.failures


def test_a_file_that_hangs_for_several_samples_is_told_as_if_alone(world, codec, tmp_path):
    root = tmp_path / "hangs"
    shutil.copytree(world, root)
    source = ClipSource(world / "clips.jsonl", world)
    stub = (str(Path(__file__).parents[1] / "video" / "stub_child.py"),)
    limits = Limits(deadline_seconds=1.0, max_deadline_seconds=1.0)

    media = Media(root, limits=limits, program=stub, allow_symlinks=True)
    mix = (Ingredient(VideoGrid(rows=3, columns=3)),)
    dataset = VistaDataset({"clips": source}, mix, codec, media, seed=3)
    shown = [{clip.path for clip in dataset.sample(position).video.clips()} for position in range(4)]
    (victim, uses), *_ = Counter(path for paths in shown for path in paths).most_common()
    assert uses >= 2
    hanging = (root / victim).with_name(f"hang_{Path(victim).name}")
    (root / victim).rename(hanging)
    (root / victim).symlink_to(hanging.name)
    began = time.monotonic()
    samples = dataset.__getitems__(range(4))
    assert time.monotonic() - began < 12
    media.close()
    failures = [failure for sample in samples for failure in sample.failures if failure.attempt == 0]
    assert len(failures) == uses
    reasons = [failure.reason for failure in failures]
    assert reasons == ["MediaTimeout: not decoded within 1 s", *[f"MediaTimeout: {NOT_AGAIN}"] * (uses - 1)]


def test_what_takes_too_long_for_all_at_once_is_had_one_by_one(world, codec):
    source = ClipSource(world / "clips.jsonl", world)
    mix = (Ingredient(VideoGrid(rows=3, columns=3)),)

    def make(**limits) -> VistaDataset:
        return VistaDataset(
            {"clips": source}, mix, codec, Media(world, isolate="inline", limits=Limits(**limits)), seed=3
        )

    shared = make().__getitems__(range(4))
    apart = make(deadline_seconds=1e-9, max_deadline_seconds=1e-9).__getitems__(range(4))
    assert sum(sample.drawn["shared"] for sample in shared) > 0
    assert sum(sample.drawn.get("shared", 0) for sample in apart) == 0, "two requests' time is more than one may take"
    assert all(bool((one.frames_TCHW == other.frames_TCHW).all()) for one, other in zip(shared, apart, strict=True))
