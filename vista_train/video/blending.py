"""Pictures seen through one another: fades in time, and insets whose edges are soft."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from vista_train.video.geometry import Pixels, Rect

HALF = 0.5 + 1e-9
"""Sums are rounded halves up; what a sum of fractions lacks of a half in floating point is made up for."""


class Veil(NamedTuple):
    """An inset with soft edges: its opacity rises from its box's edge inwards, in a straight line, to 1."""

    rect: Rect
    edge: Fraction
    """The share of the box's width and height, on each side, over which it rises."""
    inset: bool
    """Whether this is seen of the inset, or of what lies under it."""

    def weights(self, area: Pixels) -> np.ndarray:
        """How much of every pixel of an area is seen, by the pixel's middle: [height, width], 0 to 1."""
        across = _risen(self.rect.left, self.rect.right, self.edge, range(area.left, area.right))
        down = _risen(self.rect.top, self.rect.bottom, self.edge, range(area.top, area.bottom))
        opacity = np.minimum.outer(down, across)
        return opacity if self.inset else 1 - opacity


def _risen(low: Fraction, high: Fraction, edge: Fraction, pixels: range) -> np.ndarray:
    middles = np.arange(pixels.start, pixels.stop) + 0.5
    inwards = np.minimum(middles - float(low), float(high) - middles)
    return np.clip(inwards / float((high - low) * edge), 0, 1)


class Blend(NamedTuple):
    """How strongly a picture is seen: by its share in time, and through veils."""

    share: Fraction = Fraction(1)
    veils: tuple[Veil, ...] = ()

    def area(self, window: Pixels) -> Pixels:
        """The part of a window where it is not seen alone."""
        if self.share != 1 or any(veil.inset for veil in self.veils):
            return window
        boxes = [veil.rect.pixels() & window for veil in self.veils]
        boxes = [box for box in boxes if not box.empty]
        return hull(boxes) if boxes else window._replace(right=window.left)

    def weights(self, area: Pixels) -> np.ndarray:
        """What every pixel of an area is multiplied by: [height, width]."""
        out = np.full((area.height, area.width), float(self.share))
        for veil in self.veils:
            out *= veil.weights(area)
        return out


def hull(areas: Iterable[Pixels]) -> Pixels:
    """The smallest rectangle around all of them."""
    lefts, tops, rights, bottoms = zip(*areas, strict=True)
    return Pixels(min(lefts), min(tops), max(rights), max(bottoms))


class Mixture:
    """The sums of weighted pictures on one frame, where any are blended."""

    def __init__(self, areas: Iterable[Pixels]) -> None:
        self.area = hull(areas)
        self.sums_HWC = np.zeros((self.area.height, self.area.width, 3))
        self.painted_HW = np.zeros((self.area.height, self.area.width), bool)

    def add(self, picture_HWC: np.ndarray, area: Pixels, blend: Blend, holes: Iterable[Pixels]) -> None:
        """Add what is seen of a picture in an area, which it fills, but not in the holes."""
        seen_HW = np.ones((area.height, area.width), bool)
        for hole in holes:
            hidden = hole & area
            if not hidden.empty:
                seen_HW[_within(hidden, area)] = False
        weights_HW = np.where(seen_HW, blend.weights(area), 0)
        self.sums_HWC[_within(area, self.area)] += weights_HW[:, :, None] * picture_HWC
        self.painted_HW[_within(area, self.area)] |= seen_HW

    def settle(self, frame_HWC: np.ndarray) -> None:
        """Write the sums, rounded, to the frame where anything was added."""
        target_HWC = frame_HWC[self.area.top : self.area.bottom, self.area.left : self.area.right]
        np.copyto(target_HWC, np.floor(self.sums_HWC + HALF).astype(np.uint8), where=self.painted_HW[:, :, None])


def _within(area: Pixels, outer: Pixels) -> tuple[slice, slice]:
    return (
        slice(area.top - outer.top, area.bottom - outer.top),
        slice(area.left - outer.left, area.right - outer.left),
    )
