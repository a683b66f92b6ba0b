"""Fused kernels give the plain loss and its gradients, each is called as it wants to be; the choice is honest."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from vista_train.config import Recipe
from vista_train.train import train
from vista_train.training import fused_loss, loss
from vista_train.training.engine import Engine
from vista_train.training.fsdp import FsdpEngine
from vista_train.training.fused_loss import liger_kernel, torch_kernel
from vista_train.training.loss import KINDS, choose_loss, summed_cross_entropy

needs_torchs = pytest.mark.skipif(torch_kernel() is None, reason="this torch has no linear_cross_entropy")


def problem(length: int = 300, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, nn.Linear]:
    generator = torch.Generator().manual_seed(5)
    hidden_LD = torch.randn(length, 32, generator=generator).mul(scale).requires_grad_()
    labels_L = torch.randint(200, (length,), generator=generator)
    labels_L[torch.rand(length, generator=generator) > 0.6] = -100
    head = nn.Linear(32, 200, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(200, 32, generator=generator))
    return hidden_LD, labels_L, head


def plain(hidden_LD: torch.Tensor, labels_L: torch.Tensor, head: nn.Module) -> torch.Tensor:
    logits_LV = head(hidden_LD).float()
    return functional.cross_entropy(logits_LV[:-1], labels_L[1:], ignore_index=-100, reduction="sum")


def value_and_gradients(total: torch.Tensor, *inputs: torch.Tensor) -> tuple[float, torch.Tensor]:
    """A step divides by its labels before it goes back."""
    grads = torch.autograd.grad(total / 7, inputs)
    return total.item(), torch.cat([grad.flatten() for grad in grads])


def reference_liger(
    input: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None = None,
    ce_weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    lse_square_scale: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float | None = None,
    return_z_loss: bool = False,
    accum_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """What Liger's function computes."""
    assert input.dtype == weight.dtype
    assert (len(input), target.dtype, accum_dtype) == (len(target), torch.int64, torch.float32)
    with torch.autocast("cpu", enabled=False):
        logits_NV = (input @ weight.T).float()
    return functional.cross_entropy(logits_NV, target, ignore_index=ignore_index, reduction=reduction)


@needs_torchs
@pytest.mark.parametrize("chunk", [7, 100, 1024])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_torchs_kernel_is_full_logits(chunk: int, scale: float) -> None:
    hidden_LD, labels_L, head = problem(scale=scale)
    expected, wanted = value_and_gradients(plain(hidden_LD, labels_L, head), hidden_LD, head.weight)
    total = summed_cross_entropy(hidden_LD, labels_L, head, chunk, kind="torch")
    value, grads = value_and_gradients(total, hidden_LD, head.weight)
    assert expected > 100
    assert value == pytest.approx(expected, rel=1e-6)
    assert (grads - wanted).norm() <= 1e-6 * wanted.norm()


@needs_torchs
def test_torchs_kernel_computes_in_fp32_whatever_it_is_given() -> None:
    hidden_LD, labels_L, head = problem()
    exact, exact_grads = value_and_gradients(plain(hidden_LD, labels_L, head), hidden_LD, head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, wanted = value_and_gradients(plain(hidden_LD, labels_L, head), hidden_LD, head.weight)
        total = summed_cross_entropy(hidden_LD, labels_L, head, kind="torch")
    value, grads = value_and_gradients(total, hidden_LD, head.weight)
    assert total.dtype == torch.float32
    assert value == pytest.approx(exact, rel=1e-6)
    assert (grads - exact_grads).norm() <= 1e-6 * exact_grads.norm()
    # Whose logits are rounded.
    assert value == pytest.approx(rounded, rel=2e-3)
    assert (grads - wanted).norm() <= 2e-2 * wanted.norm()
    half_LD, half = hidden_LD.detach().bfloat16(), head.bfloat16()
    with torch.no_grad():
        total = summed_cross_entropy(half_LD, labels_L, half, kind="torch")
        expected = plain(half_LD.float(), labels_L, half.float())
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_ligers_kernel_gets_what_it_is_written_for(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    monkeypatch.setattr(fused_loss, "liger_kernel", lambda: reference_liger)
    hidden_LD, labels_L, head = problem()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, wanted = value_and_gradients(plain(hidden_LD, labels_L, head), hidden_LD, head.weight)
        total = summed_cross_entropy(hidden_LD, labels_L, head, kind="liger")
    value, grads = value_and_gradients(total, hidden_LD, head.weight)
    assert total.dtype == torch.float32
    assert value == pytest.approx(expected, rel=1e-6)
    assert (grads - wanted).norm() <= (1e-2 if autocast else 1e-6) * wanted.norm()


@pytest.mark.skipif(not torch.cuda.is_available() or liger_kernel() is None, reason="needs a GPU and liger-kernel")
@pytest.mark.parametrize("autocast", [False, True])
def test_ligers_kernel_on_a_gpu_is_full_logits(autocast: bool) -> None:
    hidden_LD, labels_L, head = problem()
    hidden_LD, labels_L, head = hidden_LD.detach().cuda().requires_grad_(), labels_L.cuda(), head.cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        expected, wanted = value_and_gradients(plain(hidden_LD, labels_L, head), hidden_LD, head.weight)
        total = summed_cross_entropy(hidden_LD, labels_L, head, kind="liger")
    value, grads = value_and_gradients(total, hidden_LD, head.weight)
    assert value == pytest.approx(expected, rel=1e-4 if autocast else 1e-6)
    assert (grads - wanted).norm() <= (2e-2 if autocast else 1e-3) * wanted.norm()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 1, 9])
