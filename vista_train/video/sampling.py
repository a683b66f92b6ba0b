"""Which times to look at, and how a frame lies on the model's canvas. Never depends on evidence."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias

from vista_train.video.composition import Video
from vista_train.video.geometry import FITS, Box, Fit, Pixels, Rect, Span

SAMPLINGS = ("midpoints", "linspace_ends", "fps")
CANVASES = (*FITS, "native")
CanvasFit: TypeAlias = Literal["letterbox", "crop", "squash", "native"]


@dataclass(frozen=True)
class Times(Sequence[Fraction]):
    """Times in order, `length * share / of` for every share: made when they are looked at, which bisection seldom does.

    Each is reduced once, since this is most of what it costs.
    """

    length: Fraction
    shares: range
    of: int

    def __len__(self) -> int:
        return len(self.shares)

    def __getitem__(self, index: Any) -> Any:
        return self._at(self.shares[index])

    def __iter__(self) -> Iterator[Fraction]:
        return map(self._at, self.shares)

    def _at(self, share: int) -> Fraction:
        return Fraction(share * self.length.numerator, self.of * self.length.denominator)


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
    """Width of the model's canvas in pixels; of one tile, if there are tiles."""
    height: int = 336
    """Height of the model's canvas in pixels; of one tile, if there are tiles."""
    fit: CanvasFit = "letterbox"
    """How a frame is put on the canvas: `letterbox`, `crop` (LongVA's shortest edge and center crop) or `squash` (as
    VISTA trained LongVA). `native` makes the canvas to the frame's own shape, at most width x height pixels in area."""
    multiple: int = 28
    """Both sides of a `native` canvas are rounded to this many pixels: what the model merges into one token."""
    tiles: int = 0
    """Tiles over all frames of a video, at most: each frame then lies on the grid of tiles that shows it largest
    (UniRes, LongVA). 0 is one canvas a frame."""
    min_visible: int = 1
    """A sample is made only if each piece of its evidence is on at least so many sampled frames."""
    min_pixels: int = 14
    """... and the shorter side of its box is at least so many pixels on the canvas."""

    def __post_init__(self) -> None:
        for name in ("frames", "width", "height", "multiple", "min_visible", "min_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"view.{name} is {getattr(self, name)}; it must be at least 1")
        if self.min_visible > self.frames:
            raise ValueError(f"view.min_visible is {self.min_visible}, more than view.frames, {self.frames}")
        if self.fps <= 0:
            raise ValueError(f"view.fps is {self.fps}; it must be above 0")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"view.sampling is {self.sampling!r}; choose one of {', '.join(SAMPLINGS)}")
        if self.fit not in CANVASES:
            raise ValueError(f"view.fit is {self.fit!r}; choose one of {', '.join(CANVASES)}")
        if self.tiles < 0:
            raise ValueError(f"view.tiles is {self.tiles}; it must be 0 or more")
        if self.tiles and self.fit == "native":
            raise ValueError(f"view.tiles is {self.tiles} and view.fit 'native'; a canvas has tiles or its own shape")
        if self.fit == "native" and self.width * self.height < self.multiple**2:
            raise ValueError(
                f"view.width x view.height is {self.width}x{self.height}; a native canvas needs at least "
                f"view.multiple squared, {self.multiple}x{self.multiple}"
            )

    def told(self) -> str:
        """One line on it."""
        rate = f" at {self.fps:g} a second" if self.sampling == "fps" else f", {self.sampling}"
        tiles = f", {self.tiles} tiles over all" if self.tiles else ""
        return f"at most {self.frames} frames{rate}, {self.width}x{self.height}, {self.fit}{tiles}"

    def times(self, duration: Fraction, frame_measure: Fraction, limit: int | None = None) -> tuple[Fraction, ...]:
        """The sampled times of a video of `duration` seconds that shows `frame_measure` source frames.

        `limit` caps their number further (a token budget). Midpoints: t = (i + 1/2) D / n, n = min(n, frames)
        (VISTA, `get_frame_indices`).
        """
        return tuple(self.sampled(duration, frame_measure, limit))

    def sampled(self, duration: Fraction, frame_measure: Fraction, limit: int | None = None) -> Times:
        """The same times for those who look at a few of them only."""
        most = self.count(duration, frame_measure)
        if limit is not None:
            if limit < 1:
                raise ValueError(f"limit is {limit}; at least one frame must be shown")
            most = min(most, limit)
        match self.sampling:
            case "midpoints":
                return Times(duration, range(1, 2 * most, 2), 2 * most)
            case "linspace_ends":
                if most == 1:
                    return Times(Fraction(0), range(1), 1)
                last = duration - duration / max(Fraction(1), frame_measure)
                return Times(last, range(most), most - 1)
            case _:
                step = 1 / Fraction(repr(self.fps))
                if most >= -(-duration // step):
                    return Times(step, range(most), 1)
                return Times(duration, range(most), most)

    def count(self, duration: Fraction, frame_measure: Fraction) -> int:
        """How many frames are sampled of a video of `duration` seconds that shows `frame_measure` source frames."""
        most = min(self.frames, max(1, int(frame_measure)))
        if self.sampling == "fps":
            return min(most, max(1, -(-duration // (1 / Fraction(repr(self.fps))))))
        return most

    def count_of(self, video: Video) -> int:
        """How many frames are sampled of a video."""
        return self.count(video.duration, video.frame_measure)

    def canvas_of(self, video: Video) -> tuple[int, int]:
        """Width and height of the canvas for a video; the same when some of its frames are dropped for their tokens."""
        return self.canvas(video.size, self.count_of(video))

    def canvas(self, size: tuple[int, int], frames: int | None = None) -> tuple[int, int]:
        """Width and height of the canvas for a video of `size` of which `frames` are sampled (default: the most)."""
        if self.fit == "native":
            return _native(size, self.width * self.height, self.multiple)
        columns, rows = self.grid(size, frames)
        return columns * self.width, rows * self.height

    def grid(self, size: tuple[int, int], frames: int | None = None) -> tuple[int, int]:
        """Columns and rows of tiles that a frame of `size` lies on, when `frames` share the tiles.

        The grid that shows it largest, but never larger than it is; of those, the smallest (UniRes picks alike from
        its list of grids).
        """
        most = max(1, self.tiles // (frames or self.frames))
        full = size[0] * size[1]
        grids = []
        # More columns than the frame is wide only add bars.
        for columns in range(1, min(most, -(-size[0] // self.width)) + 1):
            # The scale at which the frame fits, times its width and height, in whole numbers.
            scale = min(columns * self.width * size[1], most // columns * self.height * size[0], full)
            grids.append((scale, -columns))
        scale, columns = max(grids)
        # As few rows as do not shrink it; with the fewest columns, these are the fewest tiles.
        return -columns, -(-scale // (self.height * size[0]))

    @property
    def paint(self) -> Fit:
        """How a frame is put on its canvas; a native canvas has its shape already, but for rounding."""
        return "squash" if self.fit == "native" else self.fit

    def content(self, size: tuple[int, int], frames: int | None = None) -> Rect:
        """Where a video of `size` lies on the canvas, before rounding; a crop overhangs it."""
        return Rect.of_size(*self.canvas(size, frames)).fitted(*size, self.paint)

    def pixels(self, size: tuple[int, int], box: Box, frames: int | None = None) -> Pixels:
        """The canvas pixels that `box`, in fractions of a video of `size`, covers."""
        return self.content(size, frames).part(box).pixels() & Pixels(0, 0, *self.canvas(size, frames))

    def shows(
        self, times: Sequence[Fraction], size: tuple[int, int], span: Span, box: Box, frames: int | None = None
    ) -> bool:
        """Whether evidence at `span` and `box` of a video of `size` is seen at `times`: long enough, and large enough.

        Times are in order. `frames` were sampled (default: as many as there are times).
        """
        area = self.pixels(size, box, frames or len(times))
        seen = bisect_left(times, span.end) - bisect_left(times, span.start)
        return seen >= self.min_visible and min(area.width, area.height) >= self.min_pixels


def _native(size: tuple[int, int], area: int, multiple: int) -> tuple[int, int]:
    """`size` brought under `area` pixels in its own shape, each side a multiple of `multiple` (Qwen2-VL's rule)."""
    width, height = (max(multiple, round(side / multiple) * multiple) for side in size)
    if width * height <= area:
        return width, height
    shrink = math.sqrt(size[0] * size[1] / area)
    width, height = (max(multiple, math.floor(side / shrink / multiple) * multiple) for side in size)
    # A side that is held up by the least there is takes its room from the other, longer one.
    if width < height:
        return width, min(height, area // width // multiple * multiple)
    return min(width, area // height // multiple * multiple), height
