"""LongVA's published layout (`llava_qwen`): its configuration and its names of tensors, both ways."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, PreTrainedTokenizerBase, Qwen2Config
from transformers.modeling_utils import PreTrainedModel

from vista_train.models.hub import SHARD_SIZE
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
FIXED: dict[str, Any] = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_resampler_type": None,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
}
"""What makes a `llava_qwen` LongVA's computation. How pictures are cut is not read, nor skipped positions."""
TOWER_SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""openai/clip-vit-large-patch14-336, which config.json names without its sizes."""
OWN_SIZES = "vista_vision_sizes"
"""Where the sizes of another tower stand."""


def config_of_published(data: Mapping[str, Any], folder: Path) -> LongVAConfig:
    """Our configuration of a published config.json; `ValueError` for what LongVA's computation is not.

    The file says nothing of the vision tower's sizes: they are those of LongVA's, but for a checkpoint of ours.
    """
    for key, right in FIXED.items():
        if (data.get(key) if data.get(key) is not None else right) != right:
            raise ValueError(f"{folder / 'config.json'}: {key} is {data[key]!r}; LongVA's is {right!r}")
    mode, stride = data.get("mm_spatial_pool_mode") or "average", data.get("mm_spatial_pool_stride") or 2
    if mode not in ("average", "max"):
        raise ValueError(f"{folder / 'config.json'}: mm_spatial_pool_mode is {mode!r}; it must be average or max")
    if "quantization_config" in data:
        raise ValueError(f"{folder / 'config.json'}: quantization_config is there; it must not be quantized")
    known = {entry.name for entry in dataclasses.fields(Qwen2Config)} | {"rope_theta"}
    text = {key: value for key, value in data.items() if key in known}
    vision = CLIPVisionConfig(**{**TOWER_SIZES, **data.get(OWN_SIZES, {}), "hidden_act": "quick_gelu"})
    side = vision.image_size // vision.patch_size
    if not isinstance(stride, int) or not 1 <= stride <= side:
        raise ValueError(f"{folder / 'config.json'}: mm_spatial_pool_stride is {stride!r}; it must lie in 1..{side}")
    return LongVAConfig(
        vision_config=vision,
        # LongVA's code sets no scaling of rotary positions, whatever the file says.
        text_config=Qwen2Config(**{**text, "rope_scaling": None}),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=(side // stride) ** 2,
        tie_word_embeddings=bool(data.get("tie_word_embeddings", False)),
        spatial_pool_stride=stride,
        spatial_pool_mode=mode,
        published=dict(data),
    )


def write_published(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Weights in the model's own precision under their published names, with config.json and tokenizer."""
    config: Any = model.config
    # A row that was added for media is not theirs.
    rows = (config.published or {}).get("vocab_size", config.get_text_config().vocab_size)
    tables = (model.get_input_embeddings().weight.data_ptr(), model.get_output_embeddings().weight.data_ptr())
    state = {
        _published(name): tensor[:rows].contiguous() if tensor.data_ptr() in tables else tensor
        for name, tensor in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state, save_original_format=False, max_shard_size=SHARD_SIZE)
    text = config.get_text_config()
    sizes = {
        key: value
        for key, value in text.to_diff_dict().items()
        if key not in ("model_type", "dtype", "transformers_version", "use_cache", "rope_parameters")
    }
    tower = {key: getattr(config.vision_config, key) for key in TOWER_SIZES}
    data = {
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_patch_merge_type": "unires",
        "image_aspect_ratio": "anyres",
        "rope_theta": text.rope_parameters["rope_theta"],
        **FIXED,
        **sizes,
        **({OWN_SIZES: tower} if tower != TOWER_SIZES else {}),
        **(config.published or {}),
        "model_type": PUBLISHED_TYPE,
        "mm_spatial_pool_stride": config.spatial_pool_stride,
        "mm_spatial_pool_mode": config.spatial_pool_mode,
        "vocab_size": rows,
        "torch_dtype": str(model.dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def _published(name: str) -> str:
    for ours, theirs in TO_PUBLISHED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
