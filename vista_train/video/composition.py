"""The composition algebra: clips, and three ways to make one video out of several. Pure data, no pixels.

Time is exact (`fractions.Fraction` seconds), spans are half-open, and the frame shown at `t` is the last one that
began at or before `t`. Everything compares by value and can be written to JSON and read back.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vista_train.video.fade import Timeline
from vista_train.video.geometry import FITS, Box, Fit, Number, Span, exact

if TYPE_CHECKING:
    # Processes that only decode come by here, and go without it.
    import torch


def _derived() -> Any:
    """A field that follows from the others. It is looked at often, and set once."""
    return field(init=False, repr=False, compare=False)


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


class Video:
    """What every composition is: a duration, a size, a number of source frames, and `subclip`."""

    duration: Fraction
    """Length in seconds."""
    size: tuple[int, int]
    """Width and height in pixels, as displayed."""
    frame_measure: Fraction
    """How many source frames the video shows, as a fraction: additive over time, so known before anything is cut."""

    def subclip(self, start: Number, end: Number) -> Video:
        """The part [start, end) in seconds; `ValueError` outside [0, duration] or when empty."""
        first, last = exact(start), exact(end)
        if not 0 <= first < last <= self.duration:
            raise ValueError(
                f"subclip [{float(first)}, {float(last)}) s is not a part of a video of {float(self.duration)} s"
            )
        return self if (first, last) == (0, self.duration) else self._cut(first, last)

    def _cut(self, start: Fraction, end: Fraction) -> Video:
        raise TypeError(f"{type(self).__name__} cannot be cut")

    def to_json(self) -> dict[str, Any]:
        """A JSON-able description; `video_from_json` reads it back to an equal value."""
        raise TypeError(f"{type(self).__name__} cannot be written as JSON")

    def clips(self) -> tuple[Clip, ...]:
        """The clips the video is made of, in order of appearance, with repeats."""
        raise TypeError(f"{type(self).__name__} has no clips")


QAKind: TypeAlias = Literal["clip", "story", "order"]
"""What a question is about: one clip by itself, all that happens in several, or the order in which it happens."""


@dataclass(frozen=True)
class QA:
    """A question, its answer, and wrong answers of the same kind, if any are known."""

    question: str
    answer: str
    distractors: tuple[str, ...] = ()
    kind: QAKind = "clip"
    clips: int = 1
    """How many clips it is about: the one that has it and those that follow in its source, joined in order of time."""

    def to_json(self) -> dict[str, Any]:
        """Its JSON form; what is as usual is left out, so that it reads as it did before there was anything else."""
        out: dict[str, Any] = {
            "question": self.question,
            "answer": self.answer,
            "distractors": list(self.distractors),
        }
        return out | ({} if self.kind == "clip" else {"kind": self.kind, "clips": self.clips})


@dataclass(frozen=True)
class Clip(Video):
    """A span [start, end) of one media file, with what is known of it.

    `path` is relative to the data root. Time 0 of a file is the moment its first frame is shown. A clip may hold
    its pixels instead (`frames_TCHW`, uint8, spread evenly over the span): it then compares by their content and
    refuses JSON.
    """

    path: str
    start: Fraction
    end: Fraction
    width: int
    height: int
    fps: Fraction = Fraction(30)
    caption: str = ""
    qa: tuple[QA, ...] = ()
    source: str = ""
    frames_TCHW: torch.Tensor | None = field(default=None, compare=False, repr=False)
    duration: Fraction = _derived()

    def __post_init__(self) -> None:
        for name in ("start", "end", "fps"):
            object.__setattr__(self, name, exact(getattr(self, name)))
        object.__setattr__(self, "duration", self.end - self.start)
        # The sign of a fraction is its numerator's, which is faster to look at.
        if self.start.numerator < 0 or self.duration.numerator <= 0:
            raise ValueError(
                f"clip {self.path!r}: span [{float(self.start)}, {float(self.end)}) s must be 0 <= start < end"
            )
        _check_size(f"clip {self.path!r}", self.size)
        if self.fps.numerator <= 0:
            raise ValueError(f"clip {self.path!r}: fps {float(self.fps)} must be above 0")

    @classmethod
    def from_frames(cls, frames_TCHW: torch.Tensor, duration: Number, caption: str = "", **known: Any) -> Clip:
        """A clip of pixels in memory: uint8 [T, 3, H, W], shown evenly over `duration` seconds."""
        if frames_TCHW.ndim != 4 or frames_TCHW.shape[1] != 3 or str(frames_TCHW.dtype) != "torch.uint8":
            raise ValueError(
                f"frames_TCHW must be uint8 [T, 3, H, W], not {frames_TCHW.dtype} {list(frames_TCHW.shape)}"
            )
        digest = hashlib.sha256(frames_TCHW.contiguous().numpy().tobytes())
        digest.update(repr(tuple(frames_TCHW.shape)).encode())
        seconds = exact(duration)
        num, _, height, width = frames_TCHW.shape
        return cls(
            path=f"memory:{digest.hexdigest()}",
            start=Fraction(0),
            end=seconds,
            width=width,
            height=height,
            fps=num / seconds,
            caption=caption,
            frames_TCHW=frames_TCHW,
            **known,
        )

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        return (self.width, self.height)

    @property
    def frame_measure(self) -> Fraction:  # type: ignore[override]
        return self.duration * self.fps

    def subclip(self, start: Number, end: Number) -> Clip:
        part = super().subclip(start, end)
        assert isinstance(part, Clip)
        return part

    def _cut(self, start: Fraction, end: Fraction) -> Clip:
        return replace(self, start=self.start + start, end=self.start + end)

    def clips(self) -> tuple[Clip, ...]:
        return (self,)

    def to_json(self) -> dict[str, Any]:
        if self.frames_TCHW is not None:
            raise ValueError(f"clip {self.path!r} holds its pixels in memory and cannot be written as JSON")
        out: dict[str, Any] = {
            "kind": "clip",
            "path": self.path,
            "start": _ratio(self.start),
            "end": _ratio(self.end),
            "width": self.width,
            "height": self.height,
            "fps": _ratio(self.fps),
            "caption": self.caption,
            "source": self.source,
        }
        if self.qa:
            out["qa"] = [qa.to_json() for qa in self.qa]
        return out


@dataclass(frozen=True)
class Concat(Video):
    """Parts shown one after another, each fitted into `size` (default: the first part's)."""

    parts: tuple[Video, ...]
    size: tuple[int, int] = (0, 0)
    fit: Fit = "letterbox"
    fade_seconds: Fraction = Fraction(0)
    """Each part begins so long before the one ahead of it ends, and the pictures are blended linearly in time."""
    window: Span | None = None
    """With fades, what is shown of it all: a part that is cut within a fade is kept whole."""
    duration: Fraction = _derived()
    frame_measure: Fraction = _derived()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("Concat needs at least one part")
        object.__setattr__(self, "size", self.parts[0].size if tuple(self.size) == (0, 0) else tuple(self.size))
        _check_size("Concat", self.size)
        _check_fit(self.fit)
        if self.fade_seconds or self.window:
            object.__setattr__(self, "fade_seconds", exact(self.fade_seconds))
            line = self.timeline()
            object.__setattr__(self, "window", None if line.whole else line.window)
            object.__setattr__(self, "duration", line.window.end - line.window.start)
            rates = [part.frame_measure / part.duration for part in self.parts]
            object.__setattr__(self, "frame_measure", line.measure(rates))
            return
        for name in ("duration", "frame_measure"):
            object.__setattr__(self, name, sum((getattr(part, name) for part in self.parts), Fraction(0)))

    def timeline(self) -> Timeline:
        """With fades, when each part is shown, and how strongly."""
        return Timeline.of([part.duration for part in self.parts], self.fade_seconds, self.window)

    def spans(self) -> tuple[Span, ...]:
        """When each part is shown; with fades, two neighbours are both."""
        if self.fade_seconds:
            return self.timeline().spans()
        edges = [Fraction(0)]
        for part in self.parts:
            edges.append(edges[-1] + part.duration)
        return tuple(Span(a, b) for a, b in itertools.pairwise(edges))

    def _cut(self, start: Fraction, end: Fraction) -> Concat:
        if self.fade_seconds:
            parts, window = self.timeline().cut(start, end)
            return replace(self, parts=self.parts[parts], window=window)
        kept = []
        for part, span in zip(self.parts, self.spans(), strict=True):
            first, last = max(start, span.start), min(end, span.end)
            if first < last:
                kept.append(part.subclip(first - span.start, last - span.start))
        return replace(self, parts=tuple(kept))

    def clips(self) -> tuple[Clip, ...]:
        return tuple(clip for part in self.parts for clip in part.clips())

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "kind": "concat",
            "parts": [part.to_json() for part in self.parts],
            "size": list(self.size),
            "fit": self.fit,
        }
        if self.fade_seconds:
            line = self.timeline().window
            out |= {"fade_seconds": _ratio(self.fade_seconds), "window": [_ratio(line.start), _ratio(line.end)]}
        return out


