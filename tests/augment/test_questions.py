"""Words: what is asked is what is shown, and the answer cannot be told without looking."""

from __future__ import annotations

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from vista_train.augment import (
    REGISTRY,
    CannotComposeError,
    EventRelationship,
    LongVideoCaption,
    TemporalNeedle,
    TwoNeedle,
    VideoGrid,
    questions,
    wordings,
)
from vista_train.augment.questions import Asked, Wording
from vista_train.video.composition import QA, Clip
from vista_train.video.sampling import View

VIEW = View(frames=32, width=336, height=336)
FIELDS = {
    "EVENT_AFTER": {"event"},
    "EVENT_BEFORE": {"event"},
    "GRID": {"rows", "columns", "row", "column", "row_th", "column_th", "cells"},
}
TABLES = {name: texts for name, texts in vars(wordings).items() if name.isupper()}
VOCABULARY = [a + b for a in ("ba", "ko", "ri", "mu", "sel") for b in ("ta", "no", "li", "fra", "den", "ost")]
WITH_OPTIONS = sorted(name for name, made in REGISTRY.items() if "multiple_choice" in made.__dataclass_fields__)
WITHOUT = sorted(set(REGISTRY) - set(WITH_OPTIONS))


def clip(number: int, caption: str = "", seconds: float = 6, **known: object) -> Clip:
    return Clip(f"{number}.mp4", 0, seconds, 64, 48, 10, caption or f"Thing {number} is shown", **known)


@pytest.fixture(scope="module")
def pool() -> list[Clip]:
    """150 clips with captions of 3 to 16 words, all different."""
    rng = np.random.default_rng(0)
    return [
        clip(number, " ".join([f"w{number}", *rng.choice(VOCABULARY, size=int(rng.integers(2, 16)))]))
        for number in range(150)
    ]


def cast_from(pool: list[Clip], roles: tuple, index: int, rng: np.random.Generator) -> dict[str, list[Clip]]:
    """As the dataset casts: every clip is the anchor in turn, the others are drawn with replacement."""
    anchor = pool[index % len(pool)]
    others = [one for one in pool if one is not anchor]
    cast = {role.name: [others[int(k)] for k in rng.integers(len(others), size=role.count)] for role in roles}
    first = roles[0]
    if first.relation == "same_source_consecutive":
        begin = min(index % len(pool), len(pool) - first.count)
        cast[first.name] = pool[begin : begin + first.count]
    else:
        long = dataclasses.replace(anchor, end=60) if first.count == 1 else anchor
        cast[first.name] = [long, *cast[first.name][1:]]
    return cast


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("CHOOSE", "THEN")])
def test_there_are_a_dozen_wordings_and_each_can_be_filled(name: str) -> None:
    texts = TABLES[name]
    assert len(texts) >= 12
    assert len({questions.normal(text) for text in texts}) == len(texts)
    for text in texts:
        used = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
        assert used <= FIELDS.get(name, set())
        if name == "GRID":
            assert used & {"row", "row_th"}
            assert used & {"column", "column_th"}
        elif name in FIELDS:
            assert used == FIELDS[name]
        filled = text.format(**dict.fromkeys(FIELDS.get(name, ()), "7"))
        assert not set("{}") & set(filled)
        assert filled == " ".join(filled.split())


def test_no_table_of_wordings_is_forgotten() -> None:
    assert len(TABLES) == 13
    assert len(set(wordings.CHOOSE)) >= 4
    assert len(set(wordings.THEN)) >= 5


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_dozen_wordings_are_heard(name: str, pool, choice) -> None:
    augment, stems = REGISTRY[name](), Counter()
    for index in range(250):
        rng = np.random.default_rng(index)
        sample = augment(rng, cast_from(pool, augment.roles, index, rng), VIEW)
        stem = re.sub(r"w\d+( [a-z]{4,6})+|\d+(st|nd|rd|th)?", "#", choice(sample).question)
        stems[stem] += 1
    assert len(stems) >= 12
    # None of twelve comes twice as often as it should, but for chance.
    assert stems.most_common(1)[0][1] <= 2 * 250 / 12 + 10


