"""Which times are looked at, and where things lie on the canvas: by the published formulas, exact until rounded."""

from __future__ import annotations

import inspect
from fractions import Fraction

import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 0}, "view.frames is 0; it must be at least 1"),
        ({"min_pixels": 0}, "view.min_pixels is 0"),
        ({"min_visible": 9}, "view.min_visible is 9, more than view.frames, 8"),
        ({"fps": 0}, "view.fps is 0; it must be above 0"),
        ({"sampling": "random"}, "view.sampling is 'random'; choose one of midpoints, linspace_ends, fps"),
        ({"fit": "pad"}, "view.fit is 'pad'; choose one of letterbox, crop, squash"),
    ],
)
def test_an_impossible_view_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        View(**wrong)
