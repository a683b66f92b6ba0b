"""Several inserts: each seen, another frame between any two, and the same room whatever is drawn."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from vista_train.augment import CannotComposeError, insertion
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

VIEWS = [
    View(frames=8),
    View(frames=32, fit="crop", min_visible=2),
    View(frames=16, sampling="linspace_ends", min_visible=2),
    View(frames=64, sampling="fps", fps=0.5),
    View(frames=24, sampling="fps", fps=1.0, min_visible=3),
]


def clip(name: str, seconds: object, size: tuple[int, int] = (64, 48), fps: object = 30) -> Clip:
    return Clip(f"{name}.mp4", 0, seconds, *size, fps, f"The {name}")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("seed", range(6))
def test_each_is_seen_and_between_two_something_else(view: View, seed: int) -> None:
    rng = np.random.default_rng(seed)
    host = clip("host", int(rng.integers(20, 200)))
    needles = [clip(f"needle {n}", int(rng.integers(4, 20)), fps=int(rng.integers(10, 30))) for n in range(5)]
    room = insertion.find_room(host, needles, view, 10, (1, 5))
    assert room.length <= min(10, *(needle.duration for needle in needles[: room.num]))
    assert room.num * room.length <= host.duration / 2
    for _ in range(20):
        starts = insertion.draw_starts(rng, room, needles[: room.num], view)
        parts = [needle.subclip(0, room.length) for needle in needles[: room.num]]
        video = insertion.inserted(host, room.host.duration, parts, starts, "letterbox")
        spans = video.spans()
        assert [spans[2 * n + 1].start for n in range(room.num)] == list(starts)
        assert video.duration == room.duration
        times = view.times(video.duration, video.frame_measure)
        for number, span in enumerate(spans):
            num_seen = sum(time in span for time in times)
            if number % 2:
                assert num_seen >= view.min_visible
            elif 0 < number < len(spans) - 1:
                assert num_seen >= 1
        # The host goes on behind each insert.
        pieces = video.parts[::2]
        assert all(one.end == other.start for one, other in pairwise(pieces))
        assert (pieces[0].start, pieces[-1].end) == (0, room.host.duration)


def test_as_many_are_inserted_as_are_seen_apart() -> None:
    needles = [clip(f"needle {n}", 6) for n in range(9)]
    nums = [insertion.find_room(clip("host", 60), needles, View(frames=n), 3, (1, 9)).num for n in (1, 2, 3, 8, 64)]
    # One frame each, and one between two of them.
    assert nums == [1, 1, 2, 4, 9]
    with pytest.raises(CannotComposeError, match=r"2 inserts find no room in host.mp4: 2 inserts of 3.00 s are not"):
        insertion.find_room(clip("host", 60), needles, View(frames=2), 3, (2, 9))
    with pytest.raises(CannotComposeError, match="3 clips are fewer than 4"):
        insertion.find_room(clip("host", 60), needles[:3], View(frames=8), 3, (3, 9), spare=1)


def test_the_spare_clips_bound_the_length_too() -> None:
    needles = [clip("long", 9), clip("longer", 10), clip("short", 2)]
    lengths = [insertion.find_room(clip("host", 60), needles, View(), 8, (1, 1), spare).length for spare in (0, 1, 2)]
    assert lengths == [8, 8, 2]


def test_every_choice_of_frames_comes_as_often() -> None:
    view, host = View(frames=6), clip("host", 60)
    room = insertion.find_room(host, [clip("a", 3), clip("b", 3)], view, 3, (2, 2))
    times = room.times([clip("a", 3), clip("b", 3)], view)
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(3000):
        starts = insertion.draw_starts(rng, room, [clip("a", 3), clip("b", 3)], view)
        seen[tuple(next(n for n, time in enumerate(times) if time > start) for start in starts)] += 1
    # Two of six frames with one between them: ten choices.
    assert set(seen) == {(a, b) for a in range(6) for b in range(a + 2, 6)}
    assert max(abs(count - 300) for count in seen.values()) < 5 * 300**0.5


def test_an_insert_too_small_to_see_is_refused_whichever_it_is() -> None:
    room = insertion.Room(clip("host", 60, (640, 480)), Fraction(3), 1)
    strip, square = clip("strip", 5, (640, 10)), clip("square", 5, (480, 480))
    insertion.check_large_enough(room, (square,), "letterbox", View())
    insertion.check_large_enough(room, (strip,), "squash", View())
    for clips in ((strip, square), (square, strip)):
        with pytest.raises(CannotComposeError, match=r"strip.mp4 would be 336x\d px in host.mp4"):
            insertion.check_large_enough(room, clips, "letterbox", View())