@dataclass(frozen=True)
class Overlay(Video):
    """`inset` pasted over `base` from second `start` on, inside `box`, for as long as both last."""

    base: Video
    inset: Video
    start: Fraction
    box: Box
    fit: Fit = "letterbox"
    soft_edge: Fraction = Fraction(0)
    """The share of the box's width and height, on each side, over which the inset becomes opaque, from the edge in."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", exact(self.start))
        object.__setattr__(self, "soft_edge", exact(self.soft_edge))
        if not 0 <= self.soft_edge <= Fraction(1, 2):
            raise ValueError(f"Overlay: soft_edge is {float(self.soft_edge)}; it must be a share in 0..0.5")
        if not 0 <= self.start < self.base.duration:
            raise ValueError(
                f"the inset starts at {float(self.start)} s, outside a base of {float(self.base.duration)} s"
            )
        _check_fit(self.fit)

    @property
    def duration(self) -> Fraction:  # type: ignore[override]
        return self.base.duration

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        return self.base.size

    @property
    def frame_measure(self) -> Fraction:  # type: ignore[override]
        return self.base.frame_measure

    @property
    def span(self) -> Span:
        """When the inset is shown."""
        return Span(self.start, min(self.base.duration, self.start + self.inset.duration))

    def _cut(self, start: Fraction, end: Fraction) -> Video:
        base = self.base.subclip(start, end)
        first, last = max(start, self.span.start), min(end, self.span.end)
        if first >= last:
            return base
        inset = self.inset.subclip(first - self.start, last - self.start)
        return replace(self, base=base, inset=inset, start=first - start)

    def clips(self) -> tuple[Clip, ...]:
        return self.base.clips() + self.inset.clips()

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "overlay",
            "base": self.base.to_json(),
            "inset": self.inset.to_json(),
            "start": _ratio(self.start),
            "box": [_ratio(edge) for edge in self.box.edges],
            "fit": self.fit,
        } | ({"soft_edge": _ratio(self.soft_edge)} if self.soft_edge else {})


@dataclass(frozen=True)
class Grid(Video):
    """Cells shown side by side, row by row from the top left, for as long as the shortest of them lasts."""

    cells: tuple[Video, ...]
    rows: int
    columns: int
    size: tuple[int, int] = (1920, 1080)
    fit: Fit = "letterbox"
    duration: Fraction = _derived()
    frame_measure: Fraction = _derived()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(self.cells))
        object.__setattr__(self, "size", tuple(self.size))
        if self.rows < 1 or self.columns < 1 or len(self.cells) != self.rows * self.columns:
            raise ValueError(
                f"a grid of {self.rows}x{self.columns} needs {self.rows * self.columns} cells, not {len(self.cells)}"
            )
        _check_size("Grid", self.size)
        _check_fit(self.fit)
        seconds = min(cell.duration for cell in self.cells)
        object.__setattr__(self, "duration", seconds)
        measures = (cell.frame_measure * seconds / cell.duration for cell in self.cells)
        object.__setattr__(self, "frame_measure", max(measures))

    def box_of(self, index: int) -> Box:
        """Where cell `index` (row-major, from 0) lies."""
        row, column = divmod(index, self.columns)
        return Box(
            Fraction(column, self.columns),
            Fraction(row, self.rows),
            Fraction(column + 1, self.columns),
            Fraction(row + 1, self.rows),
        )

    def _cut(self, start: Fraction, end: Fraction) -> Grid:
        return replace(self, cells=tuple(cell.subclip(start, end) for cell in self.cells))

    def clips(self) -> tuple[Clip, ...]:
        return tuple(clip for cell in self.cells for clip in cell.clips())

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "grid",
            "cells": [cell.to_json() for cell in self.cells],
            "rows": self.rows,
            "columns": self.columns,
            "size": list(self.size),
            "fit": self.fit,
        }


def video_from_json(data: Mapping[str, Any]) -> Video:
    """Read what `Video.to_json` wrote; `ValueError` names an unknown kind or a missing key."""
    try:
        match data["kind"]:
            case "clip":
                return _clip_from_json(data)
            case "concat":
                joined = (tuple(map(video_from_json, data["parts"])), _pair(data["size"]), data["fit"])
                if "fade_seconds" not in data:
                    return Concat(*joined)
                return Concat(*joined, Fraction(data["fade_seconds"]), Span(*map(Fraction, data["window"])))
            case "overlay":
                base, inset = video_from_json(data["base"]), video_from_json(data["inset"])
                start, edge = Fraction(data["start"]), Fraction(data.get("soft_edge", 0))
                return Overlay(base, inset, start, box_from_json(data["box"]), data["fit"], edge)
            case "grid":
                cells = tuple(map(video_from_json, data["cells"]))
                return Grid(cells, data["rows"], data["columns"], _pair(data["size"]), data["fit"])
            case kind:
                raise ValueError(f"unknown kind of video {kind!r}; known: clip, concat, overlay, grid")
    except KeyError as missing:
        raise ValueError(f"a video of kind {data.get('kind')!r} lacks the key {missing}") from None


def box_from_json(edges: Sequence[str]) -> Box:
    """A Box from its four edges, written as "num/den"."""
    return Box(*(Fraction(edge) for edge in edges))


def qa_from_json(entries: Sequence[Mapping[str, Any]]) -> tuple[QA, ...]:
    """Question/answer pairs from their JSON form."""
    return tuple(
        QA(e["question"], e["answer"], tuple(e.get("distractors", ())), e.get("kind", "clip"), e.get("clips", 1))
        for e in entries
    )


def _clip_from_json(data: Mapping[str, Any]) -> Clip:
    return Clip(
        path=data["path"],
        start=Fraction(data["start"]),
        end=Fraction(data["end"]),
        width=data["width"],
        height=data["height"],
        fps=Fraction(data["fps"]),
        caption=data["caption"],
        source=data["source"],
        qa=qa_from_json(data.get("qa", ())),
    )


def _pair(values: Sequence[int]) -> tuple[int, int]:
    width, height = values
    return (int(width), int(height))


def _check_size(what: str, size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise ValueError(f"{what}: size {size[0]}x{size[1]} must be at least 1x1 pixels")


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise ValueError(f"fit {fit!r} is unknown; choose one of {', '.join(FITS)}")
