"""Llava with pooling behind its projector: LongVA's computation, which no configuration of transformers expresses.

It has a `model_type` of its own, so that plain Llava, whose tensors have the same names, is not mistaken for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from vista_train.models.chat import Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import PixelScale
from vista_train.models.hub_family import features_of
from vista_train.models.passes import Passes
from vista_train.models.towers import behind_layer
from vista_train.types import Row
from vista_train.video.sampling import View


class LongVAConfig(LlavaConfig):
    """Llava's, with the pooling that follows the projector."""

    model_type = "vista_longva"

    spatial_pool_stride: int = 2
    spatial_pool_mode: str = "average"
    published: dict | None = None
    """The configuration of the published checkpoint that this one stems from, as it was."""


class PoolingProjector(LlavaMultiModalProjector):
    """The projector, and after it the mean (or maximum) over squares of `spatial_pool_stride` patches a side."""

    def __init__(self, config: LongVAConfig) -> None:
        super().__init__(config)
        self.stride = config.spatial_pool_stride
        self.pool = functional.max_pool2d if config.spatial_pool_mode == "max" else functional.avg_pool2d

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """[T, side * side, d_vision] -> [T, (side / stride) ** 2, d]."""
        projected_TPD = super().forward(image_features)
        side = math.isqrt(projected_TPD.shape[1])
        grid_TDHW = projected_TPD.transpose(1, 2).unflatten(2, (side, side))
        return self.pool(grid_TDHW, self.stride).flatten(2).transpose(1, 2)


class LongVAForConditionalGeneration(LlavaForConditionalGeneration):
    """Llava with a pooling projector."""

    config_class = LongVAConfig

    def __init__(self, config: LongVAConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = PoolingProjector(config)
        self.post_init()


AutoConfig.register(LongVAConfig.model_type, LongVAConfig)
AutoModelForImageTextToText.register(LongVAConfig, LongVAForConditionalGeneration)


@dataclass(frozen=True)
class TileLayout(Layout):
    """Frames of one or more square tiles, each the same number of one token; nothing between them."""

    token: str
    tokens_per_tile: int
    patches_per_tile: int
    side: int
    """Side of a tile in pixels."""

    def tiles(self, canvas: tuple[int, int]) -> int:
        """How many tiles a canvas has."""
        return (canvas[0] // self.side) * (canvas[1] // self.side)

    def media(self, shown: Shown) -> Sequence[Piece]:
        """The tokens of all tiles."""
        return ((self.token, self.tokens_per_tile * self.tiles(shown.canvas) * len(shown.times)),)

    def sequences(self, shown: Shown) -> tuple[int, int]:
        """Every tile is looked at alone."""
        return self.tiles(shown.canvas) * len(shown.times), self.patches_per_tile


def tile_layout(config: LongVAConfig, token: str, view: View) -> TileLayout:
    """The layout of a pooled Llava; `ValueError` if the view's tiles are not what its vision tower takes."""
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    if (view.width, view.height) != (side, side) or view.fit == "native":
        raise ValueError(
            f"view.width x view.height is {view.width}x{view.height}, view.fit {view.fit!r}; the checkpoint needs "
            f"{side}x{side} (view.tiles shows more), squash, crop or letterbox"
        )
    patches = (side // patch) ** 2
    return TileLayout(token, (side // patch // config.spatial_pool_stride) ** 2, patches, side)


def tiles_of(frames_TCHW: torch.Tensor, side: int) -> torch.Tensor:
    """Frames cut into tiles [N, 3, side, side], frame by frame, row by row of each."""
    return rearrange(frames_TCHW, "t c (r h) (q w) -> (t r q) c h w", h=side, w=side)


def pooled_media(model: LongVAForConditionalGeneration, row: Row, scale: PixelScale, passes: Passes) -> dict[str, Any]:
    """The features of all tiles of a row's frames.

    Left to its forward pass, Llava would tell the tower where samples end, and kernels for packed rows would cut there.
    """
    vision = model.config.vision_config
    tiles = [tiles_of(frames_TCHW, vision.image_size) for frames_TCHW, _ in row.shown]
    patches = (vision.image_size // vision.patch_size) ** 2

    def features(*tiles_NCHW: torch.Tensor) -> torch.Tensor:
        pixels = scale(torch.cat(tiles_NCHW), model.dtype)
        return torch.cat(model.model.get_image_features(pixels).pooler_output)

    return features_of(image=passes.over(features, tiles, count=lambda tiles_NCHW: (len(tiles_NCHW), patches)))


def pooled_unread(config: LongVAConfig) -> tuple[str, ...]:
    """Patterns of the parameters behind the vision layer that is used."""
    return behind_layer(config.vision_config, r"model\.vision_tower\.", config.vision_feature_layer)