def test_every_turn_picks_evenly_and_by_itself() -> None:
    rng = np.random.default_rng(0)
    picked = [questions.draw_wording(rng) for _ in range(6000)]
    texts = tuple(range(12))
    for turn in range(5):
        counts = Counter(questions.one_of(texts, wording, turn) for wording in picked)
        assert min(counts.values()) > 400
        assert max(counts.values()) < 600
        pairs = {(questions.one_of(texts, one, turn), questions.one_of(texts, one, (turn + 1) % 5)) for one in picked}
        assert len(pairs) == 144


def test_letters_are_uniform_and_shares_kept() -> None:
    rng = np.random.default_rng(1)
    letters = Counter(questions.draw_wording(rng, 0.5).letter for _ in range(8000))
    assert 3800 < letters[None] < 4200
    for letter in range(4):
        assert 900 < letters[letter] < 1100
    assert {questions.draw_wording(rng, 0).letter for _ in range(200)} == {None}
    assert None not in {questions.draw_wording(rng, 1).letter for _ in range(200)}


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


def test_without_three_wrong_answers_the_question_stays_open() -> None:
    # Two of these are the right answer, two are the same, one says nothing.
    asked = Asked(
        "Which?", "A dog runs.", ("a DOG, runs!", "A cat sits."), ("A  cat sits", "A dog runs", " . ", "Rain.")
    )
    for pick in range(20):
        user, assistant = questions.converse(asked, Wording(pick, letter=2))
        assert (user.content, assistant.content) == ("Which?", "A dog runs.")
    wrong = wrong_answers(asked._replace(absent=(*asked.absent, "Snow.")), 0)
    assert sorted(questions.normal(text) for text in wrong) == ["a cat sits", "rain", "snow"]


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_half_the_questions_have_four_different_options(name: str, pool, choice) -> None:
    augment, letters = REGISTRY[name](), Counter()
    for index in range(240):
        rng = np.random.default_rng(index)
        sample = augment(rng, cast_from(pool, augment.roles, index, rng), VIEW)
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
def test_others_never_have_options(name: str, pool, choice) -> None:
    augment = REGISTRY[name]()
    for index in range(100):
        rng = np.random.default_rng(index)
        assert not choice(augment(rng, cast_from(pool, augment.roles, index, rng), VIEW)).options


def test_two_needles_are_asked_about_freely() -> None:
    assert "two_needle" in WITHOUT


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_wrong_options_are_shown_or_of_clips_not_shown(name: str, pool, choice) -> None:
    augment = dataclasses.replace(REGISTRY[name](), multiple_choice=1.0)
    for index in range(60):
        rng = np.random.default_rng(index)
        cast = cast_from(pool, augment.roles, index, rng)
        sample = augment(rng, cast, VIEW)
        asked = choice(sample)
        shown = {questions.sentence(one.caption) for one in sample.video.clips()}
        absent = {questions.sentence(one.caption) for one in cast.get("distractor", ())}
        assert asked.answer in shown
        assert set(asked.wrong) <= shown | absent
        num_shown = len(set(asked.wrong) & shown)
        if "needle" in cast:
            # The haystack has one caption, so half of three is that one.
            assert num_shown == len(shown) - 1 == 1
        else:
            assert num_shown == 3


def learned(counts: Counter) -> Callable[[list[str]], list[float]]:
    return lambda options: [counts[option] for option in options]


def overlap(options: list[str]) -> list[float]:
    """How many words each option shares with the others."""
    words = [set(option.split()) for option in options]
    return [sum(len(own & other) for other in words) for own in words]


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_options_alone_do_not_give_the_answer_away(name: str, pool, choice) -> None:
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
        asked = choice(augment(rng, cast_from(pool, augment.roles, int(rng.integers(len(pool))), rng), VIEW))
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


def with_questions(number: int, colour: str, shape: str) -> Clip:
    return clip(number, qa=(QA("What colour is it?", colour), QA("Which shape?", shape, (f"No {shape}",))))


