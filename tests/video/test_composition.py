"""The algebra of compositions: exact times, half-open spans, JSON, and cutting that shows what the whole showed."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from vista_train.video.composition import QA, Clip, Concat, Grid, Overlay, Video, video_from_json
from vista_train.video.geometry import Box, Span, exact
from vista_train.video.render import render


def there_and_back(video: Video) -> Video:
    return video_from_json(json.loads(json.dumps(video.to_json())))


@pytest.fixture
def nested(on_disk) -> Concat:
    """Three levels of every kind, with times no float holds."""
    third = on_disk("a.mp4", "1/3", 7, fps="30000/1001", caption="“A” dog\nruns {there}.", source="s")
    asked = on_disk("b/c d.mp4", 0.1, 2.3, qa=(QA("Who?", "A dog", ("A cat", "Nobody")), QA("Where?", "There")))
    grid = Grid((third, asked, asked.subclip(0.5, 2), third), 2, 2, (1920, 1080), "crop")
    overlay = Overlay(third, grid, "7/9", Box(0.1, "1/7", 0.35, 1), "squash")
    return Concat((overlay, asked, Concat((grid,))), (641, 359), "letterbox")


def test_json_gives_an_equal_video_again(nested: Concat) -> None:
    again = there_and_back(nested)
    assert again == nested
    assert hash(again) == hash(nested)
    assert again.to_json() == nested.to_json()
    assert [clip.qa for clip in again.clips()] == [clip.qa for clip in nested.clips()]
    part = nested.subclip("1/7", "55/9")
    assert there_and_back(part) == part != nested


def test_json_keeps_every_field(on_disk) -> None:
    overlay = Overlay(on_disk(), on_disk("b.mp4"), "1/3", Box(0, 0, 0.5, 0.5), "crop")
    changed = Overlay(on_disk(), on_disk("b.mp4"), "1/3", Box(0, 0, 0.5, "1/3"), "crop")
    assert there_and_back(overlay) == overlay != changed
    for field, value in (
        ("path", "z.mp4"), ("start", 1), ("end", 5), ("width", 65), ("height", 49), ("fps", 29),
        ("caption", "x"), ("qa", (QA("a", "b"),)), ("source", "t"),
    ):  # fmt: skip
        known = {"path": "a.mp4", "start": 0, "end": 4, "width": 64, "height": 48} | {field: value}
        clip = Clip(**known)
        assert there_and_back(clip) == clip != on_disk(), field


def test_decimals_are_exact() -> None:
    assert exact(0.1) == Fraction(1, 10)
    assert exact("30000/1001") == Fraction(30000, 1001)
    assert exact(np.float64(0.1)) == Fraction(1, 10)
    whole = exact(np.int64(3)) * 2**70
    assert whole == 3 * 2**70
    assert Span(0.1, 0.3).end - Span(0.1, 0.3).start == Fraction(1, 5)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is not a finite number"):
            exact(value)
    tenths = Concat(tuple(Clip("a.mp4", 0, 0.1, 8, 8) for _ in range(10)))
    assert tenths.duration == 1
    assert tenths.spans()[2] == Span(0.2, 0.3)


def test_spans_are_half_open() -> None:
    span = Span(1, 2)
    assert [time in span for time in (Fraction(1), Fraction(2), Fraction(199, 100), Fraction(99, 100))] == [
        True, False, True, False,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"span \[2.0, 2.0\) is empty"):
        Span(2, 2)


def test_durations_sizes_and_spans(on_disk) -> None:
    short, long = on_disk("s.mp4", 1, 3, fps=10), on_disk("l.mp4", 0, "20/3", width=100, height=80, fps=30)
    joined = Concat((short, long, short))
    assert joined.duration == Fraction(32, 3)
    assert joined.size == (64, 48)
    assert Concat((short, long), (10, 20)).size == (10, 20)
    assert joined.spans() == (Span(0, 2), Span(2, "26/3"), Span("26/3", "32/3"))
    assert joined.frame_measure == 20 + 200 + 20
    assert [clip.path for clip in joined.clips()] == ["s.mp4", "l.mp4", "s.mp4"]
    early, late = (Overlay(long, short, start, Box(0, 0, 0.5, 0.5)) for start in (1, 6))
    assert (early.span, late.span) == (Span(1, 3), Span(6, "20/3"))
    assert (early.duration, early.size, early.frame_measure) == (long.duration, (100, 80), 200)
    grid = Grid((short, long, long, short), 2, 2)
    assert (grid.duration, grid.size, grid.frame_measure) == (2, (1920, 1080), 60)
    assert grid.box_of(2) == Box(0, 0.5, 0.5, 1)
    wide = Grid((long,) * 6, 2, 3)
    assert wide.box_of(5) == Box("2/3", 0.5, 1, 1)


def test_cutting_takes_spans_and_sources_along(on_disk) -> None:
    base, inset = on_disk("base.mp4", 10, 20), on_disk("inset.mp4", 5, 8)
    video = Overlay(base, inset, 4, Box(0, 0, 0.5, 0.5))
    middle = video.subclip(5, 6.5)
    assert isinstance(middle, Overlay)
    assert (middle.start, middle.span) == (0, Span(0, 1.5))
    assert (middle.inset.start, middle.inset.end, middle.base.start) == (6, 7.5, 15)
    assert video.subclip(0, 4) == base.subclip(0, 4)
    assert video.subclip(7, 10) == base.subclip(7, 10)
    joined = Concat((base, inset), (10, 10), "crop")
    assert joined.subclip(9, 11) == Concat((base.subclip(9, 10), inset.subclip(0, 1)), (10, 10), "crop")
    assert joined.subclip(10, 11) == Concat((inset.subclip(0, 1),), (10, 10), "crop")
    assert joined.subclip(0, 13) is joined
    assert joined.subclip(1, 12).subclip(1, 9) == joined.subclip(2, 10)
    grid = Grid((base, inset), 1, 2).subclip(1, 2)
    assert [(cell.start, cell.end) for cell in grid.cells] == [(11, 12), (6, 7)]


@pytest.mark.parametrize("seed", range(40))
def test_a_part_shows_what_the_whole_shows_there(seed: int, random_video) -> None:
    rng = np.random.default_rng(seed)
    video = random_video(rng)
    start, end = sorted(video.duration * Fraction(int(k), 24) for k in rng.choice(25, size=2, replace=False))
    part = video.subclip(start, end)
    assert part.duration == end - start
    assert part.size == video.size
    times = [(end - start) * Fraction(int(k), 96) for k in (0, *rng.integers(96, size=3), 95)]
    for fit in ("letterbox", "crop", "squash"):
        size = (int(rng.integers(5, 40)), int(rng.integers(5, 40)))
        cut_TCHW = render(part, times, size, fit)
        whole_TCHW = render(video, [start + time for time in times], size, fit)
        assert torch.equal(cut_TCHW, whole_TCHW)


@pytest.mark.parametrize("seed", range(10))
def test_cutting_twice_is_cutting_once(seed: int, random_video) -> None:
    rng = np.random.default_rng(seed)
    video = random_video(rng)
    a, b, c, d = sorted(video.duration * Fraction(int(k), 60) for k in rng.choice(61, size=4, replace=False))
    assert video.subclip(a, d).subclip(b - a, c - a) == video.subclip(b, c)


def test_clips_in_memory_compare_by_their_pixels(in_memory) -> None:
    red, same, blue = in_memory([(255, 0, 0)] * 3), in_memory([(255, 0, 0)] * 3), in_memory([(0, 0, 255)] * 3)
    assert red == same
    assert hash(red) == hash(same)
    assert red != blue
    assert red != in_memory([(255, 0, 0)] * 3, seconds=2)
    # As many bytes, in another shape.
    assert in_memory([(9, 9, 9)], size=(16, 12)) != in_memory([(9, 9, 9)], size=(12, 16))
    assert red.subclip(0, 0.5) != red.subclip(0.5, 1)
    assert (red.fps, red.size, red.frame_measure) == (3, (16, 12), 3)


def test_clips_in_memory_refuse_json(in_memory, on_disk) -> None:
    red = in_memory([(255, 0, 0)])
    for video in (red, Concat((on_disk(), red)), Overlay(on_disk(), red, 0, Box()), Grid((red,), 1, 1)):
        with pytest.raises(ValueError, match=r"clip 'memory:.*' holds its pixels in memory and cannot be written"):
            video.to_json()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda clip: clip.subclip(1, 1), r"subclip \[1.0, 1.0\) s is not a part of a video of 4.0 s"),
        (lambda clip: clip.subclip(-1, 2), r"subclip \[-1.0, 2.0\) s"),
        (lambda clip: Concat((clip, clip)).subclip(3, 8.5), r"subclip \[3.0, 8.5\) s is not a part of a video of 8.0"),
        (lambda clip: Clip("x.mp4", 3, 2, 8, 8), r"clip 'x.mp4': span \[3.0, 2.0\) s must be 0 <= start < end"),
        (lambda clip: Clip("x.mp4", 0, 2, 0, 8), r"clip 'x.mp4': size 0x8 must be at least 1x1 pixels"),
        (lambda clip: Clip("x.mp4", 0, 2, 8, 8, fps=0), r"clip 'x.mp4': fps 0.0 must be above 0"),
        (lambda clip: Concat(()), "Concat needs at least one part"),
        (lambda clip: Concat((clip,), (0, 9)), "size 0x9 must be at least 1x1 pixels"),
        (lambda clip: Concat((clip,), fit="stretch"), "fit 'stretch' is unknown; choose one of letterbox, crop"),
        (lambda clip: Overlay(clip, clip, 4, Box()), r"the inset starts at 4.0 s, outside a base of 4.0 s"),
        (lambda clip: Overlay(clip, clip, -1, Box()), r"the inset starts at -1.0 s, outside"),
        (lambda clip: Grid((clip,) * 3, 2, 2), "a grid of 2x2 needs 4 cells, not 3"),
        (lambda clip: Grid((clip,), 1, 1, (-4, 9)), "size -4x9 must be at least 1x1 pixels"),
        (lambda clip: Box(0, 0, 0, 1), r"box \[0.0, 0.0, 0.0, 1.0\] must lie in 0..1, left < right, top < bottom"),
        (lambda clip: Box(0, 0, 1.5, 1), "must lie in 0..1"),
        (lambda clip: video_from_json({"kind": "tiles"}), "unknown kind of video 'tiles'; known: clip, concat"),
        (lambda clip: video_from_json({"kind": "concat"}), "a video of kind 'concat' lacks the key 'parts'"),
        (lambda clip: video_from_json({}), "a video of kind None lacks the key 'kind'"),
        (lambda clip: Clip.from_frames(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), 1), r"uint8 \[T, 3, H, W\]"),
        (lambda clip: Clip.from_frames(torch.zeros(2, 3, 4, 4), 1), r"not torch.float32 \[2, 3, 4, 4\]"),
        (lambda clip: Clip.from_frames(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), 1), "fps 0.0 must be above 0"),
    ],
)
def test_what_is_wrong_is_said(make, message: str, on_disk) -> None:
    with pytest.raises(ValueError, match=message):
        make(on_disk())


def test_a_missing_key_deep_inside_is_named(nested: Concat) -> None:
    data = nested.to_json()
    del data["parts"][0]["inset"]["cells"][1]["fps"]
    with pytest.raises(ValueError, match="a video of kind 'clip' lacks the key 'fps'"):
        video_from_json(data)
