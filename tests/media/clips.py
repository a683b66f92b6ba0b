"""Rendered clips in any coding and container: numbered frames, written with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet

H264 = {"bf": "3", "g": "12", "crf": "23", "preset": "veryfast"}
VPX = {"deadline": "realtime", "cpu-used": "8", "g": "12", "b": "400000"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12:pools=none:frame-threads=1"}
AV1 = {"preset": "12", "g": "12", "svtav1-params": "lp=1"}


def bars(number: int, width: int, height: int) -> np.ndarray:
    """Picture_HWC uint8: the frame's number as ten bars, over a slope that moves."""
    grey = np.add.outer(np.arange(height), np.arange(width) + 2 * number).astype(np.uint8) // 2 + 40
    bits = np.where(number >> np.arange(10) & 1, 235, 16)
    grey[height // 4 : 3 * height // 4] = bits[np.arange(width) * 10 // width]
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


@dataclass(frozen=True)
class Clip:
    """How a clip is written; `turned` in degrees."""

    codec: str = "libx264"
    num: int = 40
    rate: Fraction = Fraction(24)
    size: tuple[int, int] = (160, 96)
    options: dict[str, str] = field(default_factory=lambda: dict(H264))
    container: dict[str, str] = field(default_factory=dict)
    format: str | None = None
    pix_fmt: str = "yuv420p"
    pts: Callable[[int], int] = int
    """When frame n is shown, in ticks."""
    time_base: Fraction | None = None
    """Seconds a tick lasts; default, a frame."""
    turned: int = 0
    first_number: int = 0

    def write(self, path: Path) -> None:
        """Write it to `path`, with nothing beside the video."""
        with av.open(str(path), "w", format=self.format, options=self.container) as out:
            self.put(out)

    def put(self, out: OutputContainer) -> None:
        """Add it to an open file as one more stream."""
        out.mux(self.packets(out))

    def packets(self, out: OutputContainer) -> list[Packet]:
        """Its packets, of a new stream of `out`."""
        stream = out.add_stream(self.codec, rate=self.rate, options=steady(self.codec, self.options))
        (stream.width, stream.height), stream.pix_fmt = self.size, self.pix_fmt
        stream.codec_context.thread_count = 1
        ticks = self.time_base or 1 / self.rate
        stream.codec_context.time_base = ticks
        if self.turned:
            stream.set_display_rotation(self.turned)
        packets = []
        for number in range(self.num):
            frame = av.VideoFrame.from_ndarray(bars(number + self.first_number, *self.size), format="rgb24")
            frame = frame.reformat(format=self.pix_fmt)
            frame.pts, frame.time_base = self.pts(number), ticks
            packets += stream.encode(frame)
        return packets + stream.encode(None)


def steady(codec: str, options: dict[str, str]) -> dict[str, str]:
    """The options with which an encoder makes the same bytes each time: x264's code for AVX-512 does not, and where a
    file is cut in half would then be another place in each run."""
    about = Path("/proc/cpuinfo")
    if codec != "libx264" or not about.exists() or "avx512" not in about.read_text():
        return options
    return options | {"x264-params": ":".join(filter(None, [options.get("x264-params"), "asm=AVX2"]))}


def put_sound(out: OutputContainer, seconds: float = 1.0) -> None:
    """Add silence to an open file."""
    stream = out.add_stream("aac", rate=16000)
    stream.codec_context.layout = "mono"
    for start in range(0, int(16000 * seconds), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def jpeg() -> bytes:
    """A cover picture."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 160, 96, "yuvj420p", Fraction(1)
    frame = av.VideoFrame.from_ndarray(bars(7, 160, 96), format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def remuxed(
    sources: Sequence[Path],
    path: Path,
    changed: Callable[[int, Packet], Packet | None] = lambda _, packet: packet,
    container: dict[str, str] | None = None,
) -> None:
    """Copy the packets of several files, one after another, into one stream; `changed` gets each with its number."""
    with av.open(str(sources[0])) as first, av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream_from_template(first.streams.video[0])
        for number, packet in enumerate(_packets(sources)):
            kept = changed(number, packet)
            if kept is not None:
                kept.stream = stream
                out.mux_one(kept)


def _packets(sources: Iterable[Path]) -> Iterable[Packet]:
    for source in sources:
        with av.open(str(source)) as container:
            yield from (packet for packet in container.demux(video=0) if packet.size)
