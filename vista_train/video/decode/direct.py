"""Packets read straight from where an index says they lie: no container is opened, however long the file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from vista_train.video.decode.limits import Limits
from vista_train.video.decode.packets import Anomaly, DecoderSetup, PacketIndex, Run
from vista_train.video.decode.source import CODECS, COLORS, check_size, decoded, options_of, skipping


class Direct(NamedTuple):
    """A file open as bytes, and a decoder for its packets; a `Source` for what it can do."""

    descriptor: int
    codec: VideoCodecContext
    path: Path
    limits: Limits
    size: tuple[int, int] | None
    """Of all frames; others show what libav would crop. None where it was libav that said what the decoder needs."""

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        """The frames that come out of the decoder for one packet; `Anomaly` where they become of another size."""
        frames = self.codec.decode(packet)
        if self.size not in (None, (self.codec.width, self.codec.height)):
            raise Anomaly("frames of another size than the file says")
        return frames

    def frames(self, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
        """See `decoded`."""
        return decoded(self.decode, packets, self.path, self.limits)

    def run_packets(self, index: PacketIndex, run: Run) -> Iterator[Packet]:
        """The packets of the run, the decoder told before each whether it may pass over it."""
        self.codec.flush_buffers()
        part = slice(run.start, run.end + 1)
        places = zip(index.offset_P[part].tolist(), index.size_P[part].tolist(), strict=True)
        keys = set(index.keys_in(run.start, run.end))
        times = zip(index.pts_P[part].tolist(), index.dts_in(run), strict=True)
        for position, ((offset, size), (pts, dts)) in enumerate(zip(places, times, strict=True), run.start):
            content = os.pread(self.descriptor, size, offset)
            if len(content) != size:
                raise Anomaly("the file ends before a packet that its index has")
            packet = Packet(content)
            packet.pts, packet.dts, packet.is_keyframe = pts, dts, position in keys
            self.codec.skip_frame = skipping(position, run)
            yield packet


@contextmanager
def direct(path: Path, index: PacketIndex, limits: Limits) -> Iterator[Direct]:
    """The file at `path`, whose packets lie where `index` says; `MediaTooLarge` beyond the limits."""
    setup = index.setup
    if setup is None or setup.codec not in CODECS:
        raise Anomaly("nothing is known of its decoder")
    check_size(path, limits, setup.width, setup.height, index.num_packets, index.duration or Fraction(0))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = None if setup.pix_fmt else (setup.width, setup.height)
        yield Direct(descriptor, _decoder(setup, limits), path, limits, size)
    finally:
        os.close(descriptor)


def _decoder(setup: DecoderSetup, limits: Limits) -> VideoCodecContext:
    codec = av.CodecContext.create(setup.codec, "r")
    assert isinstance(codec, VideoCodecContext)
    codec.options = options_of(limits)
    codec.thread_count = 1
    codec.width, codec.height = setup.width, setup.height
    if setup.pix_fmt:
        codec.pix_fmt = setup.pix_fmt
    if setup.extradata:
        codec.extradata = setup.extradata
    for name, value in zip(COLORS, setup.colors, strict=True):
        setattr(codec, name, value)
    return codec
