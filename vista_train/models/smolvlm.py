"""SmolVLM2: each frame with the minute and second it was sampled at, behind words that introduce the video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.processing_smolvlm import (
    DEFAULT_CHAT_TEMPLATE,
    DEFAULT_MEDIA_OUTTRO,
    DEFAULT_VIDEO_INTRO,
    FRAME_TIMESTAMP_MESSAGE,
)

from vista_train.models.base import register_family
from vista_train.models.chat import ChatFormat, Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import HALF_SCALE
from vista_train.models.hub_family import HubFamily, features_of
from vista_train.models.passes import Passes
from vista_train.models.towers import square_canvas
from vista_train.types import Row

IMAGE, FAKE, GLOBAL, VIDEO, END = (
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<video>",
    "<end_of_utterance>",
)
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True)
class SmolVLMLayout(Layout):
    """Frames as whole pictures, each announced by its time."""

    tokens_per_frame: int
    patches_per_frame: int

    def media(self, shown: Shown) -> Sequence[Piece]:
        """An introduction with the number of frames and the video's length, then a line a frame."""
        picture = ((FAKE, 1), (GLOBAL, 1), (IMAGE, self.tokens_per_frame), (FAKE, 1))
        if shown.picture:
            return picture
        length = str(timedelta(seconds=int(shown.duration)))
        pieces: list[Piece] = [DEFAULT_VIDEO_INTRO.format(frame_count=spoken(len(shown.times)), video_duration=length)]
        for time in shown.times:
            clock = f"{int(time) // 60:02d}:{int(time) % 60:02d}"
            pieces += [FRAME_TIMESTAMP_MESSAGE.format(timestamp=clock), *picture]
        return [*pieces, DEFAULT_MEDIA_OUTTRO]

    def sequences(self, shown: Shown) -> tuple[int, int]:
        """Every frame is looked at alone."""
        return len(shown.times), self.patches_per_frame


def spoken(number: int) -> str:
    """A number below a million in English words, as the checkpoints know them."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        rest = number % 100
        return f"{ONES[number // 100]} hundred" + (f" and {spoken(rest)}" if rest else "")
    rest = number % 1000
    return f"{spoken(number // 1000)} thousand" + (f"{' and' if rest < 100 else ','} {spoken(rest)}" if rest else "")


@register_family("smolvlm")
class SmolVLM(HubFamily):
    """SmolVLM2; a picture is shown whole, as a frame is, not split."""

    model_types: ClassVar = {SmolVLMConfig: SmolVLMForConditionalGeneration}
    roots: ClassVar = {"projector": ("model.connector.",), "vision": ("model.vision_model.",)}
    towers: ClassVar = ("model.vision_model.",)
    media_tokens: ClassVar = {"image_token_id": IMAGE}
    chat = ChatFormat(end=END, video=VIDEO, picture=IMAGE, reserved=(IMAGE, FAKE, GLOBAL, END), behind="")
    chat_template = DEFAULT_CHAT_TEMPLATE
    scale = HALF_SCALE

    def layout(self) -> SmolVLMLayout:
        """Square frames as large as the tower was made for."""
        vision = self.config.vision_config
        patches = square_canvas(self.view, vision.image_size, vision.patch_size)
        return SmolVLMLayout(patches // self.config.scale_factor**2, patches)

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """The features of every frame, as of a picture in one long list."""

        def features(*frames: torch.Tensor) -> torch.Tensor:
            pixels = self.scale(torch.cat(frames), model.dtype)[None]
            return torch.cat(model.model.get_image_features(pixels).pooler_output)

        return features_of(image=torch.cat(passes.over(features, [frames for frames, _ in row.shown])))
