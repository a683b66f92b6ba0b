"""When every frame of a stream is shown, and which packets must be decoded for some of them. Pure, no pixels."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, overload

import numpy as np

from vista_train.video.decode.base import Wanted

NO_STAMP = int(np.iinfo(np.int64).min)
"""Stands in arrays of stamps where a packet has none; libav's own mark."""
LAST_TICK = int(np.iinfo(np.int64).max)
OVERRUN_SECONDS = Fraction(1, 2)
"""The last frame may be asked for this long after it ends: headers round, and count sound tracks in."""


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
    offset: int = -1
    """Where in the file its bytes lie, one behind the other; -1 where they do not, or nobody knows."""
    size: int = 0


class Column(Protocol):
    """Whole numbers: an array, or such as are read from a file where they are looked at."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, at: int) -> Any: ...

    @overload
    def __getitem__(self, at: slice) -> np.ndarray: ...


class DecoderSetup(NamedTuple):
    """What a decoder must be told before it gets packets that no container hands it."""

    codec: str
    extradata: bytes
    width: int
    height: int
    pix_fmt: str
    """Empty where the decoder finds it out by itself."""
    colors: tuple[int, ...]
    turns: int = 0
    """Quarter turns, anticlockwise, that make its pictures upright, as the container has it."""


class Run(NamedTuple):
    """Packets start..end in the order of decoding, and which of them are wanted. `start` is a keyframe."""

    start: int
    end: int
    wanted: frozenset[int]


IS_KEY, IS_SHOWN, IS_DAMAGED = 1, 2, 4


class Columns(NamedTuple):
    """What is kept of P packets, each an array [P] of whole numbers."""

    pts_P: np.ndarray
    dts_P: np.ndarray
    duration_P: np.ndarray
    offset_P: np.ndarray
    size_P: np.ndarray
    flags_P: np.ndarray


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """When every frame is shown. A frame's rank is its place in the order of display, its packet's position the
    place in the order of decoding. P packets, F frames, K keyframes."""

    pts_P: Column
    """int64, NO_STAMP where a packet carries none; so is `dts_P`."""
    dts_P: Column
    rank_P: Column
    """int32: the rank of each packet's frame, -1 where it is hidden; empty unless `by_pts`."""
    position_F: Column
    """int32: the position of each frame's packet; empty unless `by_pts`."""
    shown_F: Column
    """int64: when each frame is shown, in ticks; sorted."""
    keys_K: Column
    """int32: the positions of the keyframes; sorted."""
    stand_ins_K: Column
    """int32: the ranks of the frames that may stand in for others, those of the keyframes; sorted. A rendition has
    those of its file."""
    time_base: Fraction
    by_pts: bool
    """A frame is known by its pts. Where packets carry none, or the same twice, it is known by counting."""
    can_seek: bool
    last_seconds: Fraction
    """How long the last frame is shown: what its packet says, or the mean of all, whichever is longer."""
    offset_P: Column
    """int64: where each packet's bytes lie in the file, and `size_P` how many; empty where not all lie open."""
    size_P: Column
    is_damaged: bool = False
    """Whether the container knows of a packet that is damaged."""
    setup: DecoderSetup | None = None
    """For a decoder that gets its packets without the container; None where it needs one."""
    first: int = 0
    """Rank of the first frame that a decoder can give; time 0."""

    @classmethod
    def of(cls, packets: Iterable[Stamps], time_base: Fraction, can_seek: bool, reorders: bool) -> PacketIndex:
        """The index of `packets`, which come in the order of decoding.

        `can_seek`: the container finds its keyframes. `reorders`: the codec says that frames are not shown in the
        order they are decoded in. Pts that rise in that order all the same are made up (AVI stores none), or such
        that counting gives the same. `Anomaly` when frames have no times.
        """
        return cls.of_columns(_columns(packets), time_base, can_seek, reorders)

    @classmethod
    def of_columns(cls, columns: Columns, time_base: Fraction, can_seek: bool, reorders: bool) -> PacketIndex:
        """`of`, where packets already stand in arrays."""
        pts_P, dts_P, duration_P, offset_P, size_P, flags_P = columns
        keys_K, is_shown_P = np.flatnonzero(flags_P & IS_KEY).astype(np.int32), flags_P & IS_SHOWN != 0
        if not is_shown_P.any():
            raise Anomaly("no frame is shown")
        known = pts_P[pts_P != NO_STAMP]
        made_up = reorders and len(pts_P) > 1 and bool((known[1:] > known[:-1]).all())
        by_pts = not made_up and len(known) == len(pts_P) == len(np.unique(known))
        shown_F = _times(pts_P[is_shown_P], dts_P[is_shown_P])
        rank_P = position_F = np.zeros(0, np.int32)
        if by_pts:
            displayed = np.flatnonzero(is_shown_P)
            position_F = displayed[np.argsort(pts_P[displayed])].astype(np.int32)
            rank_P = np.full(len(pts_P), -1, np.int32)
            rank_P[position_F] = np.arange(len(position_F), dtype=np.int32)
        starts = 0 in keys_K[:1] and pts_P[0] != NO_STAMP and bool(pts_P[0] <= shown_F[0])
        said = int(duration_P[(pts_P == shown_F[-1]) | (dts_P == shown_F[-1])].max(initial=0))
        # Who gives packets to a decoder cannot tell it which of them are hidden.
        lie_open = bool((offset_P >= 0).all() and is_shown_P.all())
        return cls(
            pts_P=pts_P,
            dts_P=dts_P,
            rank_P=rank_P,
            position_F=position_F,
            shown_F=shown_F,
            keys_K=keys_K,
            stand_ins_K=np.sort(rank_P[keys_K][rank_P[keys_K] >= 0]) if by_pts else rank_P,
            time_base=time_base,
            by_pts=by_pts,
            can_seek=can_seek and by_pts and starts,
            last_seconds=max(said * time_base, _mean_ticks(shown_F) * time_base),
            offset_P=offset_P if lie_open else offset_P[:0],
            size_P=size_P if lie_open else size_P[:0],
            is_damaged=bool((flags_P & IS_DAMAGED).any()),
        )

    def __len__(self) -> int:
        """How many frames are shown."""
        return len(self.shown_F)

    @property
    def num_packets(self) -> int:
        return len(self.pts_P)

    @property
    def may_start_late(self) -> bool:
        """Whether the first frames refer to pictures that are not in the file, so that a decoder may drop them."""
        return self.by_pts and (0 not in self.keys_K[:1] or bool(self.shown_F[0] < self.pts_P[0]))

    @property
    def duration(self) -> Fraction | None:
        """Seconds from the first frame to the end of the last, which counts as long as the mean; None for one frame."""
        return self.mean_seconds * len(self) if len(self) > 1 else None

    @property
    def mean_seconds(self) -> Fraction:
        """How long a frame is shown on the average; 0 where there is but one."""
        return _mean_ticks(self.shown_F) * self.time_base

    def knows(self, wanted: Sequence[Wanted]) -> bool:
        """Whether it tells all that may stand in for what is wanted; one out of a file's own table may not."""
        return len(self.stand_ins_K) > 0 or all(one.window is None for one in wanted)

    def stamps(self, position: int) -> Stamps:
        """What is kept of the packet at a position."""
        pts, dts = (int(stamps_P[position]) for stamps_P in (self.pts_P, self.dts_P))
        is_shown = not self.by_pts or bool(self.rank_P[position] >= 0)
        return Stamps(_known(pts), _known(dts), position in self.keys_in(position, position), is_shown)

    def ranks_in(self, start: int, end: int) -> dict[int | None, int]:
        """The rank by pts of the frames in packets start..end, -1 for those that are hidden."""
        part = slice(start, end + 1)
        return dict(zip(self.pts_P[part].tolist(), self.rank_P[part].tolist(), strict=True))

    def keys_in(self, start: int, end: int) -> list[int]:
        """The positions of the keyframes among packets start..end."""
        return self.keys_K[bisect_left(self.keys_K, start) : bisect_right(self.keys_K, end)].tolist()

    def pts_in(self, run: Run) -> list[int]:
        """The pts of the packets of a run."""
        return self.pts_P[run.start : run.end + 1].tolist()

    def dts_in(self, run: Run) -> list[int | None]:
        """The dts of the packets of a run."""
        return [_known(dts) for dts in self.dts_P[run.start : run.end + 1].tolist()]

    def starts_at(self, rank: int) -> Fraction:
        """Seconds after the first frame at which the frame of a rank is shown."""
        return (int(self.shown_F[rank]) - int(self.shown_F[self.first])) * self.time_base

    def rank_at(self, time: Fraction) -> int:
        """The rank of the frame shown `time` seconds after the first: the last that began by then, exactly."""
        return max(bisect_right(self.shown_F, self.ticks([time])[0]) - 1, self.first)

    def ranks_at(self, ticks: Sequence[int]) -> list[int]:
        """The same for many times, in ticks."""
        if not isinstance(self.shown_F, np.ndarray):
            return [max(bisect_right(self.shown_F, tick) - 1, self.first) for tick in ticks]
        ranks: list[int] = np.maximum(self.shown_F.searchsorted(ticks, "right") - 1, self.first).tolist()
        return ranks

    def ticks(self, times: Sequence[Fraction]) -> list[int]:
        """The last tick of the stream's time base by each time, which is in seconds after the first frame."""
        num, den = self.time_base.as_integer_ratio()
        first = int(self.shown_F[self.first])
        # In whole numbers: fractions take several times as long, and this is asked for every picture.
        ratios = (time.as_integer_ratio() for time in times)
        return [min(first + above * den // (below * num), LAST_TICK) for above, below in ratios]

    def rank_for(self, one: Wanted) -> int:
        """The rank of the frame to show for a wish: the nearest keyframe in its window, or else the one shown then."""
        rank = self.rank_at(one.time)
        if one.window is None:
            return rank
        at = bisect_right(self.stand_ins_K, rank)
        near = [int(other) for other in self.stand_ins_K[max(0, at - 1) : at + 1]]
        begins = {other: self.starts_at(other) for other in near if 0 <= other < len(self)}
        inside = [other for other, time in begins.items() if one.window[0] <= time < one.window[1]]
        return min(inside, key=lambda other: abs(begins[other] - one.time), default=rank)

    def ranks(self, wanted: Sequence[Wanted]) -> dict[int, list[int]]:
        """For each rank that is wanted, ascending: which of `wanted` want it, in the order of their times.

        `Anomaly` if a frame is wanted that the file has no more.
        """
        self._check_end(max(one.time for one in wanted))
        out: dict[int, list[int]] = {}
        for which in sorted(range(len(wanted)), key=lambda which: wanted[which].time):
            out.setdefault(self.rank_for(wanted[which]), []).append(which)
        return dict(sorted(out.items()))

    def _check_end(self, latest: Fraction) -> None:
        end = self.starts_at(-1) + self.last_seconds
        if latest > end + OVERRUN_SECONDS:
            raise Anomaly(f"ends at {float(end):.2f} s, before the frame wanted at {float(latest):.2f} s")


def _known(stamp: int) -> int | None:
    return None if stamp == NO_STAMP else stamp


def _columns(packets: Iterable[Stamps]) -> Columns:
    """Packets in arrays: of a million no object is kept."""
    columns = [array("q"), array("q"), array("q"), array("q"), array("i"), array("B")]
    for packet in packets:
        pts, dts = (NO_STAMP if stamp is None else stamp for stamp in (packet.pts, packet.dts))
        flags = packet.is_key * IS_KEY | packet.is_shown * IS_SHOWN | packet.is_damaged * IS_DAMAGED
        values = (pts, dts, packet.duration, packet.offset, packet.size, flags)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return Columns(*map(np.array, columns))


def _times(pts_F: np.ndarray, dts_F: np.ndarray) -> np.ndarray:
    """When the frames are shown, sorted: by their pts, or by dts where some lack one."""
    for times_F in (pts_F, dts_F):
        if (times_F != NO_STAMP).all():
            return np.sort(times_F)
    raise Anomaly("its packets carry no times")


def _mean_ticks(shown_F: Column) -> Fraction:
    """From one frame to the next on the average; 0 where there is but one."""
    num = len(shown_F)
    return Fraction(int(shown_F[-1]) - int(shown_F[0]), num - 1) if num > 1 else Fraction(0)


def plan_gops(index: PacketIndex, ranks: Iterable[int]) -> list[Run]:
    """The runs of packets to decode for the frames at `ranks` (ascending).

    A frame needs the packets from the last keyframe that is both decoded and shown no later than itself: what an
    open group of pictures shows before its keyframe needs the group before. Runs that touch are one, without a seek.
    """
    runs: list[Run] = []
    for rank in ranks:
        position = int(index.position_F[rank])
        if not 0 <= position < index.num_packets:
            raise Anomaly("its index names a packet that is not there")
        start = _keyframe(index, position)
        if runs and start <= runs[-1].end + 1:
            last = runs.pop()
            runs.append(Run(min(start, last.start), max(position, last.end), last.wanted | {position}))
        else:
            runs.append(Run(start, position, frozenset({position})))
    return runs


def _keyframe(index: PacketIndex, position: int) -> int:
    """The keyframe from which to decode the packet at a position, whose pts all packets have."""
    shown = index.pts_P[position]
    for before in range(bisect_right(index.keys_K, position) - 1, -1, -1):
        key = int(index.keys_K[before])
        if 0 <= key <= position and index.pts_P[key] <= shown:
            return key
    raise Anomaly("a frame is shown before any keyframe")
