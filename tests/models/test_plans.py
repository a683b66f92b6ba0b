"""Plan equals pixels: what is planned of a sample is what becomes of it, for every family and every augmentation."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from vista_train.augment import REGISTRY
from vista_train.data.dataset import Composed, Ingredient, VistaDataset
from vista_train.data.sources import ClipSource
from vista_train.models import chat
from vista_train.models.codec import Shown
from vista_train.types import Encoded, Message, Row
from vista_train.video.composition import Clip

NUM_SAMPLES = 200
TALK = (Message("user", "What is it?"), Message("assistant", "A cat."))


@pytest.fixture(scope="module")
def source(world: Path) -> ClipSource:
    return ClipSource(world / "clips.jsonl", world)


def composed(rig: Any, source: ClipSource, name: str, max_tokens: int) -> Iterator[Composed]:
    """Samples of one augmentation at positions 0 to 199, as the dataset makes them for the family."""
    codec = replace(rig.family.codec, max_tokens=max_tokens)
    augment = REGISTRY[name](**({"rows": 2, "columns": 2} if name == "video_grid" else {}))
    dataset = VistaDataset({"world": source}, [Ingredient(augment)], codec, source.root, seed=7)
    for position in range(NUM_SAMPLES):
        yield dataset.planned(position)


def encoded(rig: Any, made: Composed) -> Encoded:
    width, height = rig.family.codec.view.canvas_of(made.sample.shown)
    frames_TCHW = torch.zeros((len(made.plan.times), 3, height, width), dtype=torch.uint8)
    return rig.family.codec.encode(made.sample, made.plan, frames_TCHW)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_planned_tokens_are_encoded_tokens(rig: Any, source: ClipSource, name: str) -> None:
    counts = set()
    for made in composed(rig, source, name, max_tokens=4096):
        plan, out = made.plan, encoded(rig, made)
        assert (plan.tokens, plan.labels) == (len(out.input_ids), out.num_labels)
        assert len(out.labels) == plan.tokens
        assert out.mrope_3L is None or out.mrope_3L.shape == (3, plan.tokens)
        counts.add(plan.tokens)
    assert len(counts) > 5


@pytest.mark.parametrize("seconds", [3, 10, 100])
def test_frames_are_dropped_and_never_tokens(rig: Any, seconds: int) -> None:
    """As many frames as fit, never one more, and all words; what is said of times is said of those that are left."""
    codec, view = rig.family.codec, rig.family.view
    sample = rig.sample(Clip("video.mp4", 0, seconds, 320, 240), TALK)
    times = [view.times(Fraction(seconds), sample.shown.frame_measure, count) for count in range(1, 6)]
    tokens = [replace(codec, view=replace(view, frames=count)).plan(sample).tokens for count in range(1, 6)]
    words = codec.plan(sample).labels
    for most in range(tokens[0], tokens[-1] + 2):
        plan = replace(codec, max_tokens=most).plan(sample)
        count = max(count for count in range(1, 6) if tokens[count - 1] <= most)
        assert plan.times == times[count - 1]
        assert plan.tokens == tokens[count - 1]
        assert plan.labels == words
    with pytest.raises(ValueError, match="leaves no room for one frame"):
        replace(codec, max_tokens=tokens[0] - 1).plan(sample)


def test_a_row_is_worth_what_its_samples_were_planned_to_cost(rig: Any) -> None:
    videos = [None, Clip("a.mp4", 0, 7, 200, 100), Clip("b.mp4", 0, 7, 100, 300), Clip("c.png", 0, 1, 300, 300, 1)]
    costs = [rig.family.codec.plan(rig.sample(video)).cost for video in videos]
    row = Row.packed([rig.encoded(video) for video in videos])
    assert rig.family.codec.flops(row) == pytest.approx(sum(costs), rel=1e-12)
    assert costs[0] < min(costs[1:])


def test_words_alone_have_a_plan_and_a_limit(rig: Any) -> None:
    sample = rig.sample(None, TALK)
    plan = rig.family.codec.plan(sample)
    out = rig.encoded(None, TALK)
    assert (plan.times, plan.patches, plan.tokens, plan.labels) == ((), 0, len(out.input_ids), out.num_labels)
    assert plan.cost > 0
    with pytest.raises(ValueError, match=f"text of {plan.tokens} tokens is longer than family"):
        replace(rig.family.codec, max_tokens=plan.tokens - 1).plan(sample)


def test_a_picture_is_one_frame_however_long(rig: Any) -> None:
    for seconds in (1, 5):
        picture = Clip("picture.png", 0, seconds, 300, 300, Fraction(1, seconds))
        plan = rig.family.codec.plan(rig.sample(picture, TALK))
        assert len(plan.times) == 1
        assert rig.encoded(picture, TALK).picture
    assert not rig.encoded(Clip("video.mp4", 0, 1, 300, 300, 2), TALK).picture


def test_learnt_is_what_the_assistant_says(rig: Any) -> None:
    for video in (None, Clip("video.mp4", 0, 10, 320, 240)):
        out = rig.encoded(video)
        said = rig.family.tokenizer.decode(out.labels[out.labels != -100])
        end = rig.family.codec.chat.end
        assert said.replace(" ", "") == f"Acat.{end}Adogruns.{end}"


def conversations(rig: Any) -> list[tuple[Message, ...]]:
    """Words of many kinds; the last ones are those that the codec's own template writes."""
    chat_format, tokenizer = rig.family.codec.chat, rig.family.tokenizer
    messages = [Message("user", "Q"), Message("assistant", "A")] * 2
    parts = chat._template_parts(tokenizer, chat_format, messages, False, False)
    words = ["What is it?", "a", " b", "\n", "", "Frame1: ", "über", *parts]
    return [(Message("user", text), Message("assistant", text)) for text in words]


def tokens_of(codec: Any, messages: tuple[Message, ...], seconds: int) -> Any:
    video = Clip("video.mp4", 0, seconds, 320, 240)
    shown = Shown.of(video, codec.view.times(video.duration, video.frame_measure), codec.view)
    return codec._tokens(messages, shown)


@pytest.mark.parametrize("most", [5, chat.MAX_KNOWN])
def test_what_a_codec_has_met_changes_nothing(rig: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_KNOWN", most)
    codec = replace(rig.family.codec)
    told, size = repr(codec), len(pickle.dumps(codec))
    for seconds in (1, 4, 1):
        for messages in conversations(rig):
            assert tokens_of(codec, messages, seconds) == tokens_of(replace(codec), messages, seconds)
    assert len(codec.spelling.known) <= most
    assert codec.spelling.known or most == 5
    assert repr(codec) == told == repr(replace(codec))
    assert codec == replace(codec)
    assert len(pickle.dumps(codec)) == size
    assert pickle.loads(pickle.dumps(codec)).spelling.known == {}


def test_a_fork_of_a_codec_in_use_plans_alike(rig: Any) -> None:
    codec, talks = replace(rig.family.codec), conversations(rig)[:7] * 5
    expected = [tokens_of(replace(codec), messages, 2) for messages in talks]
    assert [tokens_of(codec, messages, 2) for messages in talks] == expected
    forking = multiprocessing.get_context("fork")
    receiver, sender = forking.Pipe(duplex=False)
    child = forking.Process(target=lambda: sender.send([tokens_of(codec, messages, 2) for messages in talks]))
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == expected
    child.join()
