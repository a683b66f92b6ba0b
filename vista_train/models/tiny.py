"""The smallest whole family: LongVA's model (pooled_llava.py) with random weights, small enough to train on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from vista_train.models.base import register_family
from vista_train.models.chat import CHATML, ChatFormat
from vista_train.models.hub import CLIP_SCALE
from vista_train.models.hub_family import HubFamily
from vista_train.models.passes import Passes
from vista_train.models.pooled_llava import (
    LongVAConfig,
    LongVAForConditionalGeneration,
    TileLayout,
    pooled_media,
    pooled_unread,
    tile_layout,
)
from vista_train.types import Row
from vista_train.video.sampling import View

PAD, START, END, VIDEO = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<video>"


@dataclass(frozen=True)
class TinySettings:
    """The size of the model, and where its weights come from. The canvas is the view's."""

    vision_width: int = 96
    """Hidden size of the vision tower."""
    vision_layers: int = 3
    """Layers of the vision tower; the last one is never used (features come from the second last)."""
    vision_heads: int = 4
    """Attention heads of the vision tower."""
    patch: int = 14
    """Side of a vision patch in pixels; the canvas must be square, its side a multiple of two patches."""
    language_width: int = 128
    """Hidden size of the decoder."""
    language_layers: int = 4
    """Layers of the decoder."""
    language_heads: int = 4
    """Attention heads of the decoder, each with an even share of its hidden size."""
    language_kv_heads: int = 2
    """Key/value heads of the decoder; they divide its attention heads."""
    dropout: float = 0.0
    """Probability of dropping an attention weight in training."""
    seed: int = 0
    """Seed of the random weights."""
    max_tokens: int = 4096
    """Tokens per sample, at most; frames are dropped until a sample fits."""
    path: str | None = None
    """A folder that `save` wrote: the weights, and every size above, then come from there."""
    chat_template: str | None = None
    """A file with a chat template (jinja), in place of the checkpoint's own."""

    def __post_init__(self) -> None:
        least = {"vision_layers": 2, "seed": 0}
        for name in (*least, "vision_width", "vision_heads", "patch", "max_tokens"):
            _check_least(name, getattr(self, name), least.get(name, 1))
        for name in ("language_width", "language_layers", "language_heads", "language_kv_heads"):
            _check_least(name, getattr(self, name), 1)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"tiny.dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.vision_width % self.vision_heads:
            raise ValueError(f"tiny.vision_width is {self.vision_width}; {self.vision_heads} heads must divide it")
        if self.language_width % (2 * self.language_heads):
            raise ValueError(
                f"tiny.language_width is {self.language_width}; twice the number of heads, "
                f"{2 * self.language_heads}, must divide it"
            )
        if self.language_heads % self.language_kv_heads:
            raise ValueError(
                f"tiny.language_kv_heads is {self.language_kv_heads}; it must divide {self.language_heads} heads"
            )


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"tiny.{name} is {value}; it must be at least {least}")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, ChatML's special tokens and `<video>`; no default system prompt."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, START, END, VIDEO])
    return chatting(tokenizer)


def chatting(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer that has PAD, START, END and VIDEO, as one of transformers that speaks ChatML."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START, VIDEO],
        clean_up_tokenization_spaces=False,
        chat_template=CHATML,
    )


def build_config(settings: TinySettings, view: View, tokenizer: PreTrainedTokenizerBase) -> LongVAConfig:
    """The configuration of a new model for frames of the view's size; `ValueError` if the canvas does not suit."""
    step = 2 * settings.patch
    if view.width != view.height or view.width % step:
        raise ValueError(
            f"view.width x view.height is {view.width}x{view.height}; tiny needs a square, "
            f"its side a multiple of 2 * tiny.patch = {step}"
        )
    vision = CLIPVisionConfig(
        hidden_size=settings.vision_width,
        intermediate_size=4 * settings.vision_width,
        num_hidden_layers=settings.vision_layers,
        num_attention_heads=settings.vision_heads,
        image_size=view.width,
        patch_size=settings.patch,
        hidden_act="quick_gelu",
        attention_dropout=settings.dropout,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.language_width,
        intermediate_size=4 * settings.language_width,
        num_hidden_layers=settings.language_layers,
        num_attention_heads=settings.language_heads,
        num_key_value_heads=settings.language_kv_heads,
        attention_dropout=settings.dropout,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LongVAConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_token_index=tokenizer.convert_tokens_to_ids(VIDEO),
        image_seq_length=(view.width // step) ** 2,
        tie_word_embeddings=False,
    )


@register_family("tiny")
class Tiny(HubFamily):
    """The family: a new model of random weights, or one that `save` wrote."""

    settings_type = TinySettings
    model_types: ClassVar = {LongVAConfig: LongVAForConditionalGeneration}
    chat = ChatFormat(end=END, video=VIDEO, picture=VIDEO, reserved=(VIDEO, START, END))
    chat_template = CHATML
    scale = CLIP_SCALE
    native_layout = True

    def __init__(self, settings: TinySettings, view: View) -> None:
        if settings.path is not None:
            super().__init__(settings, view)
            return
        self.settings, self.view, self.folder = settings, view, None
        tokenizer = build_tokenizer()
        self.config = build_config(settings, view, tokenizer)
        self.set_up(tokenizer)

    def layout(self) -> TileLayout:
        """Tiles of the canvas."""
        return tile_layout(self.config, self.chat.video, self.view)

    def weights(self, options: Mapping[str, Any]) -> Any:
        """Random ones from the seed, or those of the checkpoint."""
        if self.folder is not None:
            return super().weights(options)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(self.settings.seed)
            return AutoModelForImageTextToText.from_config(copy.deepcopy(self.config), **options)

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """The features of all tiles."""
        return pooled_media(model, row, self.scale, passes)

    def unread(self) -> tuple[str, ...]:
        """What lies behind the second last vision layer."""
        return pooled_unread(self.config)
