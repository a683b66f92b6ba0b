"""Mantis-8B-Idefics2: each frame is a picture of its own shape that a resampler turns into 64 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from vista_train.models.base import register_family
from vista_train.models.chat import ChatFormat, Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import HALF_SCALE
from vista_train.models.hub_family import HubFamily, features_of
from vista_train.models.passes import Passes
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

    def sequences(self, shown: Shown) -> tuple[int, int]:
        """Every frame is looked at alone; of its last row and column, whole patches."""
        return len(shown.times), (shown.canvas[0] // self.patch) * (shown.canvas[1] // self.patch)


@register_family("mantis")
class Mantis(HubFamily):
    """Idefics2-8B and what was trained from it. Pictures are not split, as Mantis's are not."""

    model_types: ClassVar = {Idefics2Config: Idefics2ForConditionalGeneration}
    roots: ClassVar = {"projector": ("model.connector.",), "vision": ("model.vision_model.",)}
    towers: ClassVar = ("model.vision_model.",)
    media_tokens: ClassVar = {"image_token_id": IMAGE}
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
        """Frames of any shape, of a patch at least."""
        patch, view = self.config.vision_config.patch_size, self.view
        if view.tiles or (view.fit == "native" and view.multiple % patch):
            raise ValueError(
                f"view.tiles is {view.tiles}, view.multiple {view.multiple}; the checkpoint needs no tiles, and for a "
                f"native canvas multiples of {patch}"
            )
        if min(view.width, view.height) < patch:
            raise ValueError(f"view.width x view.height is {view.width}x{view.height}; a patch alone is {patch}")
        return Idefics2Layout(self.config.perceiver_config.resampler_n_latents, patch)

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """The features of all frames, from passes of the tower for each shape among them.

        Padded to one shape, as transformers' processor pads them, frames would cost more than was planned of them.
        """

        def features(*frames: torch.Tensor) -> torch.Tensor:
            pixels = self.scale(torch.cat(frames), model.dtype)[None]
            return torch.cat(model.model.get_image_features(pixels).pooler_output)

        shown, numbers = [frames_TCHW for frames_TCHW, _ in row.shown], list(_by_shape(row).values())
        alike = [[shown[number] for number in group] for group in numbers]
        found: dict[int, torch.Tensor] = {}
        for group, seen in zip(numbers, passes.apart([features] * len(alike), alike), strict=True):
            lengths = [len(shown[number]) * self.config.perceiver_config.resampler_n_latents for number in group]
            found.update(zip(group, torch.cat(seen).split(lengths), strict=True))
        return features_of(image=[found[number] for number in sorted(found)])

    def groups(self, row: Row) -> Sequence[Sequence[Sequence[torch.Tensor]]]:
        """Frames of one shape go together."""
        shown = [frames_TCHW for frames_TCHW, _ in row.shown]
        return [[[shown[number] for number in group] for group in _by_shape(row).values()]]


def _by_shape(row: Row) -> dict[torch.Size, list[int]]:
    """Which of a row's videos and pictures are of each shape, by number."""
    found: dict[torch.Size, list[int]] = {}
    for number, (frames_TCHW, _) in enumerate(row.shown):
        found.setdefault(frames_TCHW.shape[2:], []).append(number)
    return found
