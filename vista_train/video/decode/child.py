"""A process that does nothing but decode, for a parent that may kill it: requests come and go as JSON, pictures lie in
memory that both share.

It has given up what it does not need (confine.py), and is the first that the system kills for memory.
Before each request it limits its own address space, its CPU seconds and its time, and leaves those to the kernel.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vista_train.video.decode import READERS, check_reader, inspect, probe, read
from vista_train.video.decode.base import MediaError, MediaTooLarge, Wanted
from vista_train.video.decode.confine import confine
from vista_train.video.decode.door import OPENED, Door
from vista_train.video.decode.indexes import MAX_BYTES, Attached, IndexFile, place_of, stamp_of
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.members import split
from vista_train.video.decode.sizes import Sizes

GRACE_SECONDS = 5.0
"""A parent kills at the deadline; of CPU time a process has this much more, and then the kernel does."""
ORPHAN_SECONDS = 600.0
"""Should the parent be gone while a file hangs, the kernel kills so much later; time when all are stopped counts."""
SLICE_SECONDS = 1.0
"""How long is waited at once. Who took longer, and some, was stopped meanwhile, and that time does not count."""
SLACK_SECONDS = 0.25
MAX_MESSAGE = 64 << 20
MAX_HANDED = 3
"""Files that may come with a request: one in a tar, to be read; a proxy and tiles, to be written."""
LENGTH = struct.Struct("<I")
SYSTEM_CODE = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64")


def send(control: socket.socket, message: dict[str, Any], handed: Sequence[int] = ()) -> None:
    """One JSON message, its length before it; with it go open files."""
    text = json.dumps(message).encode()
    if handed:
        socket.send_fds(control, [LENGTH.pack(len(text))], list(handed))
        control.sendall(text)
    else:
        control.sendall(LENGTH.pack(len(text)) + text)


class Patience:
    """Seconds that may be waited in all, for whatever comes; those in which this process was stopped do not count."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait(self, control: socket.socket) -> None:
        """Return when something can be read; `TimeoutError` when there is no time left."""
        poll = select.poll()
        poll.register(control, select.POLLIN)
        while True:
            since, asked = time.monotonic(), min(max(self.left, 0.0), SLICE_SECONDS)
            is_there = poll.poll(1000 * asked)
            self.left -= min(time.monotonic() - since, asked + SLACK_SECONDS)
            if is_there:
                return
            if self.left <= 0:
                raise TimeoutError