def test_without_labels_every_kind_is_zero_and_connected(kind: str, length: int) -> None:
    body, head = nn.Linear(4, 16), nn.Linear(16, 50, bias=False)
    total = summed_cross_entropy(body(torch.ones(length, 4)), torch.full((length,), -100), head, kind=kind)
    assert total.item() == 0
    total.backward()
    for parameter in (*head.parameters(), *body.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() == 0


@needs_torchs
def test_a_frozen_head_gets_no_gradient() -> None:
    hidden_LD, labels_L, head = problem()
    head.weight.requires_grad_(False)
    summed_cross_entropy(hidden_LD, labels_L, head, kind="torch").backward()
    assert head.weight.grad is None
    assert hidden_LD.grad is not None
    with torch.no_grad():
        assert summed_cross_entropy(hidden_LD, labels_L, head, kind="torch").grad_fn is None


class Wrapped(nn.Linear):
    """A head that does more than its weight says."""


@needs_torchs
def test_the_best_measured_of_those_that_can_run_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    head = nn.Linear(8, 20, bias=False)
    assert choose_loss("auto", head, "cpu").kind == "torch"
    assert choose_loss("auto", head, "cpu", in_half=True).kind == "chunked"
    assert choose_loss("chunked", head, "cpu").kind == "chunked"
    sharded = choose_loss("auto", head, "cpu", is_sharded=True)
    assert sharded.kind == "chunked"
    assert "ZeRO-3 and FSDP2 gather it where it is called" in sharded.told
    assert choose_loss("auto", Wrapped(8, 20, bias=False), "cpu").kind == "chunked"
    assert "not a Linear" in choose_loss("auto", nn.Linear(8, 20), "cpu").told
    assert choose_loss("auto", head, "cuda", in_half=True).kind == "chunked"
    monkeypatch.setattr(loss, "liger_kernel", lambda: reference_liger)
    assert choose_loss("auto", head, "cuda", in_half=True).kind == "liger"
    assert choose_loss("auto", head, "cpu").kind == "torch"
    assert choose_loss("auto", head, "cuda", in_half=True, is_sharded=True).kind == "chunked"
    monkeypatch.setattr(loss, "torch_kernel", lambda: None)
    assert choose_loss("auto", head, "cpu").kind == "chunked"
    assert (Engine.sharded, FsdpEngine.sharded) == (False, True)


@pytest.mark.parametrize(
    ("asked", "head", "is_sharded", "said"),
    [
        ("liger", nn.Linear(8, 20, bias=False), False, "train.loss is 'liger', which needs a CUDA GPU"),
        ("torch", nn.Linear(8, 20, bias=False), True, "train.loss is 'torch', which needs a head that every rank has"),
        ("torch", Wrapped(8, 20, bias=False), False, "a plain nn.Linear without bias, not a Wrapped"),
        ("fused", nn.Linear(8, 20, bias=False), False, "'fused'; it must be auto, liger, torch, chunked"),
    ],
)
def test_what_cannot_run_is_told(asked: str, head: nn.Module, is_sharded: bool, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose_loss(asked, head, "cpu", is_sharded=is_sharded)


def test_an_older_liger_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        liger_fused_linear_cross_entropy = staticmethod(lambda input, weight, target: None)

    monkeypatch.setattr(fused_loss.importlib, "import_module", lambda name: Old)
    assert liger_kernel() is None
    Old.liger_fused_linear_cross_entropy = staticmethod(reference_liger)
    assert liger_kernel() is reference_liger


@needs_torchs
def test_a_run_is_the_same_under_every_kind_and_says_which(
    small_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {}
    for kind, told in (("auto", "loss       linear_cross_entropy of torch"), ("chunked", "loss       chunked: 1024")):
        recipe = small_recipe(output=kind, loss=kind, steps=2)
        trainer = train(recipe)
        lines[kind] = trainer.output / "log.jsonl"
        assert told in capsys.readouterr().err
    auto, chunked = ([json.loads(line) for line in path.read_text().splitlines()] for path in lines.values())
    for one, other in zip(auto, chunked, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)


def test_the_recipe_names_one_of_them(small_recipe: Callable[..., Recipe]) -> None:
    for key, right in (("loss", "'auto', 'liger', 'torch' or 'chunked'"), ("attention", "'by_sample' or 'dense'")):
        with pytest.raises(ValueError, match=rf"train\.{key} is 'quick'; it must be .*{right}"):
            small_recipe(**{key: "quick"})


def test_liger_is_found_where_it_is_installed() -> None:
    try:
        importlib.metadata.version("liger-kernel")
    except importlib.metadata.PackageNotFoundError:
        assert liger_kernel() is None
    else:
        assert liger_kernel() is not None
