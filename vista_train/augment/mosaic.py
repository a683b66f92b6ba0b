"""Grids of many shapes, asked both ways: what is in a cell, and which cell something is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vista_train.augment import placement, questions, wordings
from vista_train.augment.base import Augment, Cast, Params, Role
from vista_train.augment.strangers import asked_for, check_stranger
from vista_train.types import Evidence, Sample
from vista_train.video.composition import Clip, Grid
from vista_train.video.geometry import Fit, Span, exact
from vista_train.video.sampling import View


def check_mosaic(rows: tuple[int, int], columns: tuple[int, int], cell_size: tuple[int, int]) -> None:
    """`ValueError` unless every grid has two cells and more, and something can be seen in them."""
    for name, (low, high) in (("rows", rows), ("columns", columns)):
        if not 1 <= low <= high:
            raise ValueError(f"augment.mosaic.{name} is {[low, high]}; it must be two numbers above 0, in order")
    if rows[0] * columns[0] < 2 or min(cell_size) < 1:
        raise ValueError(
            f"augment.mosaic: {rows[0]}x{columns[0]} cells of {list(cell_size)} px; a grid has at least two, above 0 px"
        )


def draw_shape(rng: np.random.Generator, rows: tuple[int, int], columns: tuple[int, int]) -> dict[str, int]:
    """Rows and columns, each uniform within its bounds, and one of the cells."""
    num_rows, num_columns = (int(rng.integers(low, high + 1)) for low, high in (rows, columns))
    return {"rows": num_rows, "columns": num_columns, "cell": int(rng.integers(num_rows * num_columns))}


def grid_of(clips: Sequence[Clip], params: Params, cell_size: tuple[int, int], fit: Fit) -> Grid:
    """The grid that was drawn: the first clip in the cell that is asked about, those after it in the others."""
    rows, columns, number = params["rows"], params["columns"], params["cell"]
    needle, *others = (clip.subclip(0, params["seconds"]) for clip in clips[: rows * columns])
    size = (columns * cell_size[0], rows * cell_size[1])
    return Grid((*others[:number], needle, *others[number:]), rows, columns, size, fit)


def in_cell(grid: Grid, number: int, wording: questions.Wording) -> questions.Asked:
    """The question what a cell (row-major, from 0) shows; what others show is wrong."""
    needle, *others = (grid.clips()[number], *grid.clips()[:number], *grid.clips()[number + 1 :])
    where = questions.cell(number, grid.rows, grid.columns, wording)
    return questions.about(needle, where, wording, shown=others)


def which_cell(grid: Grid, number: int, wording: questions.Wording) -> questions.Asked:
    """The question which cell shows what this one does; other cells are wrong."""
    needle, *others = (grid.clips()[number], *grid.clips()[:number], *grid.clips()[number + 1 :])
    check_stranger(needle, others)
    places = [
        f"Row {place // grid.columns + 1}, column {place % grid.columns + 1}." for place in range(len(grid.cells))
    ]
    wrong = places if wording.letter is not None else []
    return questions.Asked(asked_for(needle, wordings.WHICH_CELL, wording), places[number], shown=tuple(wrong))


@dataclass(frozen=True)
class Mosaic(Augment):
    """Clips side by side in as many rows and columns as are drawn; what one cell shows, or which cell shows a clip."""

    by_default = False
    rows: tuple[int, int] = (2, 8)
    """The fewest and the most rows."""
    columns: tuple[int, int] = (2, 8)
    """The fewest and the most columns."""
    cell_size: tuple[int, int] = (240, 135)
    """Width and height of a cell in pixels, before the model's view."""
    max_seconds: float = 3.0
    """The grid lasts at most this long, and no longer than the shortest clip."""
    inverse: float = 0.5
    """Share of questions that name a clip and ask for its row and column; the others name a cell."""
    multiple_choice: float = 0.5
    """Share of questions with options; wrong ones are, or are in, other cells."""
    fit: Fit = "letterbox"
    """How clips are put into their cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mosaic(self.rows, self.columns, self.cell_size)

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        num_cells = self.rows[1] * self.columns[1]
        return (Role("cell", num_cells, min_count=num_cells),)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        seconds = min(exact(self.max_seconds), *(clip.duration for clip in clips["cell"]))
        choices = draw_shape(rng, self.rows, self.columns) | {"inverse": int(rng.random() < self.inverse)}
        return {**choices, "seconds": seconds, "wording": questions.draw_wording(rng, self.multiple_choice)}

    def apply(self, clips: Cast, params: Params) -> Sample:
        video, wording = grid_of(clips["cell"], params, self.cell_size, self.fit), params["wording"]
        asked = (which_cell if params["inverse"] else in_cell)(video, params["cell"], wording)
        box = placement.inset_box(video.box_of(params["cell"]), video.size, clips["cell"][0].size, self.fit)
        evidence = (Evidence(Span(exact(0), video.duration), box),)
        return Sample(video, questions.converse(asked, wording), evidence, self.name)
