"""InternVL 3 and later in transformers' layout: each numbered frame is one tile of 256 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from vista_train.models.base import register_family
from vista_train.models.chat import CHATML, ChatFormat, Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import IMAGENET_SCALE
from vista_train.models.hub_family import HubFamily, features_of
from vista_train.models.passes import Passes
from vista_train.models.towers import square_canvas
from vista_train.types import Row

CONTEXT, START, STOP, VIDEO = "<IMG_CONTEXT>", "<img>", "</img>", "<video>"


@dataclass(frozen=True)
class InternVLLayout(Layout):
    """Frames with their numbers, each between two marks; pictures without."""

    tokens_per_frame: int
    patches_per_frame: int

    def media(self, shown: Shown) -> Sequence[Piece]:
        """`Frame1: <img>...</img>`, a line each."""
        if shown.picture:
            return ((START, 1), (CONTEXT, self.tokens_per_frame), (STOP, 1))
        pieces: list[Piece] = []
        for number in range(1, len(shown.times) + 1):
            line = "\n" if number > 1 else ""
            pieces += [f"{line}Frame{number}: ", (START, 1), (CONTEXT, self.tokens_per_frame), (STOP, 1)]
        return pieces

    def sequences(self, shown: Shown) -> tuple[int, int]:
        """Every frame is looked at alone."""
        return len(shown.times), self.patches_per_frame


@register_family("internvl")
class InternVL(HubFamily):
    """InternVL3-hf and its like; a picture is one tile, as a frame is."""

    model_types: ClassVar = {InternVLConfig: InternVLForConditionalGeneration}
    media_tokens: ClassVar = {"image_token_id": CONTEXT}
    chat = ChatFormat(end="<|im_end|>", video=VIDEO, picture=CONTEXT, reserved=(CONTEXT, START, STOP, "<|im_end|>"))
    chat_template = CHATML
    scale = IMAGENET_SCALE

    def layout(self) -> InternVLLayout:
        """Square frames as large as the tower was made for."""
        (side, _), (patch, _) = self.config.vision_config.image_size, self.config.vision_config.patch_size
        patches = square_canvas(self.view, side, patch)
        return InternVLLayout(int(patches * self.config.downsample_ratio**2), patches)

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """The features of all frames, one after another."""

        def features(*frames: torch.Tensor) -> torch.Tensor:
            pixels = self.scale(torch.cat(frames), model.dtype)
            return model.model.get_image_features(pixels).pooler_output

        return features_of(image=torch.cat(passes.over(features, [frames for frames, _ in row.shown])))

    def unread(self) -> tuple[str, ...]:
        """What stands for masked patches in the tower's own pretraining."""
        return (r"model\.vision_tower\.embeddings\.mask_token",)
