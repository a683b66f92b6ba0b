"""Inserting several clips into one host: how many the view can show one by one, and when each begins.

All are cut to one length, and between two of them a sampled frame shows the host: with nothing between them, two
copies of one clip could not be told from one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from vista_train.augment import placement
from vista_train.augment.base import CannotComposeError
from vista_train.video.composition import Clip, Concat, Video
from vista_train.video.geometry import Box, Fit, exact
from vista_train.video.sampling import View


class Room(NamedTuple):
    """What a view can show in a host: so many inserts, each so long."""

    host: Clip
    """Cut at its end where its stride would be too long."""
    length: Fraction
    """What each insert is cut to, in seconds."""
    num: int

    @property
    def duration(self) -> Fraction:
        """Length of the composed video."""
        return self.host.duration + self.num * self.length

    def times(self, inserts: Sequence[Clip], view: View) -> Sequence[Fraction]:
        """The sampled times when these are inserted."""
        rates = (insert.fps for insert in inserts)
        return view.sampled(self.duration, self.host.frame_measure + self.length * sum(rates, Fraction(0)))


def find_room(
    host: Clip, clips: Sequence[Clip], view: View, max_seconds: float, counts: tuple[int, int], spare: int = 0
) -> Room:
    """Room for as many of the first clips as the view can show, within `counts` (least, most).

    The rule: each lasts as long as the shortest of those clips and the `spare` ones behind them, at most
    `max_seconds`, and all of them together at most half as long as the host. Follows from metadata alone, so that it
    is the same whatever is drawn. `CannotComposeError` where even the least are not shown.
    """
    least, most = counts
    reason = f"{len(clips)} clips are fewer than {least + spare}"
    for count in range(min(most, len(clips) - spare), least - 1, -1):
        candidates = clips[: count + spare]
        longest = [clip.duration for clip in candidates]
        length = min(*longest, exact(max_seconds), host.duration / (2 * count))
        try:
            room = Room(placement.seen_host(host, length, count * length, view), length, count)
            _first_frames(room, room.times(candidates[:count], view), view)
        except CannotComposeError as error:
            reason = str(error)
            continue
        return room
    raise CannotComposeError(f"{least} inserts find no room in {host.path}: {reason}")


def draw_starts(rng: np.random.Generator, room: Room, inserts: Sequence[Clip], view: View) -> tuple[Fraction, ...]:
    """Starts in order, in the composed video: first the sampled frame that each is first shown on, uniformly among
    all choices that keep them apart, then a place uniform among those that show it there."""
    times = room.times(inserts, view)
    frames, gap = _first_frames(room, times, view)
    free = len(frames) - (room.num - 1) * (gap - 1)
    chosen = sorted(rng.choice(free, size=room.num, replace=False).tolist())
    starts = []
    for number, place in enumerate(chosen):
        frame = frames[place + number * (gap - 1)]
        low = max(Fraction(0), times[frame + view.min_visible - 1] - room.length, times[frame - 1] if frame else 0)
        high = min(times[frame], room.duration - room.length)
        starts.append(placement.between(rng, low, high))
    return tuple(starts)


def _first_frames(room: Room, times: Sequence[Fraction], view: View) -> tuple[range, int]:
    """The frames that an insert can be first shown on, and how many frames from one insert's to the next's."""
    stride = times[1] - times[0] if len(times) > 1 else room.duration
    last = min(len(times) - view.min_visible, bisect_left(times, room.duration - room.length))
    frames = range(bisect_right(times, 0), last + 1)
    gap = -(-room.length // stride) + 1
    if len(frames) <= (room.num - 1) * gap or stride * (view.min_visible - 1) >= room.length:
        raise CannotComposeError(
            f"{room.num} inserts of {float(room.length):.2f} s are not each on {view.min_visible} of {len(times)} "
            f"frames, apart from each other"
        )
    return frames, gap


def check_large_enough(room: Room, clips: Sequence[Clip], fit: Fit, view: View) -> None:
    """`CannotComposeError` unless each of the clips, inserted, is large enough: those that are not asked about too, so
    that whether a sample can be made does not depend on which is."""
    frames = len(room.times(clips[: room.num], view))
    for clip in clips:
        box = placement.inset_box(Box(), room.host.size, clip.size, fit)
        area = view.pixels(room.host.size, box, frames)
        if min(area.width, area.height) < view.min_pixels:
            raise CannotComposeError(f"{clip.path} would be {area.width}x{area.height} px in {room.host.path}")


def inserted(host: Clip, host_end: Fraction, inserts: Sequence[Video], starts: Sequence[Fraction], fit: Fit) -> Concat:
    """The host, which goes on behind each insert; insert `i` is part `2 i + 1`."""
    parts: list[Video] = []
    at = added = Fraction(0)
    for insert, start in zip(inserts, starts, strict=True):
        parts += [host.subclip(at, start - added), insert]
        at, added = start - added, added + insert.duration
    return Concat((*parts, host.subclip(at, host_end)), fit=fit)
