"""A media file once more, small and quick to decode: a proxy of short groups of pictures, and its pictures as tiles.

Both have as many frames as their file, or say which they have; at their end stands an index with the file's own times.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

from vista_train.video.decode.indexes import END, END_MAGIC, to_bytes
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.packets import Anomaly, PacketIndex
from vista_train.video.decode.pyav import SCALING, Scaler, first_shown
from vista_train.video.decode.sizes import Sizes
from vista_train.video.decode.source import COLORS, Source, opened, read_index, setup_of, told

GROUP = 24
"""Frames from one keyframe to the next: what is decoded for one picture, at most."""
X264 = {
    "preset": "veryfast", "tune": "fastdecode", "crf": "19", "bf": "2", "refs": "1", "sc_threshold": "0",
    "x264-params": "b-pyramid=none",
}  # fmt: skip
"""Two of three pictures are referred to by none, and passed over unless they are wanted."""
FREE_BOX = b"free"


def transcode(
    path: Path, limits: Limits, sizes: Sizes, stamp: Sequence[int], proxy: BinaryIO, tiles: BinaryIO | None
) -> dict[str, Any]:
    """Write the proxy of the file at `path`, and its tiles if asked for; both empty and open to be read and written.

    `stamp` names the file as it is. Returns sizes and numbers. `MediaError` where not every frame can be decoded.
    """
    with opened(path, limits) as source:
        index = read_index(source)
    with opened(path, limits) as source:
        first, frames = first_shown(source, index)
        if index.may_start_late:
            index = replace(index, first=first[0])
        maker = _Maker(source, index, sizes, first[1], proxy, tiles)
        try:
            maker.add(*first)
            for rank, frame in frames:
                maker.add(rank, frame)
        finally:
            maker.close()
        if maker.expected != len(index):
            raise Anomaly(f"{maker.expected} frames can be decoded, of {len(index)}")
    with told(path):
        return maker.finish(list(stamp))


class _Maker:
    """Takes a file's frames in order and writes them out small."""

    def __init__(
        self,
        source: Source,
        index: PacketIndex,
        sizes: Sizes,
        first: VideoFrame,
        proxy: BinaryIO,
        tiles: BinaryIO | None,
    ) -> None:
        self.index, self.expected = index, index.first
        turned = round(first.rotation / 90) % 2 == 1
        width, height = (first.height, first.width) if turned else (first.width, first.height)
        self.size, self.tile_size = sizes.proxy_of(width, height), sizes.tile_of(width, height)
        container = next((name for name in source.limits.containers if name in source.formats), "")
        self.about = {"sizes": asdict(sizes), "source_size": [width, height], "container": container}
        self.proxy, self.tiles, self.tiled = proxy, tiles, _tiled(index, sizes.tile_fps)
        self._scaler, self._reformatter = Scaler(), VideoReformatter()
        self._is_plain = _is_plain(first)
        self._container, self._stream = _encoder(proxy, self.size, source, self._is_plain)

    def add(self, rank: int, frame: VideoFrame) -> None:
        """The next frame."""
        if rank != self.expected:
            raise Anomaly("a frame is missing")
        self.expected += 1
        if self.tiles is not None and rank in self.tiled:
            self.tiles.write(self._scaler.picture(frame, *self.tile_size).tobytes())
        small = self._small(frame)
        small.pts, small.time_base = rank - self.index.first, self._stream.codec_context.time_base
        # A decoded frame says what it was; the encoder would make it that again.
        small.pict_type = PictureType.NONE
        self._container.mux(self._stream.encode(small))

    def _small(self, frame: VideoFrame) -> VideoFrame:
        if _is_plain(frame) and self._is_plain:
            return self._reformatter.reformat(frame, *self.size, "yuv420p", interpolation=SCALING, threads=1)
        if self._is_plain:
            raise Anomaly("its frames change their kind")
        # As it will be read: what is turned, of full range or of more than 8 bits has become plain by then.
        picture = VideoFrame.from_ndarray(self._scaler.picture(frame, *self.size), format="rgb24")
        return self._reformatter.reformat(picture, *self.size, "yuv420p", interpolation=SCALING, threads=1)

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def finish(self, stamp: list[int]) -> dict[str, Any]:
        """Put an index at the end of each file; what was made."""
        shown_F = self.index.shown_F[self.index.first : len(self.index)]
        stand_ins_K = self.index.stand_ins_K[:] - self.index.first
        own = replace(self.index, shown_F=shown_F, first=0, stand_ins_K=stand_ins_K[stand_ins_K >= 0])
        about = self.about | {"stamp": stamp}
        _attach(self.proxy, _of_proxy(self.proxy, own), about | {"size": list(self.size)}, FREE_BOX)
        made = {"size": list(self.size), "num_frames": len(shown_F), "num_tiles": 0}
        if self.tiles is not None:
            ranks = np.array(sorted(self.tiled)) - self.index.first
            _attach(self.tiles, _of_tiles(own, ranks), about | {"size": list(self.tile_size)})
            made |= {"tile_size": list(self.tile_size), "num_tiles": len(ranks)}
        return made


