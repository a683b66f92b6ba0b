"""A reader on torchcodec: PyTorch's own, for comparison. Wrong, or without an answer, on what `KNOWN_WRONG` lists."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vista_train.video.decode.base import MediaUnreadable, Wanted, check_file, resized

try:
    from torchcodec.decoders import VideoDecoder
except RuntimeError as error:
    # It is installed, and finds no FFmpeg libraries of the system.
    raise ImportError("torchcodec finds no shared FFmpeg libraries on this system") from error

KNOWN_WRONG = {}


BATCH = 16
"""Frames held at full size at once."""


class TorchCodecReader:
    """One decoding thread, exact seek mode, scaled from full size. A frame asked for on both sides of a batch's end is
    decoded twice."""

    name = "torchcodec"

    def pictures(self, path: Path, wanted: Sequence[Wanted]) -> Iterator[tuple[int, np.ndarray]]:
        """See `Reader.pictures`."""
        check_file(path)
        order = sorted(range(len(wanted)), key=lambda which: wanted[which].time)
        try:
            video = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            for at in range(0, len(order), BATCH):
                batch = order[at : at + BATCH]
                frames_NHWC = _shown(video, [float(wanted[which].time) for which in batch])
                for which, frame_HWC in zip(batch, frames_NHWC, strict=True):
                    yield which, resized(frame_HWC, wanted[which].width, wanted[which].height)
        except (RuntimeError, ValueError, IndexError):
            # Its messages tell of C++ sources.
            raise MediaUnreadable(path, "torchcodec cannot decode it") from None


def _shown(video: VideoDecoder, seconds: Sequence[float]) -> np.ndarray:
    """The frames [N, H, W, 3] shown so many seconds after the first, the last one past the end.

    torchcodec rounds a time to the nearest tick, so just before a frame it may give that frame: then the one before.
    """
    begin, end = video.metadata.begin_stream_seconds or 0.0, video.metadata.end_stream_seconds or 0.0
    asked = [min(begin + second, end - SHORTEST_SECONDS) for second in seconds]
    given = video.get_frames_played_at(asked)
    starts = given.pts_seconds.tolist()
    if any(start > second + ROUNDING_SECONDS for start, second in zip(starts, asked, strict=True)):
        pairs = zip(starts, asked, strict=True)
        given = video.get_frames_played_at([min(second, start - SHORTEST_SECONDS) ... ])
    return given.data.numpy()
