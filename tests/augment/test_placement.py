"""Where and when needles go: everywhere alike, always seen, and as the paper has them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from vista_train.augment import (
    CannotComposeError,
    EventRelationship,
    LongVideoCaption,
    SpatialNeedle,
    SpatioTemporalNeedle,
    TemporalNeedle,
    TwoNeedle,
    VideoGrid,
    placement,
)
from vista_train.video.composition import Clip
from vista_train.video.geometry import Box, Pixels
from vista_train.video.render import render
from vista_train.video.sampling import View

VIEWS = [
    View(frames=8),
    View(frames=32, fit="crop", min_visible=2),
    View(frames=8, fit="squash", width=448, min_visible=3),
    View(frames=16, sampling="linspace_ends", min_visible=2),
    View(frames=64, sampling="fps", fps=0.5),
    View(frames=16, sampling="fps", fps=1.0, min_visible=3),
]


def clip(name: str, seconds: object, size: tuple[int, int] = (64, 48), fps: object = 30) -> Clip:
    return Clip(f"{name}.mp4", 0, seconds, *size, fps, f"The {name}")


def needle_cast(host_seconds: object, needle_seconds: object, **host: object) -> dict[str, list[Clip]]:
    absent = [clip(f"absent {number}", 5) for number in range(3)]
    return {
        "haystack": [clip("host", host_seconds, **host)],
        "needle": [clip("needle", needle_seconds)],
        "distractor": absent,
    }


def ks_distance(values: list[float]) -> float:
    """The largest gap between the values' distribution and the uniform one on 0..1."""
    ordered = np.sort(values)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return float(max(np.abs(ordered - steps[1:]).max(), np.abs(ordered - steps[:-1]).max()))


@pytest.mark.parametrize("seed", range(20))
def test_the_starts_that_show_a_needle_are_all_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    duration, length = Fraction(int(rng.integers(20, 60))), Fraction(int(rng.integers(2, 60)), 4)
    view = View(frames=int(rng.integers(4, 20)), min_visible=int(rng.integers(1, 4)))
    times = view.times(duration, duration * 30)
    latest = duration - length
    possible = []
    for frame in range(len(times) - view.min_visible + 1):
        shown = placement.show_starts(times, frame, length, latest, view.min_visible)
        last = frame + view.min_visible - 1
        for start in (latest * Fraction(2 * k + 1, 1000) for k in range(500)):
            shows = start <= times[frame] and times[last] < start + length
            inside = shown is not None and shown[0] < start <= shown[1]
            assert inside == shows, (float(start), shown)
        possible += [] if shown is None else [frame]
    if possible:
        assert list(placement.frames_showing(times, length, latest, view.min_visible)) == possible
    else:
        with pytest.raises(CannotComposeError, match="fits on no"):
            placement.frames_showing(times, length, latest, view.min_visible)


