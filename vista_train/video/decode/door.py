"""Where a media file is reached: under its root, by no link, a regular file of bearable size."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vista_train.video.decode.base import MediaMissing, MediaTooLarge, MediaUnreadable
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.members import copied, place_in, split

OPENED = Path("/proc/self/fd")
"""Where Linux shows a process its open files: a path that stays what it was, whatever is renamed meanwhile."""


class Status(NamedTuple):
    """What tells a file from what it was."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @property
    def stamp(self) -> tuple[int, int]:
        """Its size and time of change."""
        return self.size, self.mtime_ns


@dataclass(frozen=True)
class Door:
    """Which files may be reached: those under `root`, by default by plain relative paths alone."""

    root: str
    allow_symlinks: bool = False
    """Links are followed, wherever they lead."""
    allow_absolute: bool = False
    """A path may be absolute, and then lies anywhere."""

    @contextmanager
    def opened(self, key: str) -> Iterator[Path]:
        """A path to the file `key` that leads to this very file while it is open; it is not read, but for one in a tar,
        which is held in memory meanwhile.

        `MediaMissing` where there is none, or not within the door; `MediaUnreadable` where it is no regular file.
        """
        if sys.platform != "linux":
            yield self._resolved(key)
            return
        inside = split(key)
        with ExitStack() as stack:
            found = self._found(key, stack)
            if inside is not None:
                _, place, name = inside
                found = copied(key, found, place, name)
                stack.callback(os.close, found)
            yield OPENED / str(found)

    @contextmanager
    def member(self, key: str) -> Iterator[list[int]]:
        """The open file that `key` names, if it is one in a tar: for a process that is to read that and no other."""
        if split(key) is None:
            yield []
            return
        with self.opened(key) as path:
            yield [int(path.name)]

    def status(self, key: str) -> Status:
        """What tells a file from what it was, without a look into it; of one in a tar, its tar's, but for the size."""
        inside = split(key)
        with ExitStack() as stack:
            if sys.platform != "linux":
                found = self._resolved(key).stat()
            else:
                found = os.fstat(self._found(key, stack))
        size = found.st_size if inside is None else inside[1].size
        return Status(size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)

    def _found(self, key: str, stack: ExitStack) -> int:
        """A descriptor that names the file, or the tar that it is in, as long as the stack lives."""
        base, steps = self._steps(key)
        # Step by step: what was looked at is what is opened, and a link that is put there meanwhile is refused too.
        follow = 0 if self.allow_symlinks else os.O_NOFOLLOW
        found = _open(key, base, os.O_DIRECTORY, None)
        stack.callback(os.close, found)
        for at, step in enumerate(steps):
            is_last = at == len(steps) - 1
            place = None if is_last else place_in(step)
            name = step if place is None else place.tar
            found = _open(key, name, follow | (0 if is_last or place else os.O_DIRECTORY), found)
            stack.callback(os.close, found)
            if place is not None:
                break
        _check_kind(key, os.fstat(found).st_mode)
        return found

    def _steps(self, key: str) -> tuple[str, list[str]]:
        """Where to begin, and the names on the way."""
        steps = [step for step in key.split("/") if step not in ("", ".")]
        if not steps or "\0" in key:
            raise MediaMissing(key, "is no path to a file")
        if ".." in steps or (key.startswith("/") and not self.allow_absolute):
            raise MediaMissing(key, "leads outside the data root")
        return ("/" if key.startswith("/") else self.root), steps

    def _resolved(self, key: str) -> Path:
        self._steps(key)
        if split(key) is not None:
            raise MediaUnreadable(key, "lies in a tar, which is read in place on Linux alone")
        path = Path(self.root, key)
        if not self.allow_symlinks and path.resolve() != Path(self.root).resolve() / key:
            raise MediaMissing(key, "is reached by a symbolic link")
        return path


def check_file(path: Path, limits: Limits) -> None:
    """`MediaMissing` where nothing is at `path`, `MediaUnreadable` where it is no regular file, or `MediaTooLarge`."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise MediaMissing(path, "no such file") from None
    except (OSError, ValueError) as error:
        raise MediaMissing(path, f"cannot be reached ({type(error).__name__})") from error
    _check_kind(path, status.st_mode)
    if status.st_size > limits.max_bytes:
        raise MediaTooLarge(path, f"has {status.st_size} bytes, and limits.max_bytes is {limits.max_bytes}")


def _open(key: str, name: str, flags: int, folder: int | None) -> int:
    """A descriptor that names a file, without opening it: a pipe would wait for its other end."""
    assert sys.platform == "linux"
    try:
        return os.open(name, flags | os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise MediaMissing(key, "no such file") from None
    except OSError as error:
        if error.errno == errno.ENOTDIR and flags & os.O_NOFOLLOW:
            reason = "a file or a symbolic link stands where its path needs a folder (data.allow_symlinks follows them)"
        else:
            reason = f"cannot be reached ({errno.errorcode.get(error.errno or 0, 'unknown error')})"
        raise MediaMissing(key, reason) from None


def _check_kind(key: str | Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise MediaMissing(key, "is a symbolic link (data.allow_symlinks follows them)")
    if not stat.S_ISREG(mode):
        raise MediaUnreadable(key, "not a file")
