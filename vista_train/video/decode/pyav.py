"""The default reader, on PyAV: exact to the frame, and decoding little more than the wanted frames need.

One pass over the packets, without decoding, says when every frame is shown. Then each group of pictures that holds a
wanted frame is decoded from its keyframe up to that frame, less the pictures nothing refers to. Whatever does not go
as the packets promise (a seek that lands too late, a missing or damaged frame) leads to one plain pass from the start
of the file, and if that fails too, the file is refused.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from vista_train.video.decode.base import MIN_SIDE_PX, MediaTooLarge, MediaUnreadable, Wanted
from vista_train.video.decode.limits import LIMITS, Limits
from vista_train.video.decode.packets import Anomaly, PacketIndex, Run, Stamps, plan_gops

CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx-vp9", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"),
    *("h263", "h263p", "flv", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "wmv1", "wmv2", "wmv3", "vc1", "theora", "vvc"),
    *("prores", "dnxhd", "rawvideo", "gif", "rv30", "rv40", "svq1", "svq3", "cinepak", "vp6", "vp6f", "libaom-av1"),
)
"""Decoders that may run, by libav's names: those that videos for people are in. libav has hundreds more, seldom used
and seldom looked at, which a file from a stranger could choose; sound is not decoded at all."""
SEEKABLE = frozenset({"mov", "matroska", "flv", "mpegts"})
KNOWN_WRONG: dict[str, str] = {}
"""Kinds of file of which other frames are given than are shown at the time asked for: none known."""
WHOLE = Fraction(98, 100)
"""A file with fewer packets than this part of what its header promises was cut off."""
NO_MEMORY = "its decoder asks for more memory than it may have (limits.max_memory_mib)"
MOST_STREAMS = 64
MOST_REORDERED = 16
"""Frames that a decoder may hold back to bring them into order (H.264 and HEVC allow 16)."""
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class Source(NamedTuple):
    """An open file and its best video stream."""

    container: InputContainer
    stream: VideoStream
    path: Path = Path()
    limits: Limits = LIMITS

    @property
    def formats(self) -> frozenset[str]:
        return frozenset(self.container.format.name.split(","))

    @property
    def time_base(self) -> Fraction:
        if self.stream.time_base is None:
            raise Anomaly("its video stream has no time base")
        return self.stream.time_base

    def num_promised(self) -> int:
        """How many packets the header promises, 0 where it does not say; asked before any packet is read."""
        if "mov" not in self.formats:
            return self.stream.frames
        # An edit list may leave out the tail, which the header's frame count still has.
        return min(self.stream.frames, len(self.stream.index_entries))

    def packets(self) -> Iterator[Packet]:
        """The stream's packets from where the file stands. An empty one would end the decoding, so none is passed."""
        # PyAV trips at the very end of a file in which further streams began, when all packets have come.
        with suppress(IndexError):
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet

    def frames(self, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
        """What the packets decode to, and what the decoder then still holds back; `Anomaly` for a damaged frame."""
        count = 0
        for packet in chain(packets, [None]):
            if packet is not None and packet.is_corrupt:
                raise Anomaly("cannot be decoded: a packet is damaged")
            for frame in self.stream.decode(packet):
                if frame.is_corrupt:
                    raise Anomaly("cannot be decoded: a frame is damaged")
                count += 1
                # What a header says may change with every keyframe.
                self.check(frame.width, frame.height, count, Fraction(0))
                yield frame

    def check(self, width: int, height: int, num_frames: int, seconds: Fraction) -> None:
        """`MediaTooLarge` where one of these is beyond the limits."""
        limits = self.limits
        if width * height > limits.max_pixels:
            raise MediaTooLarge(
                self.path, f"has frames of {width}x{height}, and limits.max_pixels is {limits.max_pixels}"
            )
        if num_frames > limits.max_frames:
            raise MediaTooLarge(
                self.path, f"has {num_frames} frames or more, and limits.max_frames is {limits.max_frames}"
            )
        if seconds > limits.max_seconds:
            raise MediaTooLarge(
                self.path, f"lasts {float(seconds):.0f} s, and limits.max_seconds is {limits.max_seconds:g}"
            )


@contextmanager
def opened(path: Path, limits: Limits = LIMITS) -> Iterator[Source]:
    """The file at `path`, its header within the limits, closed at the end. `Anomaly` and libav's own errors leave it as
    `MediaUnreadable`, lack of memory as `MediaTooLarge`."""
    options = {
        "format_whitelist": ",".join(limits.containers),
        "protocol_whitelist": "file",
        "codec_whitelist": ",".join(CODECS),
    }
    try:
        container = _container(path, options, limits)
    except av.error.ArgumentError:
        raise MediaUnreadable(path, f"not one of the video containers {', '.join(limits.containers)}") from None
    except (MemoryError, av.error.MemoryError):
        raise MediaTooLarge(path, NO_MEMORY) from None
    except av.FFmpegError as error:
        raise MediaUnreadable(path, f"cannot be opened: {_phrase(error)}") from None
    try:
        source = Source(container, _best_video(container), path, limits)
        stream = source.stream
        # Seconds are held against the packets: headers count sound tracks in, and some are plainly wrong.
        source.check(stream.width, stream.height, source.num_promised(), Fraction(0))
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels), "codec_whitelist": ",".join(CODECS)}
        yield source
    except (MemoryError, av.error.MemoryError):
        raise MediaTooLarge(path, NO_MEMORY) from None
    except av.FFmpegError as error:
        raise MediaUnreadable(path, f"cannot be decoded: {_phrase(error)}") from None
    except Anomaly as anomaly:
        raise MediaUnreadable(path, str(anomaly)) from None
    finally:
        container.close()


