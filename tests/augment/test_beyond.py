"""What is asked beyond the paper: the answer is right, and the words alone do not tell it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from vista_train.augment import (
    REGISTRY,
    AbsentNeedle,
    CannotComposeError,
    CountNeedle,
    FadedNeedle,
    Mosaic,
    NeedleOrder,
    NeedlePlace,
    NeedleTime,
    SimilarNeedle,
    SoftNeedle,
    SpliceCaption,
    SplicePlace,
    strangers,
)
from vista_train.augment.localisation import REGIONS
from vista_train.augment.similar import most_alike
from vista_train.config import parse_recipe
from vista_train.video.composition import Clip
from vista_train.video.geometry import Box, Span
from vista_train.video.sampling import View

VIEW = View(frames=32, width=336, height=336)
THE_SEVEN = {
    "long_video_caption", "event_relationship", "temporal_needle", "two_needle", "spatial_needle",
    "spatio_temporal_needle", "video_grid", "plain",
}  # fmt: skip
BEYOND = {
    "absent_needle", "needle_time", "needle_place", "count_needle", "needle_order", "similar_needle", "mosaic",
    "splice_caption", "splice_place", "faded_needle", "soft_needle",
}  # fmt: skip


def clip(number: int, caption: str = "", seconds: object = 6, **known: object) -> Clip:
    return Clip(f"{number}.mp4", 0, seconds, 64, 48, 10, caption or f"Thing {number} is shown", **known)


def hidden(num: int) -> dict[str, list[Clip]]:
    return {"haystack": [clip(99, seconds=60)], "needle": [clip(number) for number in range(num)]}


def even(counts: Counter, choices: int) -> bool:
    """Whether so many choices come equally often, within five standard deviations."""
    mean = sum(counts.values()) / choices
    return len(counts) == choices and max(abs(count - mean) for count in counts.values()) < 5 * mean**0.5


def test_they_are_drawn_only_where_a_recipe_names_them() -> None:
    assert {item.augment.name for item in parse_recipe({}).make_mix()} == THE_SEVEN
    assert {name for name, kind in REGISTRY.items() if not kind.by_default} >= BEYOND
    named = parse_recipe({"augment": {name: {"weight": 2} for name in BEYOND}}).make_mix()
    assert {(item.augment.name, item.weight) for item in named} == {(name, 2.0) for name in BEYOND}


def test_yes_is_said_of_what_is_shown_and_no_of_what_is_not() -> None:
    answers, videos = Counter(), defaultdict(set)
    for seed in range(400):
        sample = AbsentNeedle()(np.random.default_rng(seed), hidden(2), VIEW)
        (number,) = map(int, re.findall(r"Thing (\d+)", sample.messages[0].content))
        shown = number in {int(part.path[:-4]) for part in sample.video.clips()}
        assert sample.messages[1].content == ("Yes." if shown else "No.")
        whole = Span(Fraction(0), sample.video.duration)
        assert sample.evidence[0].span == (sample.video.spans()[1] if shown else whole)
        answers[shown] += 1
        videos[shown].add((sample.video.duration, len(sample.video.parts), sample.video.parts[1]))
    assert even(answers, 2)
    # The same cuts, of the same clip, at the same length: the video does not tell which question comes.
    assert videos[True] == videos[False]


@pytest.mark.parametrize("known", ["caption", "length", "wording"])
def test_the_question_does_not_tell_yes_from_no(known: str, pool, composed_from) -> None:
    """Who has learnt from half of the samples which answer goes with a question is at chance with the others."""
    rules = {
        "caption": lambda question: re.search(r"[wW]\d+", question)[0],
        "length": lambda question: str(len(question) // 8),
        "wording": lambda question: re.sub(r"[wW]\d+( [a-z]{4,6})+", "#", question),
    }
    augment, learnt, answers, right = AbsentNeedle(), defaultdict(Counter), Counter(), 0.0
    for index in range(1600):
        sample, _ = composed_from(augment, pool, index, np.random.default_rng([3, index]), VIEW)
        question, answer = (message.content for message in sample.messages)
        answers[answer] += 1
        seen = learnt[rules[known](question)]
        if index < 800:
            seen[answer] += 1
        else:
            other = {"Yes.": "No.", "No.": "Yes."}[answer]
            right += 0.5 if seen[answer] == seen[other] else seen[answer] > seen[other]
    assert even(answers, 2)
    assert abs(right / 800 - 0.5) < 4 * 0.5 / 800**0.5


@pytest.mark.parametrize("augment_type", [AbsentNeedle, CountNeedle, NeedleOrder, NeedleTime, NeedlePlace])
def test_what_is_asked_about_must_be_nowhere_else(augment_type) -> None:
    augment = augment_type()
    cast = hidden(augment.roles[1].count)
    again = cast | {"haystack": [clip(99, "Thing 0 is shown, and many more", 60)]}
    for seed in range(10):
        with pytest.raises(CannotComposeError, match=r"what is said of 0.mp4, 'Thing 0 is shown', may be true of 99"):
            augment(np.random.default_rng(seed), again, VIEW)
    both = cast | {"needle": [clip(0), clip(1, "thing 0 is SHOWN."), *cast["needle"][2:]]}
    if len(cast["needle"]) > 1:
        with pytest.raises(CannotComposeError, match=r"may be true of 1.mp4"):
            augment(np.random.default_rng(0), both, VIEW)


def test_what_is_absent_is_of_another_recording() -> None:
    needles = [clip(0, source="one"), clip(1, source="one")]
    for seed in range(10):
        with pytest.raises(CannotComposeError, match=r"0.mp4 and 1.mp4 are of one recording"):
            AbsentNeedle()(np.random.default_rng(seed), hidden(2) | {"needle": needles}, VIEW)
    assert strangers.overlap(Clip("a", 0, 5, 8, 8), Clip("a", 4, 6, 8, 8))
    assert not strangers.overlap(Clip("a", 0, 5, 8, 8), Clip("a", 5, 6, 8, 8))


def test_the_time_told_is_exact() -> None:
    starts = []
    for seed in range(200):
        cast = {"haystack": [clip(99, seconds=60)], "needle": [clip(0, seconds="123/17")]}
        sample = NeedleTime()(np.random.default_rng(seed), cast, VIEW)
        first, last = re.fullmatch(r"From (\d+\.\d) s to (\d+\.\d) s\.", sample.messages[1].content).groups()
        (evidence,) = sample.evidence
        assert evidence.span == Span(Fraction(first), Fraction(last)) == sample.video.spans()[1]
        assert evidence.span.end - evidence.span.start == Fraction(72, 10)
        starts.append(float(first))
    assert min(starts) < 5
    assert max(starts) > 55
    assert len(set(starts)) > 120


@pytest.mark.parametrize("view", [VIEW, View(frames=8, width=200, height=336, fit="crop")])
def test_the_place_told_is_where_the_inset_lies(view: View) -> None:
    cast = {"haystack": [Clip("host.mp4", 0, 9, 640, 480, 10, "Host")], "needle": [clip(0)]}
    seen: Counter = Counter()
    for seed in range(900):
        sample = NeedlePlace()(np.random.default_rng(seed), cast, view)
        content, answer = view.content(sample.video.size), sample.messages[1].content
        box, (width, height) = view.pixels(sample.video.size, sample.evidence[0].box), view.canvas(sample.video.size)
        left, top = max(content.left, 0), max(content.top, 0)
        room = (min(content.right, width) - left, min(content.bottom, height) - top)
        edges = [float(edge) for edge in ((box.left - left) / room[0], (box.top - top) / room[1],
                 (box.right - left) / room[0], (box.bottom - top) / room[1])]  # fmt: skip
        if found := re.fullmatch(r"Left (\d+) %, top (\d+) %, right (\d+) %, bottom (\d+) %\.", answer):
            assert [int(edge) / 100 for edge in found.groups()] == pytest.approx(edges, abs=0.01)
            continue
        lines = sample.messages[0].content.split("\n")
        region = REGIONS.index(lines[1 + "ABCD".index(answer)][3:])
        assert divmod(region, 3) == (int(1.5 * (edges[1] + edges[3])), int(1.5 * (edges[0] + edges[2])))
        seen[region] += 1
    assert even(seen, 9)


def test_an_inset_too_large_for_a_corner_is_refused() -> None:
    with pytest.raises(ValueError, match=r"augment.needle_place.needle_scale is \[0.3, 0.7\]; at most 0.6"):
        NeedlePlace(needle_scale=(0.3, 0.7))


def test_every_number_of_copies_comes_as_often_and_only_the_pictures_tell() -> None:
    augment, counts, lengths = CountNeedle(), Counter(), set()
    for seed in range(600):
        sample = augment(np.random.default_rng(seed), hidden(6), VIEW)
        paths = [part.path for part in sample.video.clips()]
        assert sample.messages[1].content == str(paths.count("0.mp4"))
        assert "Thing 0 is shown" in sample.messages[0].content
        counts[paths.count("0.mp4")] += 1
        lengths.add((sample.video.duration, len(paths)))
        # No other clip comes twice: what is repeated is what is asked about.
        assert max(Counter(paths[1::2]).values()) == max(1, paths.count("0.mp4"))
        spans = [sample.video.spans()[n] for n, path in enumerate(paths) if path == "0.mp4"]
        assert [evidence.span for evidence in sample.evidence] == (spans or [Span(Fraction(0), sample.video.duration)])
    assert even(counts, 6)
    assert len(lengths) == 1


def test_the_order_told_is_that_of_the_video(choice) -> None:
    orders, asked_for = Counter(), Counter()
    for seed in range(960):
        sample = NeedleOrder()(np.random.default_rng(seed), hidden(4), VIEW)
        question, options, right = choice(sample)
        listed = {int(n): f"{thing}.mp4" for n, thing in re.findall(r"\((\d)\) “Thing (\d+) is shown”", question)}
        answer = sample.messages[1].content if right is None else options[right]
        assert [listed[int(n)] for n in answer.split(", ")] == [part.path for part in sample.video.clips()[1::2]]
        orders[answer] += 1
        asked_for.update(options)
        assert set(options) <= {", ".join(map(str, order)) for order in permutations(range(1, 5))}
    assert even(orders, 24)
    assert even(asked_for, 24)


def test_two_needles_have_too_few_orders_for_options(choice) -> None:
    augment, seen = NeedleOrder(multiple_choice=1.0), Counter()
    for seed in range(200):
        sample = augment(np.random.default_rng(seed), hidden(2), VIEW)
        assert not choice(sample).options
        seen[sample.messages[1].content] += 1
    assert set(seen) == {"1, 2", "2, 1"}
    assert even(seen, 2)


def test_options_are_the_captions_most_alike(choice) -> None:
    verbs = ("walks", "runs", "sits", "sleeps")
    alike = [f"A brown dog {verb} on a wide green field" for verb in verbs]
    others = [f"{word} makes {word}s of {word}" for word in ("Ann", "Bob", "Cleo", "Dan", "Eve", "Fay")]
    texts = [
        alike[0],
        *others[:3],
        alike[1],
        alike[2],
        *others[3:],
        alike[3],
        "a brown dog runs on a wide green field!",
    ]
    cast = {"haystack": [clip(99, seconds=60)], "needle": [clip(n, text) for n, text in enumerate(texts)]}
    shown: Counter = Counter()
    for seed in range(240):
        asked = choice(sample := SimilarNeedle(multiple_choice=1.0)(np.random.default_rng(seed), cast, VIEW))
        assert {option.rstrip(".") for option in asked.options} == set(alike)
        assert asked.answer.rstrip(".") == sample.video.clips()[1].caption
        shown[asked.answer] += 1
    assert even(shown, 4)


def test_captions_that_are_true_of_each_other_are_no_alternatives() -> None:
    texts = ["A dog runs", "A dog runs fast", "A dog sits", "A dog barks", "A cat runs", "It rains"]
    clips = [clip(number, text) for number, text in enumerate(texts)]
    assert sorted(most_alike(clips, 4)) in ([0, 2, 3, 4], [1, 2, 3, 4])
    with pytest.raises(CannotComposeError, match="no 4 of 4 captions can be told apart"):
        most_alike(clips[:4], 4)
    twice = [replace(clips[2], start=Fraction(1), caption="A dog leaps"), *clips[2:]]
    assert not {0, 1} <= set(most_alike(twice, 4))


def test_every_shape_of_grid_comes_and_its_cells_are_named_right(choice) -> None:
    augment = Mosaic(rows=(1, 3), columns=(2, 4), inverse=1.0)
    cast, shapes, places = {"cell": [clip(number) for number in range(12)]}, Counter(), Counter()
    for seed in range(900):
        sample = augment(np.random.default_rng(seed), cast, VIEW)
        grid = sample.video
        assert grid.size == (240 * grid.columns, 135 * grid.rows)
        answer = choice(sample).answer or sample.messages[1].content
        row, column = map(int, re.fullmatch(r"Row (\d), column (\d)\.", answer).groups())
        number = (row - 1) * grid.columns + column - 1
        assert grid.cells[number].path == "0.mp4"
        cell, box = grid.box_of(number), sample.evidence[0].box
        assert cell.left <= box.left < box.right <= cell.right
        assert cell.top <= box.top < box.bottom <= cell.bottom
        shapes[grid.rows, grid.columns] += 1
        if (grid.rows, grid.columns) == (3, 4):
            places[number] += 1
    assert even(shapes, 9)
    assert even(places, 12)
    asked = Mosaic(rows=(2, 2), columns=(3, 3), inverse=0.0)(np.random.default_rng(0), cast, VIEW)
    assert asked.messages[1].content in ("A", "B", "C", "D", "Thing 0 is shown.")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Mosaic(rows=(3, 2)), r"augment.mosaic.rows is \[3, 2\]; it must be two numbers above 0, in order"),
        (lambda: Mosaic(columns=(0, 2)), r"augment.mosaic.columns is \[0, 2\]"),
        (lambda: Mosaic(rows=(1, 2), columns=(1, 2)), "augment.mosaic: 1x1 cells"),
        (lambda: Mosaic(inverse=2), "augment.mosaic.inverse is 2"),
        (lambda: CountNeedle(max_copies=0), "augment.count_needle.max_copies is 0"),
        (lambda: NeedleOrder(max_needles=1), "augment.needle_order.max_needles is 1"),
        (lambda: SoftNeedle(soft_edge=0.5), "augment.soft_needle.soft_edge is 0.5; it must lie between 0 and 0.5"),
        (lambda: FadedNeedle(fade_seconds=0), "augment.faded_needle.fade_seconds is 0"),
        (lambda: SpliceCaption(max_clips=1), "augment.splice_caption.max_clips is 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(made, said) -> None:
    with pytest.raises(ValueError, match=said):
        made()


@pytest.mark.parametrize("num", [2, 4, 8, 16])
@pytest.mark.parametrize("augment_type", [SpliceCaption, SplicePlace])
def test_frames_are_shared_evenly(num: int, augment_type) -> None:
    """16 frames, however many clips share them."""
    cast = {"clip": [clip(number, seconds=5 + number) for number in range(num)]}
    sample = augment_type(max_clips=num)(np.random.default_rng(0), cast, View(frames=16))
    times = View(frames=16).times(sample.video.duration, sample.video.frame_measure)
    assert len(times) == 16
    assert [sum(time in span for time in times) for span in sample.video.spans()] == [16 // num] * num
    assert len(sample.evidence) == (num if augment_type is SpliceCaption else 1)


def test_the_ordinal_names_the_clip(choice) -> None:
    cast = {"clip": [clip(number) for number in range(4)], "distractor": [clip(n) for n in range(50, 56)]}
    seen: Counter = Counter()
    for seed in range(400):
        sample = SplicePlace()(np.random.default_rng(seed), cast, VIEW)
        asked = choice(sample)
        place = int(re.search(r"\b(\d)(st|nd|rd|th)\b", asked.question)[1]) - 1
        assert (asked.answer or sample.messages[1].content) == f"Thing {place} is shown."
        assert sample.evidence[0].span == sample.video.spans()[place]
        assert sample.evidence[0].box == Box()
        seen[place] += 1
    assert even(seen, 4)


def test_a_needle_fades_in_and_out_of_a_host_that_loses_nothing() -> None:
    host, needle = clip(99, seconds=30), clip(0, seconds=6)
    cast, starts = {"haystack": [host], "needle": [needle], "distractor": []}, []
    for seed in range(100):
        video = (sample := FadedNeedle(fade_seconds=1.5)(np.random.default_rng(seed), cast, VIEW)).video
        before, inside, after = video.parts
        assert (before.start, before.end, after.end, inside.duration) == (0, after.start, 30, 6)
        assert video.duration == 30 + 6 - 2 * Fraction(3, 2)
        assert min(before.duration, after.duration) >= Fraction(3, 2)
        (evidence,) = sample.evidence
        # By itself from where the first part of the host ends until the second begins.
        assert evidence.span == Span(before.end, video.spans()[2].start)
        assert evidence.span.end - evidence.span.start == 3
        starts.append(float(before.end))
    assert min(starts) < 4
    assert max(starts) > 26
    with pytest.raises(CannotComposeError, match=r"0.mp4 lasts 6.00 s, not longer than two fades of 3.0 s"):
        FadedNeedle(fade_seconds=3)(np.random.default_rng(0), cast, VIEW)


def test_a_soft_needle_is_looked_for_where_it_is_opaque() -> None:
    cast = {"haystack": [Clip("host.mp4", 0, 9, 640, 480, 10, "Host")], "needle": [clip(0)], "distractor": []}
    sample = SoftNeedle(soft_edge=0.25)(np.random.default_rng(0), cast, VIEW)
    (evidence,), box = sample.evidence, sample.video.box
    assert sample.video.soft_edge == Fraction(1, 4)
    assert evidence.box.right - evidence.box.left == (box.right - box.left) / 2
    assert evidence.box.top - box.top == (box.bottom - box.top) / 4
    assert evidence.span == Span(Fraction(0), Fraction(6))
