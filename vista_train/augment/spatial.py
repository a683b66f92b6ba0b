"""Augmentations in space (VISTA section 2.2 and 2.3): small videos over large ones, and grids."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vista_train.augment import placement, questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.augment.temporal import DISTRACTORS
from vista_train.types import Evidence, Sample
from vista_train.video.composition import Grid, Overlay
from vista_train.video.geometry import Fit, Span, exact
from vista_train.video.sampling import View


@dataclass(frozen=True)
class SpatialNeedle(Augment):
    """A small clip over a large one at a random place, as long as both last (VISTA 2.2, Table 1 E)."""

    roles = (Role("haystack"), Role("needle"), DISTRACTORS)
    needle_scale: tuple[float, float] = (0.2, 0.35)
    """The inset fits this share of the frame's width and height, drawn uniformly (the paper's figure: 0.25 x 0.28)."""
    max_seconds: float = 10.0
    """The composed video lasts at most this long (the paper's average: 9.9 s)."""
    multiple_choice: float = 0.5
    """Share of questions with options."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        host, needle = clips["haystack"][0], clips["needle"][0]
        seconds = min(host.duration, needle.duration, exact(self.max_seconds))
        frames = view.count(seconds, host.subclip(0, seconds).frame_measure)
        box = placement.draw_box(rng, view, host.size, needle.size, self.needle_scale, frames)
        return {"seconds": seconds, "box": box, "wording": questions.draw_wording(rng, self.multiple_choice)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        seconds, wording = params["seconds"], params["wording"]
        host, needle = (clips[role][0].subclip(0, seconds) for role in ("haystack", "needle"))
        video = Overlay(host, needle, exact(0), params["box"])
        where = questions.one_of(wordings.SPATIAL_NEEDLE, wording)
        asked = questions.about(needle, where, wording, (host,), clips.get("distractor", ()))
        evidence = (Evidence(video.span, video.box),)
        return Sample(video, questions.converse(asked, wording), evidence, self.name)


@dataclass(frozen=True)
class SpatioTemporalNeedle(Augment):
    """A short clip over part of a longer one, at a random place and time (VISTA 2.2, Table 1 F)."""

    roles = (Role("haystack"), Role("needle"), DISTRACTORS)
    max_needle_seconds: float = 10.0
    """A longer needle is cut at its end (the paper gives no length)."""
    needle_scale: tuple[float, float] = (0.3, 0.65)
    """The inset fits this share of the frame's width and height, drawn uniformly (the paper's figure: 0.64 x 0.65)."""
    multiple_choice: float = 0.5
    """Share of questions with options."""

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        host, needle = placement.needle_in(clips, self.max_needle_seconds)
        host = placement.seen_host(host, needle.duration, Fraction(0), view)
        times = view.sampled(host.duration, host.frame_measure)
        latest = host.duration - needle.duration
        start = placement.draw_start(rng, times, needle.duration, latest, view.min_visible)
        box = placement.draw_box(rng, view, host.size, needle.size, self.needle_scale, len(times))
        wording = questions.draw_wording(rng, self.multiple_choice)
        return {"host_end": host.duration, "start": start, "box": box, "wording": wording}

    def apply(self, clips: Cast, params: Params) -> Sample:
        host, needle = placement.needle_in(clips, self.max_needle_seconds)
        video = Overlay(host.subclip(0, params["host_end"]), needle, params["start"], params["box"])
        wording = params["wording"]
        where = questions.one_of(wordings.SPATIO_TEMPORAL_NEEDLE, wording)
        asked = questions.about(needle, where, wording, (host,), clips.get("distractor", ()))
        evidence = (Evidence(video.span, video.box),)
        return Sample(video, questions.converse(asked, wording), evidence, self.name)


def check_grid(rows: int, columns: int, cell_size: tuple[int, int]) -> None:
    """`ValueError` unless there is a cell, and something can be seen in it."""
    if min(rows, columns, *cell_size) < 1:
        raise ValueError(f"augment.video_grid: {rows}x{columns} cells of {cell_size} px; all must be above 0")


@dataclass(frozen=True)
class VideoGrid(Augment):
    """Many clips side by side, and a question about one cell by row and column, from 1 (VISTA 2.3, Table 1 G)."""

    rows: int = 8
    """Rows of the grid."""
    columns: int = 8
    """Columns of the grid."""
    cell_size: tuple[int, int] = (240, 135)
    """Width and height of a cell in pixels, before the model's view: 8x8 of 240x135 make 1920x1080."""
    max_seconds: float = 3.0
    """The grid lasts at most this long (the paper's average), and no longer than its shortest clip."""
    multiple_choice: float = 0.5
    """Share of questions with options; wrong ones are other cells."""
    fit: Fit = "letterbox"
    """How clips are put into their cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.rows, self.columns, self.cell_size)

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        num_cells = self.rows * self.columns
        return (Role("cell", num_cells, min_count=num_cells),)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        seconds = min(exact(self.max_seconds), *(clip.duration for clip in clips["cell"]))
        cell = int(rng.integers(self.rows * self.columns))
        return {"seconds": seconds, "cell": cell, "wording": questions.draw_wording(rng, self.multiple_choice)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        number, wording, rows, columns = params["cell"], params["wording"], self.rows, self.columns
        needle, *others = (clip.subclip(0, params["seconds"]) for clip in clips["cell"][: rows * columns])
        size = (columns * self.cell_size[0], rows * self.cell_size[1])
        video = Grid((*others[:number], needle, *others[number:]), rows, columns, size, self.fit)
        asked = questions.about(needle, questions.cell(number, rows, columns, wording), wording, shown=others)
        box = placement.inset_box(video.box_of(number), size, needle.size, self.fit)
        evidence = (Evidence(Span(0, video.duration), box),)  # type: ignore[arg-type]
        return Sample(video, questions.converse(asked, wording), evidence, self.name)
