"""Likelihoods against plain log-softmax and the training loss; packing, modes and random states."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import undisturbed
from vista_train.training.loss import summed_cross_entropy
from vista_train.types import Message, Row, Sample
from vista_train.video.composition import Clip
from vista_train.video.render import render_view


def ask(*candidates: str, video: Clip | None = None, key: str = "one", text: str = "What is it?") -> Prompt:
    return Prompt(key, video, (Message("user", text),), candidates)


def moving(seed: int = 0) -> Clip:
    noise = torch.Generator().manual_seed(seed)
    return Clip.from_frames(torch.randint(256, (9, 3, 40, 40), generator=noise, dtype=torch.uint8), 3)


def by_hand(scorer, prompt: Prompt, candidate: str) -> tuple[float, bool, float]:
    """Log-likelihood of the words, whether each is the likeliest, and the log-likelihood with the closing token."""
    codec = scorer.codec
    sample = Sample(prompt.video, (*prompt.messages, Message("assistant", candidate)), (), "test")
    plan = codec.plan(sample)
    frames = torch.zeros((0, 3, 0, 0), dtype=torch.uint8)
    if prompt.video is not None:
        frames = render_view(prompt.video, plan.times, codec.view)
    row = Row.packed([codec.encode(sample, plan, frames)])
    with torch.no_grad():
        hidden_LD = scorer.family.hidden_states(scorer.model.eval(), row)
        logits_LV = scorer.family.head(scorer.model)(hidden_LD)
        loss = float(summed_cross_entropy(hidden_LD, row.labels_1L[0], scorer.family.head(scorer.model)))
    logs, total, exact = logits_LV.log_softmax(-1), 0.0, True
    # A token of the tiny tokenizer is a byte.
    first = (row.labels_1L[0] != -100).nonzero()[0, 0].item()
    for offset in range(len(candidate.encode())):
        token = row.input_ids_1L[0, first + offset]
        total += float(logs[first + offset - 1, token])
        exact &= int(logs[first + offset - 1].argmax()) == int(token)
    return total, exact, -loss


def test_likelihoods_are_those_of_log_softmax_and_of_the_training_loss(tiny):
    scorer = tiny()
    prompt = ask("A", "a small red circle", "nothing", video=moving())
    (scored,) = scorer.score([prompt])
    assert scored.frames == 8
    for which, candidate in enumerate(prompt.candidates):
        total, exact, with_end = by_hand(scorer, prompt, candidate)
        assert scored.log_likelihoods[which] == pytest.approx(total, abs=1e-4)
        assert scored.exact[which] == exact
        # The training loss counts the closing token as well; that has a likelihood below 1.
        assert with_end < scored.log_likelihoods[which] - 0.1


def test_exact_is_when_every_token_is_the_likeliest(tiny):
    scorer = tiny()
    head = nn.Linear(64, scorer.model.lm_head.out_features)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.bias[scorer.codec.tokenizer.convert_tokens_to_ids("A")] = 1.0
    scorer.model.lm_head = head
    (scored,) = scorer.score([ask("A", "AAA", "AB", "BA", "B")])
    assert scored.exact == (True, True, False, False, False)
    assert scored.best == 0
    assert scored.log_likelihoods[1] == pytest.approx(3 * scored.log_likelihoods[0])


def test_letters_are_read_from_one_run_and_score_as_alone(tiny, monkeypatch):
    scorer, lengths = tiny(), []
    inner = scorer.family.hidden_states
    monkeypatch.setattr(
        scorer.family, "hidden_states", lambda model, row: lengths.append(row.lengths) or inner(model, row)
    )
    video = moving()
    (together,) = scorer.score([ask(*"ABCD", video=video)])
    assert [len(row) for row in lengths] == [1]
    alone = scorer.score([ask(letter, video=video) for letter in "ABCD"])
    assert together.log_likelihoods == pytest.approx([one.log_likelihoods[0] for one in alone], abs=1e-5)
    assert together.exact == tuple(one.exact[0] for one in alone)


def test_neither_packing_nor_company_changes_a_result(tiny):
    prompts = [
        ask("A", "a cat runs", video=moving(1), key="1"),
        ask(*"ABCD", key="2", text="Words alone?"),
        ask("a dog", "B", "C", video=replace(moving(2), end=Fraction(1)), key="3"),
        ask(*"ABC", video=moving(3), key="4"),
    ]
    single = tiny(max_row_tokens=0)
    alone = [single.score([prompt])[0] for prompt in prompts]
    for most in (0, 700, 100_000):
        single.max_row_tokens = most
        for scored, right in zip(single.score(prompts), alone, strict=True):
            assert scored.log_likelihoods == pytest.approx(right.log_likelihoods, abs=1e-4)
            assert (scored.exact, scored.frames, scored.best) == (right.exact, right.frames, right.best)


def test_the_model_is_left_as_it_was_found(tiny):
    scorer = tiny(settings={"dropout": 0.5})
    # The same weights, and no dropout that could be on.
    (expected,) = tiny().score([ask(*"ABCD", video=moving())])
    scorer.model.train()
    scorer.model.lm_head.eval()
    modes = [module.training for module in scorer.model.modules()]
    random, prompt = torch.get_rng_state(), ask(*"ABCD", video=moving())
    assert scorer.score([prompt])[0] == expected, "dropout was on"
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in scorer.model.modules()] == modes
    assert all(parameter.grad is None for parameter in scorer.model.parameters())
    with pytest.raises(ZeroDivisionError), undisturbed(scorer.model):
        1 / (0 * torch.rand(3).sum().item())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in scorer.model.modules()] == modes


def losses_of_training(scorer, asks: bool) -> list[float]:
    """Three steps with dropout, with or without questions in between."""
    family, model = scorer.family, scorer.model.train()
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.01)
    sample = Sample(moving(), (Message("user", "What?"), Message("assistant", "Noise.")), (), "test")
    plan = family.codec.plan(sample)
    row = Row.packed([family.codec.encode(sample, plan, render_view(sample.video, plan.times, family.codec.view))])
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        for _ in range(3):
            loss = summed_cross_entropy(family.hidden_states(model, row), row.labels_1L[0], family.head(model))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if asks:
                scorer.score([ask(*"ABCD", video=moving(3)), ask("a longer answer")])
    return losses


def test_training_goes_on_as_if_nothing_had_been_asked(tiny):
    settings = {"dropout": 0.3}
    losses = losses_of_training(tiny(settings=settings), asks=True)
    assert losses == losses_of_training(tiny(settings=settings), asks=False)
    assert len(set(losses)) == 3


def test_what_cannot_be_shown_fails_alone(tiny, tmp_path):
    scorer = tiny(tmp_path, settings={"max_tokens": 200})
    lost = Clip("lost.mp4", 0, 4, 64, 48)
    scored = scorer.score([ask("A", key="1"), ask("A", video=lost, key="2"), ask("A", text="word " * 100, key="3")])
    assert [one.best for one in scored] == [0, None, None]
    assert scored[1].failure == "MediaMissing: lost.mp4: no such file"
    assert "longer than family.max_tokens" in scored[2].failure
