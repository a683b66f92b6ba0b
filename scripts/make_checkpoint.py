"""Writes a checkpoint of any family with random weights and a byte tokenizer: a recipe's rehearsal on a CPU.

    python scripts/make_checkpoint.py qwen3_vl out/tiny_qwen3_vl

It prints a command that trains it on the clips of the quickstart. The classes are the real ones, the layout is that of
the Hub; only the sizes are small. Frames are `side` pixels wide and high, or any multiple of it where a family takes
frames of any shape.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from vista_train.models.chat import CHATML
from vista_train.models.longva_published import write_published
from vista_train.models.pooled_llava import LongVAConfig, LongVAForConditionalGeneration

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PARTS_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'video' %}{{- 'VIDEO' }}{%- elif part['type'] == 'image' %}{{- 'IMAGE' }}"
    "{%- else %}{{- part['text'] }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""ChatML for typed parts; VIDEO and IMAGE stand for what a family writes there."""
IDEFICS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
VICUNA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% else %}{{ 'ASSISTANT: ' if message['role'] == 'assistant' else '' }}"
    "{{ message['content'][0]['text'] }}{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class Made:
    """A model with its tokenizer, and the files of its processor by name."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    files: Mapping[str, Any]
    side: int


def byte_tokenizer(specials: Sequence[str], end: str, template: str | None, named: Mapping[str, str]) -> Any:
    """One token a byte, and the special tokens; `named` are those that a processor asks for by name."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", *specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=end,
        extra_special_tokens={**named},
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )


def text_sizes(vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocab + 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        **more,
    }


def vision_sizes(side: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 14,
        **more,
    }


CLIP_L = vision_sizes(336, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)


def longva() -> Made:
    """CLIP with heads 64 wide, as all of CLIP's are, and a Qwen2 with spare rows in its table."""
    return _longva(vision_sizes(56, num_attention_heads=1), {})


def longva_1_5b() -> Made:
    """LongVA's own tower before a Qwen2 of the size of Qwen2-1.5B; for a GPU."""
    text = {
        "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2,
    }  # fmt: skip
    return _longva(CLIP_L, text)


def longva_7b() -> Made:
    """LongVA itself: the same tower before a Qwen2-7B; for a GPU."""
    text = {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
    }  # fmt: skip
    return _longva(CLIP_L, text)


