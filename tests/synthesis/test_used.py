"""What a language model wrote is what training asks: each kind where it fits, and nowhere else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.data.conftest import BareCodec
from tests.synthesis.conftest import QUICK
from vista_train.augment import (
    EventRelationship,
    LongVideoCaption,
    Plain,
    SpatialNeedle,
    TemporalNeedle,
    VideoGrid,
    questions,
    wordings,
)
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.manifest import LineCheck, open_manifest
from vista_train.data.sources import ClipSource
from vista_train.synthesis.questions import ask_questions
from vista_train.synthesis.tasks import Asking
from vista_train.video.composition import QA, Clip, qa_from_json, video_from_json
from vista_train.video.sampling import View

VIEW = View(frames=16, width=336, height=336)
GOOD = {"video": "a.mp4", "caption": "A dog runs."}
STORY = QA("Tell all.", "All of it, told at length.", (), "story", 3)
ORDER = QA("What comes last?", "The end", ("The start", "The middle", "A dog"), "order", 3)


OLD_SAMPLES = "c7e1d0cb810022abbb3819b902d24157890c298c9008a4f55ab996f3de85a08e"
"""Of forty samples of a manifest without new keys, by the code from before there were any."""


def clips(num: int, *pairs: QA) -> list[Clip]:
    """Consecutive clips of 12 s; the first has the pairs."""
    made = [Clip("a.mp4", 12 * n, 12 * n + 12, 64, 48, 10, f"Thing {n} is shown", source="a") for n in range(num)]
    return [replace(made[0], qa=pairs), *made[1:]]


def test_a_pair_is_read_as_it_was_written_and_old_ones_as_they_were():
    pairs = (QA("Who?", "A man", ("A cat",)), QA("Where?", "Here"), STORY, ORDER)
    written = [qa.to_json() for qa in pairs]
    assert written[0] == {"question": "Who?", "answer": "A man", "distractors": ["A cat"]}
    assert written[3]["kind"] == "order"
    assert qa_from_json(json.loads(json.dumps(written))) == pairs
    clip = clips(1, *pairs)[0]
    assert video_from_json(json.loads(json.dumps(clip.to_json()))).qa == pairs
    assert qa_from_json([{"question": "q", "answer": "a"}]) == (QA("q", "a"),)


def test_a_manifests_rows_hold_new_keys_only_where_they_say_something():
    old = [{"question": "Who?", "answer": "A man", "distractors": ["A cat"]}, {"question": "Where?", "answer": "Here"}]
    column = 3
    stored = LineCheck().row(json.dumps(GOOD | {"qa": old}).encode())[column]
    # To the byte, as it was before there were kinds: samples, digests and caches of old manifests stay what they are.
    assert stored == json.dumps([old[0], old[1] | {"distractors": []}])
    usual = [pair | {"kind": "clip", "clips": 1} for pair in old]
    assert LineCheck().row(json.dumps(GOOD | {"qa": usual}).encode())[column] == stored
    pairs = LineCheck().row(json.dumps(GOOD | {"qa": [STORY.to_json(), ORDER.to_json()]}).encode())[column]
    assert qa_from_json(json.loads(pairs)) == (STORY, ORDER)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "poem"}, r"qa\[0\].kind is 'poem'; it must be one of clip, story, order"),
        ({"kind": 7}, r"qa\[0\].kind is 7; it must be one of"),
        ({"kind": "story"}, r"qa\[0\].clips is None; it must be 2 or more for one of kind story"),
        ({"kind": "order", "clips": 1}, r"qa\[0\].clips is 1; it must be 2 or more for one of kind order"),
        ({"kind": "order", "clips": True}, r"qa\[0\].clips is True; it must be 2 or more"),
        ({"kind": "order", "clips": 2.0}, r"qa\[0\].clips is 2.0; it must be 2 or more"),
        ({"clips": 3}, r"qa\[0\].clips is 3; it must be 1 for a question about one clip"),
        ({"kinds": "story"}, r"qa\[0\].kinds is not a key of a manifest; did you mean `kind`"),
    ],
)
def test_a_kind_that_cannot_be_is_told(wrong, message):
    line = json.dumps(GOOD | {"qa": [{"question": "q", "answer": "a"} | wrong]}).encode()
    with pytest.raises(ValueError, match=message):
        LineCheck().row(line)


def test_a_story_that_fits_is_the_answer_and_one_that_does_not_is_none():
    augment = LongVideoCaption()
    asked = {seed: augment(np.random.default_rng(seed), {"clip": clips(3, STORY)}, VIEW) for seed in range(20)}
    assert {sample.messages[1].content for sample in asked.values()} == {STORY.answer}
    assert {sample.messages[0].content for sample in asked.values()} <= set(wordings.LONG_CAPTION)
    assert len(asked[0].evidence) == 3
    template = augment(np.random.default_rng(0), {"clip": clips(3)}, VIEW)
    # The question is the one that would have been asked without it.
    assert template.messages[0] == asked[0].messages[0]
    assert template.messages[1].content.startswith("Thing 0 is shown.")
    # Of another number of clips, on another clip, of a video whose clips are cut, of clips that do not belong together.
    joined = clips(3, replace(STORY, clips=2))
    for cast in (joined, [*clips(3)[:1], replace(clips(3)[1], qa=(STORY,)), clips(3)[2]]):
        assert STORY.answer not in augment(np.random.default_rng(0), {"clip": cast}, VIEW).messages[1].content
    unlike = LongVideoCaption(same_source=False)(np.random.default_rng(0), {"clip": clips(3, STORY)}, VIEW)
    assert STORY.answer not in unlike.messages[1].content
    long = [replace(clips(3, STORY)[0], end=60), replace(clips(3)[1], start=60, end=62)]
    long[0] = replace(long[0], qa=(replace(STORY, clips=2),))
    cut = LongVideoCaption()(np.random.default_rng(0), {"clip": long}, View(frames=8, width=336, height=336))
    assert cut.video.parts[0].duration < 60
    assert STORY.answer not in cut.messages[1].content


def test_an_order_that_fits_is_asked_with_its_options_and_shows_every_part():
    heard = set()
    for seed in range(40):
        sample = EventRelationship()(np.random.default_rng(seed), {"clip": clips(3, ORDER, STORY)}, VIEW)
        question, *options = sample.messages[0].content.split("\n")
        assert question == ORDER.question
        assert [evidence.span for evidence in sample.evidence] == list(sample.video.spans())
        if options:
            assert sorted(option[3:] for option in options[:4]) == sorted((ORDER.answer, *ORDER.distractors))
            right = options["ABCD".index(sample.messages[1].content)]
            assert right[3:] == ORDER.answer
        else:
            assert sample.messages[1].content == ORDER.answer
        heard.add(len(options))
    assert heard == {0, 5}
    for cast in (clips(3, STORY), clips(3, replace(ORDER, clips=2)), clips(3)):
        template = EventRelationship()(np.random.default_rng(0), {"clip": cast}, VIEW)
        assert "Thing" in template.messages[0].content
        assert len(template.evidence) == 2


@pytest.mark.parametrize("augment", [Plain(), Plain(turns="all"), TemporalNeedle(), SpatialNeedle(), VideoGrid(2, 2)])
def test_questions_about_several_clips_are_not_asked_about_one(augment):
    """Stories and orders beside a clip's own questions, or alone, change nothing at all."""
    own = (QA("Who?", "A man", ("A cat", "A dog", "A cow")), QA("Where?", "Here"))
    host = Clip("host.mp4", 0, 60, 640, 480, 10, "A long one", qa=(STORY, ORDER))
    for kept in (own, ()):
        for seed in range(12):
            told = []
            for pairs in (kept, (STORY, *kept[:1], ORDER, *kept[1:])):
                needles = [replace(clip, qa=pairs, path=f"{n}.mp4") for n, clip in enumerate(clips(4))]
                cast = {"clip": needles[:1], "cell": needles, "haystack": [host], "needle": needles[:1]}
                others = [replace(needles[1], qa=(QA("Who?", "Nobody"), replace(STORY, question="Who?")))] * 2
                sample = augment(np.random.default_rng(seed), cast | {"distractor": others}, VIEW)
                told.append([message.content for message in sample.messages])
            assert told[0] == told[1]
            assert not {STORY.answer, ORDER.answer} & set(" ".join(told[1]).split("\n"))


