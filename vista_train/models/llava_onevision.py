"""LLaVA-OneVision: 27x27 patches a frame, brought to 14x14 behind the projector, and a newline token a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from vista_train.models.base import register_family
from vista_train.models.chat import CHATML, ChatFormat, Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import HALF_SCALE
from vista_train.models.hub_family import HubFamily, features_of
from vista_train.models.passes import Passes
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

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """The features of all frames, pooled and ended video by video."""
        inner, layer = model.model, self.config.vision_feature_layer

        def features(*frames: torch.Tensor) -> torch.Tensor:
            seen = inner.vision_tower(self.scale(torch.cat(frames), model.dtype), output_hidden_states=True)
            return inner.multi_modal_projector(seen.hidden_states[layer])

        def pooled(*frames: torch.Tensor) -> torch.Tensor:
            return inner.apply_pooling(features(*frames))

        (groups,) = self.groups(row)
        newline_1D = inner.image_newline[None]
        # Pooled within its pass: of a frame, a quarter of its features is kept.
        features_of_kinds = passes.apart((features, pooled), groups)
        outputs: dict[str, Any] = {}
        for kind, frames, seen in zip(("image", "video"), groups, features_of_kinds, strict=True):
            if frames:
                parts = torch.cat(seen).split([len(each) for each in frames])
                outputs[kind] = [torch.cat([part.flatten(0, 1), newline_1D.to(part.dtype)]) for part in parts]
        if "video" in outputs:
            outputs["video"] = torch.cat(outputs["video"])[None]
        return features_of(**outputs)

    def groups(self, row: Row) -> Sequence[Sequence[Sequence[torch.Tensor]]]:
        """Pictures, and videos, whose features are pooled."""
        return [[[frames for frames, picture in row.shown if picture == kind] for kind in (True, False)]]

    def unread(self) -> tuple[str, ...]:
        """What lies behind the vision layer that is used."""
        layer = self.config.vision_feature_layer
        return behind_layer(self.config.vision_config, r"model\.vision_tower\.", layer, r"(post_layernorm|head)\.")
