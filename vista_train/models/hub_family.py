"""HubFamily: what all families have in common; each adds its classes, its layout, and how its frames go in."""

from __future__ import annotations

import dataclasses
import re
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vista_train.models.attention import (
    Attention,
    choose_attention,
    head_width,
    implementations,
    packing_kwargs,
    window_of,
)
from vista_train.models.base import PARTS, Compute
from vista_train.models.chat import ChatFormat, takes_parts, tokenize
from vista_train.models.codec import Layout, MediaCodec, Shown
from vista_train.models.hub import (
    HubSettings,
    PixelScale,
    checkpoint_folder,
    load_weights,
    read_config,
    read_kept,
    read_scale,
    read_tokenizer,
    save_model,
)
from vista_train.models.memory import Memory, arrange
from vista_train.models.passes import Chunking, Counts, Passes, cut
from vista_train.models.spans import LANGUAGE, VISION, span
from vista_train.models.tiles import Tiling
from vista_train.types import Message, Row
from vista_train.video.sampling import View

PROBE = (Message("user", "."), Message("assistant", ".")) * 2


class HubFamily:
    """A family whose checkpoints are folders as on the Hub (models/base.py, Family).

    A subclass sets what stands here without a value, and writes `layout`, `media` and, where its towers have
    parameters that no gradient reaches, `unread`.
    """

    name: str
    settings_type: type = HubSettings
    model_types: ClassVar[Mapping[type[PreTrainedConfig], type[PreTrainedModel]]]
    """The model class of each configuration class that the family reads."""
    roots: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "projector": ("model.multi_modal_projector.",),
        "vision": ("model.vision_tower.",),
    }
    """Where the parts lie in the model, the first that fits counts; all else is the language model."""
    towers: ClassVar[tuple[str, ...]] = ("model.vision_tower.",)
    """Where the vision towers lie, in the order of `groups`."""
    chat: ChatFormat
    chat_template: str
    """The template of a checkpoint that brings none."""
    media_tokens: ClassVar[Mapping[str, str]] = {}
    """The tokens that the model looks for, by the key that its configuration has for their ids."""
    scale: PixelScale
    """The pixel scale of a checkpoint that names none."""
    native_layout = False
    """Whether the family's own model class is saved under its own names."""
    folder: Path | None
    """Where its checkpoint lies; None for one that is made from nothing."""
    kept: Mapping[str, bytes] = MappingProxyType({})
    """Files of the checkpoint by name that every save writes again as they are."""
    config: Any
    codec: MediaCodec
    chunking = Chunking()
    """How frames are cut into passes of the towers, in the model that was arranged last."""
    tiling: Tiling
    """How the decoder's MLPs cut a row into tiles."""
    _arranged: weakref.ref[Any] | None = None

    def __init__(self, settings: Any, view: View) -> None:
        self.settings, self.view = settings, view
        self.folder = checkpoint_folder(settings.path, self.name)
        self.config = self.read_config(self.folder)
        tokenizer = read_tokenizer(self.folder, self.config, settings.chat_template, self.chat_template)
        self.scale = read_scale(self.folder, self.scale)
        self.kept = read_kept(self.folder)
        self.set_up(tokenizer)

    def read_config(self, folder: Path) -> PreTrainedConfig:
        """The configuration in a checkpoint's folder."""
        return read_config(folder, tuple(self.model_types))

    def set_up(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Make the codec, now that configuration and tokenizer are known."""
        self.tokenizer, self.tiling = tokenizer, Tiling()
        self.config.use_cache = self.config.get_text_config().use_cache = False
        self._check_tokens()
        chat, layout = self._closed_chat(), self.layout()
        self.codec = MediaCodec(self.view, tokenizer, chat, layout, self.settings.max_tokens, self._compute())

    def layout(self) -> Layout:
        """How frames lie in the text; `ValueError` if the view does not suit the checkpoint."""
        raise TypeError(f"{type(self).__name__} must define layout()")

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """The arguments of the model's forward pass that carry a row's frames, on the row's device.

        The towers run within `passes.over` or `passes.apart`, over the tensors that `groups` names.
        """
        raise TypeError(f"{type(self).__name__} must define media(model, row, passes)")

    def groups(self, row: Row) -> Sequence[Sequence[Sequence[torch.Tensor]]]:
        """For each vision tower, the frames that it sees of a row: lists of those that may share a pass."""
        return [[[frames_TCHW for frames_TCHW, _ in row.shown]]]

    def count(self, frames_TCHW: torch.Tensor) -> Counts:
        """How many sequences the tower makes of some frames, and the patches of each."""
        times, canvas = (Fraction(0),) * len(frames_TCHW), (frames_TCHW.shape[3], frames_TCHW.shape[2])
        return self.codec.layout.sequences(Shown(times, Fraction(1), canvas, picture=False))

    def reaches_all(self, row: Row) -> bool:
        """Whether a row's frames reach all that can learn; if not, a dummy video goes with it."""
        return bool(row.num_frames)

    def tower_passes(self, row: Row) -> tuple[int, ...]:
        """How many passes of each tower a row takes, and the dummy video with it where one goes."""
        towers = self.groups(row if self.reaches_all(row) else row.followed_by(Row.packed([self.codec.dummy()])))
        most = self.chunking.patches
        return tuple(sum(len(cut(list(map(self.count, group)), most)) for group in groups) for groups in towers)

    def mlp_tiles(self, row: Row) -> int:
        """In how many tiles the decoder's MLPs take a row."""
        return self.tiling.count_of(row.num_tokens)

    def arrange(self, model: Any, memory: Memory) -> None:
        """Lay out what a model keeps of a forward pass, in place; what trains must have been chosen."""
        self.chunking, self.tiling = arrange(model, memory, self.part_of, self.towers)
        self._arranged = weakref.ref(model)

    def unread(self) -> tuple[str, ...]:
        """Patterns of the names of parameters that no gradient ever reaches."""
        return ()

    @property
    def model_type(self) -> type[PreTrainedModel]:
        return self.model_types[type(self.config)]

    def load(self, device_type: str = "cpu", quantization: Any = None, attention: Attention = "auto") -> Any:
        """The model on the CPU in fp32; what no gradient reaches is frozen."""
        chosen = choose_attention(device_type, self.config, attention)
        options = {"dtype": torch.float32, "attn_implementation": implementations(chosen, self.config)}
        if quantization is not None:
            options["quantization_config"] = quantization
        return self.frozen(self.weights(options))

    def weights(self, options: Mapping[str, Any]) -> Any:
        """The model as its checkpoint has it."""
        assert self.folder is not None
        return load_weights(self.model_type, self.folder, self.config, options)

    def frozen(self, model: Any) -> Any:
        """The model, with what no gradient reaches frozen."""
        for name, parameter in model.named_parameters():
            if self._is_unread(name):
                parameter.requires_grad_(False)
        model.generation_config.use_cache = True
        return model

    def part_of(self, name: str) -> str:
        """The part that a parameter or module of this name belongs to."""
        inside = f"{name}."
        return next((part for part, roots in self.roots.items() if inside.startswith(roots)), "language")

    def parts(self, model: nn.Module) -> Mapping[str, Iterator[tuple[str, nn.Parameter]]]:
        """Every parameter by part, under its name in the model, less those that no gradient reaches."""
        found: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in PARTS}
        for name, parameter in model.named_parameters():
            if not self._is_unread(name):
                found[self.part_of(name)].append((name, parameter))
        return {part: iter(entries) for part, entries in found.items()}

    def hidden_states(self, model: Any, row: Row, tower_passes: Sequence[int] = (), mlp_tiles: int = 1) -> torch.Tensor:
        """The decoder's last hidden states [L, d]; every part is in their graph whatever the row holds."""
        device = row.input_ids_1L.device
        full = row if self.reaches_all(row) else row.followed_by(Row.packed([self.codec.dummy()]).to(device))
        self.tiling.tiles = max(mlp_tiles, self.mlp_tiles(row))
        # Of another model other parts may train.
        is_arranged = self._arranged is not None and self._arranged() is model
        passes = Passes(self.chunking if is_arranged else Chunking(), self.count, tower_passes)
        positions = full.positions_1L
        if full.mrope_3L is not None:
            # Transformers cuts a row into its samples by the first of four; the others rotate.
            positions = torch.cat([positions, full.mrope_3L])[:, None]
        with span(VISION):
            media = self.media(model, full, passes)
        with span(LANGUAGE):
            output = model.model(
                input_ids=full.input_ids_1L,
                attention_mask=None,
                position_ids=positions,
                use_cache=False,
                **media,
                **packing_kwargs(full.lengths, device),
            )
        hidden_LD = output.last_hidden_state[0, : row.num_tokens]
        if not passes.made_up:
            return hidden_LD
        return hidden_LD + 0 * torch.stack(passes.made_up).sum().to(hidden_LD.dtype)

    def continued(self, model: Any, row: Row, cache: Any = None) -> tuple[torch.Tensor, Any]:
        """The last hidden states [L, d] of one sample's next tokens, behind those in the cache, and the cache."""
        cache = DynamicCache(config=self.text_config(model)) if cache is None else cache
        positions = row.positions_1L
        if row.mrope_3L is not None:
            positions = torch.cat([positions, row.mrope_3L])[:, None]
        media = self.media(model, row, Passes(Chunking(), self.count)) if row.num_frames else {}
        output = model.model(
            input_ids=row.input_ids_1L,
            attention_mask=None,
            position_ids=positions,
            use_cache=True,
            past_key_values=cache,
            **media,
        )
        return output.last_hidden_state[0], cache

    def head(self, model: Any) -> nn.Module:
        """The output embedding: hidden [N, d] -> logits [N, V]."""
        return model.lm_head

    def text_config(self, model: Any) -> PreTrainedConfig:
        """The configuration of the decoder."""
        return model.config.get_text_config()

    def blocks(self, model: Any) -> list[str]:
        """The classes of the layers that an engine may gather one at a time."""
        present = {type(module).__name__ for module in model.modules()}
        return sorted(present & set(model._no_split_modules or ()))

    def save(self, model: Any, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the checkpoint that `from_pretrained` reads."""
        save_model(model, self.tokenizer, folder, self.kept, state, self.native_layout)

    def vision_size(self) -> tuple[int, int]:
        """Layers and width of the vision tower."""
        vision = self.config.vision_config
        return vision.num_hidden_layers, vision.hidden_size

    def _check_tokens(self) -> None:
        """`ValueError` unless the tokenizer has the family's special tokens, under the ids that the model looks for."""
        tokens = [*self.chat.reserved, self.chat.end]
        ids = dict(zip(tokens, self.tokenizer.convert_tokens_to_ids(tokens), strict=True))
        lacking = [token for token, number in ids.items() if number in (None, self.tokenizer.unk_token_id)]
        if lacking:
            raise ValueError(f"the tokenizer in {str(self.folder)!r} has no token {' or '.join(map(repr, lacking))}")
        for key, token in self.media_tokens.items():
            if getattr(self.config, key) != ids[token]:
                raise ValueError(
                    f"config.json in {str(self.folder)!r} says {key} {getattr(self.config, key)}; "
                    f"{token!r} is {ids[token]} in the tokenizer"
                )

    def _closed_chat(self) -> ChatFormat:
        """The format of the chat template; of the family's own, if the checkpoint's cannot be learnt from.

        Templates for answers alone may leave out the token that ends one.
        """
        chat = dataclasses.replace(self.chat, parts=takes_parts(self.tokenizer, self.chat))
        try:
            tokenize(self.tokenizer, chat, PROBE, ())
        except ValueError as error:
            if self.settings.chat_template is not None or self.tokenizer.chat_template == self.chat_template:
                raise ValueError(f"family.chat_template: {error}") from error
            warnings.warn(
                f"the chat template in {str(self.folder)!r} cannot be trained on ({error}); {self.name}'s own is used",
                stacklevel=2,
            )
            self.tokenizer.chat_template = self.chat_template
            return self._closed_chat()
        return chat

    def _is_unread(self, name: str) -> bool:
        return any(re.match(pattern, name) for pattern in self.unread())

    def _compute(self) -> Compute:
        """Sizes for the cost of a sample, counted on a model without storage."""
        with torch.device("meta"):
            model = self.model_type(self.config)
        sizes = dict.fromkeys(PARTS, 0)
        for name, parameter in model.named_parameters():
            part = self.part_of(name)
            # Of the language model, its layers: the tables at either end are looked up, or counted by label.
            if ".layers." in name if part == "language" else not self._is_unread(name):
                sizes[part] += parameter.numel()
        empty = [part for part, size in sizes.items() if not size]
        if empty:
            raise ValueError(f"{type(self).__name__}.roots: the model has no parameters in {' and '.join(empty)}")
        text = self.config.get_text_config()
        vision_layers, vision_width = self.vision_size()
        return Compute(
            language_params=sizes["language"],
            language_layers=text.num_hidden_layers,
            language_width=text.hidden_size,
            vocab_size=text.vocab_size,
            vision_params=sizes["vision"] + sizes["projector"],
            vision_layers=vision_layers,
            vision_width=vision_width,
            attention_width=text.num_attention_heads * head_width(text),
            window=window_of(text),
        )


def features_of(**kinds: Any) -> dict[str, Any]:
    """Features by kind of media, "image" or "video", as a model's forward pass takes them in place of pixels."""
    outputs = {kind: BaseModelOutputWithPooling(pooler_output=features) for kind, features in kinds.items()}
    return {"mm_encoder_outputs": outputs}
