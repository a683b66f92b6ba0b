"""The default reader, on PyAV: exact to the frame, and decoding little more than the wanted frames need.

One pass over the packets, without decoding, says when every frame is shown. Then each group of pictures that holds a
wanted frame is decoded from its keyframe up to that frame, less the pictures nothing refers to. Whatever does not go
as the packets promise (a seek that lands too late, a missing or damaged frame) leads to one plain pass from the start
of the file, and if that fails too, the file is refused. Where the packets of a file are remembered, the first pass is
spared; and where they lie open in it, its container too.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from vista_train.video.decode.base import FORGETFUL, MediaUnreadable, Memory, Wanted
from vista_train.video.decode.direct import Direct, direct
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.packets import Anomaly, PacketIndex, Run, Stamps, plan_gops
from vista_train.video.decode.source import Source, opened, read_index, told
from vista_train.video.decode.table import index_by_table

KNOWN_WRONG: dict[str, str] = {}
"""Kinds of file of which other frames are given than are shown at the time asked for: none known."""
MOST_REORDERED = 16
"""Frames that a decoder may hold back to bring them into order (H.264 and HEVC allow 16)."""
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def sparse_frames(
    source: Source | Direct, index: PacketIndex, ranks: Iterable[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """(rank, frame) for the wanted ranks (ascending), and for some others on the way to them."""
    runs = plan_gops(index, ranks)
    if runs and runs[0].start > 0:
        # Some encoders name themselves in the first packet only, and libav must know them to decode them rightly.
        for packet in source.run_packets(index, Run(0, 0, frozenset({0}))):
            source.decode(packet)
    for run in runs:
        frames = source.frames(source.run_packets(index, run))
        if run.start:
            frames = _from_keyframe(frames, index.stamps(run.start))
        yield from _ranked(frames, index.ranks_in(run.start, run.end), len(index))


def _from_keyframe(frames: Iterable[VideoFrame], key: Stamps) -> Iterator[VideoFrame]:
    """The frames of a run, if its keyframe is whole. Streams that refresh bit by bit mark frames as keys that are not:
    what is decoded from there looks right after a while, and differs."""
    checked = not key.is_shown
    for frame in frames:
        if not checked and frame.pts is not None and key.pts is not None and frame.pts >= key.pts:
            if frame.pts > key.pts or frame.pict_type in (PictureType.P, PictureType.B):
                raise Anomaly("a keyframe is not whole")
            checked = True
        yield frame


def _ranked(
    frames: Iterable[VideoFrame], rank_of_pts: Mapping[int | None, int] | None, num_frames: int
) -> Iterator[tuple[int, VideoFrame]]:
    """(rank, frame), known by pts, or by counting; `Anomaly` for a frame that no packet stands for."""
    for count, frame in enumerate(frames):
        rank = count if rank_of_pts is None else rank_of_pts.get(frame.pts, -1)
        if not 0 <= rank < num_frames:
            raise Anomaly("a frame comes at a time that no packet has")
        yield rank, frame


def _in_order(source: Source, index: PacketIndex, wanted: Sequence[Wanted]) -> Iterator[tuple[int, np.ndarray]]:
    first, frames = first_shown(source, index)
    if index.may_start_late:
        index = replace(index, first=first[0])
    yield from _pictures(chain([first], frames), index.ranks(wanted), wanted)


def first_shown(source: Source, index: PacketIndex) -> tuple[tuple[int, VideoFrame], Iterator[tuple[int, VideoFrame]]]:
    """The first frame that can be decoded, with its rank, and those that follow it; of a file just opened."""
    rank_of_pts = index.ranks_in(0, index.num_packets - 1) if index.by_pts else None
    frames = _ranked(source.frames(source.packets()), rank_of_pts, len(index))
    first = next(frames, None)
    if first is None:
        raise Anomaly("no frame can be decoded")
    return first, frames


class Scaler:
    """Frames to upright RGB pictures of any size. libswscale sets up its tables once for each size."""

    def __init__(self, turns: int = 0) -> None:
        self._turns = turns
        self._by_size: defaultdict[tuple[int, int], VideoReformatter] = defaultdict(VideoReformatter)
        self.has_turned = False
        """Whether a frame did not come upright."""

    def picture(self, frame: VideoFrame, width: int, height: int) -> np.ndarray:
        """picture_HWC uint8, contiguous, height x width pixels as displayed."""
        turns = self._turns or round(frame.rotation / 90) % 4
        self.has_turned |= turns > 0
        size = (height, width) if turns % 2 else (width, height)
        # Plane by plane: libswscale takes a third longer to the same pixels one behind the other.
        scaled = self._by_size[size].reformat(frame, *size, format="gbrp", interpolation=SCALING, threads=1)
        picture_HWC = scaled.to_ndarray()
        return np.ascontiguousarray(np.rot90(picture_HWC, turns)) if turns else picture_HWC


def _pictures(
    frames: Iterator[tuple[int, VideoFrame]],
    ranks: Mapping[int, Sequence[int]],
    wanted: Sequence[Wanted],
    scaler: Scaler | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    scaler, left, latest = scaler or Scaler(), dict(ranks), -1
    for rank, frame in frames:
        if rank <= latest:
            raise Anomaly("frames come out of order")
        latest = rank
        by_size: dict[tuple[int, int], np.ndarray] = {}
        for which in left.pop(rank, ()):
            size = (wanted[which].width, wanted[which].height)
            if size not in by_size:
                by_size[size] = scaler.picture(frame, *size)
            yield which, by_size[size]
        if not left:
            # Damage in what the last pictures refer to may show only now, as it may be displayed after them.
            deque(islice(frames, MOST_REORDERED), maxlen=0)
            return
    if left:
        raise Anomaly("cannot be decoded: a wanted frame is missing")


class PyAVReader:
    """Exact to the frame, or `MediaUnreadable`; seeks only in containers where seeking can be checked."""

    name = "pyav"

    def pictures(
        self, path: Path, wanted: Sequence[Wanted], limits: Limits, memory: Memory = FORGETFUL
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See `Reader.pictures`. All who want one frame at one size get the same array."""
        known = memory.index()
        may_show = known is not None and (memory.is_all or known.knows(wanted))
        if known is not None and may_show and (yield from _remembered(path, known, wanted, limits)):
            return
        if memory.is_all:
            raise MediaUnreadable(path, "is not what its index says")
        if (yield from _tabled(path, wanted, limits, memory)):
            return
        with opened(path, limits) as source:
            index = read_index(source)
            if index.can_seek and (yield from _sparse(source, index, wanted, memory)):
                return
        with opened(path, limits) as source:
            yield from _in_order(source, index, wanted)


