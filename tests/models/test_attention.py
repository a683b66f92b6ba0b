"""Attention over packed rows against a dense mask, and torch's kernel called as it wants to be; which of them runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from vista_train.models import attention, load_family, packed_attention
from vista_train.models.attention import choose_attention, head_width, implementations, packing_kwargs, window_of
from vista_train.models.packed_attention import by_sample, varlen, varlen_kernel
from vista_train.video.sampling import View

HEADS, KEY_HEADS, WIDTH = 6, 2, 16
LENGTHS = (5, 1, 17, 40)
QWEN = Qwen2Config(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


class Decoder(nn.Module):
    """What transformers' attention functions ask of the layer that calls them."""

    is_causal = True
    num_key_value_groups = HEADS // KEY_HEADS


def packed(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Queries, keys and values [1, heads, L, width], as a decoder's layer has them: views of [1, L, heads, width]."""
    noise, length = torch.Generator().manual_seed(1), sum(LENGTHS)
    made = [torch.randn(1, length, heads, WIDTH, generator=noise) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [tensor.to(dtype).transpose(1, 2).requires_grad_() for tensor in made]


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """All pairs of the row, and a mask that leaves those within a sample, backward, and no further than the window."""
    sample_L = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    at_L = torch.arange(len(sample_L))
    back_LL = at_L[:, None] - at_L
    mask_LL = (sample_L[:, None] == sample_L) & (back_LL >= 0) & (back_LL < (window or len(sample_L)))
    key, value = (tensor.repeat_interleave(HEADS // KEY_HEADS, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~mask_LL, -torch.inf)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


def kwargs_of() -> dict[str, Any]:
    return packing_kwargs(LENGTHS, torch.device("cpu"))


def gradients(out: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    return torch.autograd.grad((out * weights).sum(), inputs)


def reference_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What torch's kernel is documented to do, for sequences [T, heads, width] from one bound to the next."""
    assert (query.ndim, key.ndim, value.ndim) == (3, 3, 3)
    assert {tensor.dtype for tensor in (query, key, value)} <= {torch.bfloat16, torch.float16}
    assert all(tensor.stride(-1) == 1 for tensor in (query, key, value))
    assert cu_seq_k is not None
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == int(cu_seq_q.diff().max())
    assert max_k == int(cu_seq_k.diff().max())
    assert enable_gqa or query.shape[1] == key.shape[1]
    left, right = window_size
    out = torch.empty_like(query)
    for first, last in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (tensor[first:last].transpose(0, 1) for tensor in (query, key, value))
        at = torch.arange(last - first)
        back = at[:, None] - at
        mask = (back <= (left if left >= 0 else last)) & (back >= (-right if right >= 0 else -last))
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        out[first:last] = seen.transpose(0, 1)
    return out


@pytest.mark.parametrize("window", [None, 100, 40, 39, 7, 1])
def test_sample_by_sample_is_the_dense_mask(window: int | None) -> None:
    inputs = packed()
    out, _ = by_sample(Decoder(), *inputs, None, scaling=0.3, sliding_window=window, **kwargs_of())
    expected = dense(*inputs, window)
    assert out.shape == (1, sum(LENGTHS), HEADS, WIDTH)
    assert out.is_contiguous()
    assert (out - expected).abs().max() <= 2e-6
    found, wanted = (torch.cat([grad.flatten() for grad in gradients(o, inputs)]) for o in (out, expected))
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()


def test_no_sample_weighs_on_another_and_no_token_on_an_earlier_one() -> None:
    inputs = packed()
    out, _ = by_sample(Decoder(), *inputs, None, scaling=0.3, **kwargs_of())
    # The second last token of the last sample, of which the last one alone knows.
    (grad_1HLD,) = torch.autograd.grad(out[0, -2].sum(), inputs[2])
    reached = grad_1HLD.abs().amax(dim=(0, 1, 3)) > 0
    assert reached.nonzero().flatten().tolist() == list(range(sum(LENGTHS[:-1]), sum(LENGTHS) - 1))


@pytest.mark.parametrize("window", [None, 40, 39, 7, 1])
@pytest.mark.parametrize("autocast", [False, True])
def test_torchs_kernel_is_called_as_it_is_documented(
    monkeypatch: pytest.MonkeyPatch, window: int | None, autocast: bool
) -> None:
    calls: list[tuple[int, int]] = []

    def kernel(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(kwargs["window_size"])
        return reference_varlen(*args, **kwargs)

    monkeypatch.setattr(f"{packed_attention.VARLEN_MODULE}.varlen_attn", kernel)
    inputs = packed(torch.float32 if autocast else torch.bfloat16)
    if autocast:
        # Rotated queries and keys are in single precision, values are not.
        inputs[2] = inputs[2].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out, _ = varlen(Decoder(), *inputs, None, scaling=0.3, sliding_window=window, **kwargs_of())
    assert calls == [(window - 1 if window and window < 40 else -1, 0)]
    assert out.shape == (1, sum(LENGTHS), HEADS, WIDTH)
    assert out.dtype == torch.bfloat16
    expected = dense(*(tensor.float() for tensor in inputs), window)
    assert (out.float() - expected).norm() <= 1e-2 * expected.norm()
    for grad, wanted in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        assert (grad.float() - wanted.float()).norm() <= 1e-2 * wanted.float().norm()


def test_what_torchs_kernel_cannot_do_goes_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise AssertionError("it was called")

    monkeypatch.setattr(f"{packed_attention.VARLEN_MODULE}.varlen_attn", kernel)
    single = packed()
    out, _ = varlen(Decoder(), *single, None, scaling=0.3, **kwargs_of())
    assert (out - dense(*single)).abs().max() <= 2e-6
    half = packed(torch.bfloat16)
    varlen(Decoder(), *half, None, dropout=0.5, scaling=0.3, **kwargs_of())
    varlen(Decoder(), *half, None, scaling=0.3)


def test_the_kernel_is_torchs_own_if_it_takes_what_we_give(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = varlen_kernel()
    if kernel is None:
        pytest.skip("this torch has no kernel for sequences of any length")
    assert kernel.__module__ == "torch.nn.attention.varlen"
    monkeypatch.setattr(packed_attention, "VARLEN_NEEDS", {"scale", "an_argument_of_next_year"})
    assert varlen_kernel() is None
    monkeypatch.setattr(packed_attention, "VARLEN_MODULE", "torch.nn.attention.of_next_year")
    assert varlen_kernel() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_torchs_kernel_on_a_gpu_is_the_dense_mask() -> None:
    choice = choose_attention("cuda", QWEN, "varlen")
    assert choice == "varlen"
    inputs = packed(torch.bfloat16)
    expected = dense(*(tensor.float() for tensor in inputs))
    moved = [tensor.detach().cuda().requires_grad_() for tensor in inputs]
    out, _ = varlen(Decoder(), *moved, None, scaling=0.3, **packing_kwargs(LENGTHS, torch.device("cuda")))
    assert (out.float().cpu() - expected).norm() <= 1e-2 * expected.norm()
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    grads = torch.autograd.grad((out * weights.cuda()).sum(), moved)
    for grad, wanted in zip(grads, gradients(expected, inputs), strict=True):
        assert (grad.float().cpu() - wanted.float()).norm() <= 1e-2 * wanted.float().norm()


def models(**window: Any) -> dict[str, Any]:
    """One small decoder with random weights under each kernel."""
    kind = MistralForCausalLM if window else Qwen2ForCausalLM
    config = MistralConfig(**{**QWEN.to_dict(), **window}) if window else QWEN
    torch.default_generator.manual_seed(0)
    base = kind(config).eval()
    made = {"dense": base}
    for choice in ("by_sample", "varlen"):
        made[choice] = kind._from_config(config, attn_implementation=attention.NAMES[choice]).eval()
        made[choice].load_state_dict(base.state_dict())
    return made


@pytest.mark.parametrize("window", [{}, {"sliding_window": 6}])
def test_decoders_agree_on_packed_rows_batches_and_what_they_generate(window: dict[str, Any]) -> None:
    made = models(**window)
    generator = torch.Generator().manual_seed(4)
    ids_BL = torch.randint(50, (2, 9), generator=generator)
    positions_1L = torch.cat([torch.arange(9)] * 2)[None]
    padded_BL = torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
    with torch.no_grad():
        apart_BLV = made["dense"](ids_BL).logits
        padded_BLV = made["dense"](ids_BL, attention_mask=padded_BL).logits
        for choice, model in made.items():
            row = {"position_ids": positions_1L, "use_cache": False, **packing_kwargs((9, 9), torch.device("cpu"))}
            together_LV = model(ids_BL.flatten()[None], attention_mask=None, **row).logits[0]
            assert (together_LV - apart_BLV.flatten(0, 1)).abs().max() <= 1e-5, choice
            assert (model(ids_BL).logits - apart_BLV).abs().max() <= 1e-5, choice
            # A row without a mask before it: only what is no padding counts.
            seen = model(ids_BL, attention_mask=padded_BL).logits - padded_BLV
            assert seen[padded_BL.bool()].abs().max() <= 1e-5, choice
    said = {
        choice: model.generate(ids_BL, attention_mask=padded_BL, max_new_tokens=8, do_sample=False, pad_token_id=0)
        for choice, model in made.items()
    }
    assert said["dense"].shape == (2, 17)
    assert all(torch.equal(ids, said["dense"]) for ids in said.values())


def test_rows_whose_samples_would_see_one_another_are_refused() -> None:
    model, positions_1L = models()["by_sample"], torch.tensor([[0, 1, 2, 0, 1]])
    ids_1L = torch.arange(5)[None]
    with pytest.raises(ValueError, match="positions begin again within a row that has no cu_seq_lens_q"):
        model(ids_1L, position_ids=positions_1L, use_cache=False)
    bounds = packing_kwargs((3, 2), torch.device("cpu"))
    with pytest.raises(ValueError, match="both the bounds of its samples and a mask"):
        model(ids_1L, attention_mask=torch.tensor([[0, 0, 1, 1, 1]]), use_cache=False, **bounds)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"softcap": 30.0}, "has softcap"),
        ({"s_aux": torch.zeros(6)}, "has s_aux"),
        ({"is_causal": False}, "not causal"),
    ],
)
def test_what_changes_scores_is_refused(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        by_sample(Decoder(), *packed(), None, **kwargs_of(), **kwargs)


def test_dropout_of_attention_drops() -> None:
    inputs = packed()
    plain, dropped = (
        by_sample(Decoder(), *inputs, None, dropout=rate, scaling=0.3, **kwargs_of())[0] for rate in (0.0, 0.9)
    )
    assert (plain - dropped).norm() > 0.5 * plain.norm()


def test_the_first_that_can_run_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_attention("cpu", QWEN) == "by_sample"
    assert choose_attention("cpu", QWEN, "dense") == "dense"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    assert choose_attention("cuda", QWEN) == "flash"
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: False)
    assert choose_attention("cuda", QWEN) == "varlen"
    drops = Qwen2Config(**{**QWEN.to_dict(), "attention_dropout": 0.1})
    odd = Qwen2Config(**{**QWEN.to_dict(), "head_dim": 20})
    assert [choose_attention("cuda", config) for config in (drops, odd)] == ["by_sample", "by_sample"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert choose_attention("cuda", QWEN) == "by_sample"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("flash", "train.attention is 'flash', which needs a CUDA GPU and flash-attn installed"),
        ("varlen", "train.attention is 'varlen', which needs a CUDA GPU"),
        ("eager", "train.attention is 'eager'; it must be auto, flash, varlen, by_sample, dense"),
    ],
)
def test_what_cannot_run_is_told(asked: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose_attention("cpu", QWEN, asked)


def test_only_the_decoder_packs_and_its_checkpoint_does_not_say_so(tmp_path: Path) -> None:
    family = load_family("tiny", {}, View(width=56, height=56))
    chosen = implementations("by_sample", family.config)  # type: ignore[attr-defined]
    assert chosen == {"": "sdpa", "vision_config": "sdpa", "text_config": "sdpa_by_sample"}
    assert implementations("flash", family.config) == "flash_attention_2"  # type: ignore[attr-defined]
    for asked, name in (("auto", "sdpa_by_sample"), ("dense", "sdpa")):
        assert family.load(attention=asked).config.text_config._attn_implementation == name  # type: ignore[arg-type]
    family.save(family.load(), tmp_path)
    assert "by_sample" not in (tmp_path / "config.json").read_text()
    assert "attn" not in " ".join(json.loads((tmp_path / "config.json").read_text()))


def test_windows_and_heads_are_read_from_the_configuration() -> None:
    assert (head_width(QWEN), window_of(QWEN)) == (8, None)
    mistral = MistralConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, sliding_window=6)
    assert (head_width(mistral), window_of(mistral)) == (16, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        some = Qwen2Config(use_sliding_window=True, sliding_window=6, num_hidden_layers=4, max_window_layers=2)
    assert window_of(some) is None
