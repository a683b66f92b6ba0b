"""What every family promises, whichever there are: its rows are its samples, its parts are all that learns."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from vista_train.models.attention import NAMES
from vista_train.models.base import PARTS
from vista_train.training.loss import summed_cross_entropy
from vista_train.types import Encoded, Message, Row
from vista_train.video.composition import Clip

VIDEO = Clip("video.mp4", 0, 7, 200, 100)
TALL = Clip("tall.mp4", 0, 7, 100, 300)
TOLERANCE = 1e-5


@pytest.fixture
def model(rig: Any) -> Iterator[Any]:
    """A copy with weights three times the usual, so that what flows through attention matters in the result."""
    model = copy.deepcopy(rig.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(3)
    return model


def loss_of(rig: Any, model: Any, samples: list[Encoded]) -> torch.Tensor:
    row = Row.packed(samples)
    return summed_cross_entropy(rig.family.hidden_states(model, row), row.labels_1L[0], rig.family.head(model), chunk=8)


def loss_and_norm(rig: Any, model: Any, rows: list[list[Encoded]]) -> tuple[float, float]:
    """The sum of the rows' losses, and the norm of its gradient over everything that learns."""
    model.zero_grad()
    total = sum(loss_of(rig, model, samples) for samples in rows)
    total.backward()
    squares = [p.grad.double().square().sum() for _, p in learning(rig, model).items()]
    return total.item(), float(sum(squares).sqrt())


def learning(rig: Any, model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for part in rig.family.parts(model).values() for name, parameter in part}


@pytest.mark.parametrize(("training", "attention"), [(True, "by_sample"), (False, "by_sample"), (True, "dense")])
def test_packed_is_separate(rig: Any, model: Any, training: bool, attention: str) -> None:
    model.train(training)
    rig.family.text_config(model)._attn_implementation = NAMES[attention]
    samples = rig.mixed()
    together_LD = rig.hidden(model, samples)
    apart_LD = torch.cat([rig.hidden(model, [sample]) for sample in samples])
    assert (together_LD - apart_LD).norm() <= TOLERANCE * apart_LD.norm()
    loss, norm = loss_and_norm(rig, model, [samples])
    loss_apart, norm_apart = loss_and_norm(rig, model, [[sample] for sample in samples])
    assert loss == pytest.approx(loss_apart, rel=TOLERANCE)
    assert norm == pytest.approx(norm_apart, rel=TOLERANCE)
    assert norm > 0


def test_samples_in_a_row_do_not_see_one_another(rig: Any, model: Any) -> None:
    first, *rest = rig.mixed()
    other = replace(first, frames_TCHW=255 - first.frames_TCHW)
    one_LD, other_LD = (rig.hidden(model, [sample, *rest]) for sample in (first, other))
    length = len(first.input_ids)
    assert (one_LD[length:] - other_LD[length:]).abs().max() <= TOLERANCE * one_LD.abs().max()
    assert (one_LD[:length] - other_LD[:length]).norm() > 1e-3 * one_LD[:length].norm()


def test_the_order_in_a_row_changes_nothing(rig: Any, model: Any) -> None:
    samples = rig.mixed()
    there = loss_and_norm(rig, model, [samples])
    back = loss_and_norm(rig, model, [samples[::-1]])
    assert there == pytest.approx(back, rel=TOLERANCE)


def test_gradient_checkpointing_changes_nothing(rig: Any, model: Any) -> None:
    model.train()
    plain = loss_and_norm(rig, model, [rig.mixed()])
    model.activation_checkpointing_enable()
    assert loss_and_norm(rig, model, [rig.mixed()]) == pytest.approx(plain, rel=TOLERANCE)


