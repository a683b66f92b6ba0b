"""LLaVA-OneVision: 27x27 patches a frame, brought to 14x14 behind the projector, and a newline token a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vista_train.models.base import register_family
from vista_train.models.chat import CHATML, ChatFormat, Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import HALF_SCALE
from vista_train.models.hub_family import HubFamily
from vista_train.models.towers import behind_layer, square_canvas
from vista_train.types import Row

VIDEO, IMAGE = "<video>", "<image>"


@dataclass(frozen=True)
class OnevisionLayout(Layout):
    """Pooled frames, pictures as they are, and a newline behind either."""

    tokens_per_frame: int
    tokens_per_picture: int

    def media(self, shown: Shown) -> Sequence[Piece]:
        """196 tokens a frame at 384 pixels, 729 a picture, and one."""
        if shown.picture:
            return ((IMAGE, self.tokens_per_picture + 1),)
        return ((VIDEO, self.tokens_per_frame * len(shown.times) + 1),)

    def sequences(self, shown: Shown) -> tuple[int, int]:
        """Every frame is looked at alone."""
        return len(shown.times), self.tokens_per_picture


@register_family("llava_onevision")
class LlavaOnevision(HubFamily):
    """LLaVA-OneVision in transformers' layout. A picture is one view, as where several pictures are shown."""

    model_types: ClassVar = {LlavaOnevisionConfig: LlavaOnevisionForConditionalGeneration}
    roots: ClassVar = {
        "projector": ("model.multi_modal_projector.", "model.image_newline."),
        "vision": ("model.vision_tower.",),
    }
    media_tokens: ClassVar = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    chat = ChatFormat(end="<|im_end|>", video=VIDEO, picture=IMAGE, reserved=(VIDEO, IMAGE, "<|im_end|>"))
    chat_template = CHATML
    scale = HALF_SCALE

    def layout(self) -> OnevisionLayout:
        """Square frames as large as the tower was made for."""
        vision = self.config.vision_config
        patches = square_canvas(self.view, vision.image_size, vision.patch_size)
        half = -(-(vision.image_size // vision.patch_size) // 2)
        return OnevisionLayout(half**2, patches)

    def media(self, model: Any, row: Row) -> dict[str, Any]:
        """The features of all frames from one pass of the tower, pooled and ended video by video."""
        inner = model.model
        frames, pictures = zip(*row.shown, strict=True)
        seen = inner.vision_tower(self.scale(torch.cat(frames), model.dtype), output_hidden_states=True)
        features_TPD = inner.multi_modal_projector(seen.hidden_states[self.config.vision_feature_layer])
        newline_1D = inner.image_newline[None].to(features_TPD.dtype)
        videos: list[torch.Tensor] = []
        images: list[torch.Tensor] = []
        for part_TPD, picture in zip(features_TPD.split([len(f) for f in frames]), pictures, strict=True):
            pooled_TPD = part_TPD if picture else inner.apply_pooling(part_TPD)
            (images if picture else videos).append(torch.cat([pooled_TPD.flatten(0, 1), newline_1D]))
        outputs = {}
        if videos:
            outputs["video"] = BaseModelOutputWithPooling(pooler_output=torch.cat(videos)[None])
        if images:
            outputs["image"] = BaseModelOutputWithPooling(pooler_output=images)
        return {"mm_encoder_outputs": outputs}

    def unread(self) -> tuple[str, ...]:
        """What lies behind the vision layer that is used."""
        layer = self.config.vision_feature_layer
        return behind_layer(self.config.vision_config, r"model\.vision_tower\.", layer, r"(post_layernorm|head)\.")
