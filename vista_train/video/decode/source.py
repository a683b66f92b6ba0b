"""An open media file: its best video stream, its packets, and what they decode to; the one place that opens any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Final, Literal, NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vista_train.video.decode.base import MIN_SIDE_PX, MediaTooLarge, MediaUnreadable
from vista_train.video.decode.limits import LIMITS, Limits
from vista_train.video.decode.packets import Anomaly, DecoderSetup, PacketIndex, Run, Stamps

CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx-vp9", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"),
    *("h263", "h263p", "flv", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "wmv1", "wmv2", "wmv3", "vc1", "theora", "vvc"),
    *("prores", "dnxhd", "rawvideo", "gif", "rv30", "rv40", "svq1", "svq3", "cinepak", "vp6", "vp6f", "libaom-av1"),
)
"""Decoders that may run, by libav's names: those that videos for people are in. libav has hundreds more, seldom used
and seldom looked at, which a file from a stranger could choose; sound is not decoded at all."""
SEEKABLE = frozenset({"mov", "matroska", "flv", "mpegts"})
WHOLE = Fraction(98, 100)
"""A file with fewer packets than this part of what its header promises was cut off."""
NO_MEMORY = "its decoder asks for more memory than it may have (limits.max_memory_mib)"
MOST_STREAMS = 64
CHANGING: Final = ("new_extradata", "param_change", "palette", "encryption_info")
"""What a container may tell a decoder beside a packet's bytes."""


