"""How large the pictures of renditions are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

MAX_TILE_EDGE = 256
"""Larger ones are better decoded from a proxy: they lie there as plain bytes."""


@dataclass(frozen=True)
class Sizes:
    """How large the pictures are that are made, by their shorter side in pixels."""

    short_edge: int = 336
    """Of the proxy; never more than the file has."""
    tile_edge: int | None = None
    """Of the tiles, where some are wanted."""
    tile_fps: float | None = None
    """Tiles a second, at most; default, every frame."""

    def __post_init__(self) -> None:
        for name, most in (("short_edge", 4320), ("tile_edge", MAX_TILE_EDGE)):
            value = getattr(self, name)
            if value is not None and not 8 <= value <= most:
                raise ValueError(f"{name} is {value}; it must lie in 8..{most} pixels")
        if self.tile_fps is not None and not 0 < self.tile_fps < math.inf:
            raise ValueError(f"tile_fps is {self.tile_fps}; it must be above 0")

    def proxy_of(self, width: int, height: int) -> tuple[int, int]:
        """The size of the proxy of a file with such frames: even, as encoders need it, never larger than it is but for
        the smallest."""
        scaled = _scaled(width, height, self.short_edge)
        return max(8, scaled[0] // 2 * 2), max(8, scaled[1] // 2 * 2)

    def tile_of(self, width: int, height: int) -> tuple[int, int]:
        """The size of its tiles."""
        return _scaled(width, height, self.tile_edge or self.short_edge)


def _scaled(width: int, height: int, short_edge: int) -> tuple[int, int]:
    """Width and height with that shorter side, but no larger than they are."""
    scale = min(Fraction(1), Fraction(short_edge, min(width, height)))
    return max(1, round(width * scale)), max(1, round(height * scale))
