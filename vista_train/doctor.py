"""`vista-train doctor`: what this machine has, what is known to be bad about it, and what protection it can give."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from vista_train.data.sidecars import cache_folder
from vista_train.video.decode import READERS, check_reader
from vista_train.video.decode.versions import ffmpeg_versions
from vista_train.video.isolate import IsolationError
from vista_train.video.media import Media

FLOORS = {
    "torch": ((2, 10), "CVE-2026-24747: a checkpoint read with weights_only=True could run code"),
    "transformers": ((5, 3), "CVE-2026-4372, CVE-2026-5241: a config.json could fetch and run code"),
    "FFmpeg": ((8, 1, 2), "CVE-2026-8461, CVE-2026-40962, CVE-2026-30999: a crafted video could write past its memory"),
}
"""The first versions without a hole that is known to be used, and which hole."""
PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "av", "decord", "torchcodec", "flash-attn")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether it should be mended."""

    subject: str
    found: str
    warning: str = ""


def findings() -> Iterator[Finding]:
    """All there is to say of this machine. Starts one decoding process."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    versions = _installed()
    for name in PACKAGES:
        version = versions.get(name)
        yield Finding(name, version or "not installed", known_bad(name, version) if version else "")
    for library, version in ffmpeg_versions().items():
        yield Finding(f"FFmpeg in {library}", version, known_bad("FFmpeg", version))
    for name in READERS:
        try:
            check_reader(name)
        except ImportError as error:
            yield Finding(f"reader {name}", f"cannot be used: {error.__cause__ or error}")
        else:
            yield Finding(f"reader {name}", "can be used")
    yield from _isolation()
    device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "none"
    yield Finding("GPU", device)
    yield Finding("cores", str(len(os.sched_getaffinity(0))))
    yield Finding("cache", str(cache_folder(None)))


def known_bad(name: str, version: str) -> str:
    """Why a version is to be replaced; empty where nothing is known against it, and where it says no number."""
    floor, hole = FLOORS.get(name, ((), ""))
    number = re.match(r"n?(\d+(?:\.\d+)*)", version)
    if not floor:
        return ""
    if number is None:
        return f"its version tells no number; {'.'.join(map(str, floor))} is the first without {hole}"
    if tuple(map(int, number[1].split("."))) >= floor:
        return ""
    return f"older than {'.'.join(map(str, floor))}: {hole}"


def report() -> tuple[str, int]:
    """The findings as lines of text, and how many are warnings."""
    found = list(findings())
    width = 2 + max(len(entry.subject) for entry in found)
    lines = [f"{entry.subject:<{width}}{entry.found}" for entry in found]
    warnings = [f"warning: {entry.subject} {entry.found}: {entry.warning}" for entry in found if entry.warning]
    return "\n".join([*lines, *(["", *warnings] if warnings else [])]), len(warnings)


def _installed() -> Mapping[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _isolation() -> Iterator[Finding]:
    if sys.platform != "linux":
        yield Finding("isolation", "not here", "decoding apart needs Linux; data.isolate=inline is for files you trust")
        return
    media = Media(tempfile.gettempdir())
    try:
        confined = media.confined()
    except IsolationError as error:
        yield Finding("isolation", "does not work", str(error))
        return
    finally:
        media.close()
    yield Finding("isolation", "works: decoding runs in processes of its own, with deadlines and memory limits")
    told = "none" if confined.no_network else "reachable"
    hint = (
        "" if confined.no_network else "this system allows no network namespaces; a decoder that is taken over has it"
    )
    yield Finding("network of decoders", told, hint)
    told = "libraries, and what lies under the data root" if confined.no_files else "all that this user can read"
    hint = (
        "" if confined.no_files else "this kernel has no Landlock (Linux 5.13); a decoder that is taken over reads them"
    )
    yield Finding("files of decoders", told, hint)
