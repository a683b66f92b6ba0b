"""A time bar says which clip is shown when, however the video is composed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tests.preview.made import clip
from vista_train.preview.timeline import segments
from vista_train.video.composition import Concat, Grid, Overlay, Video
from vista_train.video.geometry import Box


def laid(video: Video) -> list[tuple]:
    """Lane, span, file and span of the file of every segment, as plain numbers."""
    return [
        (s.lane, float(s.span.start), float(s.span.end), s.clip.path, float(s.clip.start), float(s.clip.end))
        for s in segments(video)
    ]


def test_a_needle_lies_between_the_halves_of_its_haystack():
    host, needle = clip("host", 20, start=4), clip("needle", 3)
    video = Concat((host.subclip(0, 5), needle, host.subclip(5, 16)))
    assert laid(video) == [
        (0, 0, 5, "host", 4, 9),
        (0, 5, 8, "needle", 0, 3),
        (0, 8, 19, "host", 9, 20),
    ]
    # In the order in which the video tells its clips, so that numbers agree.
    assert [one.clip for one in segments(video)] == list(video.clips())


def test_an_inset_has_a_lane_of_its_own_and_ends_with_its_base():
    video = Overlay(clip("base", 10), clip("inset", 30), Fraction(7), Box(0, 0, "1/4", "1/4"))
    assert laid(video) == [(0, 0, 10, "base", 0, 10), (1, 7, 10, "inset", 0, 3)]
    assert [one.place for one in segments(video)] == ["", "inset"]


def test_clips_of_a_grid_share_a_lane_row_by_row():
    video = Grid(tuple(clip(name, end) for name, end in zip("abcdef", (9, 4, 5, 6, 7, 8), strict=True)), 2, 3)
    found = segments(video)
    assert laid(video) == [(0, 0, 4, name, 0, 4) for name in "abcdef"]
    assert [one.cell for one in found] == [video.box_of(number) for number in range(6)]
    assert found[5].place == "row 2, column 3"


def test_compositions_within_compositions():
    inner = Concat((clip("a", 2), Overlay(clip("b", 4), clip("c", 9), Fraction(1), Box(0, 0, "1/2", "1/2"))))
    grid = Grid((inner, clip("d", 5)), 1, 2)
    video = Concat((clip("e", 3), grid))
    assert laid(video) == [
        (0, 0, 3, "e", 0, 3),
        (0, 3, 5, "a", 0, 2),
        (0, 5, 8, "b", 0, 3),
        (1, 6, 8, "c", 0, 2),
        (2, 3, 8, "d", 0, 5),
    ]
    assert segments(video)[3].place == "row 1, column 1, inset"


def test_what_is_not_known_is_named():
    @dataclass(frozen=True)
    class Mirror(Video):
        duration: Fraction = Fraction(6)

    (one,) = segments(Mirror())
    assert (one.clip, one.place, float(one.span.end)) == (None, "Mirror", 6.0)