def _tiled(index: PacketIndex, fps: float | None) -> frozenset[int]:
    """The ranks of the frames that become tiles."""
    if fps is None:
        return frozenset(range(index.first, len(index)))
    step, end = 1 / Fraction(fps), index.starts_at(-1)
    return frozenset(index.rank_at(number * step) for number in range(int(end / step) + 1))


def _is_plain(frame: VideoFrame) -> bool:
    """Whether a frame may stay in its own colours while it is scaled: upright, of 8 bits and limited range."""
    limited = frame.color_range in (ColorRange.UNSPECIFIED, ColorRange.MPEG)
    return frame.format.name == "yuv420p" and limited and round(frame.rotation / 90) % 4 == 0


def _encoder(
    proxy: BinaryIO, size: tuple[int, int], source: Source, keeps_colours: bool
) -> tuple[OutputContainer, VideoStream]:
    """An encoder into `proxy`, of the colours that the decoder has found, if it is to have them."""
    container = av.open(proxy, "w", format="mp4")
    stream = container.add_stream("libx264", rate=round(source.stream.average_rate or 30) or 1, options=dict(X264))
    stream.width, stream.height = size
    stream.pix_fmt, stream.gop_size, stream.thread_count = "yuv420p", GROUP, 1
    if keeps_colours:
        for name in COLORS:
            setattr(stream.codec_context, name, int(getattr(source.stream.codec_context, name)))
    stream.codec_context.time_base = 1 / Fraction(stream.codec_context.framerate)
    return container, stream


def _of_proxy(proxy: BinaryIO, own: PacketIndex) -> PacketIndex:
    """The index of the proxy that has just been written: its own packets, and the file's times."""
    proxy.seek(0)
    with av.open(proxy, "r", format="mp4") as container:
        source = Source(container, container.streams.video[0])
        packets = [(packet.pts, packet.dts, packet.pos, packet.size, packet.is_keyframe) for packet in source.packets()]
        setup = setup_of(source.stream.codec_context)
    pts_P, dts_P, offset_P, size_P = (np.array([packet[n] for packet in packets], np.int64) for n in range(4))
    if len(packets) != len(own):
        raise Anomaly(f"{len(packets)} frames were written, of {len(own)}")
    position_F = np.argsort(pts_P)
    return replace(
        own, pts_P=pts_P, dts_P=dts_P, offset_P=offset_P, size_P=size_P, setup=setup,
        keys_K=np.flatnonzero([packet[4] for packet in packets]), position_F=position_F,
        rank_P=np.argsort(position_F), by_pts=True, can_seek=True,
    )  # fmt: skip


def _of_tiles(own: PacketIndex, ranks: np.ndarray) -> PacketIndex:
    """The index of tiles: each is a packet of its own, and frames without one have position -1."""
    position_F = np.full(len(own), -1)
    position_F[ranks] = np.arange(len(ranks))
    none = np.zeros(0, np.int64)
    return replace(
        own, pts_P=ranks, dts_P=ranks, rank_P=ranks, position_F=position_F, keys_K=np.arange(0), offset_P=none,
        size_P=none, setup=None, by_pts=True, can_seek=True,
    )  # fmt: skip


def _attach(file: BinaryIO, index: PacketIndex, about: dict[str, Any], box: bytes | None = None) -> None:
    """Put an index behind all that is in a file, in a box that players pass over."""
    start = file.seek(0, 2)
    content = to_bytes(index, about)
    if box is not None:
        file.write(struct.pack(">I4s", 8 + len(content) + END.size, box))
        start += 8
    file.write(content + END.pack(start, END_MAGIC))
    file.flush()
