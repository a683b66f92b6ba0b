"""When a composed video shows which clip: its expression laid out in lanes over time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from vista_train.video.composition import Clip, Concat, Grid, Overlay, Video
from vista_train.video.geometry import Box, Span


@dataclass(frozen=True)
class Segment:
    """A stretch of the composed video in which one clip runs."""

    lane: int
    """What is shown at the same time lies in lanes of its own, such as an inset beside its base."""
    span: Span
    """In the composed video."""
    clip: Clip | None
    """The part of the source that runs; None for a composition that this module cannot take apart."""
    place: str = ""
    """Where it is shown, if not on the whole frame."""
    cell: Box = Box()
    """The share of its stretch of the lane that it is drawn in: clips in a grid share one, row by row."""


def segments(video: Video) -> list[Segment]:
    """All segments of a video, lane by lane within each part, in the order of `video.clips()`."""
    return _laid(video, Fraction(0), video.duration, 0, "")


def _laid(video: Video, start: Fraction, until: Fraction, lane: int, place: str) -> list[Segment]:
    """The segments of a video that begins at `start` and is cut off at `until`."""
    end = min(until, start + video.duration)
    if start >= end:
        return []
    match video:
        case Clip():
            clip = video.subclip(0, end - start)
            assert isinstance(clip, Clip)
            return [Segment(lane, Span(start, end), clip, place)]
        case Concat():
            parts = zip(video.parts, video.spans(), strict=True)
            return [
                segment
                for part, span in parts
                for segment in _laid(part, start + span.start, min(end, start + span.end), lane, place)
            ]
        case Overlay():
            below = _laid(video.base, start, end, lane, place)
            first, last = start + video.span.start, min(end, start + video.span.end)
            return below + _laid(video.inset, first, last, _next_lane(below, lane), _joined(place, "inset"))
        case Grid():
            return _cells(video, start, end, lane, place)
        case _:
            return [Segment(lane, Span(start, end), None, _joined(place, type(video).__name__))]


def _cells(grid: Grid, start: Fraction, end: Fraction, lane: int, place: str) -> list[Segment]:
    """The segments of a grid: clips share a lane, and cells that are composed themselves have lanes of their own."""
    is_plain = all(isinstance(cell, Clip) for cell in grid.cells)
    laid: list[Segment] = []
    for number, cell in enumerate(grid.cells):
        row, column = divmod(number, grid.columns)
        where = _joined(place, f"row {row + 1}, column {column + 1}")
        if is_plain:
            laid += [replace(one, cell=grid.box_of(number)) for one in _laid(cell, start, end, lane, where)]
        else:
            laid += _laid(cell, start, end, _next_lane(laid, lane), where)
    return laid


def _next_lane(segments: list[Segment], lane: int) -> int:
    return max((segment.lane + 1 for segment in segments), default=lane)


def _joined(*places: str) -> str:
    return ", ".join(filter(None, places))
