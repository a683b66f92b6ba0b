"""A reader on decord, which most video training code uses; silently wrong on what `KNOWN_WRONG` lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import decord
import numpy as np

from vista_train.video.decode.base import MediaUnreadable, Memory, Wanted
from vista_train.video.decode.limits import Limits
from vista_train.video.scaling import resized

KNOWN_WRONG = {
    "AVI with B-frames": "wrong frames",
    "HEVC with open GOP": "wrong frames",
    "MPEG-TS": "wrong frames",
    "edit list": "wrong frames",
    "open GOP in MP4": "wrong frames",
    "open GOP in Matroska": "wrong frames",
}
"""Kinds of file of which other frames are given than are shown at the time asked for, without an error."""


class DecordReader:
    """One decoding thread. Its times are 32-bit floats, so a time within that error of a frame's start counts as on it.

    Where one size is wanted decord scales while decoding, else pictures are scaled from full size.
    """

    name = "decord"

    def pictures(
        self, path: Path, wanted: Sequence[Wanted], limits: Limits, memory: Memory
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See `Reader.pictures`."""
        sizes = {(one.width, one.height) for one in wanted}
        width, height = sizes.pop() if len(sizes) == 1 else (-1, -1)
        try:
            video = decord.VideoReader(str(path), ctx=decord.cpu(0), width=width, height=height, num_threads=1)
            starts = video.get_frame_timestamp(np.arange(len(video)))[:, 0]
            shown, picture_HWC = -1, np.empty(0)
            for which in sorted(range(len(wanted)), key=lambda which: wanted[which].time):
                frame = _shown(starts, float(wanted[which].time))
                if frame != shown:
                    shown, picture_HWC = frame, video[frame].asnumpy()
                yield which, resized(picture_HWC, wanted[which].width, wanted[which].height)
        except (decord.DECORDError, RuntimeError, AssertionError, StopIteration):
            # Its messages are stack traces with addresses and paths.
            raise MediaUnreadable(path, "decord cannot decode it") from None


def _shown(starts: np.ndarray, seconds: float) -> int:
    """Index of the last frame that starts by `seconds` after the first; `starts` float32 [num_frames] in seconds."""
    slack = 2 * float(np.spacing(starts[-1]))
    return max(int(np.searchsorted(starts, np.float64(starts[0]) + seconds + slack, side="right")) - 1, 0)
