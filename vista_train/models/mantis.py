"""Mantis-8B-Idefics2: each frame is a picture of its own shape that a resampler turns into 64 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from vista_train.models.base import register_family
from vista_train.models.chat import ChatFormat, Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import HALF_SCALE, PixelScale
from vista_train.models.hub_family import HubFamily
from vista_train.types import Row

IMAGE, FAKE, END = "<image>", "<fake_token_around_image>", "<end_of_utterance>"


@dataclass(frozen=True)
class Idefics2Layout(Layout):
    """Frames of latents, one separator before, between and behind them."""

    latents: int
    patch: int

    def media(self, shown: Shown) -> Sequence[Piece]:
        """65 tokens a frame, and one."""
        return ((FAKE, 1), *(((IMAGE, self.latents), (FAKE, 1)) * len(shown.times)))

    def patches(self, canvas: tuple[int, int]) -> int:
        """Whole patches of a frame; the rest of its last row and column is not seen."""
        return (canvas[0] // self.patch) * (canvas[1] // self.patch)


@register_family("mantis")
class Mantis(HubFamily):
    """Idefics2-8B and what was trained from it. Pictures are not split, as Mantis's are not."""

    model_types: ClassVar = {Idefics2Config: Idefics2ForConditionalGeneration}
    roots: ClassVar = {"projector": ("model.connector.",), "vision": ("model.vision_model.",)}
    chat = ChatFormat(end=END, video=IMAGE, picture=IMAGE, reserved=(IMAGE, FAKE, END), behind=" ", kind="image")
    # Mantis trained without a space behind the colons; Idefics2's own template, where there is one, has it.
    chat_template = (
        "{%- for message in messages %}"
        "{{- message['role'].capitalize() + ':' + message['content'] + '<end_of_utterance>' + '\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}"
    )
    scale = HALF_SCALE

    def layout(self) -> Idefics2Layout:
        """Frames of any shape up to the tower's positions."""
        vision, view = self.config.vision_config, self.view
        if min(view.canvas((1, 1))) < vision.patch_size and view.fit != "native":
            raise ValueError(f"view.width x view.height is {view.width}x{view.height}; a patch is {vision.patch_size}")
        return Idefics2Layout(self.config.perceiver_config.resampler_n_latents, vision.patch_size)

    def media(self, model: Any, row: Row) -> dict[str, Any]:
        """Every frame padded to the largest, and a mask that tells pixels from padding."""
        pixels_1N3HW, mask_1NHW = padded(row, self.scale, model.dtype)
        return {"pixel_values": pixels_1N3HW, "pixel_attention_mask": mask_1NHW}


def padded(row: Row, scale: PixelScale, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A row's frames [1, N, 3, H, W] with zeros right of and below the smaller ones, and where they are [1, N, H, W].

    A scaled frame is never all zeros, which transformers takes for padding: no byte is half of 255.
    """
    height, width = (max(frames.shape[side] for frames in row.frames) for side in (2, 3))
    pixels, masks = [], []
    for frames_TCHW in row.frames:
        margin = (0, width - frames_TCHW.shape[3], 0, height - frames_TCHW.shape[2])
        pixels.append(functional.pad(scale(frames_TCHW, dtype), margin))
        masks.append(functional.pad(torch.ones_like(frames_TCHW[:, 0], dtype=torch.bool), margin))
    return torch.cat(pixels)[None], torch.cat(masks)[None]
