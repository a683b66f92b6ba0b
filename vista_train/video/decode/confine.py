"""What a decoding process gives up before it opens a file: network, other files, other processes, writing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS = 38
MAX_FILES = 256
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Landlock's system calls, by the same numbers on all machines (Linux, Documentation/userspace-api/landlock.rst)."""
VERSION_ALONE, PATH_BENEATH = 1, 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_ACCESS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many ways to touch a file each version of Landlock knows."""
TCP, SCOPED = 0b11, 0b11
"""Binding and connecting; abstract sockets and signals."""


@dataclass(frozen=True)
class Confined:
    """What of it this system allows."""

    no_network: bool
    no_files: bool
    """No files but those under the roots, and no signals to other processes where Landlock has version 6."""


def confine(roots: Sequence[str] | None, max_file_bytes: int = 0) -> Confined:
    """Give up what decoding does not need; files only if there are `roots` to keep. What is written, in files that
    were handed over open, may become as large as `max_file_bytes`."""
    libc = ctypes.CDLL(None, use_errno=True)
    no_network = any(libc.unshare(flags) == 0 for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET))
    # Of all processes the one to be killed when memory runs out; some containers hold it fast.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    no_files = roots is not None and _only_files_under(libc, roots)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, max_file_bytes),
        (resource.RLIMIT_NOFILE, MAX_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    return Confined(no_network, no_files)


def _only_files_under(libc: ctypes.CDLL, roots: Sequence[str]) -> bool:
    """Whether from now on this process can open nothing but files under `roots`, and these to be read."""
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_ALONE)
    if version < 1:
        return False
    rights = [(1 << FILE_ACCESS[min(version, max(FILE_ACCESS))]) - 1, TCP, SCOPED]
    rights = rights[: 1 if version < 4 else 2 if version < 6 else 3]
    packed = struct.pack(f"={len(rights)}Q", *rights)
    rules = libc.syscall(CREATE_RULESET, packed, ctypes.c_size_t(len(packed)), 0)
    if rules < 0:
        return False
    try:
        for root in roots:
            # One that is not there needs no leave to be read.
            with contextlib.suppress(OSError):
                folder = os.open(root, os.O_PATH | os.O_CLOEXEC)
                libc.syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", READ_FILE | READ_DIR, folder), 0)
                os.close(folder)
        return bool(libc.syscall(RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)
