"""Footage: what evaluations show, media files and folders of extracted frames, and how both become a model's frames."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from vista_train.data.sources import clip_of
from vista_train.video.composition import Clip, Video
from vista_train.video.decode.base import MediaMissing, MediaTooLarge, MediaUnreadable
from vista_train.video.decode.door import Door
from vista_train.video.geometry import exact
from vista_train.video.media import Media
from vista_train.video.render import render, render_view
from vista_train.video.sampling import View

FRAME = re.compile(r"(?:.*\D)?(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
"""The name of a frame's file, `frame_<i>.jpg`; frames follow one another by number."""
FORMATS = ("JPEG", "PNG")


@dataclass
class Footage:
    """Files and folders of frames under the media's root."""

    media: Media
    folder_fps: float = 25.0
    """Frames a second of a folder, which does not say it itself; HRVideoBench's are taken for 25, as published."""
    _listed: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.folder_fps > 0:
            raise ValueError(f"folder_fps is {self.folder_fps}; it must be above 0")

    def clip(self, key: str) -> Clip:
        """The whole of a file or folder as a clip, without pixels; `MediaError` where it cannot be one."""
        if not self._is_folder(key):
            return clip_of(self.media, key)
        names, fps = self._names(key), exact(self.folder_fps)
        limits = self.media.limits
        if len(names) > limits.max_frames:
            raise MediaTooLarge(key, f"has {len(names)} frames, and limits.max_frames is {limits.max_frames}")
        height, width = self._picture(key, names[0], None).shape[:2]
        return Clip(key, Fraction(0), len(names) / fps, width, height, fps, source=key)

    def frames(self, video: Video, times: Sequence[Fraction], view: View) -> torch.Tensor:
        """The frames shown at `times` (seconds) on the view's canvas, uint8 [T, 3, H, W]; `MediaError`."""
        if not (isinstance(video, Clip) and video.frames_TCHW is None and self._is_folder(video.path)):
            return render_view(video, times, view, self.media)
        names = self._names(video.path)
        numbers = [min(int((video.start + time) * video.fps), len(names) - 1) for time in times]
        once = sorted(set(numbers))
        pictures = [self._picture(video.path, names[number], video.size) for number in once]
        frames_TCHW = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        # Only the sampled frames, a second each: a clip in memory is put on the canvas as any other.
        held = Clip.from_frames(frames_TCHW, len(once))
        at = [Fraction(once.index(number)) for number in numbers]
        return render(held, at, view.canvas_of(video), view.paint, self.media)

    def _is_folder(self, key: str) -> bool:
        return os.path.isdir(os.path.join(self.media.root, key))

    def _names(self, key: str) -> list[str]:
        """The files of a folder's frames, by number."""
        if key not in self._listed:
            self._check_inside(key)
            matches = (FRAME.fullmatch(name) for name in os.listdir(self.media.root / key))
            found = [(int(match[1]), match[0]) for match in matches if match]
            if not found:
                raise MediaMissing(key, "is a folder without frames; their files are called frame_<i>.jpg")
            self._listed[key] = [name for _, name in sorted(found)]
        return self._listed[key]

    def _check_inside(self, key: str) -> None:
        """`MediaMissing` for a folder outside the root; files are looked at by the door once more."""
        root, door = Path(self.media.root), self._door
        if ".." in Path(key).parts or (os.path.isabs(key) and not door.allow_absolute):
            raise MediaMissing(key, "leads outside the data root")
        if not (door.allow_symlinks or door.allow_absolute) and (root / key).resolve() != root.resolve() / key:
            raise MediaMissing(key, "is reached by a symbolic link (data.allow_symlinks follows them)")

    @property
    def _door(self) -> Door:
        rules, _ = self.media.rules
        return Door(os.path.abspath(self.media.root), rules["allow_symlinks"], rules["allow_absolute"])

    def _picture(self, folder: str, name: str, size: tuple[int, int] | None) -> np.ndarray:
        """One frame, uint8 [H, W, 3], of the size that all frames of the folder have."""
        key, limits = f"{folder}/{name}", self.media.limits
        with self._door.opened(key) as path:
            size_bytes = path.stat().st_size
            if size_bytes > limits.max_bytes:
                raise MediaTooLarge(key, f"has {size_bytes} bytes, and limits.max_bytes is {limits.max_bytes}")
            try:
                with Image.open(path, formats=FORMATS) as picture:
                    # The header is read, no pixel yet.
                    if picture.width * picture.height > limits.max_pixels:
                        shape = f"{picture.width}x{picture.height}"
                        raise MediaTooLarge(key, f"has {shape} pixels, and limits.max_pixels is {limits.max_pixels}")
                    if size is not None and picture.size != size:
                        raise MediaUnreadable(
                            key, f"is {picture.width}x{picture.height}, the first frame {size[0]}x{size[1]}"
                        )
                    return np.asarray(picture.convert("RGB"))
            except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
                raise MediaUnreadable(key, f"is no JPEG or PNG that can be read ({type(error).__name__})") from error
            except Image.DecompressionBombError as error:
                raise MediaTooLarge(key, "has more pixels than Pillow takes") from error
