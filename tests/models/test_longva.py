"""LongVA: its published layout both ways, bit for bit, and its tiles."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from vista_train.models import load_family
from vista_train.models.longva import LongVA
from vista_train.models.longva_published import write_published
from vista_train.models.pooled_llava import tiles_of
from vista_train.types import Message, Row, Sample
from vista_train.video.composition import Clip
from vista_train.video.geometry import Box
from vista_train.video.sampling import View

VIEW = View(frames=4, width=56, height=56, fit="squash", min_pixels=2)
TALK = (Message("user", "What is it?"), Message("assistant", "A cat."))
LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def made(make_checkpoint: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model, and its folder in the published layout: bf16 tensors and the keys that the release's code reads."""
    folder = tmp_path_factory.mktemp("published")
    model = make_checkpoint.make("longva", folder, layout="published").model.bfloat16()
    write_published(model, make_checkpoint.longva().tokenizer, folder)
    return model, folder


@pytest.fixture
def published(made: tuple[Any, Path], tmp_path: Path) -> Path:
    """A copy of the folder to be spoilt."""
    return Path(shutil.copytree(made[1], tmp_path / "published"))


def longva(folder: Path, view: View = VIEW) -> LongVA:
    return load_family("longva", {"path": str(folder)}, view)  # type: ignore[return-value]


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_the_published_names_are_the_releases(made: tuple[Any, Path]) -> None:
    names = set(load_file(made[1] / "model.safetensors"))
    tower = "model.vision_tower.vision_tower.vision_model."
    assert {
        "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", LAYER,
        "model.mm_projector.0.weight", "model.mm_projector.0.bias", "model.mm_projector.2.weight",
        f"{tower}embeddings.class_embedding", f"{tower}pre_layrnorm.weight", f"{tower}post_layernorm.bias",
        f"{tower}encoder.layers.2.self_attn.q_proj.weight",
    } <= names  # fmt: skip
    assert all(name.startswith(("model.", "lm_head.")) for name in names)
    config = json.loads((made[1] / "config.json").read_text())
    assert (config["model_type"], config["rope_theta"], config["mm_spatial_pool_stride"]) == ("llava_qwen", 1e9, 2)


@pytest.mark.parametrize("generation_config", [True, False])
def test_the_published_layout_is_read_bit_by_bit(
    made: tuple[Any, Path], published: Path, generation_config: bool
) -> None:
    path = published / "generation_config.json"
    assert path.exists()
    if not generation_config:
        path.unlink()
    family = longva(published)
    loaded = family.load()
    state = made[0].state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(loaded.state_dict()[name], state[name].float()) for name in state)
    assert loaded.config.get_text_config().rope_parameters["rope_theta"] == 1e9
    assert family.codec.layout.tokens_per_tile == 4
    assert loaded.generation_config.use_cache


def test_what_is_written_in_the_published_layout_is_what_was_read(published: Path, tmp_path: Path) -> None:
    family = longva(published)
    family.save_published(family.load().bfloat16(), tmp_path / "again")
    before, after = (load_file(folder / "model.safetensors") for folder in (published, tmp_path / "again"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype == torch.bfloat16
        assert torch.equal(tensor, after[name])
    kept, written = (json.loads((folder / "config.json").read_text()) for folder in (published, tmp_path / "again"))
    assert {key: written[key] for key in kept} == kept


def test_the_published_configuration_survives_our_own_layout(published: Path, tmp_path: Path) -> None:
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, "image_grid_pinpoints": [[336, 672]], "odd": "kept"}))
    family = longva(published)
    family.save(family.load(), tmp_path / "ours")
    again = longva(tmp_path / "ours")
    again.save_published(again.load(), tmp_path / "theirs")
    written = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert (written["image_grid_pinpoints"], written["odd"]) == ([[336, 672]], "kept")


def test_a_missing_tensor_is_an_error_that_names_it(published: Path) -> None:
    change_weights(published, lambda tensors: tensors.pop(LAYER))
    with pytest.raises(ValueError, match=r"do not fit the model: missing: model\.language_model\.layers\.1\.mlp\.up"):
        longva(published).load()


def test_a_tensor_too_many_is_an_error_that_names_it(published: Path) -> None:
    change_weights(published, lambda tensors: tensors.update({"model.image_newline": torch.zeros(64)}))
    with pytest.raises(ValueError, match=r"do not fit the model: left over: model\.image_newline"):
        longva(published).load()


