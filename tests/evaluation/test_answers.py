"""A killed evaluation goes on where it was, and nobody gets another's answers."""

from __future__ import annotations

import pytest

from tests.evaluation.players import Oracle
from vista_train.data.check import Interrupted
from vista_train.evaluation.answers import Answers
from vista_train.evaluation.prompts import Prompt
from vista_train.types import Message
from vista_train.video.composition import Clip

PROMPTS = [
    Prompt(f"q{n}", Clip(f"{n}.mp4", 0, 4, 64, 48), (Message("user", f"What is {n}?"),), ("A", "B")) for n in range(20)
]
RIGHT = {f"q{n}": n % 2 for n in range(20)}


class Killed(Oracle):
    """Dies after a number of prompts."""

    most = 7

    def score(self, prompts):
        if self.asked + len(prompts) > self.most:
            raise KeyboardInterrupt
        return super().score(prompts)


def test_a_killed_evaluation_goes_on(tmp_path):
    path = tmp_path / "answers.jsonl"
    first = Killed(RIGHT)
    answers = Answers(first, path, "model", batch=3)
    with pytest.raises(Interrupted, match="interrupted after 6 of 20 questions; the same command goes on from there"):
        answers.of(PROMPTS)
    assert first.asked == 6
    answers.close()
    # Killed in the middle of a line.
    with path.open("a") as stream:
        stream.write('{"key": "q6", "asked": "')
    second = Oracle(RIGHT)
    answers = Answers(second, path, "model", batch=3)
    assert [one.best for one in answers.of(PROMPTS)] == [n % 2 for n in range(20)]
    assert second.asked == 14
    answers.close()
    third = Oracle({})
    assert [one.best for one in Answers(third, path, "model").of(PROMPTS)] == [n % 2 for n in range(20)]
    assert third.asked == 0
    assert len(path.read_text().splitlines()) == 20


def test_answers_belong_to_model_settings_and_words(tmp_path):
    path = tmp_path / "answers.jsonl"
    answers = Answers(Oracle(RIGHT), path, "model")
    list(answers.of(PROMPTS))
    answers.close()
    other = Oracle({key: 1 - place for key, place in RIGHT.items()})
    answers = Answers(other, path, "another")
    assert [one.best for one in answers.of(PROMPTS)] == [1 - n % 2 for n in range(20)]
    answers.close()
    assert other.asked == 20
    changed = [Prompt(one.key, one.video, (Message("user", "Else?"),), one.candidates) for one in PROMPTS[:2]]
    changed += [Prompt(one.key, one.video.subclip(0, 2), one.messages, one.candidates) for one in PROMPTS[2:4]]
    fresh = Oracle(RIGHT)
    answers = Answers(fresh, path, "model")
    list(answers.of([*changed, *PROMPTS]))
    assert fresh.asked == 4


def test_what_failed_is_asked_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    lost = [Prompt("q0", None, PROMPTS[0].messages, ("A", "B"), failure="gone"), *PROMPTS[1:3]]
    answers = Answers(Oracle(RIGHT), path, "model")
    assert [one.failure for one in answers.of(lost)] == ["gone", "", ""]
    answers.close()
    back = Oracle(RIGHT)
    answers = Answers(back, path, "model")
    assert [one.best for one in answers.of([Prompt("q0", None, PROMPTS[0].messages, ("A", "B")), *PROMPTS[1:3]])] == [
        0,
        1,
        0,
    ]
    assert back.asked == 1


def test_a_batch_of_none_is_refused():
    with pytest.raises(ValueError, match="batch is 0"):
        Answers(Oracle({}), batch=0)
