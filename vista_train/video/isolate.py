"""Decoding in processes that may hang, crash or be killed: whatever a file does there costs one sample."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from vista_train.redact import phrase
from vista_train.video.decode import child as decoding
from vista_train.video.decode.base import KINDS, MediaCrashed, MediaError, MediaTimeout, Wanted
from vista_train.video.decode.confine import Confined
from vista_train.video.decode.indexes import MAX_BYTES
from vista_train.video.decode.limits import Limits

PROGRAM = ("-m", decoding.__name__)
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "TMPDIR")
"""What of the environment a decoder may need; all else may be secret, and stays here."""
HELD_BACK = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT}
"""Signals to the run, which end it or tell it something; a decoder that died of them would cost a sample."""
START_SECONDS = 120.0
NUM_STARTS = 3
MAX_ANSWER_BYTES = 1 << 20
MAX_REQUESTS = 2000
"""A process that has served so many makes way for a new one: decoders leak."""
MAX_GROWTH_BYTES = 512 << 20
"""... and so does one that has grown by so much."""


class Learnt(NamedTuple):
    """A packet index, as bytes that a file may have made up, and the size and time of change of that file."""

    content: bytes
    stamp: tuple[int, int]


class IsolationError(RuntimeError):
    """No decoding process can be had here; the message says why, and what to do."""


class Child:
    """One decoding process, and the memory in which it leaves its pictures."""

    def __init__(
        self, reader: str, program: Sequence[str] = PROGRAM, roots: Sequence[str] = (), max_file_bytes: int = 0
    ) -> None:
        ours, theirs = socket.socketpair()
        self._control, self._memory = ours, os.memfd_create("pictures", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # A child that shrank it would take this process down with it; one that sealed it further would break it.
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        # Sparse: it takes what is left in it, and no child can make it larger or smaller.
        self._learnt = os.memfd_create("learnt", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._learnt, MAX_BYTES)
        fcntl.fcntl(self._learnt, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._map: mmap.mmap | None = None
        self._size = 0
        memory = (self._memory, self._learnt)
        with theirs:
            numbers = [str(number) for number in (theirs.fileno(), *memory)]
            self._process = _started([*program, *numbers, reader, str(max_file_bytes), *roots], theirs, memory)
        self._owner = os.getpid()
        self._end = weakref.finalize(self, _end, self._owner, self._process, ours, memory)
        self.num_requests, self._is_asked = 0, False
        self.learnt: Learnt | None = None
        """What the last pictures have taught of their file."""
        self._keys: set[str] = set()
        ready = self._receive(decoding.Patience(START_SECONDS))
        if not ready or not ready.get("ready"):
            self.stop()
            raise IsolationError(f"the decoding process does not start ({_told(ready, self._process.returncode)})")
        self.confined = Confined(bool(ready.get("no_network")), bool(ready.get("no_files")))
        """What it has given up."""
        self._resident = self._at_start = int(ready["resident"])

    @property
    def is_worn(self) -> bool:
        """Whether it has done enough, and should make way for a new one."""
        grown = self._resident - self._at_start > MAX_GROWTH_BYTES or self._size > MAX_GROWTH_BYTES
        return grown or self.num_requests >= MAX_REQUESTS

    @property
    def is_fit(self) -> bool:
        """Whether it can be asked again: it lives, and owes no answer that would be taken for the next one's."""
        is_ours = self._owner == os.getpid()
        return is_ours and self._end.alive and not self._is_asked and self._process.poll() is None

    @property
    def is_unspoilt(self) -> bool:
        """Whether it has seen no file but one: no other can have taken it over, and speak for that one."""
        return len(self._keys) <= 1

    def ask(self, key: str, request: Mapping[str, Any], seconds: float, handed: Sequence[int] = ()) -> dict[str, Any]:
        """Its answer within `seconds`; `MediaError` if the file is bad, or if this has killed it. It is `handed` open
        files: the one to read, where that lies in a tar, then those that it may write."""
        self.num_requests += 1
        self._keys.add(key)
        self._is_asked = True
        told = {**request, "key": key, "seconds": seconds}
        told["memory_bytes"] += 2 * self._size
        patience = decoding.Patience(seconds)
        try:
            self._control.settimeout(seconds)
            decoding.send(self._control, told, handed)
            reply = self._receive(patience)
            if reply is not None and type(reply.get("bytes")) is int:
                # What it takes to read so much comes on top, as often as this request reads it.
                allowed = Limits.of(told["limits"]).deadline_with(seconds, reply["bytes"], told["passes"])
                patience.left += allowed - seconds
                seconds = allowed
                reply = self._receive(patience)
        except TimeoutError:
            self.stop()
            raise MediaTimeout(key, f"not decoded within {round(seconds, 1):g} s") from None
        except (ConnectionError, ValueError):
            reply = None
        if reply is None or not _is_answer(reply):
            self.stop()
            raise _death(key, reply, self._process.returncode, seconds)
        self._is_asked = False
        self._resident = reply["resident"]
        if "failed" in reply:
            raise KINDS[reply["failed"]](key, phrase(reply["reason"]))
        found: dict[str, Any] = reply["found"]
        return found

    def pictures(
        self,
        key: str,
        wanted: Sequence[Wanted],
        request: Mapping[str, Any],
        seconds: float,
        handed: Sequence[int] = (),
    ) -> Iterator[np.ndarray]:
        """picture_HWC uint8 for each of `wanted`, in their order; each is valid until this process is asked again."""
        size = sum(one.width * one.height * 3 for one in wanted)
        if size > self._size:
            os.ftruncate(self._memory, size)
            self._map, self._size = mmap.mmap(self._memory, size), size
        found = self.ask(key, {**request, "wanted": [one.to_json() for one in wanted]}, seconds, handed)
        self.learnt = self._left(found)
        assert self._map is not None
        return decoding.laid_out(self._map, list(wanted))

    def _left(self, found: Mapping[str, Any]) -> Learnt | None:
        """What it has left of the file's index, if it has learnt one; the memory is free again."""
        size, stamp = found.get("learnt"), found.get("stamp")
        if type(size) is not int or not 0 < size <= MAX_BYTES:
            return None
        if not isinstance(stamp, list) or [type(part) for part in stamp] != [int, int]:
            return None
        with mmap.mmap(self._learnt, MAX_BYTES) as memory:
            content = memory[:size]
            memory.madvise(mmap.MADV_REMOVE)
        return Learnt(content, (stamp[0], stamp[1]))

    def stop(self) -> None:
        """End it, at once and for good; a process that was forked from its owner's only lets go of it."""
        self._end()

    def _receive(self, patience: decoding.Patience) -> dict[str, Any] | None:
        """Its next message; None when it is gone. `TimeoutError` when patience ends."""
        return decoding.receive(self._control, MAX_ANSWER_BYTES, patience)