def test_a_tensor_of_another_shape_is_an_error_that_names_it(published: Path) -> None:
    change_weights(published, lambda tensors: tensors.update({LAYER: torch.zeros(3, 64)}))
    with pytest.raises(
        ValueError, match=r"do not fit the model: of another shape: .*up_proj\.weight \(\[3, 64\], not \[128, 64\]\)"
    ):
        longva(published).load()


def test_all_faults_are_told_at_once(published: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["surplus"] = tensors.pop("lm_head.weight")

    change_weights(published, spoil)
    with pytest.raises(ValueError, match=r"missing: lm_head\.weight; left over: surplus"):
        longva(published).load()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mm_projector_type", "linear", "mm_projector_type is 'linear'; LongVA's is 'mlp2x_gelu'"),
        ("mm_vision_select_layer", -1, "mm_vision_select_layer is -1; LongVA's is -2"),
        ("mm_resampler_type", "perceiver", "mm_resampler_type is 'perceiver'; LongVA's is None"),
        ("mm_use_im_start_end", True, "mm_use_im_start_end is True; LongVA's is False"),
        ("quantization_config", {"bits": 4}, "quantization_config is there; it must not be quantized"),
        ("mm_spatial_pool_stride", 8, "mm_spatial_pool_stride is 8; it must lie in 1..4"),
        ("mm_spatial_pool_stride", "x", "mm_spatial_pool_stride is 'x'; it must lie in 1..4"),
        ("mm_spatial_pool_mode", "bilinear", "mm_spatial_pool_mode is 'bilinear'; it must be average or max"),
        ("model_type", "qwen2", "holds a 'qwen2', not a 'vista_longva'"),
    ],
)
def test_what_is_not_longva_is_refused(published: Path, key: str, value: object, words: str) -> None:
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=re.escape(words)):
        longva(published)


def test_pooling_by_maximum_and_missing_keys_of_it(published: Path) -> None:
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, "mm_spatial_pool_mode": "max"}))
    model = longva(published).load()
    features = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0))
    projector = model.model.multi_modal_projector
    hidden = projector.linear_2(functional.gelu(projector.linear_1(features)))
    expected = functional.max_pool2d(hidden.transpose(1, 2).view(1, 64, 4, 4), 2).flatten(2).transpose(1, 2)
    assert torch.equal(projector(features), expected)
    for key in ("mm_spatial_pool_mode", "mm_spatial_pool_stride"):
        config.pop(key)
    (published / "config.json").write_text(json.dumps(config))
    default = longva(published).config
    assert (default.spatial_pool_mode, default.spatial_pool_stride) == ("average", 2)


@pytest.mark.parametrize("lost", ["vision_tower", "encoder.layers.2."])
def test_a_tower_without_layers_is_refused(published: Path, lost: str) -> None:
    """The last layer too: a tower that is one layer short would be read at another layer."""

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if lost in name]:
            del tensors[name]

    change_weights(published, drop)
    with pytest.raises(ValueError, match=r"do not fit the model: missing: model\.vision_tower\..* and \d+ more"):
        longva(published).load()


def test_a_tower_is_longvas_unless_the_checkpoint_says_otherwise(published: Path) -> None:
    config = json.loads((published / "config.json").read_text())
    assert config.pop("vista_vision_sizes")["num_hidden_layers"] == 3
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the checkpoint needs 336x336"):
        longva(published)
    vision = longva(published, View(frames=4)).config.vision_config
    assert (vision.num_hidden_layers, vision.hidden_size, vision.num_attention_heads) == (24, 1024, 16)
    assert longva(published, View(frames=4)).codec.layout.tokens_per_tile == 144


def test_the_media_token_takes_a_spare_row_and_a_full_table_grows(published: Path) -> None:
    family = longva(published)
    model = family.load()
    rows = model.get_input_embeddings().num_embeddings
    assert family.config.image_token_id == len(family.tokenizer) - 1 == rows - 4
    assert family.config.get_text_config().vocab_size == rows

    def fill(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][: rows - 4].clone()

    change_weights(published, fill)
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, "vocab_size": rows - 4}))
    grown = longva(published).load()
    assert grown.get_input_embeddings().num_embeddings == grown.lm_head.out_features == rows - 3
    old = load_file(published / "model.safetensors")["model.embed_tokens.weight"].float()
    assert torch.equal(grown.get_input_embeddings().weight[: rows - 4], old)
    longva(published).save_published(grown, published / "again")
    again = load_file(published / "again" / "model.safetensors")
    assert torch.equal(again["model.embed_tokens.weight"], old)
    assert json.loads((published / "again" / "config.json").read_text())["vocab_size"] == rows - 4


