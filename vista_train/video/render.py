"""Composition x times x size -> frames: only the pictures asked for, each decoded once, straight to its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vista_train.video.blending import Blend, Mixture, Veil
from vista_train.video.composition import Clip, Concat, Grid, Overlay, Video
from vista_train.video.decode import Wanted
from vista_train.video.decode.limits import predicted_seconds
from vista_train.video.geometry import Box, Fit, Pixels, Rect
from vista_train.video.media import Batch, Media
from vista_train.video.sampling import View
from vista_train.video.scaling import resized


class Request(NamedTuple):
    """One picture of one clip: what to decode, and where on which frame of the result it goes."""

    clip: Clip
    time: Fraction
    """Seconds in the media file."""
    frame: int
    """Index into the rendered times."""
    place: Pixels
    """Where the whole picture would lie on the canvas; may overhang it."""
    window: Pixels
    """The part of the canvas it may paint."""
    holes: tuple[Pixels, ...] = ()
    """Parts of the window that something lies over."""
    blend: Blend | None = None
    """How strongly it is seen, where it is blended with others."""


PLACE = slice(3, 6)
"""The fields of a request that say where it goes, whatever the frame."""


def render(
    video: Video,
    times: Sequence[Fraction],
    size: tuple[int, int],
    fit: Fit = "letterbox",
    media: Media | str | Path = ".",
) -> torch.Tensor:
    """The frames shown at `times` (seconds), as uint8 [len(times), 3, height, width], `size` being (width, height).

    Each media file is decoded once, in increasing time, and only where a frame of it is asked for. `media` is where the
    files are; a plain path stands for the folder that they lie in, and they are decoded in this process. Raises
    `MediaError` with the file's path as the composition names it.
    """
    if not isinstance(media, Media):
        media = Media(media, isolate="inline")
    frames_TCHW = np.zeros((len(times), 3, size[1], size[0]), np.uint8)
    canvas_THWC = frames_TCHW.transpose(0, 2, 3, 1)
    by_file: dict[str, list[Request]] = defaultdict(list)
    blended: dict[int, list[Pixels]] = defaultdict(list)
    for request in requests(video, times, size, fit):
        by_file[request.clip.path].append(request)
        if request.blend:
            blended[request.frame].append(request.blend.area(request.window))
    mixtures = {frame: Mixture(areas) for frame, areas in blended.items()}
    media.refuse(path for path, wanted in by_file.items() if wanted[0].clip.frames_TCHW is None)
    for path, wanted in by_file.items():
        latest: dict[int, np.ndarray] = {}
        for numbers, pictures_NHWC in _batches(path, wanted, media):
            painted = [wanted[number] for number in numbers]
            if mixtures and any(request.blend for request in painted):
                # One that comes again counts instead of the first: sums would have both.
                latest |= zip(numbers, pictures_NHWC.copy(), strict=True)
            else:
                _paint(canvas_THWC, painted, pictures_NHWC)
        for number, picture_HWC in latest.items():
            _blend(canvas_THWC, mixtures, wanted[number], picture_HWC)
    for frame, mixture in mixtures.items():
        mixture.settle(canvas_THWC[frame])
    return torch.from_numpy(frames_TCHW)


def render_view(video: Video, times: Sequence[Fraction], view: View, media: Media | str | Path = ".") -> torch.Tensor:
    """`render` on the canvas of a model's view."""
    return render(video, times, view.canvas_of(video), view.paint, media)


def wishes(video: Video, times: Sequence[Fraction], view: View, media: Media) -> dict[str, list[Wanted]]:
    """What `render_view` would ask of each file."""
    asked: dict[str, list[Wanted]] = defaultdict(list)
    for request in requests(video, times, view.canvas_of(video), view.paint):
        if request.clip.frames_TCHW is None:
            asked[request.clip.path].append(_wanted(request, media.snap_seconds))
    return asked


