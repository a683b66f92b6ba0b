"""Renditions: smaller versions of media files, made once (`vista-train proxies`), which stand in where they suffice.

Of a file there may be a proxy, a small video of short groups of pictures, and tiles, its pictures as plain bytes. Both
have the file's own times: the frame they show at a time is the frame that the file shows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vista_train.video.decode.base import Wanted
from vista_train.video.decode.indexes import MAX_TICKS, Known, read_attached, whole
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.packets import OVERRUN_SECONDS, PacketIndex
from vista_train.video.decode.sizes import MAX_TILE_EDGE
from vista_train.video.scaling import resized_alike

MAX_SIDE = 1 << 16
MAX_TILE_PX = MAX_TILE_EDGE * 8 * MAX_TILE_EDGE
"""Of one tile: whoever reads it holds as many as are wanted of a file."""
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
    stamp: tuple[int, int]
    """Size and time of change of the file it is made of."""
    container: str
    """Of that file, by the name that limits have for it."""

    @property
    def index(self) -> PacketIndex:
        return self.known.index

    def suffices(self, wanted: Wanted) -> bool:
        """Whether a picture of this size loses nothing: it need not be larger than the file's own."""
        sides = zip(self.size, (wanted.width, wanted.height), self.source_size, strict=True)
        return all(side >= min(needed, source // 2 * 2) for side, needed, source in sides)

    def places(self, wanted: Mapping[int, Wanted]) -> dict[int, int]:
        """The place (of a packet, or a tile) of each picture that is here, by its number: of those that lose nothing,
        and that the file has."""
        index = self.index
        end = index.starts_at(-1) + index.last_seconds + OVERRUN_SECONDS
        sizes = {(one.width, one.height): one for one in wanted.values()}
        fit = {size for size, one in sizes.items() if self.suffices(one)}
        here = [number for number, one in wanted.items() if (one.width, one.height) in fit]
        times = [wanted[number].time for number in here]
        ticks, (last,) = index.ticks(times), index.ticks([end])
        if any(wanted[number].window is not None for number in here):
            ranks = [index.rank_for(wanted[number]) for number in here]
        else:
            ranks = index.ranks_at(ticks)
        # Within the last tick it takes the exact time to tell.
        is_there = [tick < last or time <= end for tick, time in zip(ticks, times, strict=True)]
        places = [int(index.position_F[rank]) for rank in ranks]
        found = zip(here, places, is_there, strict=True)
        return {number: place for number, place, inside in found if inside and place >= 0}

    def keeps_to(self, limits: Limits) -> bool:
        """Whether the file that it is made of is within the limits, as they are now."""
        width, height = self.source_size
        return (
            self.stamp[0] <= limits.max_bytes
            and width * height <= limits.max_pixels
            and len(self.index) <= limits.max_frames
            and (self.index.duration or 0) <= limits.max_seconds
            and self.container in limits.containers
        )

    def tiles(
        self, wanted: Mapping[int, Wanted], places: Mapping[int, int]
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """(numbers, pictures_NHWC uint8) of a rendition that is tiles; `ValueError` if some are not there."""
        width, height = self.size
        if width * height > MAX_TILE_PX:
            raise ValueError(f"tiles of {width}x{height}")
        by_size: dict[tuple[int, int], list[int]] = {}
        for which, one in wanted.items():
            by_size.setdefault((one.width, one.height), []).append(which)
        for (out_width, out_height), members in by_size.items():
            asked = [places[which] for which in members]
            once = sorted(set(asked))
            pictures_NHWC = np.empty((len(once), height, width, 3), np.uint8)
            for first, last in _runs(once):
                tiles = pictures_NHWC[first:last].data.cast("B")
                start = once[first] * width * height * 3
                if os.preadv(self.known.file.fileno(), [tiles], start) != len(tiles):
                    raise ValueError("a tile is missing")
            pictures_NHWC = resized_alike(pictures_NHWC, out_width, out_height)
            yield members, pictures_NHWC if asked == once else pictures_NHWC[np.searchsorted(once, asked)]


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

    def get(self, key: str, kind: str, stamp: Sequence[int]) -> Rendition | None:
        """The proxy or tiles of a file of this size and time of change; None where there are none, or of another."""
        with suppress(OSError, ValueError):
            found = rendition(self.place(key, kind))
            return found if found.stamp == tuple(stamp) else None
        return None


def rendition(path: Path) -> Rendition:
    """What a file holds; `ValueError` where that is no rendition."""
    known = read_attached(path)
    try:
        about = known.about
        size, source_size, stamp = (_pair(about[name]) for name in ("size", "source_size", "stamp"))
        if max(*size, *source_size) > MAX_SIDE or min(*size, *source_size) < 1:
            raise ValueError(f"pictures of {size} out of {source_size}")
        return Rendition(known, size, source_size, about["sizes"], stamp, str(about["container"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no rendition ({type(error).__name__})") from error


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where in ascending numbers those that follow each other without a gap start and end."""
    starts = [at for at in range(len(numbers)) if at == 0 or numbers[at] != numbers[at - 1] + 1]
    return zip(starts, [*starts[1:], len(numbers)], strict=True)


def _pair(pair: Any) -> tuple[int, int]:
    first, second = (whole(number, 0, MAX_TICKS) for number in pair)
    return first, second