class Children:
    """The decoding processes of this process: one for each thread that decodes, started when it is needed.

    They can read no files but those under `roots`, if there are any, where the system can see to that, and write none
    but those that they are handed, up to `max_file_bytes` each.
    """

    def __init__(
        self, reader: str, program: Sequence[str] = PROGRAM, roots: Sequence[str] = (), max_file_bytes: int = 0
    ) -> None:
        self.reader, self.program, self.roots = reader, tuple(program), tuple(roots)
        self.max_file_bytes = max_file_bytes
        self._idle: deque[Child] = deque()

    def __getstate__(self) -> dict[str, Any]:
        names = ("reader", "program", "roots", "max_file_bytes")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def one(self) -> Iterator[Child]:
        """A process that nobody else asks meanwhile."""
        child = self._take()
        try:
            yield child
        finally:
            if child.is_fit and not child.is_worn:
                self._idle.append(child)
            else:
                child.stop()

    @contextmanager
    def fresh(self) -> Iterator[Child]:
        """A process that has seen no file, and is to see one alone."""
        child = self._started()
        try:
            yield child
        finally:
            child.stop()

    def close(self) -> None:
        """End those that have nothing to do."""
        while self._idle:
            self._idle.popleft().stop()

    def _take(self) -> Child:
        with suppress(IndexError):
            while True:
                child = self._idle.pop()
                if child.is_fit:
                    return child
                # Killed while it had nothing to do, for its memory perhaps; or it is that of a process before a fork.
                child.stop()
        return self._started()

    def _started(self) -> Child:
        for attempt in range(NUM_STARTS):
            try:
                return Child(self.reader, self.program, self.roots, self.max_file_bytes)
            except (OSError, IsolationError) as error:
                # Short of memory or processes, a machine may have them again in a moment.
                failure = error
                time.sleep(attempt)
        raise IsolationError(
            f"{failure}; files cannot be decoded apart from this process here. data.isolate=inline decodes in it, "
            f"without protection: for files that you trust"
        ) from failure


def _started(arguments: Sequence[str], control: socket.socket, memory: Sequence[int]) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    environment |= {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # Held back here they are held back there, from the first moment on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-s", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # What decoders print is theirs, and has addresses in it.
            stderr=subprocess.DEVNULL,
            pass_fds=(control.fileno(), *memory),
            env=environment,
            cwd="/",
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(owner: int, process: subprocess.Popen[bytes], control: socket.socket, memory: Sequence[int]) -> None:
    """Kill a child, in the process that has started it; a fork of that one only lets go."""
    control.close()
    for descriptor in memory:
        os.close(descriptor)
    if os.getpid() == owner:
        process.kill()
        process.wait()


def _is_answer(reply: Mapping[str, Any]) -> bool:
    """Whether a process that a file may have taken over says what it is asked for: facts, or how the file fails."""
    if "raised" in reply or type(reply.get("resident")) is not int:
        return False
    if "failed" in reply:
        kind = reply["failed"]
        return isinstance(kind, str) and kind in KINDS and isinstance(reply.get("reason"), str)
    return isinstance(reply.get("found"), dict)


def _death(key: str, reply: Mapping[str, Any] | None, code: int, seconds: float) -> MediaError:
    if not reply and code == -signal.SIGXCPU:
        return MediaTimeout(key, f"not decoded within {round(seconds, 1):g} s")
    return MediaCrashed(key, f"the process that decoded it died ({_told(reply, code)})")


def _told(reply: Mapping[str, Any] | None, code: int) -> str:
    """Why a process is gone; -9 is what this one has ended it with, unless it was the system for its memory."""
    if reply and "raised" in reply:
        return phrase(f"{reply['raised']} was raised")
    if reply:
        return "it answered what nobody asked"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
