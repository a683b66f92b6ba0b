"""How large the pictures of renditions are."""

from __future__ import annotations

from dataclasses import dataclass


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
        for name in ("short_edge", "tile_edge"):
            value = getattr(self, name)
            if value is not None and not 8 <= value <= 4320:
                raise ValueError(f"{name} is {value}; it must lie in 8..4320 pixels")
        if self.tile_fps is not None and not self.tile_fps > 0:
            raise ValueError(f"tile_fps is {self.tile_fps}; it must be above 0")
