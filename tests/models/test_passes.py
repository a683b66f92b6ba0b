"""Frames go through a tower some at a time: nothing of a result changes, and no pass holds more than it may."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.models.conftest import PICTURE, VIDEO
from tests.models.test_families import learning, loss_of
from vista_train.models.hub_family import HubFamily
from vista_train.models.memory import Memory
from vista_train.models.passes import Chunking, Passes, Piece, cut
from vista_train.training.loss import summed_cross_entropy
from vista_train.types import Row

TOLERANCE = 1e-6
TOWERS = {
    "video_llava": ("video_tower", "image_tower"),
    "mantis": ("vision_model",),
    "smolvlm": ("vision_model",),
    "qwen2_5_vl": ("visual",),
    "qwen3_vl": ("visual",),
}
"""The towers of each kind of model; of the others, `vision_tower`."""


@pytest.fixture
def model(rig: Any) -> Iterator[Any]:
    """A copy whose features matter in the result; the family is as it was afterwards."""
    model = copy.deepcopy(rig.model).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(3)
    yield model
    rig.family.arrange(copy.deepcopy(rig.model), Memory())


def calls_of(rig: Any, model: Any) -> Counter[str]:
    """How often each tower is called from now on."""
    seen: Counter[str] = Counter()
    for tower in TOWERS.get(rig.kind, ("vision_tower",)):
        module = model.model.get_submodule(tower)
        module.register_forward_pre_hook(lambda *_, tower=tower: seen.update([tower]))
    return seen


def loss_and_norm(rig: Any, model: Any, samples: list[Any]) -> tuple[float, float]:
    model.zero_grad()
    loss = loss_of(rig, model, samples)
    loss.backward()
    squares = [p.grad.double().square().sum() for p in learning(rig, model).values() if p.grad is not None]
    return loss.item(), float(sum(squares).sqrt())


def test_sequences_fill_passes_in_order() -> None:
    assert cut([(5, 4)], 8) == [[Piece(0, 0, 2)], [Piece(0, 2, 4)], [Piece(0, 4, 5)]]
    assert cut([(1, 4), (3, 2), (1, 9)], 8) == [[Piece(0, 0, 1), Piece(1, 0, 2)], [Piece(1, 2, 3)], [Piece(2, 0, 1)]]
    assert cut([(2, 100)], 8) == [[Piece(0, 0, 1)], [Piece(0, 1, 2)]]
    assert cut([], 8) == []


@pytest.mark.parametrize("recompute", [False, True])
def test_passes_change_nothing(rig: Any, model: Any, recompute: bool) -> None:
    """One sequence a pass, and as many as make passes of two kinds."""
    samples = rig.mixed()
    whole = loss_and_norm(rig, model, samples)
    assert whole[1] > 0
    (_, patches) = rig.family.count(samples[0].frames_TCHW)
    for chunk in (1, 2 * patches):
        rig.family.arrange(model, Memory(vision_chunk=chunk, vision=recompute))
        # Of the two towers of Video-LLaVA, that for pictures does not learn.
        again = (False, recompute) if rig.kind == "video_llava" else (recompute,)
        assert rig.family.chunking == Chunking(chunk, again, False)
        assert loss_and_norm(rig, model, samples) == pytest.approx(whole, rel=TOLERANCE)


@pytest.mark.parametrize("chunk", [1, 40, 10_000])
def test_a_row_takes_as_many_passes_as_were_told(rig: Any, model: Any, chunk: int) -> None:
    rig.family.arrange(model, Memory(vision_chunk=chunk))
    samples = rig.mixed()
    rows = [samples, samples[:1], [rig.encoded(PICTURE, seed=1)], [rig.encoded(None, seed=2)], []]
    for row in map(Row.packed, rows):
        seen = calls_of(rig, model)
        rig.family.hidden_states(model, row)
        told = rig.family.tower_passes(row)
        assert sum(told) == sum(seen.values()) > 0
        if rig.kind == "video_llava":
            assert told == (seen["image_tower"], seen["video_tower"])
    if chunk == 1:
        # Every sequence alone: frames, or pairs of them.
        counts = [rig.family.count(sample.frames_TCHW)[0] for sample in samples if len(sample.frames_TCHW)]
        assert sum(rig.family.tower_passes(Row.packed(samples))) == sum(counts)


def test_passes_that_are_made_up_count_for_nothing(rig: Any, model: Any) -> None:
    """Each tower runs as often as is asked for, forwards and, computed again, backwards."""
    samples = rig.mixed()[:2]
    whole = loss_and_norm(rig, model, samples)
    rig.family.arrange(model, Memory(vision_chunk=40, vision=True))
    row = Row.packed(samples)
    told = rig.family.tower_passes(row)
    least = tuple(passes + 2 for passes in told)
    seen = calls_of(rig, model)
    hidden_LD = rig.family.hidden_states(model, row, least)
    towers = seen.total()
    assert towers == sum(least)
    model.zero_grad()
    loss = summed_cross_entropy(hidden_LD, row.labels_1L[0], rig.family.head(model))
    loss.backward()
    # A picture tower does not learn, and is not computed again.
    assert seen.total() - towers == sum(least[-1:])
    squares = [p.grad.double().square().sum() for p in learning(rig, model).values()]
    assert (loss.item(), float(sum(squares).sqrt())) == pytest.approx(whole, rel=TOLERANCE)


@pytest.mark.parametrize("projector", [False, True])
def test_a_frozen_tower_is_never_computed_again(rig: Any, model: Any, projector: bool) -> None:
    """The projector behind it is, where it trains; where nothing does, no graph is made of either."""
    for name, parameter in model.named_parameters():
        part = rig.family.part_of(name)
        parameter.requires_grad_(part == "language" or (projector and part == "projector"))
    samples = rig.mixed()
    whole = loss_and_norm(rig, model, samples)
    rig.family.arrange(model, Memory(vision_chunk=40, vision=True))
    assert rig.family.chunking == Chunking(40, (False,) * len(rig.family.towers), not projector)
    seen, again, wanting = calls_of(rig, model), Counter[str](), set[str]()
    for name, module in model.named_modules():
        is_leaf = not list(module.children())
        if rig.family.part_of(name) == "projector" and is_leaf and list(module.parameters()):
            module.register_forward_pre_hook(lambda *_, name=name: again.update([name]))
            module.register_forward_hook(lambda *told, name=name: wanting.update([name] * told[2].requires_grad))
    assert loss_and_norm(rig, model, samples) == pytest.approx(whole, rel=TOLERANCE)
    assert seen.total() == sum(rig.family.tower_passes(Row.packed(samples)))
    passes = rig.family.tower_passes(Row.packed(samples))
    assert bool(wanting) == projector
    assert max(again.values()) >= (1 + projector) * passes[-1]


def test_a_pass_that_is_computed_again_keeps_bytes_and_features_alone(rig: Any, model: Any) -> None:
    """What autograd keeps of a pass does not grow with what is inside the tower."""
    kept: list[torch.Tensor] = []
    row = Row.packed([sample for sample in rig.mixed() if not sample.picture])
    frames = {frames.untyped_storage().data_ptr() for frames in row.frames if len(frames)}
    for recompute in (False, True):
        rig.family.arrange(model, Memory(vision_chunk=40, vision=recompute))
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
            rig.family.media(model, row, Passes(rig.family.chunking, rig.family.count))
        weights = {parameter.data_ptr() for parameter in model.parameters()}
        inside = [t for t in kept if t.data_ptr() not in weights and t.numel()]
        if recompute:
            assert {tensor.dtype for tensor in inside} == {torch.uint8}
            assert {tensor.untyped_storage().data_ptr() for tensor in inside} == frames
        else:
            assert sum(tensor.dtype.is_floating_point for tensor in inside) > 50


def test_two_towers_are_told_apart(rigs: Any) -> None:
    rig = rigs("video_llava")
    video, picture = rig.encoded(VIDEO, seed=1), rig.encoded(PICTURE, seed=2)
    assert isinstance(rig.family, HubFamily)
    assert rig.family.tower_passes(Row.packed([video])) == (0, 1)
    assert rig.family.tower_passes(Row.packed([video, picture])) == (1, 1)
    # A dummy video goes with a picture alone.
    assert rig.family.tower_passes(Row.packed([picture])) == (1, 1)


def test_what_was_arranged_for_one_model_is_not_taken_for_another(rig: Any, model: Any) -> None:
    """A family that has trained a language model alone serves another model next: all of that one learns."""
    expected = loss_and_norm(rig, model, rig.mixed())
    frozen = copy.deepcopy(model)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(rig.family.part_of(name) == "language")
    rig.family.arrange(frozen, Memory(vision_chunk=40))
    assert rig.family.chunking.constant
    assert loss_and_norm(rig, model, rig.mixed()) == pytest.approx(expected, rel=TOLERANCE)
