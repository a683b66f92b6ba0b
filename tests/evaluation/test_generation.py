"""Where an answer ends: at the token that closes the turn, at words to stop at, at the limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vista_train.evaluation.generation import Generator, spoken
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import reader_of
from vista_train.models.likelihood import Look
from vista_train.types import Message

ASK = (Message("user", "Say it."),)


class Parrot(nn.Module):
    """A head that says a text by how many tokens came before: the answer, then the end."""

    def __init__(self, scorer: Any, text: str) -> None:
        super().__init__()
        self.ids = [*scorer.codec.tokenizer(text).input_ids, scorer.codec.tokenizer.eos_token_id]
        self.said, self.size = 0, len(scorer.codec.tokenizer)

    def forward(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        logits_NV = torch.zeros(len(hidden_ND), self.size)
        logits_NV[-1, self.ids[min(self.said, len(self.ids) - 1)]] = 1.0
        self.said += 1
        return logits_NV


def said(scorer: Any, text: str, limit: int = 50, until: tuple[str, ...] = ()) -> tuple[str, int]:
    scorer.model.lm_head = Parrot(scorer, text)
    (answer,) = Generator(scorer.family, scorer.model, scorer.footage).answer([Prompt("one", None, ASK)], limit, until)
    return answer.text, answer.tokens


def test_an_answer_ends_where_the_turn_does(tiny: Any) -> None:
    assert said(tiny(), "Yes, it is.") == ("Yes, it is.", 11)


def test_or_at_the_limit(tiny: Any) -> None:
    assert said(tiny(), "Yes, it is.", limit=3) == ("Yes", 3)
    assert said(tiny(), "Yes, it is.", limit=0) == ("", 0)


def test_or_before_words_to_stop_at(tiny: Any) -> None:
    """Nothing is computed behind them; the earliest counts."""
    assert said(tiny(), "Yes. No. Or what?", until=("what", ". ")) == ("Yes", 5)


def test_ranks_ask_as_often_as_any_of_them_needs(tiny: Any) -> None:
    """One that is done, or had nothing to ask, still calls the reader, with nothing."""
    scorer, calls = tiny(), list[int]()
    read = reader_of(scorer.family, scorer.model)

    def counted(looks: list[Look]) -> Any:
        calls.append(len(looks))
        return read(looks)

    rounds = iter([True] * 4 + [False])
    assert spoken(scorer.family, counted, scorer.footage, [], 9, any_goes_on=lambda own: next(rounds)) == []
    assert calls == [0] * 4


@pytest.mark.parametrize("most", [0, 1000])
def test_prompts_in_one_row_say_what_they_say_alone(tiny: Any, most: int) -> None:
    scorer = tiny()
    prompts = [Prompt(str(number), None, (Message("user", "x" * (1 + 7 * number)),)) for number in range(4)]
    read = reader_of(scorer.family, scorer.model)
    together = spoken(scorer.family, read, scorer.footage, prompts, 5, max_row_tokens=most)
    assert together == [spoken(scorer.family, read, scorer.footage, [one], 5)[0] for one in prompts]
    assert all(one.tokens for one in together)
