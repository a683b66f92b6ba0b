"""The letter rule, how options turn, and that guessers and oracles score what they must."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.players import Guesser, Oracle
from vista_train.evaluation.answers import Answers
from vista_train.evaluation.choices import LETTERS, Question, letter_of, listed, parted
from vista_train.evaluation.multiple_choice import answer


def question(key: str, right: int = 0, count: int = 4, **more) -> Question:
    return Question(key, None, f"What is {key}?", tuple(f"thing {n}" for n in range(count)), right, **more)


def many(count: int = 400, options: int = 4) -> list[Question]:
    rng = np.random.default_rng(3)
    return [
        question(f"q{n}", int(rng.integers(options)), options, groups={"category": "object" if n % 3 else "action"})
        for n in range(count)
    ]


def knowing(questions: list[Question]) -> Oracle:
    """By the prompt's key: which place the right option has turned to."""
    return Oracle(
        {f"{one.key}#{shift}": (one.right - shift) % one.count for one in questions for shift in range(one.count)}
    )


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        (" (c) the dog", "C"),
        ("The answer is D.", "D"),
        ("I think... Answer: a", "A"),
        ("Of these, the option is (b)", "B"),
        ("B. A cat", "B"),
        ("dog", "D"),
        ("12 %", None),
        ("", None),
    ],
)
def test_the_letter_rule(said, letter):
    assert letter_of(said) == letter


def test_a_question_is_put_as_published():
    labels, options = parted(["A. red", "B. green", "C. blue", "D. none"])
    asked = Question("1", None, "Which colour?", options, 2, labels)
    assert asked.prompt().messages[0].content == (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option.\nWhich colour?\nA. red\nB. green\nC. blue\nD. none"
    )
    assert asked.prompt().candidates == ("A", "B", "C", "D")
    assert (listed("AB"), listed("ABCDE")) == ("A or B", "A, B, C, D, or E")


@pytest.mark.parametrize("style", ["{}. ", "({}) ", "{}) ", "{}: "])
def test_options_part_with_their_letters_and_keep_their_style(style):
    written = [style.format(letter) + word for letter, word in zip("ABC", ("one", "two", "three"), strict=True)]
    labels, options = parted(written)
    assert options == ("one", "two", "three")
    lines = Question("1", None, "?", options, 0, labels).prompt(1).messages[0].content.split("\n")[-3:]
    expected = [style.format(letter) + word for letter, word in zip("ABC", ("two", "three", "one"), strict=True)]
    assert lines == expected


@pytest.mark.parametrize("bare", [["A dog", "B movie"], ["red", "B. green"], ["B. red", "A. green"]])
def test_words_that_only_look_like_letters_stay(bare):
    assert parted(bare) == ((), tuple(bare))


def test_the_right_option_turns_with_the_others():
    asked = question("x", right=1, count=5)
    for shift in range(5):
        lines = asked.prompt(shift).messages[0].content.split("\n")[2:]
        assert lines[asked.right_after(shift)] == f"{LETTERS[asked.right_after(shift)]}. thing 1"
    assert {asked.right_after(shift) for shift in range(5)} == set(range(5))


def test_braces_in_a_question_are_text():
    asked = Question("1", None, "What is {options}?", ("{question}", "b"), 0)
    assert asked.prompt().messages[0].content.endswith("What is {options}?\nA. {question}\nB. b")


@pytest.mark.parametrize("shifted", [False, True])
def test_an_oracle_is_always_right(shifted):
    questions = many(40, 3)
    found = answer(questions, Answers(knowing(questions)), "test", shifted)
    assert (found.overall.right, found.overall.count, found.overall.failed) == (40, 40, 0)
    assert {name: one.share for name, one in found.groups["category"].items()} == {"action": 1.0, "object": 1.0}
    assert sum(one.count for one in found.groups["category"].values()) == 40


@pytest.mark.parametrize(("options", "shifted", "chance"), [(4, False, 0.25), (5, False, 0.2), (2, True, 0.25)])
def test_a_guesser_scores_what_chance_predicts(options, shifted, chance):
    found = answer(many(600, options), Answers(Guesser()), "test", shifted)
    assert found.chance == pytest.approx(chance)
    low, high = found.overall.interval
    assert low <= chance <= high
    assert high - low < 0.08


def test_right_once_is_not_right_in_every_shift():
    """Who always says A is right in one shift of four, which counts for nothing."""

    class SaysA(Oracle):
        def _scored(self, prompt):
            return super()._scored(prompt) if not self.right else Oracle(dict.fromkeys([prompt.key], 0))._scored(prompt)

    questions = [question(f"q{n}", n % 4) for n in range(40)]
    once = answer(questions, Answers(SaysA({"": 0})), "test")
    turned = answer(questions, Answers(SaysA({"": 0})), "test", shifted=True)
    assert (once.overall.right, turned.overall.right) == (10, 0)
    assert len(turned.answered[0].scored) == 4


def test_failed_questions_are_wrong_and_counted_apart():
    questions = [question(f"q{n}", failure="gone" if n < 3 else "") for n in range(10)]
    found = answer(questions, Answers(knowing(questions)), "test")
    assert (found.overall.right, found.overall.count, found.overall.failed) == (7, 10, 3)
    assert [one["failure"] for one in found.to_json()["questions"]][:4] == ["gone", "gone", "gone", ""]
    assert found.to_json()["questions"][0]["chosen"] == [None]


def test_wrong_questions_are_refused():
    with pytest.raises(ValueError, match="'x' has 1 options"):
        question("x", count=1)
    with pytest.raises(ValueError, match="option 4 is right, but there are 4"):
        question("x", right=4)
    with pytest.raises(ValueError, match="two questions with the id 'a'"):
        answer([question("a"), question("b"), question("a")], Answers(Guesser()), "test")
    with pytest.raises(ValueError, match="test has no questions"):
        answer([], Answers(Guesser()), "test")
