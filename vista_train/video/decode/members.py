"""Members: files inside tars, which lie there as they are and need no unpacking.

The key of one says where its bytes are: `shard_0.tar@1536+5242880/clip.mp4` are 5,242,880 bytes from 1,536 on. So it is
found without a look at the rest of the tar, which may be as large as a disk.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from vista_train.video.decode.base import MediaMissing, MediaTooLarge, MediaUnreadable

STEP = re.compile(r"(.+\.tar)@(\d{1,18})\+(\d{1,18})")
BLOCK = 512
NAME_BYTES = 100
MAX_MEMBER_BYTES = 1 << 30
"""A member is held in memory while it is open."""
MAX_HEAD_BYTES = 1 << 20
PORTION = 1 << 24


class Place(NamedTuple):
    """Where a member's bytes are: in which tar, by its name in its folder, from where on, and how many."""

    tar: str
    offset: int
    size: int


def place_in(step: str) -> Place | None:
    """What a step of a key says, if it is that of a tar."""
    found = STEP.fullmatch(step)
    return Place(found[1], int(found[2]), int(found[3])) if found else None


def split(key: str) -> tuple[str, Place, str] | None:
    """The tar that a key leads into, with its folders, the place in it, and the member's name; None for a file."""
    steps = key.split("/")
    for at, step in enumerate(steps[:-1]):
        place = place_in(step)
        if place:
            return "/".join([*steps[:at], place.tar]), place, "/".join(steps[at + 1 :])
    return None


def stat_of(path: str) -> tuple[int, int, bool]:
    """Size and time of change (ns) of a file or a member, by its path, and whether it is a regular file; `OSError`."""
    inside = split(path)
    found = os.stat(path if inside is None else inside[0])
    size = found.st_size if inside is None else inside[1].size
    return size, found.st_mtime_ns, stat.S_ISREG(found.st_mode)


def members_of(tar: Path) -> Iterator[tuple[str, int, int]]:
    """(name, first byte, bytes) of every plain file in a tar that is not packed; `ValueError` for anything else."""
    try:
        with _Heads(tar) as file, tarfile.open(fileobj=file, mode="r:") as opened:
            for member in opened:
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError, UnicodeError, RecursionError, ValueError) as error:
        raise ValueError(f"{tar}: no tar, or a damaged one ({type(error).__name__}: {error})") from None


class _Heads(io.FileIO):
    """A tar of which heads are read, and nothing large: some say that a name has gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEAD_BYTES:
            raise ValueError(f"a head of more than {MAX_HEAD_BYTES >> 20} MiB")
        return super().read(size) or b""


def key_of(tar: str, name: str, offset: int, size: int) -> str:
    """The key of a member of a tar whose own key is `tar`."""
    return f"{tar}@{offset}+{size}/{name}"


def copied(key: str, descriptor: int, place: Place, name: str) -> int:
    """A file in memory with a member's bytes and the tar's time of change; whoever gets it closes it.

    `descriptor` names the tar. `MediaUnreadable` where the tar has something else there by now.
    """
    if place.size > MAX_MEMBER_BYTES:
        raise MediaTooLarge(key, f"has {place.size} bytes; of a file in a tar, {MAX_MEMBER_BYTES} are the most")
    tar = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    with ExitStack() as whole, ExitStack() as kept:
        whole.callback(os.close, tar)
        head = os.pread(tar, BLOCK, place.offset - BLOCK) if place.offset >= BLOCK else b""
        if not _is_head_of(head, name, place.size):
            raise MediaUnreadable(key, "its tar has something else in this place; import the tars anew")
        memory = os.memfd_create("member", os.MFD_CLOEXEC)
        kept.callback(os.close, memory)
        os.ftruncate(memory, place.size)
        done = 0
        while done < place.size:
            part = os.sendfile(memory, tar, place.offset + done, min(PORTION, place.size - done))
            if not part:
                raise MediaMissing(key, "its tar ends before it does")
            done += part
        os.utime(memory, ns=(0, os.fstat(tar).st_mtime_ns))
        # From here on it is the caller's to close.
        kept.pop_all()
        return memory


def _is_head_of(head: bytes, name: str, size: int) -> bool:
    """Whether a block is the head of a file of that size, and of that name as far as it says it."""
    if len(head) < BLOCK or head[257:262] != b"ustar" or head[156:157] not in (b"0", b"\0"):
        return False
    said = head[124:136].rstrip(b"\0 ")
    # Above 8 GiB, and by some writers always, sizes are in base 256.
    number = int.from_bytes(head[125:136], "big") if head[124] & 0x80 else int(said, 8) if said.isdigit() else -1
    # The end of a long name, its folders standing elsewhere, or its beginning.
    said_name = head[:NAME_BYTES].rstrip(b"\0")
    short, wanted = said_name.removeprefix(b"./").lstrip(b"/"), name.encode("utf-8", "surrogateescape")
    is_whole = wanted == short or wanted.endswith(b"/" + short)
    return number == size and bool(short) and (is_whole or (len(said_name) >= NAME_BYTES and wanted.startswith(short)))