def _longva(vision: Mapping[str, Any], text: Mapping[str, Any]) -> Made:
    tokenizer = byte_tokenizer(["<|im_start|>", "<|im_end|>"], "<|im_end|>", CHATML, {})
    side = vision["image_size"]
    config = LongVAConfig(
        vision_config=transformers.CLIPVisionConfig(**vision, hidden_act="quick_gelu"),
        text_config=transformers.Qwen2Config(**{**text_sizes(len(tokenizer)), **text}, rope_parameters=rope(1e9)),
        vision_feature_layer=-2,
        image_token_index=len(tokenizer),
        image_seq_length=(side // 28) ** 2,
        tie_word_embeddings=False,
    )
    return Made(LongVAForConditionalGeneration(config), tokenizer, {}, side)


def rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def video_llava() -> Made:
    """Two towers and a Llama."""
    tokenizer = byte_tokenizer(["<image>", "<video>", "</s>"], "</s>", VICUNA_TEMPLATE, {})
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    config = transformers.VideoLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision_sizes(56), hidden_act="quick_gelu"),
        text_config=transformers.LlamaConfig(**text_sizes(len(tokenizer))),
        image_token_index=image,
        video_token_index=video,
        image_seq_length=16,
        video_seq_length=17 * 8,
    )
    sizes = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, **CLIP}
    files = {
        "processor_config.json": {
            "processor_class": "VideoLlavaProcessor", "patch_size": 14, "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        "preprocessor_config.json": {"image_processor_type": "VideoLlavaImageProcessor", **sizes},
        "video_preprocessor_config.json": {"video_processor_type": "VideoLlavaVideoProcessor", **sizes},
    }  # fmt: skip
    return Made(transformers.VideoLlavaForConditionalGeneration(config), tokenizer, files, 56)


def mantis() -> Made:
    """SigLIP for frames of any shape, a resampler of 4 latents, and a Mistral."""
    specials = ["<image>", "<fake_token_around_image>", "<end_of_utterance>"]
    tokenizer = byte_tokenizer(specials, "<end_of_utterance>", IDEFICS_TEMPLATE, {})
    config = transformers.Idefics2Config(
        vision_config=vision_sizes(98),
        perceiver_config={
            "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 2, "resampler_head_dim": 16,
            "num_key_value_heads": 1, "hidden_size": 64,
        },
        text_config=transformers.MistralConfig(**text_sizes(len(tokenizer)), sliding_window=None, pad_token_id=256),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    files = {
        "processor_config.json": {"processor_class": "Idefics2Processor", "image_seq_len": 4},
        "preprocessor_config.json": {
            "image_processor_type": "Idefics2ImageProcessor", "do_image_splitting": False, "do_convert_rgb": True,
            "size": {"shortest_edge": 28, "longest_edge": 98}, **HALF,
        },
    }  # fmt: skip
    return Made(transformers.Idefics2ForConditionalGeneration(config), tokenizer, files, 56)


def llava_onevision() -> Made:
    """SigLIP with 5x5 patches, so that 3x3 remain of an odd grid, and a Qwen2."""
    template = PARTS_TEMPLATE.replace("VIDEO", "<video>\\n").replace("IMAGE", "<image>\\n")
    specials = ["<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = byte_tokenizer(specials, "<|im_end|>", template, {"image_token": "<image>", "video_token": "<video>"})
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**vision_sizes(70), vision_use_head=False),
        text_config=transformers.Qwen2Config(**text_sizes(len(tokenizer))),
        image_token_index=image,
        video_token_index=video,
        image_grid_pinpoints=[[70, 140], [140, 70], [140, 140]],
        tie_word_embeddings=False,
    )
    sizes = {"size": {"height": 70, "width": 70}, **HALF}
    files = {
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 25,
            "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9",
        },
        "preprocessor_config.json": {
            "image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": config.image_grid_pinpoints,
            **sizes,
        },
        "video_preprocessor_config.json": {"video_processor_type": "LlavaOnevisionVideoProcessor", **sizes},
    }  # fmt: skip
    return Made(transformers.LlavaOnevisionForConditionalGeneration(config), tokenizer, files, 70)


def smolvlm() -> Made:
    """SigLIP, four patches a token, and a Llama."""
    template = IDEFICS_TEMPLATE.replace(
        "{% endif %}{% endfor %}<", "{% elif part['type'] == 'video' %}{{ '<video>' }}{% endif %}{% endfor %}<"
    )
    named = {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>",
        "video_token": "<video>", "end_of_utterance_token": "<end_of_utterance>",
    }  # fmt: skip
    tokenizer = byte_tokenizer(
        ["<|im_start|>", *dict.fromkeys(named.values())], "<end_of_utterance>", "<|im_start|>" + template, named
    )
    config = transformers.SmolVLMConfig(
        vision_config=vision_sizes(56),
        text_config=transformers.LlamaConfig(**text_sizes(len(tokenizer)), pad_token_id=256),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=256,
    )
    sizes = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 56}, **HALF}
    files = {
        "processor_config.json": {"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
        "preprocessor_config.json": {
            "image_processor_type": "SmolVLMImageProcessor", "do_image_splitting": False, **sizes,
        },
        "video_preprocessor_config.json": {"video_processor_type": "SmolVLMVideoProcessor", **sizes},
    }  # fmt: skip
    return Made(transformers.SmolVLMForConditionalGeneration(config), tokenizer, files, 56)


def internvl() -> Made:
    """InternViT, four patches a token, and a Qwen2."""
    template = PARTS_TEMPLATE.replace("VIDEO", "<video>\\n").replace("IMAGE", "<IMG_CONTEXT>\\n")
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = byte_tokenizer(["<|im_start|>", "<|im_end|>", *named.values()], "<|im_end|>", template, named)
    vision = vision_sizes(56, image_size=[56, 56], patch_size=[14, 14], use_mask_token=True)
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**vision),
        text_config=transformers.Qwen2Config(**text_sizes(len(tokenizer))),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    sizes = {"size": {"height": 56, "width": 56}, **IMAGENET}
    files = {
        "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 4},
        "preprocessor_config.json": {
            "image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": False, **sizes,
        },
        "video_preprocessor_config.json": {"video_processor_type": "InternVLVideoProcessor", **sizes},
    }  # fmt: skip
    return Made(transformers.InternVLForConditionalGeneration(config), tokenizer, files, 56)


