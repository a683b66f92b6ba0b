"""LongVA's published layout (`llava_qwen`): its configuration and its names of tensors, both ways."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import CLIPVisionConfig, PreTrainedTokenizerBase, Qwen2Config
from transformers.modeling_utils import PreTrainedModel

from vista_train.models.pooled_llava import LongVAConfig

PUBLISHED_TYPE = "llava_qwen"
TOWER = "model.vision_tower.vision_tower.vision_model."
FROM_PUBLISHED = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.(embed_tokens|layers|norm)\b": r"model.language_model.\1",
}
"""Patterns of the published names of tensors, and ours."""
TO_PUBLISHED = {
    "model.vision_tower.": TOWER,
    "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
    "model.language_model.": "model.",
}
FIXED = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2}
"""What makes a `llava_qwen` LongVA's computation."""
CLIP_HEAD_WIDTH = 64


def config_of_published(data: Mapping[str, Any], folder: Path) -> LongVAConfig:
    """Our configuration of a published config.json; `ValueError` for what LongVA's computation is not.

    The file says nothing of the vision tower's sizes; they are those of its tensors.
    """
    for key, right in FIXED.items():
        if data.get(key, right) != right:
            raise ValueError(f"{folder / 'config.json'}: {key} is {data[key]!r}; LongVA's is {right!r}")
    mode, stride = data.get("mm_spatial_pool_mode") or "average", int(data.get("mm_spatial_pool_stride") or 2)
    if mode not in ("average", "max"):
        raise ValueError(f"{folder / 'config.json'}: mm_spatial_pool_mode is {mode!r}; it must be average or max")
    known = {entry.name for entry in dataclasses.fields(Qwen2Config)} | {"rope_theta"}
    text = {key: value for key, value in data.items() if key in known}
    vision = _tower_config(folder)
    return LongVAConfig(
        vision_config=vision,
        # LongVA's code sets no scaling of rotary positions, whatever the file says.
        text_config=Qwen2Config(**{**text, "rope_scaling": None}),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=(vision.image_size // vision.patch_size // stride) ** 2,
        tie_word_embeddings=bool(data.get("tie_word_embeddings", False)),
        spatial_pool_stride=stride,
        spatial_pool_mode=mode,
        published=dict(data),
    )


def write_published(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Weights in the model's own precision under their published names, with config.json and tokenizer."""
    config: Any = model.config
    state = {_published(name): tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state, save_original_format=False, max_shard_size="5GB")
    text = config.get_text_config()
    sizes = {
        key: value
        for key, value in text.to_diff_dict().items()
        if key not in ("model_type", "dtype", "transformers_version", "use_cache", "rope_parameters")
    }
    data = {
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_patch_merge_type": "unires",
        "image_aspect_ratio": "anyres",
        "rope_theta": text.rope_parameters["rope_theta"],
        **FIXED,
        **sizes,
        **(config.published or {}),
        "model_type": PUBLISHED_TYPE,
        "mm_spatial_pool_stride": config.spatial_pool_stride,
        "mm_spatial_pool_mode": config.spatial_pool_mode,
        "vocab_size": text.vocab_size,
        "torch_dtype": str(model.dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def _published(name: str) -> str:
    for ours, theirs in TO_PUBLISHED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _tower_config(folder: Path) -> CLIPVisionConfig:
    shapes = _shapes(folder)
    patch, places, wide = (
        shapes.get(TOWER + name)
        for name in (
            "embeddings.patch_embedding.weight",
            "embeddings.position_embedding.weight",
            "encoder.layers.0.mlp.fc1.weight",
        )
    )
    if patch is None or places is None or wide is None:
        raise ValueError(f"family.path {str(folder)!r} holds no vision tower: no tensors under {TOWER}")
    layers = [match for name in shapes if (match := re.match(rf"{re.escape(TOWER)}encoder\.layers\.(\d+)\.", name))]
    return CLIPVisionConfig(
        hidden_size=patch[0],
        intermediate_size=wide[0],
        num_hidden_layers=1 + max(int(match[1]) for match in layers),
        num_attention_heads=max(1, patch[0] // CLIP_HEAD_WIDTH),
        image_size=round((places[0] - 1) ** 0.5) * patch[2],
        patch_size=patch[2],
        hidden_act="quick_gelu",
    )


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of every tensor in the folder, by its name there."""
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            shapes.update({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    return shapes
