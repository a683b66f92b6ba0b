"""Words: what is asked is what is shown, in a dozen wordings of each kind."""

from __future__ import annotations

import dataclasses
import re
import string
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest

from vista_train.augment import (
    REGISTRY,
    CannotComposeError,
    EventRelationship,
    LongVideoCaption,
    Plain,
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
    **{name: {"event"} for name in ("IS_THERE", "WHEN", "WHERE", "HOW_MANY", "WHICH_CELL")},
    "NTH_CLIP": {"nth"},
}
TABLES = {name: texts for name, texts in vars(wordings).items() if name.isupper()}


def clip(number: int, caption: str = "", seconds: float = 6, **known: object) -> Clip:
    return Clip(f"{number}.mp4", 0, seconds, 64, 48, 10, caption or f"Thing {number} is shown", **known)


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
    assert len(TABLES) == 21
    assert len(set(wordings.CHOOSE)) >= 4
    assert len(set(wordings.THEN)) >= 5


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_dozen_wordings_are_heard(name: str, pool, composed_from, choice) -> None:
    augment, stems = REGISTRY[name](), Counter()
    for index in range(250):
        rng = np.random.default_rng(index)
        sample, _ = composed_from(augment, pool, index, rng, VIEW)
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


def test_without_three_wrong_answers_the_question_stays_open() -> None:
    # Two of these are the right answer, two are the same, one says nothing.
    asked = Asked(
        "Which?", "A dog runs.", ("a DOG, runs!", "A cat sits."), ("A  cat sits", "A dog runs", " . ", "Rain.")
    )
    for pick in range(20):
        user, assistant = questions.converse(asked, Wording(pick, letter=2))
        assert (user.content, assistant.content) == ("Which?", "A dog runs.")
    user, _ = questions.converse(asked._replace(absent=(*asked.absent, "Snow.")), Wording(0, letter=0))
    wrong = [line[3:] for line in user.content.split("\n")[2:5]]
    assert sorted(questions.normal(text) for text in wrong) == ["a cat sits", "rain", "snow"]


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


def test_what_is_compared_has_no_punctuation_and_all_else() -> None:
    for first in range(0, sys.maxunicode + 1, 1 << 12):
        text = "".join(map(chr, range(first, first + (1 << 12))))
        kept = (letter for letter in text.casefold() if not unicodedata.category(letter).startswith("P"))
        assert questions.normal(text) == " ".join("".join(kept).split())


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


def test_all_turns_of_a_clip_are_one_conversation() -> None:
    talked = Clip("a.mp4", 0, 4, 64, 48, 8, qa=(QA("Who?", "A man."), QA("Where?", "Outside."), QA("Why?", "No idea.")))
    cast, view = {"clip": (talked,)}, View(frames=2, width=56, height=56)
    sample = Plain(turns="all")(np.random.default_rng(0), cast, view)
    assert [(message.role, message.content) for message in sample.messages] == [
        ("user", "Who?"), ("assistant", "A man."), ("user", "Where?"), ("assistant", "Outside."),
        ("user", "Why?"), ("assistant", "No idea."),
    ]  # fmt: skip
    assert len(Plain()(np.random.default_rng(0), cast, view).messages) == 2
