"""A reader on torchcodec, PyTorch's own; wrong, or without an answer, on what `KNOWN_WRONG` lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vista_train.video.decode.base import MediaUnreadable, Memory, Wanted
from vista_train.video.decode.limits import Limits
from vista_train.video.scaling import resized

try:
    from torchcodec.decoders import VideoDecoder
except (RuntimeError, OSError) as error:
    raise ImportError("torchcodec is installed but finds no shared FFmpeg libraries on this system") from error

KNOWN_WRONG = {"AVI with B-frames": "refused", "MPEG-TS": "refused", "edit list": "wrong frames"}
"""Kinds of file that are refused, or of which other frames are given than are shown at the time asked for."""
BATCH = 16
"""Frames held at full size at once."""
SHORTEST_SECONDS = 1e-3
"""No frame is taken to be shorter: the coarsest tick in use (Matroska, FLV)."""
FLOAT_SECONDS = 1e-7
"""Doubles that are closer than this are the same time."""


class TorchCodecReader:
    """One decoding thread, exact seek mode; pictures are scaled from full size.

    A frame that is wanted at the end of one batch and again in the next is decoded twice.
    """

    name = "torchcodec"

    def pictures(
        self, path: Path, wanted: Sequence[Wanted], limits: Limits, memory: Memory
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See `Reader.pictures`."""
        order = sorted(range(len(wanted)), key=lambda which: wanted[which].time)
        try:
            video = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                frames = _shown(video, [float(wanted[which].time) for which in batch])
                for which, frame_HWC in zip(batch, frames, strict=True):
                    yield which, resized(frame_HWC, wanted[which].width, wanted[which].height)
        except (RuntimeError, ValueError, IndexError):
            # Its messages tell of its C++ sources.
            raise MediaUnreadable(path, "torchcodec cannot decode it") from None


def _shown(video: VideoDecoder, seconds: Sequence[float]) -> list[np.ndarray]:
    """The frames (HWC uint8) shown so many seconds after the first; past the end the last one.

    torchcodec rounds times to the nearest tick. Where that gives a frame that has not begun, the one before is taken.
    """
    begin, end = video.metadata.begin_stream_seconds or 0.0, video.metadata.end_stream_seconds or 0.0
    asked = [min(begin + second, end - SHORTEST_SECONDS) for second in seconds]
    given = video.get_frames_played_at(asked)
    frames = [frame_HWC.numpy() for frame_HWC in given.data]
    for at, starts in enumerate(given.pts_seconds.tolist()):
        if starts > asked[at] + FLOAT_SECONDS:
            frames[at] = video.get_frame_played_at(starts - SHORTEST_SECONDS).data.numpy()
    return frames
