"""Greedy decoding: with what was computed kept, and all computed again, every family says the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.models.conftest import PICTURE, SHORT, VIDEO, Rig
from vista_train.evaluation.generation import Generator, opened, spoken
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import reader_of
from vista_train.types import Message
from vista_train.video.composition import Clip

ASK = (Message("user", "What is it?"),)
TALK = (*ASK, Message("assistant", "A cat."), Message("user", "And now?"))


class Noise:
    """Footage of noise in the shape that the view has for a video."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def frames(self, video: Clip, times: Any, view: Any) -> torch.Tensor:
        return self.rig.frames(video, len(times))


@pytest.fixture
def lively(rig: Rig) -> Any:
    """A copy whose answers depend on what it sees: weights of random models hardly differ."""
    model = copy.deepcopy(rig.model).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(4)
    return model


PROMPTS = [
    Prompt("video", VIDEO, ASK),
    Prompt("words", None, ASK),
    Prompt("picture", PICTURE, ASK),
    Prompt("short", SHORT, TALK),
    Prompt("failed", None, ASK, failure="no such file"),
]


def test_what_is_kept_says_what_all_computed_again_does(rig: Rig, lively: Any) -> None:
    answers = Generator(rig.family, lively, Noise(rig)).answer(PROMPTS, 8)
    again = spoken(rig.family, reader_of(rig.family, lively), Noise(rig), PROMPTS, 8, max_row_tokens=300)
    assert answers == again
    assert [one.failure for one in answers] == ["", "", "", "", "no such file"]
    assert [one.frames for one in answers] == [5, 0, 1, 3, 0]
    assert sum(one.tokens for one in answers) > 8
    said = [one.text for one in answers[:4]]
    assert len(set(said)) > 1, "the model says the same whatever it sees"


def test_it_is_what_likelihoods_say(rig: Rig, lively: Any) -> None:
    """Each token is the likeliest behind all before it, in a forward pass as in training over prompt and answer."""
    speech = opened(rig.family, Noise(rig), PROMPTS[3])
    Generator(rig.family, lively, Noise(rig))._speak(speech, 6, ())
    sample = speech.so_far()
    with torch.no_grad():
        logits_LV = rig.family.head(lively)(rig.hidden(lively, [sample]))
    first = len(speech.opening.input_ids)
    assert logits_LV[first - 1 : -1].argmax(-1).tolist() == speech.said
    assert len(speech.said) in range(1, 7)
    # The turn before is part of the prompt.
    assert "cat" in rig.family.tokenizer.decode(speech.opening.input_ids)


def test_what_frames_are_spelt_with_ends_an_answer(rig: Rig, lively: Any) -> None:
    """Behind it the model would look for frames that are not there."""
    (token, *_) = sorted(rig.family.codec.stops - {rig.family.codec.spelling.end_id})
    head = torch.nn.Linear(rig.family.text_config(lively).hidden_size, len(rig.family.tokenizer))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias).data[token] = 1.0
    lively.lm_head = head
    (answer,) = Generator(rig.family, lively, Noise(rig)).answer(PROMPTS[:1], 5)
    assert (answer.text, answer.tokens) == ("", 0)
