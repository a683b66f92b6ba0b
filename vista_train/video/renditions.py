"""Renditions: smaller versions of media files, made once (`vista-train proxies`), which stand in where they suffice.

Of a file there may be a proxy, a small video of short groups of pictures, and tiles, its pictures as plain bytes. Both
have the file's own times: the frame they show at a time is the frame that the file shows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vista_train.video.decode.base import Wanted
from vista_train.video.decode.indexes import Known, read_attached
from vista_train.video.decode.packets import OVERRUN_SECONDS, Anomaly, PacketIndex
from vista_train.video.scaling import resized_alike

MAX_SIDE = 8192
PROXY, TILES = ".mp4", ".tiles"


@dataclass(frozen=True)
class Rendition:
    """A smaller version of a file: its index, and the size of its pictures."""

    known: Known
    size: tuple[int, int]
    source_size: tuple[int, int]
    """Of the file it is made of, upright."""
    sizes: Any
    """What was asked for when it was made."""
    stamp: tuple[int, ...]
    """Size and time of change of the file it is made of."""

    @property
    def index(self) -> PacketIndex:
        return self.known.index

    def suffices(self, wanted: Wanted) -> bool:
        """Whether a picture of this size loses nothing: it need not be larger than the file's own."""
        sides = zip(self.size, (wanted.width, wanted.height), self.source_size, strict=True)
        return all(side >= min(needed, source // 2 * 2) for side, needed, source in sides)

    def has(self, one: Wanted) -> bool:
        """Whether the file has a frame at that time, and this a picture of it, or of one that may stand in for it."""
        index = self.index
        return one.time <= index.starts_at(-1) + index.last_seconds + OVERRUN_SECONDS and self._position(one) >= 0

    def _position(self, one: Wanted) -> int:
        """The place of its packet, or tile; -1 where there is none."""
        index = self.index
        position = int(index.position_F[index.rank_at(one.time)])
        if position >= 0 or one.window is None:
            return position
        ranks = [index.rank_at(time) for time in one.window]
        inside = index.position_F[ranks[0] : ranks[1] + 1]
        there = np.flatnonzero(inside >= 0) + ranks[0]
        found = index.nearest(one, there.tolist())
        return -1 if found is None else int(index.position_F[found])

    def tiles(self, wanted: Sequence[Wanted]) -> Iterator[tuple[int, np.ndarray]]:
        """(index into `wanted`, picture_HWC uint8) of a rendition that is tiles; `ValueError` if some are not there."""
        width, height = self.size
        by_size: dict[tuple[int, int], list[int]] = {}
        for which, one in enumerate(wanted):
            by_size.setdefault((one.width, one.height), []).append(which)
        for (out_width, out_height), members in by_size.items():
            pictures_NHWC = np.empty((len(members), height, width, 3), np.uint8)
            for number, which in enumerate(members):
                at = self._position(wanted[which])
                place = memoryview(pictures_NHWC[number]).cast("B")
                if at < 0 or os.preadv(self.known.file.fileno(), [place], at * len(place)) != len(place):
                    raise ValueError("a tile is missing")
            yield from zip(members, resized_alike(pictures_NHWC, out_width, out_height), strict=True)


@dataclass(frozen=True)
class Renditions:
    """The renditions in a folder, by the key of the file that they are made of."""

    folder: str

    def place(self, key: str, kind: str) -> Path:
        """Where the proxy or the tiles of a file stand."""
        return Path(self.folder, self.name(key, kind))

    def name(self, key: str, kind: str) -> str:
        """The same, relative to the folder."""
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"{name[:2]}/{name}{kind}"

    def get(self, key: str, kind: str, stamp: Sequence[int] | None) -> Rendition | None:
        """The proxy or tiles of a file as it is; None where there are none, or of the file as it was.

        Where the file itself is not at hand, `stamp` is None, and any will do.
        """
        with suppress(OSError, ValueError, TypeError, KeyError, Anomaly):
            known = read_attached(self.place(key, kind))
            about = known.about
            found = Rendition(
                known, _size(about["size"]), _size(about["source_size"]), about["sizes"], tuple(about["stamp"])
            )
            return found if stamp is None or found.stamp == tuple(stamp) else None
        return None


def _size(pair: Any) -> tuple[int, int]:
    width, height = (int(side) for side in pair)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"pictures of {width}x{height}")
    return width, height
