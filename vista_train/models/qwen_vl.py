"""Qwen2.5-VL and Qwen3-VL: frames of their own shape, in pairs, with their true times in positions or in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from transformers import (
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from vista_train.models.base import register_family
from vista_train.models.chat import CHATML, ChatFormat, Piece
from vista_train.models.codec import Layout, Shown
from vista_train.models.hub import CLIP_SCALE, HALF_SCALE, HubSettings
from vista_train.models.hub_family import HubFamily
from vista_train.models.passes import Passes
from vista_train.types import Row

START, STOP, VIDEO, IMAGE = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|image_pad|>"


@dataclass(frozen=True)
class QwenLayout(Layout):
    """Pairs of frames cut into cells of merged patches, one token each."""

    patch: int
    merge: int
    temporal: int
    """Frames that share their tokens; the last stands for those that lack at the end."""
    tokens_per_second: float | None
    """Time positions a second (Qwen2.5-VL); None where words before each pair say the time (Qwen3-VL)."""
    media_ids: tuple[int, int]
    """Ids of the video and the picture token."""
    outer_marks: bool
    """Whether the pairs of a Qwen3-VL video stand between two more marks."""

    def cells(self, canvas: tuple[int, int]) -> tuple[int, int]:
        """Columns and rows of tokens."""
        side = self.patch * self.merge
        return canvas[0] // side, canvas[1] // side

    def media(self, shown: Shown) -> Sequence[Piece]:
        """One run of tokens between two marks; for Qwen3-VL one a pair, each behind the mean of its times."""
        columns, rows = self.cells(shown.canvas)
        if shown.picture:
            return ((START, 1), (IMAGE, columns * rows), (STOP, 1))
        pairs = [shown.times[first : first + self.temporal] for first in range(0, len(shown.times), self.temporal)]
        if self.tokens_per_second is not None:
            return ((START, 1), (VIDEO, columns * rows * len(pairs)), (STOP, 1))
        pieces: list[Piece] = []
        for pair in pairs:
            seconds = float(pair[0] + pair[-1]) / 2
            pieces += [f"<{seconds:.1f} seconds>", (START, 1), (VIDEO, columns * rows), (STOP, 1)]
        return [(START, 1), *pieces, (STOP, 1)] if self.outer_marks else pieces

    def sequences(self, shown: Shown) -> tuple[int, int]:
        """Every pair of frames is looked at alone, and has as many patches as one."""
        columns, rows = self.cells(shown.canvas)
        return -(-len(shown.times) // self.temporal), columns * rows * self.merge**2

    def mrope(self, ids_L: torch.Tensor, shown: Shown | None) -> torch.Tensor:
        """Words count on in all three; a run of media spreads over time, rows and columns from where words stopped."""
        is_media_L = torch.isin(ids_L, torch.tensor(self.media_ids))
        kinds, counts = torch.unique_consecutive(is_media_L, return_counts=True)
        columns, rows = self.cells(shown.canvas) if shown else (0, 0)
        pieces, start = [], 0
        for is_media, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            if is_media:
                time = (torch.arange(count // (columns * rows)) * self._interval(shown)).long()
                axes = torch.meshgrid(time, torch.arange(rows), torch.arange(columns), indexing="ij")
                pieces.append(torch.stack(axes).flatten(1) + start)
                start += max(columns, rows)
            else:
                pieces.append(torch.arange(start, start + count).expand(3, -1))
                start += count
        return torch.cat(pieces, dim=1) if pieces else ids_L.new_zeros((3, 0))

    def _interval(self, shown: Shown | None) -> torch.Tensor:
        """Time positions from one pair of frames to the next, in single precision as the models compute it."""
        if self.tokens_per_second is None or shown is None or shown.picture or len(shown.times) == 1:
            return torch.tensor(1.0)
        stride = (shown.times[-1] - shown.times[0]) / (len(shown.times) - 1)
        return self.tokens_per_second * torch.tensor(float(stride * self.temporal))


@dataclass(frozen=True)
class QwenSettings(HubSettings):
    """A checkpoint of Qwen2.5-VL or Qwen3-VL, and how long its samples may be."""

    outer_marks: bool = True
    """Put two more marks around a whole Qwen3-VL video, as transformers from 5.10 on does, and vLLM with it; false
    leaves them out, as transformers did when Qwen3-VL came out."""


@register_family("qwen_vl")
class QwenVL(HubFamily):
    """Qwen2.5-VL and Qwen3-VL (dense)."""

    settings_type = QwenSettings

    model_types: ClassVar = {
        Qwen2_5_VLConfig: Qwen2_5_VLForConditionalGeneration,
        Qwen3VLConfig: Qwen3VLForConditionalGeneration,
    }
    roots: ClassVar = {
        "projector": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
        "vision": ("model.visual.",),
    }
    towers: ClassVar = ("model.visual.",)
    media_tokens: ClassVar = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    chat = ChatFormat(
        end="<|im_end|>",
        video=START + VIDEO + STOP,
        picture=START + IMAGE + STOP,
        reserved=(START, STOP, VIDEO, IMAGE, "<|im_end|>"),
        behind="",
    )
    chat_template = CHATML
    scale = CLIP_SCALE

    def read_config(self, folder: Path) -> PreTrainedConfig:
        """Either of the two generations, whose pixels are scaled differently."""
        config = super().read_config(folder)
        self.scale = HALF_SCALE if isinstance(config, Qwen3VLConfig) else CLIP_SCALE
        return config

    def layout(self) -> QwenLayout:
        """Frames of any shape in whole cells."""
        vision, view = self.config.vision_config, self.view
        side = vision.patch_size * vision.spatial_merge_size
        sides = (view.multiple,) if view.fit == "native" else (view.width, view.height)
        if any(length % side for length in sides) or view.tiles:
            key = "view.multiple is" if view.fit == "native" else "view.width and view.height are"
            raise ValueError(
                f"{key} {' and '.join(map(str, sides))}; the checkpoint needs multiples of {side}, no tiles"
            )
        return QwenLayout(
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            temporal=vision.temporal_patch_size,
            tokens_per_second=None if isinstance(self.config, Qwen3VLConfig) else vision.tokens_per_second,
            media_ids=(self.config.video_token_id, self.config.image_token_id),
            outer_marks=self.settings.outer_marks,
        )

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """The features of all frames, videos' and pictures'; pairs of frames share passes, whatever their shapes."""

        def features(*pairs: torch.Tensor) -> Any:
            cut = [self._patches(frames_TCHW, model.dtype) for frames_TCHW in pairs]
            patches, grids = zip(*cut, strict=True)
            output = model.model.get_image_features(torch.cat(patches), torch.tensor(grids, device=patches[0].device))
            # Qwen3-VL's has features of earlier layers, too.
            deep = output.deepstack_features if isinstance(self.config, Qwen3VLConfig) else []
            return tuple(torch.cat(list(each)) for each in (output.pooler_output, *deep))

        shown = [frames_TCHW for frames_TCHW, _ in row.shown]
        lengths = [sequences * patches // self.config.vision_config.spatial_merge_size**2
                   for sequences, patches in map(self.count, shown)]  # fmt: skip
        seen = zip(*passes.over(features, shown), strict=True)
        pooled, *deep = [torch.cat(each).split(lengths) for each in seen]
        which = {
            kind: [number for number, (_, picture) in enumerate(row.shown) if picture == (kind == "image")]
            for kind in ("video", "image")
        }
        outputs = {kind: self._chosen(pooled, deep, numbers) for kind, numbers in which.items() if numbers}
        return {"mm_encoder_outputs": outputs}

    def vision_size(self) -> tuple[int, int]:
        """Blocks that attend over whole frames, and width; the others of Qwen2.5-VL see windows, which cost little."""
        vision = self.config.vision_config
        is_whole = isinstance(self.config, Qwen3VLConfig)
        return vision.depth if is_whole else len(vision.fullatt_block_indexes), vision.hidden_size

    def _patches(self, frames_TCHW: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Frames as flat patches, cell by cell, and how many there are in time, down and across."""
        layout: QwenLayout = self.codec.layout  # type: ignore[assignment]
        lacking = -len(frames_TCHW) % layout.temporal
        whole = torch.cat([frames_TCHW, frames_TCHW[-1:].expand(lacking, -1, -1, -1)])
        time, height, width = len(whole) // layout.temporal, *(side // layout.patch for side in whole.shape[2:])
        flat = rearrange(
            self.scale(whole, dtype),
            "(t s) c (h n p) (w m q) -> (t h w n m) (c s p q)",
            s=layout.temporal,
            p=layout.patch,
            q=layout.patch,
            n=layout.merge,
            m=layout.merge,
        )
        return flat, (time, height, width)

    def _chosen(
        self, pooled: Sequence[torch.Tensor], deep: Sequence[Sequence[torch.Tensor]], numbers: Sequence[int]
    ) -> Any:
        """The features of some of the videos and pictures."""
        chosen = [pooled[number] for number in numbers]
        if not isinstance(self.config, Qwen3VLConfig):
            return BaseModelOutputWithPooling(pooler_output=chosen)
        stacked = [[layer[number] for number in numbers] for layer in deep]
        return BaseModelOutputWithDeepstackFeatures(pooler_output=chosen, deepstack_features=stacked)
