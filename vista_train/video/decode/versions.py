"""Which FFmpeg each decoder library brings or finds."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import av

LIBAVCODEC = re.compile(r"libavcodec[^/]*?\.so\.(\d+(?:\.\d+)*)")
MAJORS = {58: "4", 59: "5", 60: "6", 61: "7", 62: "8"}
"""FFmpeg's major version by that of its libavcodec."""


def ffmpeg_versions() -> dict[str, str]:
    """FFmpeg's version by the library that it is in; where only libavcodec's is known, FFmpeg's major from it."""
    found = {"av": str(av.ffmpeg_version_info)}
    for library in ("decord", "torchcodec"):
        told = _bundled(library)
        if told:
            found[library] = told
    return found


def _bundled(library: str) -> str | None:
    """What can be told from the names of the shared libraries in a wheel; None where there are none."""
    try:
        files = importlib.metadata.files(library) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        match = LIBAVCODEC.search(Path(str(file)).name)
        if match:
            major = MAJORS.get(int(match[1].split(".")[0]), "?")
            return f"{major} (libavcodec {match[1]})"
    return None