def test_starts_are_drawn_evenly_where_one_frame_shows_the_needle() -> None:
    times = (Fraction(5), Fraction(15), Fraction(25))
    rng = np.random.default_rng(0)
    starts = [placement.draw_start(rng, times, Fraction(4), Fraction(26), 1) for _ in range(1500)]
    assert all(time - 4 < start < time for start in starts for time in times if abs(start - time) < 4)
    counts = Counter(int((start + 4) // 10) for start in starts)
    assert sorted(counts) == [0, 1, 2]
    assert max(counts.values()) - min(counts.values()) < 100
    assert ks_distance([float((start + 4 - 5) % 10 / 4) for start in starts]) < 0.05


def test_long_needles_gain_nothing_over_short_ones() -> None:
    view = View(frames=8, min_visible=1)
    for seconds in (1, 3, 9):
        samples = [TemporalNeedle()(np.random.default_rng(seed), needle_cast(120, seconds), view) for seed in range(50)]
        assert len({sample.video.duration for sample in samples}) == 1


@pytest.mark.parametrize("augment_type", [TemporalNeedle, SpatioTemporalNeedle])
@pytest.mark.parametrize("view", VIEWS)
def test_needles_start_anywhere(augment_type, view: View) -> None:
    cast = needle_cast(90, 6)
    depths = []
    for seed in range(320):
        sample = augment_type()(np.random.default_rng(seed), cast, view)
        (evidence,) = sample.evidence
        depths.append(float(evidence.span.start / (sample.video.duration - 6)))
        assert evidence.span.end - evidence.span.start == 6
    assert ks_distance(depths) < 0.13
    counts = np.histogram(depths, bins=4, range=(0, 1))[0]
    assert counts.min() > 55
    assert counts.max() < 105


@pytest.mark.parametrize("view", VIEWS)
def test_two_needles_come_in_order_apart_and_anywhere(view: View) -> None:
    cast, depths = needle_cast(90, 6), []
    for seed in range(250):
        sample = TwoNeedle()(np.random.default_rng(seed), cast, view)
        first, second = (evidence.span for evidence in sample.evidence)
        assert first.end - first.start == second.end - second.start == 3
        assert 0 < first.start < first.end < second.start < second.end < sample.video.duration
        assert [clip.path for clip in sample.video.clips()] == [
            f"{n}.mp4" for n in ("host", "needle", "host", "needle", "host")
        ]
        room = sample.video.duration - 6
        depths += [float(first.start / room), float((second.start - 3) / room)]
    assert ks_distance(depths) < 0.13


def test_two_halves_make_up_the_needle_and_the_host_goes_on() -> None:
    def stripes(colours: list[int], seconds: int) -> Clip:
        return Clip.from_frames(
            torch.tensor(colours, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 12, 16), seconds, "x"
        )

    host, needle = stripes(list(range(100, 160)), 60), stripes([10, 20, 30, 40], 8)
    for seed in range(20):
        sample = TwoNeedle()(np.random.default_rng(seed), {"haystack": [host], "needle": [needle]}, View(frames=8))
        (first, second), duration = (evidence.span for evidence in sample.evidence), sample.video.duration
        assert duration == 68
        times = [duration * Fraction(2 * k + 1, 2 * 272) for k in range(272)]
        values = render(sample.video, times, (16, 12))[:, 0, 0, 0].tolist()
        seen = [(time, value) for time, value in zip(times, values, strict=True) if value < 100]
        assert {value for time, value in seen if time in first} == {10, 20}
        assert {value for time, value in seen if time in second} == {30, 40}
        assert [value for _, value in seen] == sorted(value for _, value in seen)
        rest = [value for value in values if value >= 100]
        assert rest == sorted(rest)
        assert set(rest) == set(range(100, 160))


def test_the_host_goes_on_behind_an_inserted_needle() -> None:
    sample = TemporalNeedle()(np.random.default_rng(0), needle_cast(60, 20), View(frames=8))
    before, needle, after = sample.video.parts
    assert (before.start, before.end, after.end) == (0, after.start, 60)
    assert needle.duration == 10
    assert sample.video.duration == 70


def test_an_inset_leaves_the_host_as_long_as_it_is() -> None:
    sample = SpatioTemporalNeedle()(np.random.default_rng(0), needle_cast(60, 20), View(frames=8))
    assert (sample.video.duration, sample.video.base.duration, sample.video.inset.duration) == (60, 60, 10)


@pytest.mark.parametrize("min_visible", [1, 2, 3, 4])
@pytest.mark.parametrize("sampling", ["midpoints", "linspace_ends", "fps"])
@pytest.mark.parametrize("augment_type", [TemporalNeedle, SpatioTemporalNeedle, TwoNeedle])
def test_hosts_are_cut_until_the_needle_can_be_seen(augment_type, sampling: str, min_visible: int) -> None:
    view = View(frames=16, sampling=sampling, fps=2.0, min_visible=min_visible)
    cast = needle_cast(300, 8)
    for seed in range(12):
        sample = augment_type()(np.random.default_rng(seed), cast, view)
        times = view.times(sample.video.duration, sample.video.frame_measure)
        for evidence in sample.evidence:
            assert sum(time in evidence.span for time in times) >= min_visible
        assert sample.video.duration >= 300 or min_visible > 1


def test_the_rule_by_which_hosts_are_cut() -> None:
    host, length = clip("host", 300), Fraction(8)
    assert placement.seen_host(host, length, length, View(frames=16)) is host
    # 1 of 16 strides may take 6 s: 96 s, of which 8 are the needle's own.
    assert placement.seen_host(host, length, length, View(frames=16, min_visible=2)).duration == 88
    assert placement.seen_host(host, length, Fraction(0), View(frames=16, min_visible=3)).duration == 48
    assert placement.seen_host(host, Fraction(80), Fraction(80), View(frames=16, min_visible=2)) == host
    with pytest.raises(CannotComposeError, match=r"8.00 s of a needle in host.mp4 are too short to be seen on 8 of 8"):
        placement.seen_host(host, length, length, View(frames=8, min_visible=8))


@pytest.mark.parametrize("view", [*VIEWS, View(width=60, height=336, fit="crop"), View(width=336, height=70)])
@pytest.mark.parametrize("base", [(1920, 1080), (360, 640), (500, 500)])
def test_insets_keep_their_shape_and_lie_where_they_are_seen(view: View, base: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(120):
        inset = (int(rng.integers(50, 700)), int(rng.integers(50, 700)))
        try:
            box = placement.draw_box(rng, view, base, inset, (0.3, 0.65))
        except CannotComposeError:
            continue
        width, height = (box.right - box.left) * base[0], (box.bottom - box.top) * base[1]
        assert width * inset[1] == height * inset[0]
        pixels = view.pixels(base, box)
        assert min(pixels.width, pixels.height) >= view.min_pixels
        # All of it is on the canvas, so what is seen is as large as what is pasted.
        content = view.content(base)
        assert abs(pixels.width - content.width * (box.right - box.left)) <= 1
        assert abs(pixels.height - content.height * (box.bottom - box.top)) <= 1
        widths.append(max(box.right - box.left, box.bottom - box.top))
    assert len(widths) > 40
    assert max(widths) <= Fraction(65, 100)
    if view.fit != "crop":
        assert min(widths) >= Fraction(3, 10)


@pytest.mark.parametrize("fit", ["letterbox", "crop", "squash"])
@pytest.mark.parametrize("frames", [None, 16, 9, 5, 3, 1])
def test_insets_lie_where_the_tiles_of_so_many_frames_show_them(fit: str, frames: int | None) -> None:
    view, rng = View(frames=16, width=336, height=336, tiles=48, fit=fit, min_pixels=80), np.random.default_rng(0)
    for base in ((1920, 1080), (640, 480), (1080, 1920)):
        content, (width, height) = view.content(base, frames), view.canvas(base, frames)
        places = []
        for _ in range(60):
            box = placement.draw_box(rng, view, base, (640, 480), (0.3, 0.65), frames)
            pixels = view.pixels(base, box, frames)
            assert min(pixels.width, pixels.height) >= 80
            assert abs(pixels.width - content.width * (box.right - box.left)) <= 1
            assert abs(pixels.height - content.height * (box.bottom - box.top)) <= 1
            places.append(pixels)
        # Somewhere up to every edge of what is seen.
        shown = content.pixels() & Pixels(0, 0, width, height)
        assert min(place.left for place in places) - shown.left < shown.width / 8
        assert shown.right - max(place.right for place in places) < shown.width / 8
        assert min(place.top for place in places) - shown.top < shown.height / 8
        assert shown.bottom - max(place.bottom for place in places) < shown.height / 8


def test_insets_lie_anywhere() -> None:
    view, rng = View(), np.random.default_rng(0)
    boxes = [placement.draw_box(rng, view, (1600, 900), (320, 180), (0.2, 0.35)) for _ in range(1200)]
    shares = [float(box.right - box.left) for box in boxes]
    assert 0.2 <= min(shares) < 0.21
    assert 0.34 < max(shares) <= 0.35
    assert ks_distance([(share - 0.2) / 0.15 for share in shares]) < 0.05
    for low, high in (("left", "right"), ("top", "bottom")):
        room = [1 - float(getattr(box, high) - getattr(box, low)) for box in boxes]
        assert ks_distance([float(getattr(box, low)) / free for box, free in zip(boxes, room, strict=True)]) < 0.05


def test_small_insets_grow_to_the_pixels_asked_for_or_are_refused() -> None:
    rng = np.random.default_rng(0)
    view = View(width=100, height=100, min_pixels=20)
    sides = []
    for _ in range(100):
        pixels = view.pixels((500, 500), placement.draw_box(rng, view, (500, 500), (100, 80), (0.1, 0.4)))
        sides.append(pixels.height)
        assert pixels.height >= 20
    assert sides.count(20) + sides.count(21) > 30
    with pytest.raises(CannotComposeError, match=r"an inset of at most 0.4 of the frame is under view.min_pixels, 40"):
        placement.draw_box(rng, replace(view, min_pixels=40), (500, 500), (100, 80), (0.1, 0.4))


def test_joined_clips_are_shortened_until_all_are_seen() -> None:
    clips = [clip("a", 100), clip("b", 4), clip("c", 50)]
    assert placement.seen_parts(clips, View(frames=64), 2) == tuple(clips)
    parts = placement.seen_parts(clips, View(frames=8), 2)
    assert len(parts) == 3
    assert parts[1] == clips[1]
    assert [part.start for part in parts] == [0, 0, 0]
    times = View(frames=8).times(sum(part.duration for part in parts), Fraction(9999))
    edges = np.cumsum([0, *(part.duration for part in parts)])
    assert all(any(a <= time < b for time in times) for a, b in pairwise(edges))
    cap = Fraction(100)
    while cap > parts[0].duration:
        cap *= Fraction(9, 10)
    assert cap == parts[0].duration
    many = [clip(f"clip {number}", 5) for number in range(9)]
    assert placement.seen_parts(many, View(frames=4), 2) == tuple(many[:4])
    with pytest.raises(
        CannotComposeError, match=r"not 3 of the clips clip 0.mp4, .*, clip 8.mp4, when joined, are all"
    ):
        placement.seen_parts(many, View(frames=2), 3)


def test_clips_are_joined_until_they_last_longer_than_asked() -> None:
    cast = {"clip": [clip(f"clip {number}", seconds) for number, seconds in enumerate((8, 9, 7, 6, 5, 4))]}
    sample = LongVideoCaption()(np.random.default_rng(0), cast, View(frames=64))
    # 8 + 9 + 7 + 6 are 30 s, and the paper's videos last longer.
    assert [part.path for part in sample.video.parts] == [f"clip {number}.mp4" for number in range(5)]
    assert sample.video.duration == 35
    assert [evidence.span for evidence in sample.evidence] == list(sample.video.spans())
    short = {"clip": cast["clip"][:2]}
    assert LongVideoCaption()(np.random.default_rng(0), short, View(frames=64)).video.duration == 17


@pytest.mark.parametrize("augment_type", [TemporalNeedle, TwoNeedle, SpatioTemporalNeedle])
def test_a_haystack_that_is_too_short_is_named_with_its_needle(augment_type) -> None:
    message = r"^the haystack host.mp4 lasts 6.00 s, not longer than its needle needle.mp4, 6.00 s$"
    with pytest.raises(CannotComposeError, match=message):
        augment_type()(np.random.default_rng(0), needle_cast(6, 6), View(frames=8))
    assert augment_type(max_needle_seconds=2.5)(np.random.default_rng(0), needle_cast(6, 6), View(frames=16))


def test_a_needle_between_all_frames_is_refused() -> None:
    # One source frame every 8 s, so the needle's 2 s lie between two of them unless the only frame is in it.
    with pytest.raises(CannotComposeError, match=r"a needle of 2.00 s fits on no 2 of"):
        SpatioTemporalNeedle()(np.random.default_rng(0), needle_cast(16, 2, fps="1/8"), View(frames=64, min_visible=2))


def test_bars_are_no_evidence() -> None:
    assert placement.inset_box(Box(), (64, 48), (48, 64), "letterbox") == Box(Fraction(7, 32), 0, Fraction(25, 32), 1)
    for fit in ("crop", "squash"):
        assert placement.inset_box(Box(0.5, 0, 1, 1), (64, 48), (48, 64), fit) == Box(0.5, 0, 1, 1)
    portrait = {"clip": [clip("a", 20), clip("b", 20, (48, 64))]}
    sample = LongVideoCaption()(np.random.default_rng(0), portrait, View(frames=8))
    assert [evidence.box for evidence in sample.evidence] == [Box(), Box(Fraction(7, 32), 0, Fraction(25, 32), 1)]


def test_the_papers_parameters_are_the_defaults() -> None:
    grid = VideoGrid()
    cast = {"cell": [clip(f"cell {number}", 5, (640, 360)) for number in range(64)]}
    sample = grid(np.random.default_rng(0), cast, View())
    assert [(role.name, role.count, role.min_count) for role in grid.roles] == [("cell", 64, 64)]
    assert (sample.video.rows, sample.video.columns, sample.video.size) == (8, 8, (1920, 1080))
    assert sample.video.duration == 3
    own = View(width=1920, height=1080).pixels(sample.video.size, sample.evidence[0].box)
    assert (own.width, own.height) == (240, 135)
    for made in (LongVideoCaption(), EventRelationship()):
        assert (made.min_seconds, made.max_gap_seconds) == (30, 5)
        (role, *_) = made.roles
        assert (role.relation, role.min_seconds, role.max_gap_seconds) == ("same_source_consecutive", 30, 5)
    for made in (TemporalNeedle(), SpatialNeedle(), SpatioTemporalNeedle(), EventRelationship(), VideoGrid()):
        assert made.multiple_choice == 0.5
    small = SpatialNeedle()(np.random.default_rng(0), needle_cast(40, 30, size=(1920, 1080)), View())
    assert small.video.duration == 10
    assert (small.video.span.start, small.video.span.end, small.video.size) == (0, 10, (1920, 1080))
    assert [role.name for role in SpatioTemporalNeedle().roles] == ["haystack", "needle", "distractor"]
    assert SpatioTemporalNeedle().needle_scale[1] == 0.65
