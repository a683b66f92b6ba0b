"""Pictures: files of one frame, decoded by Pillow, as image processors have them, and turned upright.

Not by libav: it mirrors no picture that its Exif says is mirrored, and rounds chroma its own way.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.Image import Resampling, Transpose

# Registers the three formats: asked for one that it does not know, Pillow loads all of its forty.
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vista_train.redact import phrase
from vista_train.video.decode.base import (
    FORGETFUL,
    MIN_SIDE_PX,
    STILLS,
    Header,
    Inspected,
    MediaTooLarge,
    MediaUnreadable,
    Memory,
    Wanted,
)
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.source import NO_MEMORY, check_size

FORMATS = (JpegImageFile.format, PngImageFile.format, WebPImageFile.format)
SECONDS = FPS = Fraction(1)
"""How long a picture is shown, and its rate: one frame, whatever the measure."""
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""What makes a picture upright, by its orientation (Exif 2.32, 4.6.5, tag 274)."""
SIDEWAYS = (5, 6, 7, 8)
HARM = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)
"""What Pillow raises where a file is damaged."""


def header(path: Path, limits: Limits) -> Header:
    """What the file says of its picture; no pixel is decoded, where its orientation stands before them."""
    with _opened(path, limits) as picture:
        width, height = picture.size
        if _orientation(picture) in SIDEWAYS:
            width, height = height, width
        kind = str(picture.format).lower()
    return Header(SECONDS, width, height, FPS, 1, kind, kind)


def inspected(path: Path, limits: Limits) -> Inspected:
    """All of the picture is decoded."""
    with _opened(path, limits) as picture:
        width, height = _upright(picture).size
    return Inspected(SECONDS, width, height, FPS, 1)


class StillReader:
    """The picture, whatever the time: it lasts as long as it is wanted."""

    name = "still"

    def pictures(
        self, path: Path, wanted: Sequence[Wanted], limits: Limits, memory: Memory = FORGETFUL
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See `Reader.pictures`; scaled bilinearly with antialiasing, where it is not wanted as large as it is."""
        with _opened(path, limits) as picture:
            upright = _upright(picture)
            by_size: dict[tuple[int, int], np.ndarray] = {}
            for which in sorted(range(len(wanted)), key=lambda which: wanted[which].time):
                size = (wanted[which].width, wanted[which].height)
                if size not in by_size:
                    scaled = upright if size == upright.size else upright.resize(size, Resampling.BILINEAR)
                    by_size[size] = np.asarray(scaled)
                yield which, by_size[size]


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[ImageFile.ImageFile]:
    """The file at `path`, its header within the limits; whatever goes wrong with it leaves as a `MediaError`."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            check_size(path, limits, *picture.size, 1, Fraction(0))
            if min(picture.size) < MIN_SIDE_PX:
                size = f"{picture.width}x{picture.height}"
                raise MediaUnreadable(path, f"{size} pixels, less than {MIN_SIDE_PX} a side")
            # A photograph may have a smaller one of itself behind it; what has frames in time is no picture.
            if isinstance(picture, PngImageFile | WebPImageFile) and picture.n_frames > 1:
                raise MediaUnreadable(
                    path, f"an animation of {picture.n_frames} frames, not one picture; as a video it can be taken"
                )
            yield picture
    except MemoryError:
        raise MediaTooLarge(path, NO_MEMORY) from None
    except Image.DecompressionBombError:
        raise MediaTooLarge(path, "has more pixels than Pillow takes") from None
    except UnidentifiedImageError:
        raise MediaUnreadable(path, f"not one of the pictures {', '.join(STILLS)}") from None
    except HARM as error:
        raise MediaUnreadable(path, f"cannot be decoded: {phrase(str(error)) or type(error).__name__}") from None


def _orientation(picture: ImageFile.ImageFile) -> int:
    """How the picture is turned; what cannot be read of it says nothing, as viewers have it."""
    with suppress(*HARM):
        value = picture.getexif().get(Base.Orientation)
        return value if value in UPRIGHT else 1
    return 1


def _upright(picture: ImageFile.ImageFile) -> Image.Image:
    """The decoded picture as RGB, without alpha (`convert("RGB")` drops it, and so do image processors), upright."""
    # Asked as the header was: what stands behind the pixels is only known once they are loaded.
    turn = UPRIGHT.get(_orientation(picture))
    picture.load()
    # Which colour of a palette is transparent does not matter; Pillow warns where it does.
    picture.info.pop("transparency", None)
    if picture.mode.startswith("I"):
        # Grey of 16 bits, of which Pillow would keep what is below 256, and paint the rest white.
        plain = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    else:
        plain = picture
    rgb = plain.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)