def _container(path: Path, options: dict[str, str], limits: Limits) -> InputContainer:
    """The file at `path`. To find out what is in it libav decodes some of it already; limits hold there too."""
    sized = [{"max_pixels": str(limits.max_pixels)}] * MOST_STREAMS
    try:
        return av.open(f"file:{path}", metadata_errors="replace", options=options, stream_options=sized)  # type: ignore[arg-type]
    except av.FFmpegError:
        raise
    except ValueError:
        # Some containers (FLV, MPEG) tell of no stream before one is found: there, memory's limit alone holds.
        return av.open(f"file:{path}", metadata_errors="replace", options=options)


def _phrase(error: av.FFmpegError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _best_video(container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise Anomaly("no video stream")
    if stream.codec_context is None:
        raise Anomaly("no decoder for its video stream")
    if min(stream.width, stream.height) < MIN_SIDE_PX:
        raise Anomaly(f"{stream.width}x{stream.height} pixels, less than {MIN_SIDE_PX} a side")
    for other in container.streams:
        other.discard = Discard.default if other.index == stream.index else Discard.all
    stream.thread_count = 1
    return stream


def read_index(source: Source) -> PacketIndex:
    """Demux the whole file once; `Anomaly` when it ends before its header says. Leaves the file at its end."""
    promised = source.num_promised()
    packets = []
    for p in source.packets():
        packets.append(Stamps(p.pts, p.dts, p.is_keyframe, not p.is_discard, p.duration or 0, p.is_corrupt))
        if len(packets) > source.limits.max_frames:
            source.check(0, 0, len(packets), Fraction(0))
    if len(packets) < WHOLE * promised:
        raise Anomaly(f"truncated: {len(packets)} packets where its header promises {promised}")
    index = PacketIndex.of(
        packets,
        source.time_base,
        can_seek=bool(source.formats & SEEKABLE),
        reorders=bool(source.stream.codec_context.has_b_frames),
    )
    source.check(0, 0, 0, index.duration or Fraction(0))
    return index


def sparse_frames(source: Source, index: PacketIndex, ranks: Iterable[int]) -> Iterator[tuple[int, VideoFrame]]:
    """(rank, frame) for the wanted ranks (ascending), and for some others on the way to them."""
    runs = plan_gops(index, ranks)
    if runs and runs[0].start > 0:
        # Some encoders name themselves in the first packet only, and libav must know them to decode them rightly.
        for packet in run_packets(source, index, Run(0, 0, frozenset({0}))):
            source.stream.decode(packet)
    for run in runs:
        frames = source.frames(run_packets(source, index, run))
        yield from _ranked(_from_keyframe(frames, index.packets[run.start]) if run.start else frames, index)


def run_packets(source: Source, index: PacketIndex, run: Run) -> Iterator[Packet]:
    """Seek to the run and give its packets, telling the decoder before each whether it may pass over the packet."""
    key = index.packets[run.start]
    target = key.dts if "mpegts" in source.formats else key.pts
    if target is None:
        raise Anomaly("a keyframe carries no time to seek to")
    source.container.seek(target, stream=source.stream)
    decoder = source.stream.codec_context
    expected = run.start
    for packet in source.packets():
        position = index.position_of_pts.get(packet.pts)
        if expected == run.start and (position is None or position < run.start):
            continue
        if position != expected:
            raise Anomaly("a seek does not lead where the packets say")
        # A keyframe is always decoded; some decoders take no other setting after the first packet than before it.
        decoder.skip_frame = "DEFAULT" if position in run.wanted or position == run.start else "NONREF"
        yield packet
        if position == run.end:
            return
        expected += 1
    raise Anomaly("packets are missing after a seek")


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


def _ranked(frames: Iterable[VideoFrame], index: PacketIndex) -> Iterator[tuple[int, VideoFrame]]:
    """(rank, frame), known by pts or by counting as the index says; `Anomaly` for a frame that no packet stands for."""
    for count, frame in enumerate(frames):
        rank = index.rank_of_pts.get(frame.pts, -1) if index.by_pts else count
        if not 0 <= rank < len(index.shown):
            raise Anomaly("a frame comes at a time that no packet has")
        yield rank, frame


def _in_order(source: Source, index: PacketIndex, wanted: Sequence[Wanted]) -> Iterator[tuple[int, np.ndarray]]:
    first, frames = first_shown(source, index)
    if index.may_start_late:
        index = replace(index, first=first[0])
    yield from _pictures(chain([first], frames), index.ranks(wanted), wanted)


def first_shown(source: Source, index: PacketIndex) -> tuple[tuple[int, VideoFrame], Iterator[tuple[int, VideoFrame]]]:
    """The first frame that can be decoded, with its rank, and those that follow it; of a file just opened."""
    frames = _ranked(source.frames(source.packets()), index)
    first = next(frames, None)
    if first is None:
        raise Anomaly("no frame can be decoded")
    return first, frames


class Scaler:
    """Frames to upright RGB pictures of any size. libswscale sets up its tables once for each size."""

    def __init__(self) -> None:
        self._by_size: defaultdict[tuple[int, int], VideoReformatter] = defaultdict(VideoReformatter)

    def picture(self, frame: VideoFrame, width: int, height: int) -> np.ndarray:
        """picture_HWC uint8, contiguous, height x width pixels as displayed."""
        turns = round(frame.rotation / 90) % 4
        size = (height, width) if turns % 2 else (width, height)
        scaled = self._by_size[size].reformat(frame, *size, format="rgb24", interpolation=SCALING, threads=1)
        return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), turns))


def _pictures(
    frames: Iterator[tuple[int, VideoFrame]], ranks: Mapping[int, Sequence[int]], wanted: Sequence[Wanted]
) -> Iterator[tuple[int, np.ndarray]]:
    scaler, left, latest = Scaler(), dict(ranks), -1
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

    def pictures(self, path: Path, wanted: Sequence[Wanted], limits: Limits) -> Iterator[tuple[int, np.ndarray]]:
        """See `Reader.pictures`. All who want one frame at one size get the same array."""
        with opened(path, limits) as source:
            index = read_index(source)
            if index.can_seek:
                ranks = index.ranks(wanted)
                try:
                    yield from _pictures(sparse_frames(source, index, ranks), ranks, wanted)
                    return
                except (Anomaly, av.FFmpegError):
                    pass
        with opened(path, limits) as source:
            yield from _in_order(source, index, wanted)