def test_everything_learns_but_what_no_gradient_reaches(rig: Any, model: Any) -> None:
    loss_of(rig, model, rig.mixed()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert without == frozen == {name for name, _ in model.named_parameters()} - set(learning(rig, model))
    unfrozen = copy.deepcopy(rig.model).requires_grad_(True)
    loss_of(rig, unfrozen, rig.mixed()).backward()
    unreached = {name for name, parameter in unfrozen.named_parameters() if parameter.grad is None}
    # The picture tower of Video-LLaVA can learn, from pictures; it is kept as it is.
    assert unreached == {name for name in frozen if "image_tower" not in name or name in unreached}


def test_every_part_has_parameters(rig: Any, model: Any) -> None:
    parts = {part: [name for name, _ in named] for part, named in rig.family.parts(model).items()}
    assert tuple(parts) == PARTS
    assert all(parts.values())
    # A head that is tied to the table of embeddings goes by its name.
    table = "lm_head.weight" if rig.kind != "internvl" else "model.language_model.embed_tokens.weight"
    assert table in parts["language"]


@pytest.mark.parametrize("talk", [(), ((Message("user", "Hi."), Message("assistant", "Hello.")))])
def test_a_row_without_frames_reaches_every_part(rig: Any, model: Any, talk: tuple[Message, ...]) -> None:
    model.train()
    samples = [rig.encoded(None, talk)] if talk else []
    hidden_LD = rig.hidden(model, samples)
    assert len(hidden_LD) == sum(len(sample.input_ids) for sample in samples)
    (hidden_LD.sum() * 0).backward()
    for name, parameter in learning(rig, model).items():
        if name != "lm_head.weight":
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() == 0, name


def test_a_row_of_pictures_alone_reaches_every_part(rig: Any, model: Any) -> None:
    """Each rank must have gradients of the same parameters, whatever its row shows."""
    model.train()
    samples = [sample for sample in rig.mixed() if sample.picture] * 2
    assert len(samples) == 2
    loss_of(rig, model, samples).backward()
    assert {name for name, parameter in learning(rig, model).items() if parameter.grad is None} == set()


def test_the_tower_computes_on_as_many_patches_as_were_planned(rig: Any, model: Any) -> None:
    seen: list[int] = []
    layers = [m for n, m in model.named_modules() if re.fullmatch(r".*(layers|layer|blocks)\.0", n)]
    tower = {"video_llava": model.model.video_tower} if rig.kind == "video_llava" else {}
    inside = set(tower.get(rig.kind, model).modules())
    first = next(m for m in layers if m in inside and rig.family.part_of(name_of(model, m)) == "vision")
    first.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape[:-1].numel()),
        with_kwargs=True,
    )
    videos = [None, VIDEO, TALL, Clip("short.mp4", 0, 3, 240, 400, 1)]
    samples = [rig.encoded(video, seed=seed) for seed, video in enumerate(videos)]
    rig.hidden(model, samples)
    plans = [rig.family.codec.plan(rig.sample(video)) for video in videos]
    # Some towers have a class token for each frame.
    class_tokens = sum(len(plan.times) for plan in plans)
    assert sum(seen) - sum(plan.patches for plan in plans) in (0, class_tokens)


def name_of(model: Any, module: Any) -> str:
    return next(name for name, other in model.named_modules() if other is module)


def test_a_dummy_frame_leaves_words_as_they_are(rig: Any, model: Any) -> None:
    words = [rig.encoded(None, seed=1), rig.encoded(None, seed=2)]
    alone_LD = rig.hidden(model, words)
    beside_LD = rig.hidden(model, [*words, *rig.mixed()[:1]])
    assert (beside_LD[: len(alone_LD)] - alone_LD).norm() <= TOLERANCE * alone_LD.norm()


def test_the_codec_travels_to_workers(rig: Any) -> None:
    codec = rig.family.codec
    copied = pickle.loads(pickle.dumps(codec))
    assert copied == codec
    sample = rig.sample(VIDEO)
    assert copied.plan(sample) == codec.plan(sample)
    assert len(pickle.dumps(codec)) < 30_000


def test_the_vision_tower_is_not_told_where_samples_end(rig: Any, model: Any) -> None:
    """The bounds of samples in a row mean nothing to a tower, whose kernels for packed rows would cut by them."""
    told: set[str] = set()

    def listen(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        told.update(kwargs)

    for name, module in model.named_modules():
        if name and rig.family.part_of(name) in ("vision", "projector"):
            module.register_forward_pre_hook(listen, with_kwargs=True)
    rig.hidden(model, rig.mixed())
    assert not told & {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
