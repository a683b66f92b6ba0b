"""When every frame of a stream is shown, and which packets must be decoded for some of them. Pure, no pixels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from vista_train.video.decode.base import Wanted


class Anomaly(Exception):
    """The file does not do what its packets promise. The message is a phrase for people, without paths."""


class Stamps(NamedTuple):
    """What is kept of one packet; times in ticks of the stream's time base."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool
    """False where an edit list hides it: it is decoded, because others refer to it, but never displayed."""
    duration: int = 0
    """How long its frame is shown, in ticks; 0 where the container does not say."""
    is_damaged: bool = False
    """Whether the container knows that some of it is missing or wrong."""


OVERRUN_SECONDS = Fraction(1, 2)
"""The last frame may be asked for this long after it ends: headers round, and count sound tracks in."""


class Run(NamedTuple):
    """Packets start..end in the order of decoding, and which of them are wanted. `start` is a keyframe."""

    start: int
    end: int
    wanted: frozenset[int]


@dataclass(frozen=True)
class PacketIndex:
    """When every frame is shown. A frame's rank is its place in the order of display, its packet's position the
    place in the order of decoding."""

    packets: tuple[Stamps, ...]
    """By position."""
    shown: tuple[int, ...]
    """When each frame is shown, in ticks; by rank, so sorted."""
    time_base: Fraction
    by_pts: bool
    """A frame is known by its pts. Where packets carry none, or the same twice, it is known by counting."""
    can_seek: bool
    first: int = 0
    """Rank of the first frame that a decoder can give; time 0."""
    position_of_pts: Mapping[int | None, int] = field(default_factory=dict, repr=False, compare=False)
    rank_of_pts: Mapping[int | None, int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, packets: Sequence[Stamps], time_base: Fraction, can_seek: bool, reorders: bool) -> PacketIndex:
        """The index of `packets`, which come in the order of decoding.

        `can_seek`: the container finds its keyframes. `reorders`: the codec says that frames are not shown in the
        order they are decoded in. Pts that rise in that order all the same are made up (AVI stores none), or such
        that counting gives the same. `Anomaly` when frames have no times.
        """
        displayed = [packet for packet in packets if packet.is_shown]
        if not displayed:
            raise Anomaly("no frame is shown")
        position_of_pts: dict[int | None, int] = {
            packet.pts: at for at, packet in enumerate(packets) if packet.pts is not None
        }
        rising = all(a < b for a, b in pairwise(packet.pts for packet in packets if packet.pts is not None))
        made_up = reorders and len(packets) > 1 and rising
        by_pts = not made_up and len(position_of_pts) == len(packets)
        shown = _times(displayed)
        first = packets[0]
        return cls(
            packets=tuple(packets),
            shown=shown,
            time_base=time_base,
            by_pts=by_pts,
            can_seek=can_seek and by_pts and first.is_key and first.pts is not None and first.pts <= shown[0],
            position_of_pts=position_of_pts if by_pts else {},
            rank_of_pts={stamp: rank for rank, stamp in enumerate(shown)} if by_pts else {},
        )

    @property
    def may_start_late(self) -> bool:
        """Whether the first frames refer to pictures that are not in the file, so that a decoder may drop them."""
        first = self.packets[0]
        return self.by_pts and (not first.is_key or (first.pts is not None and self.shown[0] < first.pts))

    @property
    def duration(self) -> Fraction | None:
        """Seconds from the first frame to the end of the last, which counts as long as the mean; None for one frame."""
        return self.mean_seconds * len(self.shown) if len(self.shown) > 1 else None

    @property
    def mean_seconds(self) -> Fraction:
        """How long a frame is shown on the average; 0 where there is but one."""
        num = len(self.shown)
        return (self.shown[-1] - self.shown[0]) * self.time_base / (num - 1) if num > 1 else Fraction(0)

    def rank_at(self, time: Fraction) -> int:
        """The rank of the frame shown `time` seconds after the first: the last that began by then, exactly."""
        ticks = time // self.time_base
        return max(bisect_right(self.shown, self.shown[self.first] + ticks) - 1, self.first)

    @property
    def last_seconds(self) -> Fraction:
        """How long the last frame is shown: what its packet says, or the mean of all, whichever is longer."""
        stamp = self.shown[-1]
        said = max((packet.duration for packet in self.packets if stamp in (packet.pts, packet.dts)), default=0)
        return max(said * self.time_base, self.mean_seconds)

    def ranks(self, wanted: Sequence[Wanted]) -> dict[int, list[int]]:
        """For each rank that is wanted, ascending: which of `wanted` want it, in the order of their times."""
        self._check_end(max(one.time for one in wanted))
        out: dict[int, list[int]] = {}
        for which in sorted(range(len(wanted)), key=lambda which: wanted[which].time):
            out.setdefault(self.rank_at(wanted[which].time), []).append(which)
        return out

    def _check_end(self, latest: Fraction) -> None:
        """`Anomaly` if a frame is wanted that the file has no more."""
        last = (self.shown[-1] - self.shown[self.first]) * self.time_base
        # Nearly always so, and it saves looking for the last frame's packet among all.
        if latest <= last:
            return
        end = last + self.last_seconds
        if latest > end + OVERRUN_SECONDS:
            raise Anomaly(f"ends at {float(end):.2f} s, before the frame wanted at {float(latest):.2f} s")


def _times(displayed: Sequence[Stamps]) -> tuple[int, ...]:
    for times in ([packet.pts for packet in displayed], [packet.dts for packet in displayed]):
        known = [time for time in times if time is not None]
        if len(known) == len(displayed):
            return tuple(sorted(known))
    raise Anomaly("its packets carry no times")


def plan_gops(index: PacketIndex, ranks: Iterable[int]) -> list[Run]:
    """The runs of packets to decode for the frames at `ranks` (ascending).

    A frame needs the packets from the last keyframe that is both decoded and shown no later than itself: what an
    open group of pictures shows before its keyframe needs the group before. Runs that touch are one, without a seek.
    """
    keys = [at for at, packet in enumerate(index.packets) if packet.is_key]
    runs: list[Run] = []
    for rank in ranks:
        stamp = index.shown[rank]
        position = index.position_of_pts[stamp]
        start = _keyframe(index, keys, position, stamp)
        if runs and start <= runs[-1].end + 1:
            last = runs.pop()
            runs.append(Run(min(start, last.start), max(position, last.end), last.wanted | {position}))
        else:
            runs.append(Run(start, position, frozenset({position})))
    return runs


def _keyframe(index: PacketIndex, keys: Sequence[int], position: int, stamp: int) -> int:
    for before in range(bisect_right(keys, position) - 1, -1, -1):
        pts = index.packets[keys[before]].pts
        if pts is not None and pts <= stamp:
            return keys[before]
    raise Anomaly("a frame is shown before any keyframe")
