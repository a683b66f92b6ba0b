"""Cross-fades: when parts that overlap are shown, and how strongly each, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from vista_train.video.geometry import Span


class Turn(NamedTuple):
    """When a part is shown, in seconds: it fades in during the first `rise` of them, and out during the last `fall`."""

    start: Fraction
    end: Fraction
    rise: Fraction
    fall: Fraction

    @property
    def clear(self) -> tuple[Fraction, Fraction]:
        """From when to when nothing else is shown with it."""
        return self.start + self.rise, self.end - self.fall

    def weight(self, time: Fraction) -> Fraction:
        """How much of the picture is this part's, 0 to 1."""
        if not self.start <= time < self.end:
            return Fraction(0)
        coming = (time - self.start) / self.rise if time < self.clear[0] else Fraction(1)
        going = (self.end - time) / self.fall if time > self.clear[1] else Fraction(1)
        return min(coming, going)

    def share(self, window: Span) -> Fraction:
        """The weight, integrated over a window: seconds."""
        return self._until(window.end) - self._until(window.start)

    def _until(self, time: Fraction) -> Fraction:
        shown = min(time, self.end) - self.start
        return _ramped(shown, self.rise) - _lost(min(time, self.end) - self.clear[1], self.fall)


def _ramped(seconds: Fraction, rise: Fraction) -> Fraction:
    """The integral, over so many seconds, of a weight that rises to 1."""
    if seconds <= 0:
        return Fraction(0)
    return seconds**2 / (2 * rise) if seconds < rise else seconds - rise / 2


def _lost(seconds: Fraction, fall: Fraction) -> Fraction:
    """The integral of what a weight that falls to 0 lacks of 1, so many seconds after it began to."""
    return seconds**2 / (2 * fall) if seconds > 0 and fall else Fraction(0)


class Timeline(NamedTuple):
    """Parts that overlap, and the window of it all that is shown."""

    turns: tuple[Turn, ...]
    window: Span

    @classmethod
    def of(cls, lengths: Sequence[Fraction], fade: Fraction, window: Span | None) -> Timeline:
        """One part after another, each beginning `fade` seconds before the one ahead of it ends.

        `ValueError` for a part that would be shown together with two others at once, and for a window outside.
        """
        turns, start = list[Turn](), Fraction(0)
        for number, length in enumerate(lengths):
            rise, fall = fade * (number > 0), fade * (number < len(lengths) - 1)
            if fade <= 0 or rise + fall > length:
                raise ValueError(
                    f"Concat: fade_seconds is {float(fade)}; it must be above 0, and part {number}, of "
                    f"{float(length)} s, as long as its fades"
                )
            turns.append(Turn(start, start + length, rise, fall))
            start += length - fade
        end = turns[-1].end
        window = window or Span(Fraction(0), end)
        if window.start < 0 or window.end > end:
            raise ValueError(f"Concat: window {window} lies outside the parts, which last {float(end)} s")
        return cls(tuple(turns), window)

    @property
    def whole(self) -> bool:
        return (self.window.start, self.window.end) == (0, self.turns[-1].end)

    def spans(self, clear: bool = False) -> tuple[Span, ...]:
        """When each part is shown, or `clear`, shown alone; in seconds of the window."""
        first, last = self.window.start, self.window.end
        times = (turn.clear if clear else (turn.start, turn.end) for turn in self.turns)
        return tuple(Span(max(start, first) - first, min(end, last) - first) for start, end in times)

    def measure(self, rates: Sequence[Fraction]) -> Fraction:
        """Source frames shown, of parts with so many a second, each counted by its weight."""
        return sum((rate * turn.share(self.window) for rate, turn in zip(rates, self.turns, strict=True)), Fraction(0))

    def cut(self, start: Fraction, end: Fraction) -> tuple[slice, Span]:
        """Which parts are shown from `start` to `end` of the window, and their window then."""
        first, last = self.window.start + start, self.window.start + end
        kept = [number for number, turn in enumerate(self.turns) if turn.start < last and first < turn.end]
        gone = self.turns[kept[0]].start
        return slice(kept[0], kept[-1] + 1), Span(first - gone, last - gone)