def requests(video: Video, times: Sequence[Fraction], size: tuple[int, int], fit: Fit = "letterbox") -> list[Request]:
    """Every picture that `render` would decode, hidden ones left out; what a composition costs, without decoding."""
    for time in times:
        if not 0 <= time < video.duration:
            raise ValueError(f"time {float(time)} s lies outside the video, [0, {float(video.duration)}) s")
    canvas = Rect.of_size(*size)
    slot = _Slot(canvas.fitted(*video.size, fit), canvas.pixels())
    return [
        request for request in slot.requests(video, list(enumerate(times))) if not (request.holes and _hidden(request))
    ]


@dataclass(frozen=True)
class _Slot:
    """A place on the canvas that a video fills: its exact rectangle, and what of it may be painted."""

    rect: Rect
    window: Pixels
    holes: tuple[Pixels, ...] = ()
    blend: Blend | None = None

    def fitted(self, video: Video, box: Box, part: Video, fit: Fit) -> _Slot:
        """The slot of a part of `video`, fitted into `box` of its frame and painting nothing outside it.

        A video may be squashed into its slot. Its parts are then squashed with it, not fitted anew.
        """
        rect = self.rect.part(box)
        scale_x, scale_y = self.rect.width / video.size[0], self.rect.height / video.size[1]
        place = rect.fitted(part.size[0] * scale_x, part.size[1] * scale_y, fit)
        return _Slot(place, self.window & rect.pixels(), self.holes, self.blend)

    def veiled(self, veil: Veil) -> _Slot:
        """The same slot, seen through a veil too."""
        blend = self.blend or Blend()
        return replace(self, blend=blend._replace(veils=(*blend.veils, veil)))

    def requests(self, video: Video, shown: list[tuple[int, Fraction]]) -> Iterator[Request]:
        """The pictures of `video` in this slot at `shown`: (frame index, time in the video) pairs."""
        if not shown:
            return
        match video:
            case Clip():
                place = self.rect.pixels()
                window = self.window & place
                if not window.empty:
                    for frame, time in shown:
                        # Sums of fractions are dear, and a grid has thousands of pictures.
                        at = video.start + time if video.start else time
                        yield Request(video, at, frame, place, window, self.holes, self.blend)
            case Concat() if video.fade_seconds:
                yield from self._faded(video, shown)
            case Concat():
                for part, span in zip(video.parts, video.spans(), strict=True):
                    inside = [(frame, time - span.start) for frame, time in shown if time in span]
                    yield from self.fitted(video, Box(), part, video.fit).requests(part, inside)
            case Overlay():
                yield from self._overlay(video, shown)
            case Grid():
                for index, cell in enumerate(video.cells):
                    yield from self.fitted(video, video.box_of(index), cell, video.fit).requests(cell, shown)
            case _:
                raise TypeError(f"{type(video).__name__} is not a composition that can be rendered")

    def _faded(self, video: Concat, shown: list[tuple[int, Fraction]]) -> Iterator[Request]:
        line = video.timeline()
        for part, turn in zip(video.parts, line.turns, strict=True):
            slot, alone = self.fitted(video, Box(), part, video.fit), []
            for frame, time in shown:
                at = time + line.window.start
                weight = turn.weight(at)
                if weight == 1:
                    alone.append((frame, at - turn.start))
                elif weight:
                    blend = self.blend or Blend()
                    faded = replace(slot, blend=blend._replace(share=blend.share * weight))
                    yield from faded.requests(part, [(frame, at - turn.start)])
            yield from slot.requests(part, alone)

    def _overlay(self, video: Overlay, shown: list[tuple[int, Fraction]]) -> Iterator[Request]:
        covered = [(frame, time) for frame, time in shown if time in video.span]
        bare = [(frame, time) for frame, time in shown if time not in video.span]
        inset = self.fitted(video, video.box, video.inset, video.fit)
        if video.soft_edge:
            box = self.rect.part(video.box)
            base = self.veiled(Veil(box, video.soft_edge, inset=False))
            inset = inset.veiled(Veil(box, video.soft_edge, inset=True))
        else:
            base = _Slot(self.rect, self.window, (*self.holes, self.rect.part(video.box).pixels()), self.blend)
        yield from base.requests(video.base, covered)
        yield from self.requests(video.base, bare)
        yield from inset.requests(video.inset, [(frame, time - video.start) for frame, time in covered])


