"""The smallest whole family: LongVA's computation in a model of random weights that trains on a CPU.

CLIP's second last layer without its CLS token, a Linear-GELU-Linear projector, then 2x2 average pooling, and a
Qwen2 decoder that reads the frames back to back, right before the first user's words.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from vista_train.models.attention import choose_attention, packing_kwargs
from vista_train.models.base import PARTS, Compute, register_family
from vista_train.models.chat import tokenize
from vista_train.types import Encoded, Plan, Row, Sample
from vista_train.video.sampling import View

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
OFFLINE = {"trust_remote_code": False, "local_files_only": True}
"""Nothing in a checkpoint's folder is run, and nothing it names is fetched."""
PAD, START, END, VIDEO = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<video>"
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


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


class TinyConfig(LlavaConfig):
    """Llava's, with the pooling that follows the projector; a type of its own, so that plain Llava is not mistaken
    for it."""

    model_type = "vista_tiny"

    spatial_pool_stride: int = 2


class PoolingProjector(LlavaMultiModalProjector):
    """The projector, and after it the mean over squares of `spatial_pool_stride` x `spatial_pool_stride` patches."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.stride = config.spatial_pool_stride

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """[T, side * side, d_vision] -> [T, (side / stride) ** 2, d]."""
        projected_TPD = super().forward(image_features)
        side = math.isqrt(projected_TPD.shape[1])
        grid_TDHW = projected_TPD.transpose(1, 2).unflatten(2, (side, side))
        return functional.avg_pool2d(grid_TDHW, self.stride).flatten(2).transpose(1, 2)


class TinyForConditionalGeneration(LlavaForConditionalGeneration):
    """Llava with a pooling projector."""

    config_class = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = PoolingProjector(config)
        self.post_init()


AutoConfig.register(TinyConfig.model_type, TinyConfig)
AutoModelForImageTextToText.register(TinyConfig, TinyForConditionalGeneration)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, ChatML's special tokens and `<video>`; no default system prompt."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, START, END, VIDEO])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START, VIDEO],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(settings: TinySettings, view: View, tokenizer: PreTrainedTokenizerBase) -> TinyConfig:
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
    return TinyConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_token_index=tokenizer.convert_tokens_to_ids(VIDEO),
        image_seq_length=(view.width // step) ** 2,
        tie_word_embeddings=False,
    )


@dataclass(frozen=True)
class TinyCodec:
    """Samples to tokens: ChatML, and a run of `<video>` for every frame."""

    view: View
    tokenizer: PreTrainedTokenizerBase = field(repr=False, compare=False)
    tokens_per_frame: int
    max_tokens: int
    compute: Compute

    @property
    def video_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(VIDEO)

    @property
    def end_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(END)

    def plan(self, sample: Sample) -> Plan:
        """Exact tokens, patches, labels and cost; `ValueError` when the words leave no room for one frame."""
        chat = tokenize(self.tokenizer, sample.messages, (self.video_id,), self.end_id)
        words = len(chat.input_ids) - 1
        room = (self.max_tokens - words) // self.tokens_per_frame
        if room < 1:
            raise ValueError(
                f"text of {words} tokens leaves no room for one frame of {self.tokens_per_frame} tokens; "
                f"max_tokens is {self.max_tokens}"
            )
        times = self.view.times(sample.video.duration, sample.video.frame_measure, room)
        tokens = words + len(times) * self.tokens_per_frame
        return Plan(
            times=times,
            tokens=tokens,
            patches=len(times) * self.compute.patches_per_frame,
            labels=chat.num_labels,
            cost=self.compute.flops(tokens, chat.num_labels, len(times)),
        )

    def encode(self, sample: Sample, plan: Plan, frames_TCHW: torch.Tensor, position: int = 0) -> Encoded:
        """Tokens, labels and frames; `ValueError` when frames, plan and sample do not belong together."""
        expected = (len(plan.times), 3, self.view.height, self.view.width)
        if frames_TCHW.dtype != torch.uint8 or tuple(frames_TCHW.shape) != expected:
            raise ValueError(
                f"frames are {frames_TCHW.dtype} {list(frames_TCHW.shape)}; the plan needs torch.uint8 {list(expected)}"
            )
        placeholders = [self.video_id] * (len(plan.times) * self.tokens_per_frame)
        chat = tokenize(self.tokenizer, sample.messages, placeholders, self.end_id)
        if (len(chat.input_ids), chat.num_labels) != (plan.tokens, plan.labels):
            raise ValueError(
                f"the sample has {len(chat.input_ids)} tokens and {chat.num_labels} labels, "
                f"its plan {plan.tokens} and {plan.labels}: it was made for another sample"
            )
        return Encoded(
            position=position,
            kind=sample.kind,
            input_ids=torch.tensor(chat.input_ids, dtype=torch.int64),
            labels=torch.tensor(chat.labels, dtype=torch.int64),
            frames_TCHW=frames_TCHW,
        )


@register_family("tiny")
class Tiny:
    """The family: a new model of random weights, or one that `save` wrote."""

    name: str
    settings_type = TinySettings

    def __init__(self, settings: TinySettings, view: View) -> None:
        self.settings = settings
        if settings.path is None:
            self.tokenizer = build_tokenizer()
            self.config = build_config(settings, view, self.tokenizer)
        else:
            self.config, self.tokenizer = _read(Path(settings.path), view)
        self.config.use_cache = False
        self.config.get_text_config().use_cache = False
        self.codec = TinyCodec(
            view, self.tokenizer, self.config.image_seq_length, settings.max_tokens, _compute(self.config)
        )

    def load(self, device_type: str = "cpu") -> TinyForConditionalGeneration:
        """The model on the CPU in fp32; what the second last vision layer never reads is frozen."""
        options = {"dtype": torch.float32, "attn_implementation": choose_attention(device_type)}
        if self.settings.path is None:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.default_generator.manual_seed(self.settings.seed)
                model = AutoModelForImageTextToText.from_config(copy.deepcopy(self.config), **options)
        else:
            model = _load(self.settings.path, self.config, options)
        for name, parameter in model.named_parameters():
            if _is_unread(self.config, name):
                parameter.requires_grad_(False)
        model.generation_config.use_cache = True
        return model

    def parts(self, model: TinyForConditionalGeneration) -> Mapping[str, Iterator[tuple[str, nn.Parameter]]]:
        """Every parameter by part, under its name in the model."""
        found: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in PARTS}
        for name, parameter in model.named_parameters():
            if not _is_unread(self.config, name):
                found[_part_of(name)].append((name, parameter))
        return {part: iter(entries) for part, entries in found.items()}

    def hidden_states(self, model: TinyForConditionalGeneration, row: Row) -> torch.Tensor:
        """The decoder's last hidden states [L, d]; every part is in their graph whatever the row holds."""
        ids_1L, positions_1L, frames_TCHW, lengths = row.input_ids_1L, row.positions_1L, row.frames_TCHW, row.lengths
        if not len(frames_TCHW):
            num, side = self.codec.tokens_per_frame, self.config.vision_config.image_size
            ids_1L = torch.cat([ids_1L, ids_1L.new_full((1, num), self.codec.video_id)], dim=1)
            positions_1L = torch.cat([positions_1L, torch.arange(num, device=positions_1L.device)[None]], dim=1)
            frames_TCHW = frames_TCHW.new_zeros((1, 3, side, side))
            lengths = (*lengths, num)
        output = model.model(
            input_ids=ids_1L,
            pixel_values=_normalised(frames_TCHW, model.dtype),
            attention_mask=None,
            position_ids=positions_1L,
            use_cache=False,
            **packing_kwargs(lengths, ids_1L.device),
        )
        return output.last_hidden_state[0, : row.num_tokens]

    def head(self, model: TinyForConditionalGeneration) -> nn.Module:
        """The output embedding: hidden [N, d] -> logits [N, V]."""
        return model.lm_head

    def save(
        self, model: TinyForConditionalGeneration, folder: Path, state: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Write weights, configs and tokenizer for `AutoModelForImageTextToText` and `AutoTokenizer`."""
        weights = None if state is None else dict(state)
        model.save_pretrained(folder, state_dict=weights, save_original_format=False)
        config = copy.deepcopy(model.config)
        config.use_cache = config.get_text_config().use_cache = True
        config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _read(folder: Path, view: View) -> tuple[TinyConfig, PreTrainedTokenizerBase]:
    if not (folder / "config.json").is_file():
        raise ValueError(f"tiny.path is {str(folder)!r}; it must be a folder with a config.json")
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"tiny.path {str(folder)!r} holds an adapter; merge it into a whole checkpoint first")
    config = AutoConfig.from_pretrained(folder, **OFFLINE)
    # A checkpoint may name a kernel to fetch and run; which attention runs is ours to choose.
    for part in (config, config.get_text_config(), getattr(config, "vision_config", config)):
        part._attn_implementation = "eager"
    if not isinstance(config, TinyConfig):
        raise ValueError(f"tiny.path {str(folder)!r} holds a {config.model_type!r}, not a {TinyConfig.model_type!r}")
    side = config.vision_config.image_size
    if (view.width, view.height) != (side, side):
        raise ValueError(f"view.width x view.height is {view.width}x{view.height}; the checkpoint needs {side}x{side}")
    return config, AutoTokenizer.from_pretrained(folder, **OFFLINE)


def _load(path: str, config: TinyConfig, options: Mapping[str, object]) -> TinyForConditionalGeneration:
    model, report = TinyForConditionalGeneration.from_pretrained(
        path, config=copy.deepcopy(config), output_loading_info=True, use_safetensors=True, **OFFLINE, **options
    )
    wrong = {key: sorted(map(str, names)) for key, names in report.items() if names}
    if wrong:
        raise ValueError(f"the weights in {path!r} do not fit the model: {wrong}")
    return model


def _compute(config: TinyConfig) -> Compute:
    """Sizes for the cost of a sample, counted on a model without storage."""
    with torch.device("meta"):
        model = TinyForConditionalGeneration(config).model
    text, vision = config.get_text_config(), config.vision_config
    read = [model.language_model.layers, model.vision_tower, model.multi_modal_projector]
    decoder, tower, projector = (sum(parameter.numel() for parameter in part.parameters()) for part in read)
    return Compute(
        language_params=decoder,
        language_layers=text.num_hidden_layers,
        language_width=text.hidden_size,
        vocab_size=text.vocab_size,
        vision_params=tower + projector,
        vision_layers=vision.num_hidden_layers,
        vision_width=vision.hidden_size,
        patches_per_frame=(vision.image_size // vision.patch_size) ** 2,
    )


def _part_of(name: str) -> str:
    """The part that a parameter of this name belongs to."""
    if name.startswith("model.vision_tower."):
        return "vision"
    return "projector" if name.startswith("model.multi_modal_projector.") else "language"


def _is_unread(config: TinyConfig, name: str) -> bool:
    """Whether the parameter lies behind the vision layer whose output is used, so that no gradient reaches it."""
    first = config.vision_config.num_hidden_layers + 1 + config.vision_feature_layer
    behind = [f"encoder.layers.{layer}." for layer in range(first, config.vision_config.num_hidden_layers)]
    return name.startswith(tuple(f"model.vision_tower.{prefix}" for prefix in (*behind, "post_layernorm.")))


def _normalised(frames_TCHW: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 frames as CLIP takes them, rounded to `dtype` only at the end."""
    mean, std = (frames_TCHW.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return ((frames_TCHW.float() / 255 - mean) / std).to(dtype)
