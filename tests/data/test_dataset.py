"""A position is a sample: whoever asks, in any order; and a lost one is replaced whole, inside its slot."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from vista_train.augment import (
    CannotComposeError,
    EventRelationship,
    LongVideoCaption,
    Plain,
    Role,
    TemporalNeedle,
)
from vista_train.augment.questions import normal
from vista_train.data.collate import PackedCollator
from vista_train.data.dataset import NO_PLAN, NUM_ATTEMPTS, Ingredient, VistaDataset
from vista_train.video.composition import Clip
from vista_train.video.decode import MediaError
from vista_train.video.media import Media
from vista_train.video.render import render


def cast_of(dataset, position):
    return json.loads(dataset.sample(position).messages[-1].content)


def by_hand(dataset, position):
    """What a position must be, told once more and with nothing shared but the parts: its attempt, and the result."""
    view, budget = dataset.codec.view, None
    for attempt in range(NUM_ATTEMPTS):
        sample = dataset.sample(position, attempt)
        plan = dataset.codec.plan(sample)
        budget = budget or plan
        if plan.tokens > budget.tokens or plan.patches > budget.patches:
            continue
        try:
            frames = render(sample.video, plan.times, (view.width, view.height), view.fit, dataset.media.root)
        except MediaError:
            continue
        return attempt, dataset.codec.encode(sample, plan, frames, position)
    return None


def test_the_same_sample_in_any_order_and_with_any_number_of_workers(of_world, tools):
    positions = [5, 0, 23, 11, 2, 17, 40, 5]
    one_by_one = [of_world()[position] for position in positions]
    assert tools.same(one_by_one[0], one_by_one[-1])
    for workers in (0, 2):
        loader = DataLoader(of_world(), batch_size=3, sampler=positions, num_workers=workers, collate_fn=list)
        loaded = [encoded for batch in loader for encoded in batch]
        assert all(tools.same(*pair) for pair in zip(one_by_one, loaded, strict=True))
    assert len({encoded.kind for encoded in one_by_one}) >= 3


def test_words_pixels_and_plan_are_of_one_sample(of_world):
    dataset = of_world()
    for position in range(12):
        attempt, expected = by_hand(dataset, position)
        found, plan = dataset[position], dataset.plan(position)
        assert attempt == found.attempt == 0
        assert torch.equal(found.input_ids, expected.input_ids)
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.frames_TCHW, expected.frames_TCHW)
        assert (len(found.input_ids), found.num_labels) == (plan.tokens, plan.labels)
        assert found.failures == ()


def test_it_is_a_dataset_for_anybodys_loader(of_world):
    dataset = of_world()
    rows = list(DataLoader(dataset, batch_size=5, collate_fn=PackedCollator()))
    assert len(dataset) == 16
    assert [row.samples for row in rows] == [(*range(5),), (*range(5, 10),), (*range(10, 15),), (15,)]
    assert all(row.num_tokens == sum(row.lengths) == row.labels_1L.shape[1] > 0 for row in rows)


def test_another_process_composes_the_same(of_world):
    dataset = of_world()
    clone = pickle.loads(pickle.dumps(dataset))
    assert [clone.sample(p).to_json() for p in range(20)] == [dataset.sample(p).to_json() for p in range(20)]
    assert clone.digest() == dataset.digest()


def test_evidence_is_seen_on_the_frames_that_are_left(tools):
    """A codec that drops all but two of eight frames: their times are others, and a needle is seen on one of them."""

    @dataclass(frozen=True)
    class Dropping(tools.BareCodec):
        def plan(self, sample):
            video = sample.video
            return replace(super().plan(sample), times=self.view.times(video.duration, video.frame_measure, 2))

    sources = {"long": tools.clip_list("long", 20, seconds=60), "short": tools.clip_list("short", 20, seconds=10)}
    mix = [Ingredient(TemporalNeedle(), 1.0, {"haystack": ("long",), "needle": ("short",)})]
    dataset = VistaDataset(sources, mix, Dropping(), ".")
    for position in range(100):
        sample, plan = (made := dataset.planned(position)).sample, made.plan
        assert len(plan.times) == 2
        assert all(any(time in evidence.span for time in plan.times) for evidence in sample.evidence)


def test_a_clip_held_in_memory_is_shown_without_a_file(codec, tools, tmp_path):
    frames = [torch.full((20, 3, 60, 80), value, dtype=torch.uint8) for value in (40, 200)]
    clips = [Clip.from_frames(f, 4, caption=f"Grey {f[0, 0, 0, 0]}.", source="memory") for f in frames]
    dataset = VistaDataset({"memory": tools.ClipList(clips)}, [Ingredient(Plain())], codec, tmp_path)
    shown = {int(dataset[position].frames_TCHW[:, :, 28, 28].unique()) for position in range(2)}
    assert shown == {40, 200}


def test_what_cannot_be_decoded_is_replaced_whole_inside_its_slot(of_world, damaged):
    dataset, healthy = of_world(damaged.root), of_world()
    fates = Counter()
    for position in range(48):
        found, plan, expected = dataset[position], dataset.plan(position), by_hand(dataset, position)
        assert plan == healthy.plan(position)
        assert len(found.input_ids) <= plan.tokens
        assert len(found.frames_TCHW) * 16 <= plan.patches
        if expected is None:
            assert (found.kind, len(found.input_ids)) == ("lost", 0)
            fates["lost"] += 1
            continue
        attempt, encoded = expected
        assert (found.attempt, found.kind, found.position) == (attempt, encoded.kind, position)
        assert torch.equal(found.input_ids, encoded.input_ids)
        assert torch.equal(found.labels, encoded.labels)
        assert torch.equal(found.frames_TCHW, encoded.frames_TCHW)
        fates["replaced" if attempt else "as planned"] += 1
    assert fates["replaced"] >= 12
    assert fates["lost"] <= 6
    assert fates["as planned"] >= 16


def test_every_loss_is_told_with_its_attempt_file_and_reason(of_world, damaged):
    told = {}
    for encoded in map(of_world(damaged.root).__getitem__, range(48)):
        attempts = [failure.attempt for failure in encoded.failures]
        assert attempts == sorted(set(attempts))
        assert encoded.kind == "lost" or all(attempt < encoded.attempt for attempt in attempts)
        assert (attempts[:1] == [0]) == (encoded.kind == "lost" or encoded.attempt > 0)
        assert {failure.position for failure in encoded.failures} <= {encoded.position}
        told |= {failure.key: failure.reason for failure in encoded.failures}
    # Half a file may hold every frame that was asked for; nothing can be read of the others.
    cut = next(key for key, kind in damaged.harm.items() if kind == "cut")
    assert set(told) | {cut} == set(damaged.harm)
    kinds = {damaged.harm[key]: reason.split(":")[0] for key, reason in told.items()}
    assert kinds.pop("gone") == "MediaMissing"
    assert set(kinds.values()) == {"MediaUnreadable"}
    assert all("\n" not in reason and str(damaged.root) not in reason for reason in told.values())


def test_known_failures_replay_a_run_to_the_last_bit(of_world, damaged, tools):
    """Files may be back when a run is resumed; its samples stay what they were."""
    bad = of_world(damaged.root)
    first = [bad[position] for position in range(32)]
    failures = [failure for encoded in first for failure in encoded.failures]
    assert failures
    again, healthy = of_world(known_failures=failures), of_world()
    assert all(tools.same(encoded, again[encoded.position]) for encoded in first)
    assert not all(tools.same(encoded, healthy[encoded.position]) for encoded in first)


def test_a_slot_that_is_lost_for_good_holds_nothing_but_its_failures(of_world, tmp_path):
    dataset = of_world(tmp_path)
    lost = dataset[4]
    assert (lost.kind, lost.num_labels) == ("lost", 0)
    assert [tensor.shape[0] for tensor in (lost.input_ids, lost.labels, lost.frames_TCHW)] == [0, 0, 0]
    assert lost.failures[0].attempt == 0
    assert 1 <= len(lost.failures) <= NUM_ATTEMPTS
    assert {failure.reason for failure in lost.failures} == {"MediaMissing: no such file"}
    assert dataset.plan(4).tokens > 0


def test_what_cannot_be_composed_is_lost_without_a_plan(augmentations, tools):
    class Moody(Plain):
        willing = True

        def draw(self, rng, clips, view):
            if not type(self).willing:
                raise CannotComposeError("not today")
            return super().draw(rng, clips, view)

    dataset = VistaDataset({"a": tools.clip_list("a", 4)}, [Ingredient(Moody())], tools.BareCodec(), ".")
    assert dataset.plan(0).tokens > 0
    Moody.willing = False
    lost = dataset[2]
    assert dataset.plan(2) == NO_PLAN
    assert (lost.kind, len(lost.failures)) == ("lost", NUM_ATTEMPTS)
    assert {failure.key for failure in lost.failures} == {"moody"}
    assert lost.failures[7].reason == "moody: none of 32 casts can be composed; not today"
    with pytest.raises(CannotComposeError, match="position 2: moody: none of 32 casts"):
        dataset.sample(2)


def test_every_clip_is_the_anchor_once_an_epoch(recorder, tools):
    dataset = VistaDataset({"a": tools.clip_list("a", 37)}, [Ingredient(recorder())], tools.BareCodec(), ".")
    assert len(dataset) == 37
    orders = [[cast_of(dataset, 37 * epoch + p)["anchor"][0][0] for p in range(37)] for epoch in range(3)]
    assert [len(set(order)) for order in orders] == [37, 37, 37]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_shorter_epoch_takes_each_clip_at_most_once(recorder, tools):
    source = {"a": tools.clip_list("a", 37)}
    dataset = VistaDataset(source, [Ingredient(recorder())], tools.BareCodec(), ".", epoch_samples=20)
    anchors = Counter(cast_of(dataset, position)["anchor"][0][0] for position in range(20))
    assert len(dataset) == 20
    assert max(anchors.values()) == 1


def test_nobody_plays_beside_his_own_file_or_words(recorder, tools):
    """40 clips with 8 captions: a fifth of all draws would be wrong."""
    dataset = VistaDataset(
        {"a": tools.clip_list("a", 40, captions=8)}, [Ingredient(recorder())], tools.BareCodec(), "."
    )
    cast = Counter()
    for position in range(400):
        roles = cast_of(dataset, position)
        ((path, caption),) = roles["anchor"]
        others = roles["other"] + roles["distractor"]
        assert len(others) == 5
        assert all(other != path and normal(words) != normal(caption) for other, words in others)
        cast.update(other for other, _ in others)
    # Uniform over the 40 clips: 50 each, within 5 standard deviations.
    assert len(cast) == 40
    assert all(abs(count - 50) < 5 * math.sqrt(50) for count in cast.values())


def test_distractors_may_be_missing_but_not_actors(recorder, tools):
    """One long film: every clip is of the same file, so nobody else can be shown beside it."""
    film = tools.ClipList([replace(clip, path="film.mp4") for clip in tools.clip_list("a", 6).clips])
    with pytest.raises(ValueError, match=r"augment\.recorder: no sample .* no clip beside film\.mp4 can play 'other'"):
        VistaDataset({"film": film}, [Ingredient(recorder())], tools.BareCodec(), ".")

    @dataclass(frozen=True)
    class Alone(recorder):
        roles = (Role("anchor"), Role("distractor", 3, "caption_only", min_count=0))

    dataset = VistaDataset({"film": film}, [Ingredient(Alone())], tools.BareCodec(), ".")
    assert cast_of(dataset, 0)["distractor"] == []


def test_roles_draw_from_their_own_sources(recorder, tools):
    sources = {name: tools.clip_list(name, 12) for name in "abc"}
    chosen = {"anchor": ("a",), "other": ("b", "c")}
    dataset = VistaDataset(sources, [Ingredient(recorder(), sources=chosen)], tools.BareCodec(), ".")
    folders = {role: Counter() for role in ("anchor", "other", "distractor")}
    for position in range(200):
        for role, clips in cast_of(dataset, position).items():
            folders[role].update(path.split("/")[0] for path, _ in clips)
    assert set(folders["anchor"]) == {"a"}
    assert set(folders["other"]) == {"b", "c"}
    # Wrong answers come from where the clip that is asked about comes from.
    assert set(folders["distractor"]) == {"a"}
    assert abs(folders["other"]["b"] - 300) < 5 * math.sqrt(600 / 4)


def test_weights_of_augmentations_are_honoured(recorder, augmentations, tools):
    @dataclass(frozen=True)
    class Rarer(recorder):
        pass

    mix = [Ingredient(recorder(), 3.0), Ingredient(Rarer(), 1.0), Ingredient(Plain(), 0.0)]
    dataset = VistaDataset({"a": tools.clip_list("a", 12)}, mix, tools.BareCodec(), ".")
    kinds = Counter(dataset.sample(position).kind for position in range(2000))
    assert set(kinds) == {"recorder", "rarer"}
    assert abs(kinds["rarer"] - 500) < 5 * math.sqrt(2000 * 3 / 16)


def test_weights_of_sources_are_honoured(recorder, tools):
    """However many clips each has: b has a tenth of a's, and is drawn four times as often."""
    sources = {"a": tools.clip_list("a", 100), "b": tools.clip_list("b", 10), "c": tools.clip_list("c", 5)}
    weights = {"b": 4.0, "c": 0.0}
    dataset = VistaDataset(sources, [Ingredient(recorder())], tools.BareCodec(), ".", weights, epoch_samples=2000)
    anchors = Counter(cast_of(dataset, position)["anchor"][0][0][0] for position in range(2000))
    assert set(anchors) == {"a", "b"}
    assert abs(anchors["a"] - 400) < 5 * math.sqrt(2000 * 4 / 25)