def _hidden(request: Request) -> bool:
    window = request.window
    return any(hole & window == window for hole in request.holes)


def _batches(path: str, wanted: list[Request], media: Media) -> Iterator[Batch]:
    """The pictures of one file, each as tall and wide as its place."""
    clip = wanted[0].clip
    if clip.frames_TCHW is not None:
        for number, request in enumerate(wanted):
            yield [number], _from_memory(request, max(1, request.place.width), max(1, request.place.height))[None]
        return
    asked = [_wanted(request, media.snap_seconds) for request in wanted]
    yield from media.batches(path, asked, predicted_for(clip, asked))


def predicted_for(clip: Clip, wanted: Sequence[Wanted]) -> float:
    """Seconds that decoding some pictures of a clip's file should take."""
    can_seek = not clip.path.lower().endswith(".avi")
    return predicted_seconds(wanted, clip.width, clip.height, clip.fps, can_seek)


def _wanted(request: Request, snap_seconds: Fraction) -> Wanted:
    """What to ask of a file. A frame that stands in begins in the clip: outside it other things are shown."""
    clip, time, _, place, *_ = request
    size = (place.width or 1, place.height or 1)
    if not snap_seconds:
        return Wanted(time, *size)
    return Wanted(time, *size, (max(clip.start, time - snap_seconds), min(clip.end, time + snap_seconds)))


def _from_memory(request: Request, width: int, height: int) -> np.ndarray:
    """The picture of a clip held in memory, resized with antialiasing."""
    frames_TCHW = request.clip.frames_TCHW
    assert frames_TCHW is not None
    index = min(int(request.time * request.clip.fps), len(frames_TCHW) - 1)
    return resized(frames_TCHW[index].permute(1, 2, 0).numpy(), width, height)


def _paint(canvas_THWC: np.ndarray, painted: Sequence[Request], pictures_NHWC: np.ndarray) -> None:
    """Paste pictures into their windows, leaving the holes as they are."""
    first = 0
    for where, alike in groupby(painted, key=itemgetter(PLACE)):
        frames = [request.frame for request in alike]
        last = first + len(frames)
        _paste(canvas_THWC, _at(frames), pictures_NHWC[first:last], *where)
        first = last


def _blend(canvas_THWC: np.ndarray, mixtures: dict[int, Mixture], request: Request, picture_HWC: np.ndarray) -> None:
    """Add a picture to the mixture of its frame where it is blended, and paste the rest of it."""
    if request.blend is None:
        _paint(canvas_THWC, [request], picture_HWC[None])
        return
    area, place = request.blend.area(request.window), request.place
    if area != request.window:
        holes = (*request.holes, area)
        _paste(canvas_THWC, [request.frame], picture_HWC[None], place, request.window, holes)
    top, left = area.top - place.top, area.left - place.left
    part_HWC = picture_HWC[top : top + area.height, left : left + area.width]
    mixtures[request.frame].add(part_HWC, area, request.blend, request.holes)


def _paste(
    canvas_THWC: np.ndarray,
    frames: slice | list[int],
    pictures_NHWC: np.ndarray,
    place: Pixels,
    window: Pixels,
    holes: tuple[Pixels, ...],
) -> None:
    hidden = [hole & window for hole in holes]
    saved = [(area, canvas_THWC[_area(frames, area)].copy()) for area in hidden if not area.empty]
    top, left = window.top - place.top, window.left - place.left
    canvas_THWC[_area(frames, window)] = pictures_NHWC[:, top : top + window.height, left : left + window.width]
    for area, pixels_NHWC in saved:
        canvas_THWC[_area(frames, area)] = pixels_NHWC


def _at(frames: list[int]) -> slice | list[int]:
    """The frames as numpy takes them: those that follow each other as a slice, which is a good deal faster."""
    first, last = frames[0], frames[-1] + 1
    return slice(first, last) if frames == list(range(first, last)) else frames


def _area(frames: slice | list[int], area: Pixels) -> tuple[slice | list[int], slice, slice]:
    return frames, slice(area.top, area.bottom), slice(area.left, area.right)