def test_tiles_are_frames_of_their_own(published: Path) -> None:
    """A frame on 2x1 tiles gives what its halves give as two frames: tokens, features and all."""
    clip = Clip("wide.mp4", 0, 10, 224, 112)
    wide = longva(published, View(frames=2, width=56, height=56, tiles=4, fit="squash", min_pixels=2))
    sample = Sample(clip, TALK, (), "made")
    plan = wide.codec.plan(sample)
    assert wide.view.canvas(clip.size, 2) == (112, 56)
    frames_TCHW = torch.randint(256, (2, 3, 56, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tiled = wide.codec.encode(sample, plan, frames_TCHW)
    assert plan.patches == 2 * 2 * 16
    halves_TCHW = torch.stack([half for frame in frames_TCHW for half in frame.split(56, dim=2)])
    plain = longva(published, View(frames=4, width=56, height=56, fit="squash", min_pixels=2))
    four = plain.codec.encode(sample, plain.codec.plan(sample), halves_TCHW)
    assert tiled.input_ids.tolist() == four.input_ids.tolist()
    model = wide.load()
    one_LD, other_LD = (f.hidden_states(model, Row.packed([e])) for f, e in ((wide, tiled), (plain, four)))
    assert torch.equal(one_LD, other_LD)


def test_a_grid_is_seen_at_its_own_resolution_by_a_token_budget(published: Path) -> None:
    """1920x1080 on 336-pixel tiles: a cell of 8x8 keeps nearly all of its 240 pixels, instead of 42."""
    view = View(frames=4, width=336, height=336, tiles=72, min_pixels=14)
    assert view.canvas((1920, 1080), 4) == (6 * 336, 3 * 336)

    cell = view.pixels((1920, 1080), Box(0, 0, "1/8", "1/8"), 4)
    assert cell.width == 224
    assert View(frames=4, fit="squash").pixels((1920, 1080), Box(0, 0, "1/8", "1/8")).width == 42


def test_frames_that_are_dropped_leave_the_others_their_tiles(published: Path) -> None:
    family = longva(published, View(frames=4, width=56, height=56, tiles=8, fit="letterbox", min_pixels=2))
    sample = Sample(Clip("wide.mp4", 0, 10, 448, 112), TALK, (), "made")
    most = family.codec.plan(sample)
    assert (len(most.times), most.patches) == (4, 4 * 2 * 16)
    words = most.tokens - 4 * 8

    for room in range(8, 34):
        plan = replace(family.codec, max_tokens=words + room).plan(sample)
        assert len(plan.times) == min(4, room // 8)
        assert plan.tokens == words + len(plan.times) * 8
        assert plan.patches == len(plan.times) * 2 * 16


@pytest.mark.parametrize("change", [{"width": 112}, {"fit": "native"}, {"width": 112, "height": 112}])
def test_a_view_that_does_not_suit_is_refused(published: Path, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="the checkpoint needs 56x56"):
        longva(published, View(**{"frames": 4, "width": 56, "height": 56, "min_pixels": 2, **change}))


def test_generating_works_on_what_is_saved(published: Path, tmp_path: Path) -> None:
    family = longva(published)
    family.save(family.load(), tmp_path / "ours")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    sample = Sample(Clip("video.mp4", 0, 10, 320, 240), TALK[:1], (), "made")
    frames = torch.zeros((4, 3, 56, 56), dtype=torch.uint8)
    encoded = family.codec.encode(sample, family.codec.plan(sample), frames)
    pixels = family.scale(frames, torch.float32)
    out = model.generate(encoded.input_ids[None], pixel_values=pixels, max_new_tokens=3, do_sample=False)
    assert out.shape[1] > len(encoded.input_ids)


def test_tiles_lie_row_by_row(published: Path) -> None:
    """Four tiles, two by two: the tokens of a frame come top left, top right, bottom left, bottom right."""
    square = longva(published, View(frames=1, width=56, height=56, tiles=4, fit="squash", min_pixels=2))
    clip = Clip("square.mp4", 0, 10, 112, 112)
    sample = Sample(clip, TALK, (), "made")
    assert square.view.canvas_of(clip) == (112, 112)
    frame_CHW = torch.randint(256, (3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tiled = square.codec.encode(sample, square.codec.plan(sample), frame_CHW[None])
    tiles = tiles_of(tiled.frames_TCHW, 56)
    quarters = [frame_CHW[:, top : top + 56, left : left + 56] for top in (0, 56) for left in (0, 56)]
    assert torch.equal(tiles, torch.stack(quarters))