def test_what_was_written_is_what_a_run_composes(server, connection, manifest, tmp_path):
    """From the planned samples alone; no file is there."""
    out = tmp_path / "out.jsonl"
    ask_questions(manifest, connection, out, Asking(overlapping=True), retries=QUICK)
    # Frames enough to see every part; the width of one is nothing to a codec that only counts.
    codec = BareCodec(View(frames=16, width=56, height=56, min_pixels=4))

    def samples(path, *augments, num=40):
        source = ClipSource(path, tmp_path, tmp_path / "cache", probe=None, probe_limit=0)
        dataset = VistaDataset({"a": source}, [Ingredient(augment) for augment in augments], codec, tmp_path, seed=3)
        return [dataset.sample(position) for position in range(num)]

    told = samples(out, LongVideoCaption())
    # Five clips of a recording begin, or end, three different rows of three; of each there is a story.
    assert all(sample.messages[1].content.startswith("It begins, and then goes on") for sample in told)
    assert len({sample.messages[1].content for sample in told}) == 6
    for sample in told:
        assert all(clip.caption in sample.messages[1].content for clip in sample.video.clips())
    ordered = samples(out, EventRelationship(multiple_choice=1.0))
    assert all(sample.messages[0].content.startswith("What follows") for sample in ordered)
    assert all(sample.messages[0].content.count("\nA. ") == 1 for sample in ordered)
    needles = samples(out, TemporalNeedle(max_needle_seconds=6.0, multiple_choice=0.0))
    asked = {question for sample in needles for question in (sample.messages[0].content.rsplit(". ", 1)[-1],)}
    assert {question.split(" has ")[0] for question in asked} >= {"Which hat", "Which dog", "What colour"}
    # And a manifest that nobody wrote questions for gives what it always gave.
    old = samples(manifest, LongVideoCaption(), EventRelationship(), TemporalNeedle())
    stories = {questions.normal(sample.messages[1].content) for sample in old}
    assert not any(text.startswith("it begins") for text in stories)
    words = json.dumps([sample.to_json() for sample in old], sort_keys=True)
    assert hashlib.sha256(words.encode()).hexdigest() == OLD_SAMPLES
    assert all(sample.video.duration > Fraction(30) for sample in told)


def test_the_manifest_opens_as_any_other(server, connection, manifest, tmp_path):
    out = tmp_path / "out.jsonl"
    ask_questions(manifest, connection, out, retries=QUICK)
    rows = open_manifest(out, tmp_path / "cache").rows()
    kinds = [qa.get("kind", "clip") for row in rows for qa in json.loads(row["qa"])]
    assert (kinds.count("clip"), kinds.count("story"), kinds.count("order")) == (31, 4, 4)
