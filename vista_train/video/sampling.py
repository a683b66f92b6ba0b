"""Which times to look at, and how a frame lies on the model's canvas. Never depends on evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from vista_train.video.geometry import FITS, Box, Fit, Pixels, Rect, Span

SAMPLINGS = ("midpoints", "linspace_ends", "fps")


@dataclass(frozen=True)
class View:
    """How the model looks at a video: how many frames, when, how large, and what counts as seen."""

    frames: int = 8
    """Frames per video, at most: a video with fewer source frames shows each once."""
    sampling: Literal["midpoints", "linspace_ends", "fps"] = "midpoints"
    """`midpoints` of equal intervals (VISTA), `linspace_ends` with both ends (LongVA), or a fixed rate `fps`."""
    fps: float = 1.0
    """Frames per second for `sampling: fps`, `frames` still being the most."""
    width: int = 336
    """Width of the model's canvas in pixels."""
    height: int = 336
    """Height of the model's canvas in pixels."""
    fit: Fit = "letterbox"
    """How a frame is put on the canvas: `letterbox`, `crop` or `squash` (as VISTA trained LongVA)."""
    min_visible: int = 1
    """A sample is made only if each piece of its evidence is on at least so many sampled frames."""
    min_pixels: int = 14
    """... and the shorter side of its box is at least so many pixels on the canvas."""

    def __post_init__(self) -> None:
        for name in ("frames", "width", "height", "min_visible", "min_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"view.{name} is {getattr(self, name)}; it must be at least 1")
        if self.min_visible > self.frames:
            raise ValueError(f"view.min_visible is {self.min_visible}, more than view.frames, {self.frames}")
        if self.fps <= 0:
            raise ValueError(f"view.fps is {self.fps}; it must be above 0")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"view.sampling is {self.sampling!r}; choose one of {', '.join(SAMPLINGS)}")
        if self.fit not in FITS:
            raise ValueError(f"view.fit is {self.fit!r}; choose one of {', '.join(FITS)}")

    def times(self, duration: Fraction, frame_measure: Fraction, limit: int | None = None) -> tuple[Fraction, ...]:
        """The sampled times of a video of `duration` seconds that shows `frame_measure` source frames.

        `limit` caps their number further (a token budget). Midpoints: t = (i + 1/2) D / n, n = min(n, frames)
        (VISTA, `get_frame_indices`).
        """
        most = min(self.frames, max(1, int(frame_measure)), self.frames if limit is None else limit)
        if most < 1:
            raise ValueError(f"limit is {limit}; at least one frame must be shown")
        match self.sampling:
            case "midpoints":
                return tuple(Fraction(2 * i + 1, 2 * most) * duration for i in range(most))
            case "linspace_ends":
                if most == 1:
                    return (Fraction(0),)
                last = duration - duration / max(Fraction(1), frame_measure)
                return tuple(Fraction(i, most - 1) * last for i in range(most))
            case _:
                step = 1 / Fraction(repr(self.fps))
                wanted = max(1, -(-duration // step))
                if wanted <= most:
                    return tuple(i * step for i in range(wanted))
                return tuple(Fraction(i, most) * duration for i in range(most))

    def content(self, size: tuple[int, int]) -> Rect:
        """Where a video of `size` lies on the canvas, before rounding; a crop overhangs it."""
        return Rect.of_size(self.width, self.height).fitted(*size, self.fit)

    def pixels(self, size: tuple[int, int], box: Box) -> Pixels:
        """The canvas pixels that `box`, in fractions of a video of `size`, covers."""
        return self.content(size).part(box).pixels() & Rect.of_size(self.width, self.height).pixels()

    def shows(self, times: Sequence[Fraction], size: tuple[int, int], span: Span, box: Box) -> bool:
        """Whether evidence at `span` and `box` of a video of `size` is seen: long enough, and large enough."""
        area = self.pixels(size, box)
        seen = sum(time in span for time in times)
        return seen >= self.min_visible and min(area.width, area.height) >= self.min_pixels
