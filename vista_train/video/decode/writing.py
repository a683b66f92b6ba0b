"""Writing: frames into an MP4 file, H.264, of a constant rate."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

BT709 = 1
GROUP_SECONDS = 2
"""From one keyframe to the next."""


def write_mp4(path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: Fraction, crf: int = 18) -> int:
    """Write frames_HWC (uint8 RGB, all of `size`, width x height, both even); how many there were.

    In BT.709 and limited range, as players take it where a file does not say. What starts a file comes first in it, so
    that players can begin before they have all of it. x264 does not make the same bytes of the same frames each time.
    """
    reformatter, number = VideoReformatter(), 0
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height = size
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        stream.gop_size = max(1, round(GROUP_SECONDS * fps))
        context = stream.codec_context
        context.time_base = 1 / fps
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries = context.color_trc = BT709
        for number, frame_HWC in enumerate(frames, 1):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            frame = reformatter.reformat(
                frame,
                format="yuv420p",
                src_colorspace=Colorspace.DEFAULT,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            frame.pts, frame.time_base = number - 1, context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return number
