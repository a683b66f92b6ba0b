"""Video-LLaVA: every token of each frame, CLS among them, from a video tower; pictures from a tower of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

from vista_train.models.base import register_family
from vista_train.models.chat import ChatFormat, Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import CLIP_SCALE
from vista_train.models.hub_family import HubFamily, features_of
from vista_train.models.passes import Passes
from vista_train.models.towers import behind_layer, square_canvas
from vista_train.types import Row

VIDEO, IMAGE = "<video>", "<image>"


@dataclass(frozen=True)
class VideoLlavaLayout(Layout):
    """Frames of patches and a CLS token; pictures of patches alone."""

    patches_per_frame: int

    def media(self, shown: Shown) -> Sequence[Piece]:
        """257 tokens a frame at 224 pixels, 256 a picture."""
        if shown.picture:
            return ((IMAGE, self.patches_per_frame),)
        return ((VIDEO, (self.patches_per_frame + 1) * len(shown.times)),)

    def sequences(self, shown: Shown) -> tuple[int, int]:
        """Every frame is looked at alone."""
        return len(shown.times), self.patches_per_frame


@register_family("video_llava")
class VideoLlava(HubFamily):
    """Video-LLaVA-7B in the layout of its `-hf` checkpoint.

    The picture tower stays as it is, as in the original, where both do: data without pictures would never reach it.
    """

    model_types: ClassVar = {VideoLlavaConfig: VideoLlavaForConditionalGeneration}
    roots: ClassVar = {
        "projector": ("model.multi_modal_projector.",),
        "vision": ("model.video_tower.", "model.image_tower."),
    }
    towers: ClassVar = ("model.image_tower.", "model.video_tower.")
    media_tokens: ClassVar = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    chat = ChatFormat(end="</s>", video=VIDEO, picture=IMAGE, reserved=(VIDEO, IMAGE, "</s>"))
    chat_template = (
        "{%- for message in messages %}"
        "{%- if message['role'] == 'system' %}{{- message['content'] + ' ' }}"
        "{%- elif message['role'] == 'user' %}{{- 'USER: ' + message['content'] + ' ' }}"
        "{%- else %}{{- 'ASSISTANT: ' + message['content'] + '</s>' }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"
    )
    scale = CLIP_SCALE

    def layout(self) -> VideoLlavaLayout:
        """Frames as large as the tower was made for."""
        vision = self.config.vision_config
        return VideoLlavaLayout(square_canvas(self.view, vision.image_size, vision.patch_size))

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """Features of the pictures, then of all videos' frames, each looked at alone."""

        def of_pictures(*pictures: torch.Tensor) -> torch.Tensor:
            pixels = self.scale(torch.cat(pictures), model.dtype)
            return model.model.get_image_features(pixels).pooler_output

        def of_videos(*videos: torch.Tensor) -> torch.Tensor:
            pixels = self.scale(torch.cat(videos), model.dtype)[None]
            return model.model.get_video_features(pixels).pooler_output

        ((pictures,), (videos,)) = self.groups(row)
        black_TCHW = self.codec.dummy().frames_TCHW.to(row.input_ids_1L.device)
        seen = {
            "image": passes.over(of_pictures, pictures, tower=0, black=black_TCHW),
            "video": passes.over(of_videos, videos, tower=1, black=black_TCHW),
        }
        return features_of(**{kind: torch.cat(features) for kind, features in seen.items() if features})

    def groups(self, row: Row) -> Sequence[Sequence[Sequence[torch.Tensor]]]:
        """The picture tower sees pictures, the video tower videos."""
        return [[[frames for frames, picture in row.shown if picture == kind]] for kind in (True, False)]

    def reaches_all(self, row: Row) -> bool:
        """Only videos reach the tower that learns."""
        return any(not picture for _, picture in row.shown)

    def unread(self) -> tuple[str, ...]:
        """The picture tower, and what lies behind the second last layer of the video tower."""
        behind = behind_layer(self.config.vision_config, r"model\.video_tower\.", self.config.vision_feature_layer)
        return (r"model\.image_tower\.", *behind)