def test_a_clips_own_question_is_asked_and_others_answer_the_same(choice) -> None:
    colours, shapes = ("Red", "Blue", "Green", "Pink", "Grey"), ("Ring", "Star", "Cross", "Heart", "Cube")
    needle, host, *others = (with_questions(n, colours[n], shapes[n]) for n in range(5))
    cast = {"haystack": [dataclasses.replace(host, end=60)], "needle": [needle], "distractor": others}
    heard: Counter = Counter()
    for seed in range(120):
        sample = TemporalNeedle(multiple_choice=1.0)(np.random.default_rng(seed), cast, VIEW)
        asked = choice(sample)
        if asked.question.endswith("What colour is it?"):
            assert asked.answer == "Red"
            assert set(asked.wrong) <= set(colours[1:])
            assert "Blue" in asked.wrong
        else:
            assert asked.question.endswith("Which shape?")
            assert asked.answer == "Ring"
            assert set(asked.wrong) <= {*shapes[1:], "No Ring"}
        heard[asked.question.rsplit(". ", 1)[-1]] += 1
        where = asked.question.removesuffix(" What colour is it?").removesuffix(" Which shape?")
        assert where in wordings.TEMPORAL_NEEDLE
    assert len(heard) >= 2
    open_question = TwoNeedle()(np.random.default_rng(0), cast, VIEW)
    assert open_question.messages[1].content in ("Red", "Ring")


def test_other_questions_answers_are_no_options(choice) -> None:
    needle, host = with_questions(0, "Red", "Ring"), dataclasses.replace(with_questions(1, "Blue", "Star"), end=60)
    others = [clip(n, qa=(QA("How many?", str(n)),)) for n in range(2, 5)]
    cast = {"haystack": [host], "needle": [needle], "distractor": others}
    for seed in range(30):
        asked = choice(TemporalNeedle(multiple_choice=1.0)(np.random.default_rng(seed), cast, VIEW))
        assert not asked.options
    grid = {"cell": [with_questions(n, f"Colour {n % 9}", f"Shape {n}") for n in range(64)]}
    for seed in range(30):
        asked = choice(VideoGrid(multiple_choice=1.0)(np.random.default_rng(seed), grid, VIEW))
        assert asked.answer in ("Colour 0", "Shape 0")
        assert len({option.split()[0] for option in asked.options if option != "No Shape 0"}) == 1


@pytest.mark.parametrize("same_source", [True, False])
def test_the_neighbour_asked_for_is_the_right_one(same_source: bool, choice) -> None:
    augment = EventRelationship(same_source=same_source)
    cast = {"clip": [clip(number) for number in range(6)], "distractor": [clip(n) for n in (90, 91, 92)]}
    asked_for: Counter = Counter()
    for seed in range(200):
        sample = augment(np.random.default_rng(seed), cast, VIEW)
        asked = choice(sample)
        known = int(re.search(r"Thing (\d+)", asked.question)[1])
        answer = asked.answer or sample.messages[1].content
        found = int(re.fullmatch(r"Thing (\d+) is shown\.", answer)[1])
        event = cast["clip"][known].caption
        stems = {
            step: {text.format(event=event) for text in texts}
            for step, texts in ((1, wordings.EVENT_AFTER), (-1, wordings.EVENT_BEFORE))
        }
        (step,) = (step for step, texts in stems.items() if any(asked.question.endswith(text) for text in texts))
        assert found == known + step
        asked_for[step, min(known, found)] += 1
        assert sample.evidence[0].span.end == sample.evidence[1].span.start == 6 * max(known, found)
        assert not {f"Thing {known} is shown."} & set(asked.options)
    assert len(asked_for) == 2 * 5
    assert min(asked_for.values()) >= 8


def test_an_event_named_twice_is_refused() -> None:
    parts = [clip(0, "A dog runs."), clip(1), clip(2, "a dog runs")]
    for known in (0, 2):
        with pytest.raises(
            CannotComposeError, match=f"two parts of the video have the caption '{parts[known].caption}'"
        ):
            questions.neighbour(parts, known, 1, (), wordings.EVENT_AFTER, Wording(0, None))
    asked = questions.neighbour(parts, 1, 2, (), wordings.EVENT_AFTER, Wording(0, None))
    assert asked.answer == "A dog runs."


def test_strangers_are_options_only_where_parts_run_short(choice) -> None:
    strangers = [clip(number) for number in (90, 91, 92)]
    for num, expected in ((2, 3), (3, 2), (4, 1), (5, 0), (6, 0)):
        parts = [clip(number) for number in range(num)]
        augment = EventRelationship(min_seconds=6 * num - 1, multiple_choice=1.0)
        for seed in range(10):
            sample = augment(np.random.default_rng(seed), {"clip": parts, "distractor": strangers}, VIEW)
            assert sum("Thing 9" in option for option in choice(sample).wrong) == expected


