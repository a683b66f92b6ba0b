"""Layers computed again, inputs in the memory of the host and MLPs in tiles: less is held, and nothing changes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import Olmo2Config, Olmo2ForCausalLM

from tests.models.test_families import loss_of
from tests.models.test_passes import loss_and_norm
from vista_train.models import memory as laid_out
from vista_train.models import offload
from vista_train.models.memory import Memory, arrange, decoder_layers
from vista_train.models.tiles import TiledForward, Tiling, tokens_in_tile
from vista_train.types import Row

TOLERANCE = 1e-6
TILED = 1e-5
"""Weight gradients of tiles are added up in another order."""
WAYS = {
    "language": Memory(language=True),
    "offload": Memory(language="offload"),
    "tiled": Memory(tiled_mlp=16),
    "tiled_language": Memory(tiled_mlp=16, language=True),
    "all": Memory(vision_chunk=40, vision=True, tiled_mlp=16, language="offload"),
}


@pytest.fixture
def model(rig: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A copy whose features matter in the result; anything counts as large. The family is as it was afterwards."""
    monkeypatch.setattr(offload, "LEAST_BYTES", 1)
    monkeypatch.setattr(offload, "BLOCK_BYTES", 1000)
    model = copy.deepcopy(rig.model).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(3)
    yield model
    rig.family.arrange(copy.deepcopy(rig.model), Memory())


@pytest.mark.parametrize("way", WAYS)
def test_no_way_changes_anything(rig: Any, model: Any, way: str) -> None:
    samples = rig.mixed()
    plain = loss_and_norm(rig, model, samples)
    rig.family.arrange(model, WAYS[way])
    found = loss_and_norm(rig, model, samples)
    assert found == pytest.approx(plain, rel=TILED if WAYS[way].tiled_mlp else TOLERANCE)
    assert plain[1] > 0
    # Nor does an evaluation, where nothing is kept.
    model.eval()
    with torch.no_grad():
        assert loss_of(rig, model, samples).item() == pytest.approx(plain[0], rel=TILED)


def calls_of(modules: list[nn.Module]) -> Counter[int]:
    """How often each is called from now on."""
    seen: Counter[int] = Counter()
    for number, module in enumerate(modules):
        module.register_forward_pre_hook(lambda *_, number=number: seen.update([number]))
    return seen


def test_each_decoder_layer_is_computed_twice_and_the_tower_once(rig: Any, model: Any) -> None:
    rig.family.arrange(model, Memory(language=True))
    layers = decoder_layers(model, rig.family.part_of)
    assert len(layers) == 2
    norms = calls_of([layer.get_submodule("input_layernorm") for layer in layers])
    towers = calls_of([model.get_submodule(tower.rstrip(".")) for tower in rig.family.towers[-1:]])
    loss_and_norm(rig, model, rig.mixed()[:2])
    assert norms == {0: 2, 1: 2}
    assert towers == {0: 1}