COLORS = ("color_range", "colorspace", "color_primaries", "color_trc")
"""What a container may say of the colours of a stream that does not say so itself."""


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

    def stamps(self) -> Iterator[Stamps]:
        """What is kept of each packet from here on. Where it lies is kept if these very bytes stand there."""
        with open(self.path, "rb", buffering=0) as file:
            lies_open = "mov" in self.formats
            for packet in self.packets():
                lies_open = lies_open and _lies_open(packet, file.fileno())
                yield Stamps(
                    packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard, packet.duration or 0,
                    packet.is_corrupt, packet.pos if lies_open and packet.pos is not None else -1, packet.size,
                )  # fmt: skip

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        """The frames that come out of the decoder for one packet."""
        return self.stream.decode(packet)

    def frames(self, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
        """See `decoded`."""
        return decoded(self.stream.decode, packets, self.path, self.limits)

    def check(self, width: int, height: int, num_frames: int, seconds: Fraction) -> None:
        """See `check_size`."""
        check_size(self.path, self.limits, width, height, num_frames, seconds)

    def run_packets(self, index: PacketIndex, run: Run) -> Iterator[Packet]:
        """Seek to the run and give its packets, telling the decoder before each whether it may pass over the packet."""
        key = index.stamps(run.start)
        target = key.dts if "mpegts" in self.formats else key.pts
        if target is None:
            raise Anomaly("a keyframe carries no time to seek to")
        self.container.seek(target, stream=self.stream)
        decoder = self.stream.codec_context
        position_of: dict[int | None, int] = {pts: run.start + at for at, pts in enumerate(index.pts_in(run))}
        expected = run.start
        for packet in self.packets():
            position = position_of.get(packet.pts)
            if expected == run.start and position is None:
                continue
            if position != expected:
                raise Anomaly("a seek does not lead where the packets say")
            decoder.skip_frame = skipping(position, run)
            yield packet
            if position == run.end:
                return
            expected += 1
        raise Anomaly("packets are missing after a seek")


def decoded(
    decode: Callable[[Packet | None], list[VideoFrame]], packets: Iterable[Packet], path: Path, limits: Limits
) -> Iterator[VideoFrame]:
    """What the packets decode to, and what the decoder then still holds back; `Anomaly` for a damaged frame."""
    count = 0
    for packet in chain(packets, [None]):
        if packet is not None and packet.is_corrupt:
            raise Anomaly("cannot be decoded: a packet is damaged")
        for frame in decode(packet):
            if frame.is_corrupt:
                raise Anomaly("cannot be decoded: a frame is damaged")
            count += 1
            # What a header says may change with every keyframe.
            if frame.width * frame.height > limits.max_pixels or count > limits.max_frames:
                check_size(path, limits, frame.width, frame.height, count, Fraction(0))
            yield frame


def check_size(path: Path, limits: Limits, width: int, height: int, num_frames: int, seconds: Fraction) -> None:
    """`MediaTooLarge` where one of these is beyond the limits."""
    if width * height > limits.max_pixels:
        raise MediaTooLarge(path, f"has frames of {width}x{height}, and limits.max_pixels is {limits.max_pixels}")
    if num_frames > limits.max_frames:
        raise MediaTooLarge(path, f"has {num_frames} frames or more, and limits.max_frames is {limits.max_frames}")
    if seconds > limits.max_seconds:
        raise MediaTooLarge(path, f"lasts {float(seconds):.0f} s, and limits.max_seconds is {limits.max_seconds:g}")


@contextmanager
def opened(path: Path, limits: Limits = LIMITS) -> Iterator[Source]:
    """The file at `path`, its header within the limits, closed at the end; errors leave it as `told` has them."""
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
        with told(path):
            source = Source(container, _best_video(container), path, limits)
            stream = source.stream
            # Seconds are held against the packets: headers count sound tracks in, and some are plainly wrong.
            source.check(stream.width, stream.height, source.num_promised(), Fraction(0))
            stream.codec_context.options = options_of(limits)
            yield source
    finally:
        container.close()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """`Anomaly` and libav's own errors leave as `MediaUnreadable`, lack of memory as `MediaTooLarge`."""
    try:
        yield
    except (MemoryError, av.error.MemoryError):
        raise MediaTooLarge(path, NO_MEMORY) from None
    except av.FFmpegError as error:
        raise MediaUnreadable(path, f"cannot be decoded: {_phrase(error)}") from None
    except Anomaly as anomaly:
        raise MediaUnreadable(path, str(anomaly)) from None


def options_of(limits: Limits) -> dict[str, str]:
    """What every decoder is told of the limits."""
    return {"max_pixels": str(limits.max_pixels), "codec_whitelist": ",".join(CODECS)}


def skipping(position: int, run: Run) -> Literal["DEFAULT", "NONREF"]:
    """What a decoder may pass over at a position: pictures that nothing refers to, unless they are wanted."""
    # A keyframe is always decoded; some decoders take no other setting after the first packet than before it.
    return "DEFAULT" if position in run.wanted or position == run.start else "NONREF"


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
    index = PacketIndex.of(
        _counted(source),
        source.time_base,
        can_seek=bool(source.formats & SEEKABLE),
        reorders=bool(source.stream.codec_context.has_b_frames),
    )
    source.check(0, 0, 0, index.duration or Fraction(0))
    return replace(index, setup=setup_of(source.stream.codec_context)) if len(index.offset_P) else index


def _counted(source: Source) -> Iterator[Stamps]:
    """What is kept of all packets; `Anomaly` at their end if there are less than the header promises."""
    promised, count = source.num_promised(), 0
    for count, stamps in enumerate(source.stamps(), 1):
        if count > source.limits.max_frames:
            source.check(0, 0, count, Fraction(0))
        yield stamps
    if count < WHOLE * promised:
        raise Anomaly(f"truncated: {count} packets where its header promises {promised}")


def setup_of(codec: VideoCodecContext) -> DecoderSetup | None:
    """What it takes to have the same decoder again; None where that is not known for sure."""
    if codec.pix_fmt is None:
        return None
    colors = tuple(int(getattr(codec, name)) for name in COLORS)
    return DecoderSetup(codec.name, bytes(codec.extradata or b""), codec.width, codec.height, codec.pix_fmt, colors)


def _lies_open(packet: Packet, descriptor: int) -> bool:
    """Whether a packet is nothing but the bytes that stand at its place in the file; looked at for keyframes alone."""
    if packet.pos is None or packet.pos < 0 or any(packet.has_sidedata(kind) for kind in CHANGING):
        return False
    return not packet.is_keyframe or os.pread(descriptor, packet.size, packet.pos) == bytes(packet)
