"""Which times are looked at, and where things lie on the canvas: by the published formulas, exact until rounded."""

from __future__ import annotations

import inspect
import time
from fractions import Fraction

import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from vista_train.video.geometry import Box, Pixels, Rect, Span
from vista_train.video.sampling import View

EPSILON = Fraction(1, 10**12)


def frames_shown(times: tuple[Fraction, ...], fps: int) -> list[int]:
    return [int(time * fps) for time in times]


def test_midpoints_are_the_middles_of_equal_intervals() -> None:
    view = View(frames=8)
    times = view.times(Fraction(112), Fraction(112 * 30))
    assert times == tuple(Fraction(7 + 14 * i) for i in range(8))
    assert view.times(Fraction(1, 3), Fraction(10), limit=2) == (Fraction(1, 12), Fraction(1, 4))


@pytest.mark.parametrize("num", [1, 2, 3, 8, 9, 32, 100])
@pytest.mark.parametrize("total", [1, 2, 7, 8, 64, 100, 997])
def test_linspace_ends_is_numpys_linspace_over_frames(num: int, total: int) -> None:
    view, fps = View(frames=num, sampling="linspace_ends"), 24
    times = view.times(Fraction(total, fps), Fraction(total))
    kept = min(num, total)
    # LongVA: np.linspace(0, total - 1, num, dtype=int); in whole numbers, where its floats round down by chance.
    wanted = [i * (total - 1) // (kept - 1) for i in range(kept)] if kept > 1 else [0]
    assert frames_shown(times, fps) == wanted
    assert np.abs(np.linspace(0, total - 1, kept) - [float(time * fps) for time in times]).max() < 1e-9


def test_fps_looks_at_a_fixed_rate_until_frames_run_out() -> None:
    view = View(frames=10, sampling="fps", fps=0.1)
    assert view.times(Fraction(35), Fraction(3500)) == (0, 10, 20, 30)
    assert view.times(Fraction(30), Fraction(3000)) == (0, 10, 20)
    assert view.times(Fraction(30) + EPSILON, Fraction(3000)) == (0, 10, 20, 30)
    assert view.times(Fraction(3), Fraction(3)) == (0,)
    assert view.times(Fraction(1000), Fraction(9999)) == tuple(Fraction(100 * i) for i in range(10))


@pytest.mark.parametrize("sampling", ["midpoints", "linspace_ends", "fps"])
def test_times_lie_inside_increase_and_never_repeat_a_source_frame(sampling: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        fps, total = Fraction(int(rng.integers(1, 60))), int(rng.integers(1, 200))
        view = View(frames=int(rng.integers(1, 70)), sampling=sampling, fps=float(rng.uniform(0.1, 70)))
        limit = int(rng.integers(1, 70)) if rng.random() < 0.5 else None
        times = view.times(total / fps, Fraction(total), limit)
        assert 1 <= len(times) <= min(view.frames, total, limit or total)
        assert len(times) == min(view.frames, total, limit or total) or sampling == "fps"
        assert times[0] >= 0
        assert times[-1] < total / fps
        shown = [int(time * fps) for time in times]
        assert shown == sorted(set(shown))


@pytest.mark.parametrize("sampling", ["midpoints", "linspace_ends", "fps"])
def test_single_times_are_those_of_all(sampling: str) -> None:
    for frames in (1, 2, 9):
        view = View(frames=frames, sampling=sampling, fps=0.3)
        for duration in (Fraction(1, 7), Fraction(10), Fraction(100, 3)):
            times, sampled = view.times(duration, duration * 30), view.sampled(duration, duration * 30)
            assert [sampled[index] for index in range(-len(times), len(times))] == [*times, *times]
            with pytest.raises(IndexError):
                sampled[len(times)]


def test_times_know_only_duration_frames_and_budget() -> None:
    assert list(inspect.signature(View.times).parameters) == ["self", "duration", "frame_measure", "limit"]


def test_less_than_a_frame_is_looked_at_once() -> None:
    assert View(frames=8).times(Fraction(1, 100), Fraction(1, 4)) == (Fraction(1, 200),)
    with pytest.raises(ValueError, match="limit is 0; at least one frame must be shown"):
        View().times(Fraction(1), Fraction(30), limit=0)


@pytest.mark.parametrize(
    ("fit", "place"),
    [
        ("letterbox", (0, 42, 336, 294)),
        ("crop", (-56, 0, 392, 336)),
        ("squash", (0, 0, 336, 336)),
    ],
)
def test_a_frame_is_fitted_onto_the_canvas(fit: str, place: tuple[int, ...]) -> None:
    view = View(width=336, height=336, fit=fit)
    assert view.content((640, 480)) == place
    whole = view.pixels((640, 480), Box())
    assert whole == (Pixels(*place) & Pixels(0, 0, 336, 336))
    right_half = view.pixels((640, 480), Box(0.5, 0, 1, 1))
    assert right_half == (168, max(0, place[1]), min(336, place[2]), min(336, place[3]))


def test_fitting_keeps_aspect_and_centre_exactly() -> None:
    slot = Rect.of_size(100, 70).part(Box("1/7", "1/5", "6/7", "4/5"))
    for width, height in ((16, 9), (9, 16), (1, 1), (131, 17)):
        inside, over = slot.fitted(width, height, "letterbox"), slot.fitted(width, height, "crop")
        for rect in (inside, over):
            assert (rect.right - rect.left) * height == (rect.bottom - rect.top) * width
            assert (rect.left + rect.right, rect.top + rect.bottom) == (100, 70)
        assert slot.left <= inside.left <= over.right
        assert over.left <= slot.left
        assert over.top <= slot.top <= inside.top
        assert (inside.left, inside.right) == (slot.left, slot.right) or inside.top == slot.top


def test_edges_are_rounded_halves_up_so_neighbours_meet() -> None:
    edges = [Fraction(number, 4) for number in (-6, -2, -1, 1, 2, 3, 5, 6)]
    rounded = [Rect(edge, edge, edge, edge).pixels().left for edge in edges]
    assert rounded == [-1, 0, 0, 0, 1, 1, 1, 2]
    grid = Rect.of_size(97, 53)
    for columns in (3, 7, 8):
        cells = [grid.part(Box(Fraction(i, columns), 0, Fraction(i + 1, columns), 1)).pixels() for i in range(columns)]
        assert [cell.right for cell in cells[:-1]] == [cell.left for cell in cells[1:]]
        assert sum(cell.width for cell in cells) == 97


def test_shows_counts_frames_and_measures_the_shorter_side() -> None:
    view = View(frames=8, width=336, height=336, min_visible=2, min_pixels=14)
    times = view.times(Fraction(80), Fraction(800))
    assert times[:3] == (5, 15, 25)
    size, full = (640, 480), Box()
    assert view.shows(times, size, Span(5, 15 + EPSILON), full)
    assert not view.shows(times, size, Span(5, 15), full)
    assert not view.shows(times, size, Span(5 + EPSILON, 25), full)
    # 640x480 lies on 336x252 pixels: a height of 14/252 is 14 pixels, though its width is 100.
    assert view.shows(times, size, Span(0, 80), Box(0, 0, 0.5, Fraction(14, 252)))
    assert not view.shows(times, size, Span(0, 80), Box(0, 0, 0.5, Fraction(13, 252)))
    cropped = View(width=336, height=336, fit="crop", min_pixels=14)
    # 640x480 is 448 pixels wide, 56 of them cut off at the left.
    assert cropped.shows(times, size, Span(0, 80), Box(0, 0, Fraction(56 + 14, 448), 1))
    assert not cropped.shows(times, size, Span(0, 80), Box(0, 0, Fraction(56 + 13, 448), 1))
    assert not cropped.shows(times, size, Span(0, 80), Box(0, 0, Fraction(50, 448), 1))


def every_grid(tiles: int) -> list[tuple[int, int]]:
    return [(columns, rows) for columns in range(1, tiles + 1) for rows in range(1, tiles // columns + 1)]


def drawn_at(view: View, size: tuple[int, int], grid: tuple[int, int]) -> Fraction:
    """The scale at which a frame is shown on a grid, of which more than 1 shows nothing more."""
    return min(Fraction(1), Fraction(grid[0] * view.width, size[0]), Fraction(grid[1] * view.height, size[1]))


def random_tiling(rng: np.random.Generator) -> tuple[View, tuple[int, int], int]:
    """A view with tiles, a frame's size, and how many frames are shown."""
    width, height, columns, rows = (int(number) for number in rng.integers((14, 14, 20, 20), (400, 400, 3000, 3000)))
    frames = int(rng.integers(1, 12))
    view = View(frames=frames, width=width, height=height, tiles=int(rng.integers(1, 65)))
    return view, (columns, rows), int(rng.integers(1, frames + 1))


def test_without_tiles_every_canvas_is_the_views() -> None:
    view = View(frames=4, width=336, height=224)
    for size in ((1920, 1080), (3, 4000), (1, 1)):
        assert {view.grid(size, frames) for frames in (None, 1, 4)} == {(1, 1)}
        assert {view.canvas(size, frames) for frames in (None, 1, 4)} == {(336, 224)}


def test_the_grid_is_the_one_that_shows_the_frame_largest() -> None:
    view = View(frames=8, width=336, height=336, tiles=8 * 18)
    # 5x3 tiles would show 1680x945 of 1920x1080 pixels, 6x3 show 1792x1008 (letters above and below), 4x4 1344x756.
    assert view.grid((1920, 1080)) == (6, 3)
    assert view.canvas((1920, 1080)) == (2016, 1008)
    assert view.content((1920, 1080)) == (112, 0, 1904, 1008)
    assert view.grid((1080, 1920)) == (3, 6)
    assert view.grid((1920, 200)) == (6, 1)
    rng = np.random.default_rng(0)
    for _ in range(400):
        view, size, frames = random_tiling(rng)
        grids = every_grid(max(1, view.tiles // frames))
        largest = max(drawn_at(view, size, grid) for grid in grids)
        fewest = min(grid[0] * grid[1] for grid in grids if drawn_at(view, size, grid) == largest)
        columns, rows = view.grid(size, frames)
        assert drawn_at(view, size, (columns, rows)) == largest
        assert columns * rows == fewest
        assert view.canvas(size, frames) == (columns * view.width, rows * view.height)


def test_a_grid_is_no_larger_than_the_frame_needs() -> None:
    view = View(frames=1, width=336, height=336, tiles=64)
    assert view.grid((336, 336)) == view.grid((1, 1)) == (1, 1)
    assert view.grid((337, 336)) == (2, 1)
    assert view.grid((672, 672)) == (2, 2)
    # No two tiles show a square larger than one does.
    assert View(frames=1, tiles=3).grid((5000, 5000)) == (1, 1)
    assert View(frames=1, tiles=4).grid((5000, 5000)) == (2, 2)


def test_fewer_frames_have_more_tiles_each_and_all_of_them_no_more_than_there_are() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        view, size, _ = random_tiling(rng)
        grids = [view.grid(size, frames) for frames in range(1, 80)]
        assert all(c * r * n <= view.tiles for n, (c, r) in enumerate(grids, 1) if n <= view.tiles)
        assert all(grid == (1, 1) for n, grid in enumerate(grids, 1) if n > view.tiles)
        drawn = [drawn_at(view, size, grid) for grid in grids]
        assert drawn == sorted(drawn, reverse=True)
        assert view.grid(size) == grids[view.frames - 1]
    shared = View(frames=16, tiles=32)
    assert [shared.grid((1920, 1080), frames) for frames in (1, 4, 8, 16, 17)] == [
        (6, 4),
        (4, 2),
        (2, 2),
        (2, 1),
        (1, 1),
    ]


def test_a_grid_is_found_fast() -> None:
    view = View(frames=1, width=14, height=14, tiles=64)
    view.grid((1920, 1080))
    took = []
    for _ in range(50):
        begin = time.perf_counter()
        view.grid((1920, 1080))
        took.append(time.perf_counter() - begin)
    assert min(took) < 100e-6


@pytest.mark.parametrize("multiple", [28, 14, 32])
def test_a_native_canvas_is_qwen2_vls_smart_resize(multiple: int) -> None:
    rng = np.random.default_rng(multiple)
    shrunk = 0
    for _ in range(3000):
        # Under half a multiple, theirs may come out as nothing; beyond 1:200 they give up.
        size = tuple(int(side) for side in np.exp(rng.uniform(np.log(17), np.log(3000), 2)))
        box = tuple(int(side) for side in rng.integers(4 * multiple, 900, 2))
        view = View(width=box[0], height=box[1], fit="native", multiple=multiple)
        height, width = smart_resize(size[1], size[0], factor=multiple, min_pixels=1, max_pixels=box[0] * box[1])
        canvas = view.canvas(size)
        if width * height <= box[0] * box[1]:
            assert canvas == (width, height)
        else:
            # A side can be no shorter, and theirs is then too large: the other gives way.
            assert min(canvas) == min(width, height) == multiple
            assert max(canvas) == box[0] * box[1] // multiple**2 * multiple < max(width, height)
        shrunk += size[0] * size[1] > box[0] * box[1]
        assert {view.canvas(size, frames) for frames in (1, 5, None)} == {canvas}
    assert 500 < shrunk < 2500


@pytest.mark.parametrize("size", [(1, 1), (1, 100_000), (100_000, 1), (28, 10_000), (7, 3), (27, 29), (99_999, 99_999)])
@pytest.mark.parametrize("area", [(28, 28), (28, 29), (336, 336), (1, 784), (1000, 90)])
def test_a_native_canvas_of_any_shape_keeps_to_its_area(size: tuple[int, int], area: tuple[int, int]) -> None:
    width, height = View(width=area[0], height=area[1], fit="native").canvas(size)
    assert width * height <= area[0] * area[1]
    assert min(width, height) >= 28
    assert (width % 28, height % 28) == (0, 0)
    assert width >= height or size[0] < size[1]
    assert width <= height or size[0] > size[1]


def test_a_native_canvas_is_filled() -> None:
    view = View(width=448, height=448, fit="native")
    assert view.canvas((640, 480)) == (504, 364)
    assert view.paint == "squash"
    assert {View(fit=fit).paint for fit in ("letterbox", "crop", "squash")} == {"letterbox", "crop", "squash"}
    assert view.content((640, 480)) == (0, 0, 504, 364)
    assert view.pixels((640, 480), Box(0.5, 0.25, 1, 1)) == (252, 91, 504, 364)


def test_evidence_is_measured_on_the_canvas_of_the_frames_that_are_shown() -> None:
    view, box = View(frames=8, tiles=144, min_pixels=100), Box(0.5, 0, 0.6, 0.1)
    # 18 tiles a frame: 1792x1008 of 2016x1008 pixels; 1 frame alone is drawn in full.
    assert view.pixels((1920, 1080), box) == view.pixels((1920, 1080), box, 8) == (1008, 0, 1187, 101)
    assert view.canvas((1920, 1080), 1) == (2016, 1344)
    # Letterboxing fits a frame to the grid, so 1.05 of its pixels.
    assert view.pixels((1920, 1080), box, 1) == (1008, 105, 1210, 218)
    # 14 tiles a frame: 4x3, of which the frame fills 1344x756; 9 tiles: 4x2, where its height is the narrower.
    assert view.pixels((1920, 1080), box, 10) == (672, 126, 806, 202)
    assert view.pixels((1920, 1080), box, 16) == (672, 0, 791, 67)
    whole = Span(0, 80)
    eight, ten = (tuple(Fraction(i) for i in range(count)) for count in (8, 10))
    assert view.shows(eight, (1920, 1080), whole, box)
    assert not view.shows(ten, (1920, 1080), whole, box)
    assert not View(frames=8, min_pixels=100).shows(eight, (1920, 1080), whole, box)
    cropped = View(frames=8, tiles=144, fit="crop")
    # 2016x1134 over 2016x1008 pixels: 63 are cut off above and below.
    assert cropped.content((1920, 1080)) == (0, -63, 2016, 1071)
    assert cropped.pixels((1920, 1080), box) == (1008, 0, 1210, 50)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 0}, "view.frames is 0; it must be at least 1"),
        ({"min_pixels": 0}, "view.min_pixels is 0"),
        ({"min_visible": 9}, "view.min_visible is 9, more than view.frames, 8"),
        ({"fps": 0}, "view.fps is 0; it must be above 0"),
        ({"sampling": "random"}, "view.sampling is 'random'; choose one of midpoints, linspace_ends, fps"),
        ({"fit": "pad"}, "view.fit is 'pad'; choose one of letterbox, crop, squash, native"),
        ({"tiles": -1}, "view.tiles is -1; it must be 0 or more"),
        ({"tiles": 4, "fit": "native"}, "view.tiles is 4 and view.fit 'native'; a canvas has tiles or its own shape"),
        ({"multiple": 0}, "view.multiple is 0; it must be at least 1"),
        (
            {"fit": "native", "width": 27, "height": 29},
            "view.width x view.height is 27x29; a native canvas needs at least view.multiple squared, 28x28",
        ),
    ],
)
def test_an_impossible_view_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        View(**wrong)
