"""Time and space, exact: seconds and fractions of a frame as `Fraction`, turned to pixels only at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Integral
from typing import Literal, NamedTuple, TypeAlias

Fit: TypeAlias = Literal["letterbox", "crop", "squash"]
Number: TypeAlias = int | float | str | Fraction
FITS = ("letterbox", "crop", "squash")


def exact(value: Number) -> Fraction:
    """The number as a Fraction; a float counts as the decimal it prints as (0.1 is 1/10), "3/2" as a ratio."""
    if isinstance(value, Fraction):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        # numpy's float64 is a float, but prints its name too. A Decimal is read faster than a Fraction.
        return Fraction(Decimal(repr(float(value))))
    return Fraction(int(value)) if isinstance(value, Integral) else Fraction(value)


@dataclass(frozen=True)
class Span:
    """A half-open time span [start, end) in seconds of the video it describes."""

    start: Fraction
    end: Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", exact(self.start))
        object.__setattr__(self, "end", exact(self.end))
        if not self.start < self.end:
            raise ValueError(f"span [{float(self.start)}, {float(self.end)}) is empty; end must be after start")

    def __contains__(self, time: Fraction) -> bool:
        return self.start <= time < self.end


@dataclass(frozen=True)
class Box:
    """A rectangle in fractions of the frame it lies on: left, top, right, bottom."""

    left: Fraction = Fraction(0)
    top: Fraction = Fraction(0)
    right: Fraction = Fraction(1)
    bottom: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        for name in ("left", "top", "right", "bottom"):
            object.__setattr__(self, name, exact(getattr(self, name)))
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise ValueError(f"box {[float(edge) for edge in self.edges]} must lie in 0..1, left < right, top < bottom")

    @property
    def edges(self) -> tuple[Fraction, Fraction, Fraction, Fraction]:
        return (self.left, self.top, self.right, self.bottom)


class Rect(NamedTuple):
    """A rectangle on a canvas: edges in pixels, exact before rounding."""

    left: Fraction
    top: Fraction
    right: Fraction
    bottom: Fraction

    @classmethod
    def of_size(cls, width: int, height: int) -> Rect:
        return cls(Fraction(0), Fraction(0), Fraction(width), Fraction(height))

    @property
    def width(self) -> Fraction:
        return self.right - self.left

    @property
    def height(self) -> Fraction:
        return self.bottom - self.top

    def part(self, box: Box) -> Rect:
        """Where `box`, in fractions of this rectangle, lies on the canvas."""
        width, height = self.width, self.height
        return Rect(
            self.left + box.left * width,
            self.top + box.top * height,
            self.left + box.right * width,
            self.top + box.bottom * height,
        )

    def fitted(self, width: int | Fraction, height: int | Fraction, fit: Fit) -> Rect:
        """Where a picture of width x height lies when it is fitted into this rectangle, centred.

        `letterbox` keeps all of it and leaves bars, `crop` covers the rectangle and overhangs, `squash` ignores
        its aspect ratio.
        """
        if fit == "squash":
            return self
        room_x, room_y = self.width, self.height
        ratios = (room_x / width, room_y / height)
        if ratios[0] == ratios[1]:
            return self
        scale = min(ratios) if fit == "letterbox" else max(ratios)
        margin_x, margin_y = (room_x - width * scale) / 2, (room_y - height * scale) / 2
        return Rect(self.left + margin_x, self.top + margin_y, self.right - margin_x, self.bottom - margin_y)

    def pixels(self) -> Pixels:
        """Every edge rounded to the nearest pixel, halves up."""
        return Pixels(*map(_rounded, self))


def _rounded(edge: Fraction) -> int:
    """The nearest whole number, halves up; in whole numbers, which is a good deal faster than in fractions."""
    return (2 * edge.numerator + edge.denominator) // (2 * edge.denominator)


class Pixels(NamedTuple):
    """A rectangle in whole pixels, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def __and__(self, other: Pixels) -> Pixels:
        return Pixels(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    @property
    def width(self) -> int:
        return max(0, self.right - self.left)

    @property
    def height(self) -> int:
        return max(0, self.bottom - self.top)

    @property
    def empty(self) -> bool:
        return not (self.width and self.height)