def receive(
    control: socket.socket,
    most: int = MAX_MESSAGE,
    patience: Patience | None = None,
    handed: list[int] | None = None,
) -> dict[str, Any] | None:
    """The next JSON message; None when the other end is closed. `ValueError` for anything else, `TimeoutError` where it
    does not come whole while `patience` lasts. Files that come with it are put in `handed`."""
    head = _exactly(control, LENGTH.size, patience, handed)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > most:
        raise ValueError(f"a message of {length} bytes; at most {most} are taken")
    text = _exactly(control, length, patience)
    if text is None:
        return None
    try:
        message = json.loads(text)
    except RecursionError:
        raise ValueError("a message that is nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message


def _exactly(
    control: socket.socket, size: int, patience: Patience | None, handed: list[int] | None = None
) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        if patience is not None:
            # For all of it: who sends a byte at a time must not begin the wait again with each.
            patience.wait(control)
        wanted = min(size - len(parts), 1 << 20)
        if handed is None:
            part = control.recv(wanted)
        else:
            part, descriptors, _, _ = socket.recv_fds(control, wanted, MAX_HANDED)
            handed += descriptors
        if not part:
            return None
        parts += part
    return bytes(parts)


class Budget:
    """What a request may use up. The kernel watches over it, whatever the decoder does meanwhile."""

    def __init__(self) -> None:
        # Held open: later on this process may open no more but media.
        self._memory = os.open("/proc/self/statm", os.O_RDONLY)
        self._address_bytes = self._pages()[0] * mmap.PAGESIZE
        for number in (signal.SIGALRM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)

    def arm(self, seconds: float, memory_bytes: int) -> None:
        """From now on, for one request."""
        _set_soft(resource.RLIMIT_AS, self._address_bytes + memory_bytes)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _set_soft(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds + GRACE_SECONDS))
        signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)

    def disarm(self) -> None:
        """Until the next request nothing runs out."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        _set_soft(resource.RLIMIT_CPU, resource.RLIM_INFINITY)

    def resident_bytes(self) -> int:
        """Memory that this process holds."""
        return self._pages()[1] * mmap.PAGESIZE

    def _pages(self) -> list[int]:
        return [int(number) for number in os.pread(self._memory, 256, 0).split()]


def _set_soft(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        most = hard if most == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, hard))


class Pictures:
    """Where pictures are left for the parent: one after another, each height x width x 3 bytes. Beside them, in memory
    of its own, what has been learnt of a file."""

    def __init__(self, descriptor: int, learnt: int) -> None:
        self._descriptor, self._learnt = descriptor, learnt
        self._map: mmap.mmap | None = None

    def leave(self, content: bytes) -> int:
        """Leave an index; how many bytes it has."""
        with mmap.mmap(self._learnt, MAX_BYTES) as memory:
            memory[: len(content)] = content
        return len(content)

    def places(self, wanted: list[Wanted]) -> list[np.ndarray]:
        """A picture_HWC uint8 for each of `wanted`; the parent has made the memory large enough."""
        size = sum(one.width * one.height * 3 for one in wanted)
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._descriptor, size)
        return list(laid_out(self._map, wanted))


def laid_out(memory: mmap.mmap, wanted: list[Wanted]) -> Iterator[np.ndarray]:
    """The places of pictures in memory, in the order they were asked for."""
    start = 0
    for one in wanted:
        size = one.width * one.height * 3
        yield np.frombuffer(memory, np.uint8, size, start).reshape(one.height, one.width, 3)
        start += size


def facts(op: str, path: Path, limits: Limits) -> dict[str, Any]:
    """What `probe` or `inspect` finds in a file, as JSON takes it; fractions as text."""
    found = (inspect if op == "inspect" else probe)(path, limits)
    return {name: _plain(value) for name, value in vars(found).items()}


def answer(
    request: dict[str, Any], pictures: Pictures, tell: Callable[[int], None], handed: Sequence[int] = ()
) -> dict[str, Any]:
    """What a request comes to: facts about the file, or `failed` and `reason`. `tell` is told how large it is first."""
    door = Door(request["root"], request["allow_symlinks"], request["allow_absolute"])
    limits = Limits.of(request["limits"])
    try:
        # What lies in a tar comes open; the tar itself is not to be read here.
        inside = split(request["key"]) is not None
        given = nullcontext(OPENED / str(handed[0])) if inside else door.opened(request["key"])
        with given as path:
            status = path.stat()
            tell(status.st_size)
            stamp = stamp_of(status)
            if request["op"] == "transcode":
                return {"found": _transcoded(path, request, limits, stamp, handed[inside:])}
            if request["op"] != "read":
                return {"found": facts(request["op"], path, limits)}
            wanted = [Wanted.from_json(plain) for plain in request["wanted"]]
            places = pictures.places(wanted)
            memory = _memory(path, request, stamp)
            for which, picture_HWC in read(path, wanted, request["reader"], limits, memory):
                places[which][...] = picture_HWC
            return {"found": {"stamp": stamp, "learnt": pictures.leave(memory.kept)} if memory.kept else {}}
    except MediaError as error:
        return {"failed": type(error).__name__, "reason": error.reason}
    except MemoryError:
        return {"failed": MediaTooLarge.__name__, "reason": "decoding it takes more memory than limits.max_memory_mib"}


def _memory(path: Path, request: dict[str, Any], stamp: Sequence[int]) -> IndexFile:
    if request["attached"]:
        return Attached(path)
    folder = request["indexes"]
    place = place_of(folder, request["rules"], request["key"], stamp) if folder else None
    return IndexFile(place, request["least_packets"])


def _transcoded(
    path: Path, request: dict[str, Any], limits: Limits, stamp: Sequence[int], handed: Sequence[int]
) -> dict[str, Any]:
    from vista_train.video.decode.transcode import transcode

    proxy, tiles = (*(os.fdopen(os.dup(descriptor), "w+b") for descriptor in handed), None, None)[:2]
    assert proxy is not None
    with proxy, tiles or nullcontext():
        return transcode(path, limits, Sizes(**request["sizes"]), stamp, proxy, tiles)


def _plain(value: Any) -> Any:
    return f"{value.numerator}/{value.denominator}" if isinstance(value, Fraction) else value


def _tell_last(control: socket.socket) -> Callable[..., None]:
    """What this process does with an error that nobody foresaw: it says its name, and dies."""

    def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        send(control, {"raised": kind.__name__})

    return tell


def _tell_bytes(control: socket.socket, budget: Budget, request: dict[str, Any], num_bytes: int) -> None:
    """The parent waits longer for a large file, and so does the kernel."""
    limits = Limits.of(request["limits"])
    budget.arm(limits.deadline_with(request["seconds"], num_bytes, request["passes"]), request["memory_bytes"])
    send(control, {"bytes": num_bytes})


def _code() -> list[str]:
    """Where the libraries that are loaded lie."""
    loaded = [vars(module).get("__file__") or "" for name, module in sys.modules.items() if "." not in name]
    packages = {os.path.dirname(os.path.dirname(file)) for file in loaded if "-packages" in file}
    return [sys.prefix, sys.base_prefix, *SYSTEM_CODE, *sorted(packages)]


def main() -> None:
    """Serve whoever holds the other end of socket `argv[1]`, with memory `argv[2]` and `argv[3]`, until it is closed.

    `argv[4]` is the reader, `argv[5]` how large files may become that it is handed to write; `argv[6:]` are the only
    folders that it may read from then on, if there are any.
    """
    control, pictures = socket.socket(fileno=int(sys.argv[1])), Pictures(int(sys.argv[2]), int(sys.argv[3]))
    sys.excepthook = _tell_last(control)
    reader, max_file_bytes, roots = sys.argv[4], int(sys.argv[5]), sys.argv[6:]
    # What it needs is loaded before it is confined: what it is then short of is the file's doing.
    check_reader(reader)
    check_reader(next(iter(READERS)))
    import vista_train.video.decode.header
    import vista_train.video.decode.still

    budget = Budget()
    # Libraries load parts of themselves when they first need them.
    if max_file_bytes:
        import vista_train.video.decode.transcode  # noqa: F401
    confined = confine([*roots, *_code()] if roots else None, max_file_bytes)
    send(control, {"ready": True, **vars(confined), "resident": budget.resident_bytes()})
    handed: list[int] = []
    while (request := receive(control, handed=handed)) is not None:
        budget.arm(request["seconds"], request["memory_bytes"])
        reply = answer(request, pictures, partial(_tell_bytes, control, budget, request), handed)
        while handed:
            os.close(handed.pop())
        budget.disarm()
        send(control, reply | {"resident": budget.resident_bytes()})


if __name__ == "__main__":
    main()