def test_a_tile_is_computed_twice_even_where_its_layer_is_computed_again(rig: Any, model: Any) -> None:
    """Three times, if the layer's second run computed what nobody asks for."""
    rig.family.arrange(model, Memory(tiled_mlp=16, language=True))
    layers = decoder_layers(model, rig.family.part_of)
    gates = calls_of([layer.get_submodule("mlp.gate_proj") for layer in layers])
    samples = rig.mixed()
    tiles = rig.family.mlp_tiles(Row.packed(samples))
    assert tiles == -(-Row.packed(samples).num_tokens // 16) > 2
    loss_and_norm(rig, model, samples)
    assert gates == {0: 2 * tiles, 1: 2 * tiles}


def kept_by(run: Callable[[], Any], weights: set[int]) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once, parameters aside."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    assert alive is not None
    return sum(storages.values())


class Mlp(nn.Module):
    """A gated MLP as wide inside, for its input, as LongVA-7B's (18,944 for 3,584)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inside = width * 37 // 7
        self.gate, self.up = nn.Linear(width, inside, bias=False), nn.Linear(width, inside, bias=False)
        self.down = nn.Linear(inside, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.silu(self.gate(hidden)) * self.up(hidden))


def test_tiles_keep_the_input_alone_and_hold_one_tile_at_a_time() -> None:
    """A row of 4,096 tokens in tiles of 256: what is kept shrinks 22-fold, and the largest inner tensor 16-fold."""
    torch.manual_seed(0)
    mlp, row = Mlp(56), torch.randn(1, 4096, 56, requires_grad=True)
    weights = {parameter.untyped_storage().data_ptr() for parameter in mlp.parameters()}
    widest: list[int] = []
    mlp.gate.register_forward_hook(lambda module, args, output: widest.append(output.shape[1]))
    whole = kept_by(lambda: mlp(row), weights)
    plain = gradients(mlp, row)
    assert set(widest) == {4096}
    widest.clear()
    tiling = Tiling(256, 16)
    mlp.forward = TiledForward(mlp.forward, tiling)  # type: ignore[method-assign]
    tiled = kept_by(lambda: mlp(row), weights)
    found = gradients(mlp, row)
    assert set(widest) == {256}
    # Input, gate, its SiLU, up and their product, in fp32; in tiles, the input.
    assert whole == 4 * 4096 * (56 + 4 * 296)
    assert tiled == 4 * 4096 * 56
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def gradients(mlp: nn.Module, row: torch.Tensor) -> list[torch.Tensor]:
    """Of the row and every weight."""
    mlp.zero_grad()
    row.grad = None
    mlp(row).square().sum().backward()
    return [row.grad, *(parameter.grad for parameter in mlp.parameters())]  # type: ignore[list-item]


def test_dropout_in_a_tile_is_drawn_once() -> None:
    """Adapters have dropout: the second run of a tile draws what the first did, whatever lies between."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8))
    row = torch.randn(1, 64, 8)
    tiled = TiledForward(mlp.forward, Tiling(16, 4))
    torch.manual_seed(1)
    first = tiled(row)
    first.sum().backward()
    found = [parameter.grad.clone() for parameter in mlp.parameters() if parameter.grad is not None]
    mlp.zero_grad()
    torch.manual_seed(1)
    again = torch.cat([mlp(tile) for tile in row.split(16, dim=1)], dim=1)
    again.sum().backward()
    assert torch.equal(first, again)
    for one, parameter in zip(found, mlp.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_more_tiles_than_tokens_and_none_at_all() -> None:
    """A rank whose row is short, or empty, runs its MLP as often as the others."""
    mlp = Mlp(14)
    calls = calls_of([mlp.gate])
    tiled = TiledForward(mlp.forward, Tiling(16, 5))
    for length in (0, 3):
        row = torch.randn(1, length, 14, requires_grad=True)
        out = tiled(row)
        assert out.shape == row.shape
        torch.testing.assert_close(out, mlp.forward(row))
        calls.clear()
        tiled(row).sum().backward()
        assert calls == {0: 10}
        assert mlp.gate.weight.grad is not None


def test_how_long_tiles_are() -> None:
    assert tokens_in_tile(256, 3584) == 256
    assert tokens_in_tile("auto", 3584) == 3584
    assert tokens_in_tile("auto", 64) == 1024
    assert [Tiling(16).count_of(tokens) for tokens in (0, 1, 16, 17)] == [1, 1, 1, 2]
    assert Tiling().count_of(10**6) == 1


def test_what_the_layers_keep_goes_to_the_host(rig: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer's input and nothing else; it comes back in the other order, once."""
    made: list[offload.Offload] = []
    monkeypatch.setattr(laid_out, "Offload", lambda: made.append(offload.Offload()) or made[-1])
    rig.family.arrange(model, Memory(language="offload"))
    (used,) = made
    row = Row.packed(rig.mixed())
    back: list[Any] = []
    unpack = used.unpack
    monkeypatch.setattr(used, "unpack", lambda held: back.append(held) or unpack(held))
    gone: list[Any] = []
    pack = used.pack
    monkeypatch.setattr(used, "pack", lambda tensor: gone.append(pack(tensor)) or gone[-1])
    hidden_LD = rig.family.hidden_states(model, row)
    large = [held for held in gone if isinstance(held, offload.Held)]
    width = model.config.get_text_config().hidden_size
    assert [tuple(held.shape) for held in large] == [(1, row.num_tokens, width)] * 2
    assert used.held_bytes == 2 * row.num_tokens * width * 4
    assert [sum(map(len, held.blocks)) for held in large] == [row.num_tokens * width * 4] * 2
    assert max(map(len, large[0].blocks)) == 1000
    assert large[1].before is not None
    assert large[1].before() is large[0]
    hidden_LD.sum().backward()
    assert [held for held in back if isinstance(held, offload.Held)] == large[::-1]


def test_short_rows_stay_where_they_are() -> None:
    used = offload.Offload()
    short = torch.zeros(1, 100, 8)
    assert used.pack(short) is short
    assert used.unpack(short) is short
    held = offload.Offload(least_bytes=3200).pack(short + 1)
    assert isinstance(held, offload.Held)
    assert torch.equal(offload.Offload().unpack(held), short + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_host_holds_what_the_layers_keep() -> None:
    """Eight layers of 64 MB: no more than three of their inputs are on the device at a time, and gradients agree."""
    torch.manual_seed(0)
    layers = [nn.Linear(1024, 1024, device="cuda") for _ in range(8)]
    row = torch.randn(16_384, 1024, device="cuda")

    def run(used: offload.Offload | None) -> tuple[list[torch.Tensor], int]:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, hidden = torch.cuda.memory_allocated(), row.clone().requires_grad_()
        for layer in layers:
            layer.zero_grad()
            run_layer = laid_out.LayerRun(Tiling(), used)
            hidden = run_layer(laid_out.partial(lambda layer, x: x + torch.tanh(layer(x)), layer), hidden)
        hidden.square().sum().backward()
        torch.cuda.synchronize()
        grads = [layer.weight.grad.clone() for layer in layers if layer.weight.grad is not None]
        return grads, torch.cuda.max_memory_allocated() - before

    plain, peak = run(None)
    moved, peak_moved = run(offload.Offload())
    for one, other in zip(plain, moved, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert peak - peak_moved > 4 * row.numel() * 4


def test_a_decoder_with_a_norm_behind_its_mlp_is_not_tiled() -> None:
    config = Olmo2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=0,
    )  # fmt: skip
    model = Olmo2ForCausalLM(config)
    with pytest.raises(ValueError, match="Olmo2DecoderLayer has post_feedforward_layernorm behind its MLP"):
        arrange(model, Memory(tiled_mlp=16), lambda name: "language", ())