def _sparse(
    source: Source, index: PacketIndex, wanted: Sequence[Wanted], memory: Memory
) -> Generator[tuple[int, np.ndarray], None, bool]:
    """The pictures by seeking, if all goes as the index has it; whether it does. The index is then worth keeping."""
    ranks, scaler = index.ranks(wanted), Scaler()
    with suppress(Anomaly, av.FFmpegError):
        yield from _pictures(sparse_frames(source, index, ranks), ranks, wanted, scaler)
        # A container that turns its pictures is needed again.
        memory.keep(replace(index, setup=None) if scaler.has_turned else index)
        return True
    return False


def _tabled(
    path: Path, wanted: Sequence[Wanted], limits: Limits, memory: Memory
) -> Generator[tuple[int, np.ndarray], None, bool]:
    """The pictures by a file's own table, if there is one that can tell; whether all came. It is then worth keeping."""

    def reorders() -> bool:
        with opened(path, limits) as source:
            return bool(source.stream.codec_context.has_b_frames)

    index = index_by_table(path, limits, reorders)
    if index is None or not index.knows(wanted) or not (yield from _remembered(path, index, wanted, limits)):
        return False
    memory.keep(index)
    return True


def _remembered(
    path: Path, index: PacketIndex, wanted: Sequence[Wanted], limits: Limits
) -> Generator[tuple[int, np.ndarray], None, bool]:
    """The pictures, if the index still is that of the file; whether it is."""
    if index.setup is not None:
        with told(path), suppress(Anomaly, av.FFmpegError, OSError), direct(path, index, limits) as bare:
            ranks = index.ranks(wanted)
            yield from _pictures(sparse_frames(bare, index, ranks), ranks, wanted, Scaler(index.setup.turns))
            return True
        return False
    with opened(path, limits) as source, suppress(Anomaly, av.FFmpegError):
        source.check(0, 0, index.num_packets, index.duration or Fraction(0))
        ranks = index.ranks(wanted)
        yield from _pictures(sparse_frames(source, index, ranks), ranks, wanted)
        return True
    return False
