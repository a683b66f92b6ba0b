"""Multiple choice: where wrong answers come from, and that the right one cannot be told from the options alone."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from vista_train.augment import REGISTRY, EventRelationship, questions, wordings
from vista_train.augment.questions import Asked, Wording
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

VIEW = View(frames=32, width=336, height=336)
WITH_OPTIONS = sorted(name for name, made in REGISTRY.items() if "multiple_choice" in made.__dataclass_fields__)
WITHOUT = sorted(set(REGISTRY) - set(WITH_OPTIONS))


@pytest.mark.parametrize("letter", range(4))
def test_the_right_option_stands_at_its_letter(letter: int) -> None:
    asked = Asked("Which?", "Right.", ("One.", "Two."), ("Three.", "Four."))
    user, assistant = questions.converse(asked, Wording(pick=5, letter=letter))
    question, *lines, ending = user.content.split("\n")
    assert (user.role, assistant.role, question) == ("user", "assistant", "Which?")
    assert [line[:3] for line in lines] == ["A. ", "B. ", "C. ", "D. "]
    assert lines[letter][3:] == "Right."
    assert assistant.content == "ABCD"[letter]
    assert ending in wordings.CHOOSE
    user, assistant = questions.converse(asked, Wording(pick=5, letter=None))
    assert (user.content, assistant.content) == ("Which?", "Right.")


def wrong_answers(asked: Asked, pick: int) -> list[str]:
    user, _ = questions.converse(asked, Wording(pick, letter=0))
    return [line[3:] for line in user.content.split("\n")[2:5]]


def test_wrong_answers_come_half_from_what_is_shown() -> None:
    shown, absent = tuple(f"Shown {n}." for n in range(9)), tuple(f"Absent {n}." for n in range(9))
    counts, texts, places = Counter(), Counter(), Counter()
    for pick in range(2000):
        wrong = wrong_answers(Asked("Which?", "Right.", shown, absent), pick)
        assert len(set(wrong)) == 3
        counts[sum(text.startswith("Shown") for text in wrong)] += 1
        texts.update(wrong)
        places.update(place for place, text in enumerate(wrong) if text.startswith("Shown"))
    assert set(counts) == {1, 2}
    assert abs(counts[1] - 1000) < 120
    assert min(texts.values()) > 250
    assert max(texts.values()) < 420
    assert max(places.values()) - min(places.values()) < 150


@pytest.mark.parametrize(("num_shown", "num_absent"), [(0, 3), (3, 0), (1, 9), (9, 1), (1, 2), (2, 1)])
def test_where_one_kind_runs_short_the_other_fills_in(num_shown: int, num_absent: int) -> None:
    asked = Asked("Which?", "Right.", tuple("abcdefghi"[:num_shown]), tuple("jklmnopqr"[:num_absent]))
    for pick in range(50):
        wrong = wrong_answers(asked, pick)
        assert len(set(wrong)) == 3
        from_shown = sum(text in asked.shown for text in wrong)
        assert min(num_shown, 1) <= from_shown <= num_shown
        assert 3 - from_shown <= num_absent


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_half_the_questions_have_four_different_options(name: str, pool, cast_from, composed_from, choice) -> None:
    augment, letters = REGISTRY[name](), Counter()
    for index in range(240):
        rng = np.random.default_rng(index)
        sample, _ = composed_from(augment, pool, index, rng, VIEW)
        asked = choice(sample)
        letters[asked.right] += 1
        if asked.right is not None:
            assert len({questions.normal(option) for option in asked.options}) == 4
            assert questions.normal(asked.answer) not in questions.normal(asked.question)
    assert abs(letters[None] - 120) < 32
    for right in range(4):
        assert abs(letters[right] - 30) < 20
    always, never = (dataclasses.replace(augment, multiple_choice=share) for share in (1.0, 0.0))
    cast = cast_from(pool, augment.roles, 3, np.random.default_rng(3))
    assert all(choice(always(np.random.default_rng(seed), cast, VIEW)).options for seed in range(20))
    assert not any(choice(never(np.random.default_rng(seed), cast, VIEW)).options for seed in range(20))


@pytest.mark.parametrize("name", WITHOUT)
def test_others_never_have_options(name: str, pool, composed_from, choice) -> None:
    augment = REGISTRY[name]()
    for index in range(100):
        rng = np.random.default_rng(index)
        assert not choice(composed_from(augment, pool, index, rng, VIEW)[0]).options


def test_two_needles_are_asked_about_freely() -> None:
    assert "two_needle" in WITHOUT


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_wrong_options_are_shown_or_of_clips_not_shown(name: str, pool, composed_from, choice) -> None:
    augment = dataclasses.replace(REGISTRY[name](), multiple_choice=1.0)
    for index in range(60):
        rng = np.random.default_rng(index)
        sample, cast = composed_from(augment, pool, index, rng, VIEW)
        asked = choice(sample)
        shown = {questions.sentence(one.caption) for one in sample.video.clips()}
        others = {questions.sentence(one.caption) for clips in cast.values() for one in clips} - shown
        if asked.answer not in shown | others:
            # A place, an order: no words of a clip.
            assert len({re.sub(r"\d", "#", option) for option in asked.options if re.search(r"\d", option)}) <= 1
            assert not set(asked.options) & (shown | others)
            continue
        assert asked.answer in shown
        assert set(asked.wrong) <= shown | others
        num_shown = len(set(asked.wrong) & shown)
        if "distractor" in cast:
            # A haystack has one caption, so half of three is that one.
            assert 1 <= num_shown <= min(2, len(shown) - 1)
        else:
            assert num_shown == (3 if len(shown) > 3 else 0)


def learned(counts: Counter) -> Callable[[list[str]], list[float]]:
    return lambda options: [counts[option] for option in options]


def overlap(options: list[str]) -> list[float]:
    """How many words each option shares with the others."""
    words = [set(option.split()) for option in options]
    return [sum(len(own & other) for other in words) for own in words]


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_options_alone_do_not_give_the_answer_away(name: str, pool, composed_from, choice) -> None:
    augment = dataclasses.replace(REGISTRY[name](), multiple_choice=1.0)
    seen, right = Counter(), Counter()
    rules: dict[str, Callable[[list[str]], list[float]]] = {
        "longest": lambda options: [len(option) for option in options],
        "first": lambda options: [3, 2, 1, 0],
        "first letter": lambda options: [-ord(option[0]) * 1e6 - ord(option[1]) for option in options],
        "alike": overlap,
        "often an option": learned(seen),
        "often right": learned(right),
    }
    scores: Counter = Counter()
    num = 0
    for index in range(600):
        rng = np.random.default_rng([7, index])
        asked = choice(composed_from(augment, pool, int(rng.integers(len(pool))), rng, VIEW)[0])
        if asked.right is None:
            # The same clip was drawn twice, and three wrong answers are not left.
            continue
        num += 1
        for rule, judge in rules.items():
            marks = judge(list(asked.options))
            for sign, best in ((rule, max(marks)), (f"not {rule}", min(marks))):
                places = [place for place, mark in enumerate(marks) if mark == best]
                scores[sign] += (asked.right in places) / len(places)
        seen.update(asked.options)
        right[asked.answer] += 1
    assert num > 550
    # Four standard deviations of guessing.
    bound = 4 * (0.25 * 0.75 / num) ** 0.5
    assert len(scores) == 2 * len(rules)
    for rule, score in scores.items():
        assert abs(score / num - 0.25) <= bound, f"{rule}: {score / num:.3f}"


def part(number: int) -> Clip:
    return Clip(f"{number}.mp4", 0, 6, 64, 48, 10, f"Thing {number} is shown")


def test_strangers_are_options_only_where_parts_run_short(choice) -> None:
    """Never among parts of one source, which look alike: there the question stays open."""
    strangers = [part(number) for number in (90, 91, 92)]
    for num, lacking in ((2, 3), (3, 2), (4, 1), (5, 0), (6, 0)):
        cast = {"clip": [part(number) for number in range(num)], "distractor": strangers}
        settings = {"min_seconds": 6 * num - 1, "multiple_choice": 1.0}
        for seed in range(10):
            unrelated = EventRelationship(same_source=False, **settings)(np.random.default_rng(seed), cast, VIEW)
            assert sum("Thing 9" in option for option in choice(unrelated).wrong) == lacking
            related = EventRelationship(**settings)(np.random.default_rng(seed), cast, VIEW)
            assert len(choice(related).options) == (0 if lacking else 4)
            assert not any("Thing 9" in message.content for message in related.messages)


def test_an_option_is_one_line_whatever_an_answer_holds() -> None:
    asked = questions.Asked("Which?", "It is\nB. red", absent=("two\nC. zz", "three", "  four "))
    wording = questions.Wording(pick=5, letter=2)
    lines = questions.converse(asked, wording)[0].content.split("\n")
    assert len(lines) == 6
    assert lines[3] == "C. It is B. red"
    assert {line[3:] for line in lines[1:5]} == {"It is B. red", "two C. zz", "three", "four"}


def test_answers_are_compared_without_any_kind_of_quotes() -> None:
    assert questions.normal("“Red”") == questions.normal("'red'.") == "red"
    assert questions.normal("+") == "+"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: EventRelationship(multiple_choice=3), "augment.event_relationship.multiple_choice is 3"),
        (lambda: EventRelationship(max_clips=1), "augment.event_relationship.max_clips is 1"),
        (lambda: EventRelationship(max_gap_seconds=-1), "augment.event_relationship.max_gap_seconds is -1"),
        (lambda: REGISTRY["temporal_needle"](max_needle_seconds=0), "augment.temporal_needle.max_needle_seconds is 0"),
        (lambda: REGISTRY["spatial_needle"](needle_scale=(0.3, 1.02)), "augment.spatial_needle.needle_scale is"),
        (lambda: REGISTRY["video_grid"](rows=0), "augment.video_grid: 0x8 cells"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(made, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        made()
