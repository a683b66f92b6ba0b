"""What the system says of this machine: memory and a container's share of it, shared memory, open files, disks."""

from __future__ import annotations

import os
import re
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

MEMINFO, CGROUPS, OWN_CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
SHARED_MEMORY = Path("/dev/shm")
UNLIMITED = 1 << 60
"""Version 1 of cgroups writes the largest page-aligned number where there is no limit."""


@dataclass(frozen=True)
class Space:
    """So many bytes in all, and so many of them to be had."""

    total: int
    free: int

    def told(self) -> str:
        """Both, in words."""
        return f"{size_told(self.free)} free of {size_told(self.total)}"


@dataclass(frozen=True)
class OpenFiles:
    """How many files a process may open, and up to how many it may allow itself."""

    soft: int
    hard: int


def host_memory(meminfo: Path = MEMINFO) -> Space | None:
    """The host's memory; free is what a process could get without swapping. None where no such file tells."""
    if not meminfo.is_file():
        return None
    told = dict(re.findall(r"^(\w+):\s+(\d+) kB$", meminfo.read_text(encoding="ascii"), re.MULTILINE))
    if not {"MemTotal", "MemAvailable"} <= told.keys():
        return None
    return Space(int(told["MemTotal"]) << 10, int(told["MemAvailable"]) << 10)


def memory_limit(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> Space | None:
    """What this process's cgroup, or the tightest above it, leaves it of the host's memory; None without a limit.

    In a container the group stands at the root of what is mounted, whatever name the host has for it: it is looked for
    at every step from its name to the root, of version 2 (`memory.max`) and 1 (`memory.limit_in_bytes`).
    """
    found = []
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        mounted = cgroups / controllers
        group = mounted / name.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(mounted):
                limit = _limit_of(folder)
                found += [limit] if limit is not None else []
    return min(found, key=lambda limit: limit.free, default=None)


def _limit_of(folder: Path) -> Space | None:
    """One group's limit; what files have been read into and can be dropped again counts as free."""
    for limit, used, dropped in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        total = _number(folder / limit)
        if total is None or total >= UNLIMITED:
            continue
        stat = folder / "memory.stat"
        lines = stat.read_text(encoding="ascii").splitlines() if stat.is_file() else []
        spare = next((int(line.split()[1]) for line in lines if line.startswith(f"{dropped} ")), 0)
        return Space(total, max(0, total - max(0, (_number(folder / used) or 0) - spare)))
    return None


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or it says `max`."""
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def shared_memory(folder: Path = SHARED_MEMORY) -> Space | None:
    """The file system that POSIX shared memory lies in; None where there is none."""
    return disk(folder) if folder.is_dir() else None


def disk(folder: Path) -> Space:
    """The file system that a folder lies in."""
    usage = shutil.disk_usage(folder)
    return Space(usage.total, usage.free)


def open_files() -> OpenFiles:
    """The limits of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Without a limit both are -1.
    return OpenFiles(*(UNLIMITED if number < 0 else number for number in (soft, hard)))


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def size_told(num_bytes: int) -> str:
    """A number of bytes for people: 64 MiB, 1.5 GiB."""
    if num_bytes < 1 << 30:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / 2**30:.1f} GiB"