def test_consecutive_clips_come_in_order_and_with_the_anchor(of_world):
    mix = [Ingredient(LongVideoCaption(min_seconds=12, max_clips=3))]
    dataset = VistaDataset(of_world().sources, mix, of_world().codec, of_world().media, seed=1)
    for position in range(16):
        clips = dataset.sample(position).video.clips()
        assert 2 <= len(clips) <= 3
        assert len({clip.source for clip in clips}) == 1
        numbers = [int(Path(clip.path).stem) for clip in clips]
        assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]


def test_the_digest_names_everything_that_decides_a_sample(
    of_world, world, codec, tiny_codec, recorder, tools, tmp_path
):
    def digest(mix=None, sources=("a", "b"), chosen=(), plan_codec=codec, clips="list", **options):
        mix = mix or (recorder(), Plain())
        made = {name: tools.clip_list(name, 12) for name in sources}
        made["a"].digest = clips
        ingredients = [Ingredient(augment, *options.pop("weight", ()), sources=dict(chosen)) for augment in mix]
        return VistaDataset(made, ingredients, plan_codec, options.pop("media", "."), **options).digest()

    known = digest()
    assert digest() == known
    assert digest(media=tmp_path) == known
    assert digest(media=Media(".", "pyav")) == known
    assert digest(weights={"a": 1.0}) == known
    assert digest(known_failures=of_world(tmp_path)[0].failures) == known
    others = {
        "seed": digest(seed=1),
        "epoch": digest(epoch_samples=23),
        "weights": digest(weights={"a": 2.0}),
        "clips": digest(clips="other clips"),
        "names": digest(sources=("a", "c")),
        "order of sources": digest(sources=("b", "a")),
        "order of the mix": digest(mix=(Plain(), recorder())),
        "mix": digest(mix=(recorder(),)),
        "a setting": digest(mix=(recorder(note="x"), Plain())),
        "weight": digest(weight=(2.0,)),
        "a role's source": digest(mix=(Plain(),), chosen=[("clip", ("a",))]),
        "another role's source": digest(mix=(Plain(),), chosen=[("clip", ("b",))]),
        "frames": digest(plan_codec=tiny_codec(replace(codec.view, frames=5))),
        "canvas": digest(plan_codec=tiny_codec(replace(codec.view, width=84, height=84))),
        "sampling": digest(plan_codec=tiny_codec(replace(codec.view, sampling="linspace_ends"))),
        "fit": digest(plan_codec=tiny_codec(replace(codec.view, fit="squash"))),
        "seen": digest(plan_codec=tiny_codec(replace(codec.view, min_visible=2))),
        "tokens": digest(plan_codec=tiny_codec(max_tokens=1000)),
    }
    assert len({known, *others.values()}) == len(others) + 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mix": []}, "augment: no augmentation has a weight above 0"),
        (
            {"weights": {"a": 0.0}},
            "data.manifests: a must have a weight above 0, since the haystack of temporal_needle",
        ),
        ({"chosen": {"needle": ("b",)}}, "augment.temporal_needle.sources.needle: no manifest is named 'b'; known: a"),
        ({"chosen": {"needle": ()}}, "augment.temporal_needle.sources.needle: no manifest is given; known: a"),
        (
            {"chosen": {"host": ("a",)}},
            "augment.temporal_needle.sources.host: there is no such role; known: haystack, needle, distractor",
        ),
    ],
)
def test_a_dataset_that_cannot_work_is_refused_at_once(options, said, tools):
    options = dict(options)
    mix = options.pop("mix", [Ingredient(TemporalNeedle(), sources=options.pop("chosen", {}))])
    with pytest.raises(ValueError) as error:  # noqa: PT011
        VistaDataset({"a": tools.clip_list("a", 4)}, mix, tools.BareCodec(), ".", **options)
    assert str(error.value).startswith(said)