def _qwen_tokenizer() -> Any:
    specials = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>", "<|im_end|>"]
    wrapped = {kind: f"<|vision_start|><|{kind.lower()}_pad|><|vision_end|>" for kind in ("VIDEO", "IMAGE")}
    template = PARTS_TEMPLATE
    for kind, text in wrapped.items():
        template = template.replace(kind, text)
    return byte_tokenizer(
        specials, "<|im_end|>", template, {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    )


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    return dict(zip(keys, tokenizer.convert_tokens_to_ids(tokens), strict=True))


def _qwen_files(processor: str, video: str, patch: int, scale: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {
        "size": {"shortest_edge": 4, "longest_edge": 1 << 24},
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **scale,
    }
    return {
        "processor_config.json": {"processor_class": processor},
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor", **sizes},
        "video_preprocessor_config.json": {"video_processor_type": video, **sizes},
    }


def qwen2_5_vl() -> Made:
    """A tower with windows, and positions in time, height and width."""
    tokenizer = _qwen_tokenizer()
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56, "fullatt_block_indexes": [1],
            "out_hidden_size": 64, "tokens_per_second": 2,
        },
        text_config={
            **text_sizes(len(tokenizer), eos_token_id=tokenizer.eos_token_id),
            "rope_parameters": {**rope(1e6), "mrope_section": [2, 3, 3]},
        },
        **_qwen_ids(tokenizer),
        tie_word_embeddings=False,
    )  # fmt: skip
    files = _qwen_files("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor", 14, CLIP)
    return Made(transformers.Qwen2_5_VLForConditionalGeneration(config), tokenizer, files, 28)


def qwen3_vl() -> Made:
    """A tower whose deeper layers reach into the decoder, and times in words."""
    tokenizer = _qwen_tokenizer()
    config = transformers.Qwen3VLConfig(
        vision_config={
            "depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={
            **text_sizes(len(tokenizer), head_dim=16),
            "rope_parameters": {**rope(5e6), "mrope_section": [2, 3, 3], "mrope_interleaved": True},
        },
        **_qwen_ids(tokenizer),
        tie_word_embeddings=False,
    )  # fmt: skip
    files = _qwen_files("Qwen3VLProcessor", "Qwen3VLVideoProcessor", 16, HALF)
    return Made(transformers.Qwen3VLForConditionalGeneration(config), tokenizer, files, 32)


BUILDERS: dict[str, Callable[[], Made]] = {
    builder.__name__: builder
    for builder in (
        longva,
        longva_1_5b,
        longva_7b,
        video_llava,
        mantis,
        llava_onevision,
        smolvlm,
        internvl,
        qwen2_5_vl,
        qwen3_vl,
    )
}


def make(kind: str, folder: Path, seed: int = 0, layout: str = "hub") -> Made:
    """Write a checkpoint of one kind into a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = BUILDERS[kind]()
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "published":
        write_published(made.model, made.tokenizer, folder)
    else:
        made.model.save_pretrained(folder, save_original_format=not kind.startswith("longva"))
        made.tokenizer.save_pretrained(folder)
    for name, data in made.files.items():
        (folder / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(BUILDERS))
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--layout", choices=("hub", "published"), default="hub", help="published: LongVA's own")
    arguments = parser.parse_args(argv)
    if arguments.layout == "published" and arguments.kind != "longva":
        parser.error("--layout published is LongVA's own layout; the others have but one")
    made = make(arguments.kind, Path(arguments.folder), arguments.seed, arguments.layout)
    name = {"qwen2_5_vl": "qwen_vl", "qwen3_vl": "qwen_vl", "longva_1_5b": "longva", "longva_7b": "longva"}.get(
        arguments.kind, arguments.kind
    )
    print(
        f"accelerate launch -m vista_train.train recipes/quickstart.yaml output=out/rehearsal_{arguments.kind} "
        f"family.name={name} family.path={arguments.folder} family.max_tokens=4096 train.max_row_tokens=8192 "
        f"train.steps=10 view.width={made.side} view.height={made.side} view.min_pixels=3"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
