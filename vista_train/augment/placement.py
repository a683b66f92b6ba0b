"""Where and when a needle goes: uniform among the places that the view will show, fixed before words are chosen.

The composed duration, and with it the sampled times, is settled first. Then a sampled frame is drawn, and the
needle is placed uniformly among the starts that show it there: long needles gain nothing over short ones.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from vista_train.augment.base import CannotComposeError
from vista_train.video.composition import Clip
from vista_train.video.geometry import Box, Fit, Rect, exact
from vista_train.video.sampling import View

STEPS = 1 << 20
"""Random places are drawn on a grid this fine."""


def between(rng: np.random.Generator, low: Fraction, high: Fraction) -> Fraction:
    """A place strictly inside (low, high), uniform on a fine grid; low itself when both are equal."""
    return low + (high - low) * Fraction(int(rng.integers(1, STEPS)), STEPS)


def show_starts(
    times: Sequence[Fraction], frame: int, length: Fraction, latest: Fraction, min_visible: int
) -> tuple[Fraction, Fraction] | None:
    """The starts, within [0, latest], at which something `length` seconds long is shown on `min_visible` sampled
    frames from `frame` on; None where there are none."""
    low = max(Fraction(0), times[frame + min_visible - 1] - length)
    high = min(times[frame], latest)
    return (low, high) if low < high else None


def frames_showing(times: Sequence[Fraction], length: Fraction, latest: Fraction, min_visible: int) -> Sequence[int]:
    """The frames for which `show_starts` finds a start; `CannotComposeError` if there are none.

    Times are in order, so the frames that end too early or begin too late lie at either end.
    """
    first = bisect_right(times, 0)
    last = bisect_left(times, length + latest) - (min_visible - 1)
    frames: Sequence[int] = range(first, last if latest > 0 else first)
    if min_visible > 1:
        frames = [frame for frame in frames if times[frame + min_visible - 1] - times[frame] < length]
    if not frames:
        raise CannotComposeError(
            f"a needle of {float(length):.2f} s fits on no {min_visible} of {len(times)} sampled frames"
        )
    return frames


def draw_start(
    rng: np.random.Generator, times: Sequence[Fraction], length: Fraction, latest: Fraction, min_visible: int
) -> Fraction:
    """A start in [0, latest] that shows `length` seconds on `min_visible` sampled frames, the frame drawn first."""
    frames = frames_showing(times, length, latest, min_visible)
    starts = show_starts(times, frames[int(rng.integers(len(frames)))], length, latest, min_visible)
    assert starts is not None, "these are the frames with a start"
    return between(rng, *starts)


def draw_two_starts(
    rng: np.random.Generator,
    times: Sequence[Fraction],
    lengths: tuple[Fraction, Fraction],
    duration: Fraction,
    min_visible: int,
) -> tuple[Fraction, Fraction]:
    """Starts, in the composed video of `duration` seconds, of two parts: each shown, in order, and apart."""
    for _ in range(64):
        first = draw_start(rng, times, lengths[0], duration - lengths[0], min_visible)
        second = draw_start(rng, times, lengths[1], duration - lengths[1], min_visible)
        if first + lengths[0] < second:
            return first, second
    raise CannotComposeError(
        f"two needles of {float(lengths[0]):.2f} and {float(lengths[1]):.2f} s find no room on {len(times)} frames"
    )


def seen_host(host: Clip, length: Fraction, added: Fraction, view: View) -> Clip:
    """The host, cut at its end where its stride would be too long to show `length` seconds on enough frames.

    The rule: `min_visible - 1` strides of the composed video, which lasts `added` seconds longer than the host, may
    take at most 3/4 of `length`.
    """
    if view.min_visible == 1:
        return host
    longest = Fraction(3, 4) * length * view.frames / (view.min_visible - 1) - added
    if longest <= 0:
        raise CannotComposeError(
            f"{float(length):.2f} s of a needle in {host.path} are too short to be seen on {view.min_visible} of "
            f"{view.frames} frames"
        )
    return host.subclip(0, min(host.duration, longest))


def draw_box(
    rng: np.random.Generator,
    view: View,
    base: tuple[int, int],
    inset: tuple[int, int],
    scale: tuple[float, float],
    frames: int | None = None,
) -> Box:
    """A place for an inset on a base (sizes in pixels): as large as fits a random share of the base's width and
    height, in the inset's own aspect ratio, where a view of `frames` (default: the most) shows it whole and at
    `min_pixels` or more."""
    content = view.content(base, frames)
    window = visible(view, base, frames)
    span = min(window.right - window.left, window.bottom - window.top)
    share = Fraction(float(rng.uniform(*scale))).limit_denominator(10_000) * span
    rect = Rect.of_size(*base).part(Box(0, 0, share, share)).fitted(*inset, "letterbox")  # type: ignore[arg-type]
    width, height = rect.width / base[0], rect.height / base[1]
    shown = min(width * content.width, height * content.height)
    if shown < view.min_pixels + 1:
        # One pixel more than asked for: rounding both edges may take one away.
        grown = (view.min_pixels + 1) / shown
        if share * grown > Fraction(repr(float(scale[1]))) * span:
            raise CannotComposeError(
                f"an inset of at most {scale[1]} of the frame is under view.min_pixels, {view.min_pixels} px"
            )
        width, height = width * grown, height * grown
    left = _spot(rng, window.left, window.right - width)
    top = _spot(rng, window.top, window.bottom - height)
    return Box(left, top, left + width, top + height)


def _spot(rng: np.random.Generator, low: Fraction, high: Fraction) -> Fraction:
    return between(rng, low, high) if low < high else low


def visible(view: View, base: tuple[int, int], frames: int | None = None) -> Box:
    """The part of a video of size `base` that is on the canvas: all of it, unless it is cropped."""
    content, (width, height) = view.content(base, frames), view.canvas(base, frames)
    return Box(
        max(Fraction(0), -content.left / content.width),
        max(Fraction(0), -content.top / content.height),
        min(Fraction(1), (width - content.left) / content.width),
        min(Fraction(1), (height - content.top) / content.height),
    )


def seen_parts(clips: Sequence[Clip], view: View, min_parts: int) -> tuple[Clip, ...]:
    """The clips, shortened where needed so that joined one after another each is on enough sampled frames.

    The rule: the longest are cut at their end, a tenth at a time, until all are seen or all are as short as the
    shortest; if that is not enough, the last clip is dropped and the rest tried again.
    """
    kept = list(clips)
    while len(kept) >= min_parts:
        cap = max(clip.duration for clip in kept)
        shortest = min(clip.duration for clip in kept)
        while True:
            parts = [clip.subclip(0, min(clip.duration, cap)) for clip in kept]
            if _all_seen(parts, view):
                return tuple(parts)
            if cap == shortest:
                break
            cap = max(shortest, cap * Fraction(9, 10))
        kept.pop()
    names = ", ".join(clip.path for clip in clips)
    raise CannotComposeError(f"not {min_parts} of the clips {names}, when joined, are all seen on {view.frames} frames")


def _all_seen(parts: Sequence[Clip], view: View) -> bool:
    edges = list(itertools.accumulate((part.duration for part in parts), initial=Fraction(0)))
    times = view.sampled(edges[-1], sum((part.frame_measure for part in parts), Fraction(0)))
    before = [bisect_left(times, edge) for edge in edges]
    return all(last - first >= view.min_visible for first, last in itertools.pairwise(before))


def inset_box(slot: Box, frame: tuple[int, int], inset: tuple[int, int], fit: Fit) -> Box:
    """Where a picture of size `inset` lies when fitted into `slot` of a frame, as fractions, bars left out."""
    cell = Rect.of_size(*frame).part(slot)
    rect = cell.fitted(*inset, fit)
    width, height = frame
    return Box(
        max(cell.left, rect.left) / width,
        max(cell.top, rect.top) / height,
        min(cell.right, rect.right) / width,
        min(cell.bottom, rect.bottom) / height,
    )


def needle_in(clips: Mapping[str, Sequence[Clip]], max_seconds: float) -> tuple[Clip, Clip]:
    """The haystack, and the needle cut to `max_seconds`; a needle must be shorter than its haystack."""
    host, needle = clips["haystack"][0], clips["needle"][0]
    needle = needle.subclip(0, min(needle.duration, exact(max_seconds)))
    if needle.duration >= host.duration:
        raise CannotComposeError(
            f"the haystack {host.path} lasts {float(host.duration):.2f} s, not longer than its needle {needle.path}, "
            f"{float(needle.duration):.2f} s"
        )
    return host, needle