def test_what_cannot_be_made_is_told_with_what_could_be_done(tools):
    """Clips of sources of their own follow no others: the way out is named, and the augmentations that can be made."""
    clips = [replace(clip, source=clip.path) for clip in tools.clip_list("s", 5).clips]
    mix = [Ingredient(Plain()), Ingredient(EventRelationship()), Ingredient(LongVideoCaption())]
    with pytest.raises(ValueError, match="event_relationship needs 2 clips as 'clip', not 1") as error:
        VistaDataset({"lone": tools.ClipList(clips)}, mix, tools.BareCodec(), ".")
    said = str(error.value)
    assert "rows have the same `source`, and a `source_start` each; same_source: false joins any" in said
    assert said.endswith("or draw from the others alone, augment: {plain: {}}")


def test_clips_too_short_for_a_needle_are_refused_in_one_sentence(tools):
    """All clips last equally long, so none can hold another."""
    mix = [Ingredient(Plain()), Ingredient(TemporalNeedle())]
    with pytest.raises(ValueError, match="needle") as error:
        VistaDataset({"short": tools.clip_list("s", 5, seconds=2)}, mix, tools.BareCodec(), ".")
    said = str(error.value)
    assert said.startswith(
        "augment.temporal_needle: no sample can be made "
        "(haystack from short, needle from short, distractor from short): the haystack s/"
    )
    assert "lasts 2.00 s, not longer than its needle s/" in said
    assert "\n" not in said


def test_a_negative_position_is_refused(of_world):
    for ask in (of_world().sample, of_world().plan, of_world().__getitem__):
        with pytest.raises(ValueError, match="position is -1; positions count from 0"):
            ask(-1)