@pytest.mark.parametrize("augment_type", [LongVideoCaption, EventRelationship])
def test_unrelated_clips_are_said_to_be(augment_type, choice) -> None:
    cast = {"clip": [clip(number) for number in range(6)], "distractor": [clip(n) for n in (90, 91, 92)]}
    pairs = set()
    for seed in range(60):
        apart = choice(augment_type(same_source=False)(np.random.default_rng(seed), cast, VIEW)).question
        together = choice(augment_type()(np.random.default_rng(seed), cast, VIEW)).question
        (opening,) = (text for text in wordings.UNRELATED if apart.startswith(f"{text} "))
        assert apart == f"{opening} {together}"
        pairs.add((opening, re.sub(r"\d", "", together)))
    # Twelve if one always came with the same other.
    assert len(pairs) > 25
    assert augment_type(same_source=False).roles[0].relation == "any"
    assert augment_type().roles[0].relation == "same_source_consecutive"


def test_a_long_caption_tells_every_part_in_order() -> None:
    cast = {"clip": [clip(number) for number in range(9)]}
    sample = LongVideoCaption()(np.random.default_rng(0), cast, VIEW)
    answer = sample.messages[1].content
    # Five clips of 6 s last 30 s, and the paper's videos are longer.
    assert re.findall(r"Thing (\d)", answer) == ["0", "1", "2", "3", "4", "5"]
    assert answer.count("Finally: Thing 5 is shown.") == 1
    assert sample.video.duration == 36


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (2, 3), (3, 21)])
def test_row_and_column_count_from_one_at_the_top_left(rows: int, columns: int) -> None:
    cast = {"cell": [clip(number) for number in range(rows * columns)]}
    view = View(frames=2, width=2016, height=1008, fit="squash")
    cells, heard = set(), set()
    for seed in range(150):
        augment = VideoGrid(rows=rows, columns=columns, multiple_choice=0)
        sample = augment(np.random.default_rng(seed), cast, view)
        text = sample.messages[0].content
        row = int(re.search(r"\brow (\d+)|(\d+)(?:st|nd|rd|th) row", text).group(0).strip(" rowstndh"))
        column = int(re.search(r"\bcolumn (\d+)|(\d+)(?:st|nd|rd|th) column", text).group(0).strip(" columnstrdh"))
        cell = sample.video.box_of((row - 1) * columns + column - 1)
        (evidence,) = sample.evidence
        assert cell.left <= evidence.box.left < evidence.box.right <= cell.right
        assert cell.top <= evidence.box.top < evidence.box.bottom <= cell.bottom
        assert sample.video.cells[(row - 1) * columns + column - 1].path == "0.mp4"
        assert sample.messages[1].content == "Thing 0 is shown."
        cells.add((row, column))
        heard.add(re.sub(r"\d+(st|nd|rd|th)?", "", text))
    assert len(cells) >= min(rows * columns, 40)
    assert len(heard) >= 12
    assert {row for row, _ in cells} == set(range(1, rows + 1))


def test_ordinals() -> None:
    assert [questions.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 101, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "101st", "111th",
    ]  # fmt: skip


def test_captions_become_sentences_and_phrases() -> None:
    assert questions.sentence(" a  dog\nruns ") == "A dog runs."
    assert [questions.sentence(text) for text in ("Who?", 'He said "no."', "x…")] == ["Who?", 'He said "no."', "X…"]
    assert questions.phrase("A dog runs. ") == "A dog runs"
    assert questions.normal("  A DOG,\n runs! ") == "a dog runs"
    account = questions.chronicle([clip(0, "one"), clip(1, "two."), clip(2, "three")], Wording(0, None))
    assert account == f"One. {wordings.THEN[0]}: Two. Finally: Three."
    assert questions.chronicle([clip(0, "one")], Wording(0, None)) == "One."
    assert questions.chronicle([clip(0, "one"), clip(1, "two")], Wording(0, None)) == f"One. {wordings.THEN[0]}: Two."


def test_braces_in_a_caption_are_words_like_others() -> None:
    cast = {"clip": [clip(0, "A {event} with {0}"), clip(1, "A {cell}"), clip(2)], "distractor": []}
    for seed in range(10):
        sample = EventRelationship()(np.random.default_rng(seed), cast, VIEW)
        assert any(text in sample.messages[0].content for text in ("A {event} with {0}", "A {cell}", "Thing 2"))
