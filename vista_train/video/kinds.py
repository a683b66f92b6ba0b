"""Kinds of clips, told by their paths: videos, pictures, and words without anything to see."""

from __future__ import annotations

from vista_train.video.decode.limits import Limits

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
"""What the names of picture files end in."""
WORDS = "words:"
"""Begins the path of a clip that has no file: where its conversation stands follows."""
STILL = rf"(?i)^{WORDS}|\.(jpg|jpeg|png|webp)$"
"""The paths of all that does not move, as a pattern: for columns of millions."""


def is_picture(path: str) -> bool:
    """Whether a path is that of a picture, one frame; its name alone decides, and so what may be found in it."""
    return path.lower().endswith(PICTURES) and not is_words(path)


def is_words(path: str) -> bool:
    """Whether a clip is a conversation without anything to see; its span, size and rate then say nothing."""
    return path.startswith(WORDS)


def is_still(path: str) -> bool:
    """Whether there is no time in a clip: it is a picture, or words."""
    return is_words(path) or is_picture(path)


def limits_for(path: str, limits: Limits) -> Limits:
    """The limits for a file of that name: a picture's is opened as a picture and as nothing else."""
    return limits.of_pictures() if is_picture(path) else limits
