"""Frames as pictures that a page can hold: WebP in data URIs, so many bytes a sample at most."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

MOST_BYTES = 200_000
"""Of pictures a sample; in base64 a third more, so that a hundred samples stay below 27 MB."""
MOST_FRAMES = 48
"""Of a sample with more, so many are shown."""
LONGEST_SIDE, LEAST_SIDE = 512, 16
"""In pixels: pictures are never larger, and shrunk to the least they fit, whatever they show."""
QUALITY = 80


def chosen(seen: Sequence[bool], most: int = MOST_FRAMES) -> list[int]:
    """Which frames to show, in order: all, or of more than `most` as many evenly chosen, half of them of those that
    show evidence, where there are so many."""
    every = range(len(seen))
    if len(seen) <= most:
        return list(every)
    showing = [index for index in every if seen[index]]
    others = [index for index in every if not seen[index]]
    wanted = min(len(showing), max(most // 2, most - len(others)))
    return sorted([*_evenly(showing, wanted), *_evenly(others, most - wanted)])


def embedded(frames_TCHW: torch.Tensor, most_bytes: int = MOST_BYTES) -> list[str]:
    """A data URI for each frame (uint8), all of one size, together at most `most_bytes` before base64."""
    if not len(frames_TCHW):
        return []
    pictures = [Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0).numpy())) for frame in frames_TCHW]
    longest = max(pictures[0].size)
    side = min(LONGEST_SIDE, longest)
    while True:
        size = tuple(max(1, round(edge * side / longest)) for edge in pictures[0].size)
        files = [_webp(picture, (size[0], size[1])) for picture in pictures]
        total = sum(map(len, files))
        if total <= most_bytes or side <= LEAST_SIDE:
            return [f"data:image/webp;base64,{base64.b64encode(file).decode()}" for file in files]
        # Bytes grow somewhat slower than pixels.
        side = max(LEAST_SIDE, math.floor(side * min(0.9, 0.95 * math.sqrt(most_bytes / total))))


def _evenly(indexes: Sequence[int], count: int) -> list[int]:
    return [indexes[(2 * number + 1) * len(indexes) // (2 * count)] for number in range(count)]


def _webp(picture: Image.Image, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    smaller = picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    smaller.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()
