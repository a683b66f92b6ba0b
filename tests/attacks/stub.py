"""A decoding process that a file has taken over: it starts as it should, and then does what its first argument says."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vista_train.video.decode.child import LENGTH, confine, receive

LEAK = (
    "\x1b[2J\x1b]0;owned\x07 object at 0x7f3a2c001230 \u202e token hf_abcdefghijklmnopqrst in "
    "https://user:hunter2@example.com/film.mp4?X-Amz-Signature=deadbeefcafe\nsecond line"
)
FOUND = {
    "duration": "1/1", "fps": "10/1", "num_frames": 10, "width": 64, "height": 48, "codec": "h264", "container": "mov",
}  # fmt: skip


def told(**more: Any) -> bytes:
    """An answer, sound but for what is put over it."""
    return json.dumps({"found": FOUND, "resident": 1} | more).encode()


def found(**more: Any) -> bytes:
    return told(found=FOUND | more)


ANSWERS = {
    "no-json": b"\xff\xfe\x00nonsense",
    "a-number": b"5",
    "a-list": b"[]",
    "nothing-asked": b"{}",
    "too-deep": b"[" * 100_000,
    "endless-number": b'{"resident": ' + b"9" * 6000 + b"}",
    "raised": json.dumps({"raised": LEAK, "resident": 1}).encode(),
    "unknown-kind": told(failed="os.system", reason="id"),
    "kind-no-text": told(failed=["MediaMissing"], reason="x"),
    "no-reason": told(failed="MediaCrashed"),
    "leaks": told(failed="MediaUnreadable", reason=LEAK),
    "no-end-of-reason": told(failed="MediaUnreadable", reason="a." * 20_000),
    "memory-no-number": told(resident="all of it"),
    "memory-nothing": told(resident=None),
    "memory-endless": b'{"found": {}, "resident": 1e999}',
    "nothing-found": b'{"resident": 1}',
    "found-a-list": told(found=[1]),
    "found-nothing": told(found={}),
    "negative": found(width=-64),
    "zero": found(height=0),
    "huge": found(width=1 << 70),
    "truth": found(width=True),
    "negative-ratio": found(duration="-1/1"),
    "by-zero": found(duration="1/0"),
    "no-ratio": found(fps=10),
    "endless-ratio": found(duration="9" * 5000 + "/1"),
    "learnt-negative": told(found={"learnt": -1, "stamp": [1, 2]}),
    "learnt-nothing": told(found={"learnt": 0, "stamp": [1, 2]}),
    "learnt-too-much": told(found={"learnt": 1 << 40, "stamp": [1, 2]}),
    "learnt-text": told(found={"learnt": "9", "stamp": [1, 2]}),
    "learnt-truth": told(found={"learnt": True, "stamp": [1, 2]}),
    "learnt-no-stamp": told(found={"learnt": 9}),
    "learnt-stamp-of-paths": told(found={"learnt": 9, "stamp": ["../../..", "/etc/passwd"]}),
    "learnt-stamp-of-lists": told(found={"learnt": 9, "stamp": [[], {}]}),
    "learnt-lies": told(found={"learnt": 64, "stamp": [1, 2]}),
    "codec-no-text": found(codec=5),
    "codec-moves-the-cursor": found(codec=LEAK, container=LEAK),
}
"""What is sent back in place of an answer."""


class Process:
    """Its socket and the memory it shares."""

    def __init__(self) -> None:
        at = sys.argv.index("auto")
        *self.arguments, control, memory, learnt = sys.argv[2:at]
        self.root = sys.argv[at + 2]
        self.control, self.memory = socket.socket(fileno=int(control)), int(memory)
        self.learnt = int(learnt)

    def send(self, text: bytes) -> None:
        self.control.sendall(LENGTH.pack(len(text)) + text)

    def ready(self) -> None:
        self.send(json.dumps({"ready": True, "no_network": False, "resident": 1}).encode())

    def requests(self) -> Iterator[dict[str, Any]]:
        while (request := receive(self.control)) is not None:
            yield request

    def report(self, done: str) -> None:
        self.send(told(failed="MediaUnreadable", reason=done))


def seal(process: Process) -> None:
    """Forbid the parent to enlarge what it shares."""
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(process.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    process.ready()
    for _ in process.requests():
        process.send(told())


def shrink(process: Process) -> None:
    """Take away what the parent has mapped, so that it would die of looking at it."""
    process.ready()
    for _ in process.requests():
        with contextlib.suppress(PermissionError):
            os.ftruncate(process.memory, 0)
        process.send(told())


def seal_learnt(process: Process) -> None:
    """Take away the memory for what is learnt, or forbid to write in it."""
    for seal in (fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK):
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(process.learnt, fcntl.F_ADD_SEALS, seal)
    process.ready()
    for _ in process.requests():
        with contextlib.suppress(PermissionError):
            os.ftruncate(process.learnt, 0)
        status = os.stat(os.path.join(process.root, "honest.mp4"))
        process.send(told(found={"learnt": 64, "stamp": [status.st_size, status.st_mtime_ns]}))


def learn_own(process: Process) -> None:
    """Say of the file that is asked for, as it is, what is not so: from the first request on, or from a later one."""
    first = int(process.arguments[0])
    process.ready()
    for number, request in enumerate(process.requests(), 1):
        status = os.stat(os.path.join(process.root, request["key"]))
        lie = {"learnt": 64, "stamp": [status.st_size, status.st_mtime_ns]} if number >= first else {}
        process.send(told(found=lie))


def enormous(process: Process) -> None:
    """Announce a message of 4 GiB."""
    process.ready()
    for _ in process.requests():
        process.control.sendall(struct.pack("<I", 0xFFFFFFFF))


def drip(process: Process) -> None:
    """Answer a byte at a time, each within the deadline."""
    process.ready()
    for _ in process.requests():
        process.control.sendall(LENGTH.pack(1000))
        for _ in range(30):
            process.control.sendall(b" ")
            time.sleep(0.1)


def silent(process: Process) -> None:
    process.ready()
    for _ in process.requests():
        time.sleep(60)


def write(process: Process) -> None:
    """Confined as decoders are (if so asked), write to a file."""
    path, is_confined = Path(process.arguments[0]), process.arguments[1] == "confined"
    if is_confined:
        confine(None)
    process.ready()
    for _ in process.requests():
        try:
            path.write_text("it was written")
            process.report("it wrote")
        except OSError as error:
            process.report(f"it may not write: {error.errno}")


def connect(process: Process) -> None:
    """Confined as decoders are (if so asked), connect to a port of this machine."""
    port, is_confined = int(process.arguments[0]), process.arguments[1] == "confined"
    if is_confined:
        confine(None)
    process.ready()
    for _ in process.requests():
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            process.report("it connected")
        except OSError as error:
            process.report(f"it may not connect: {error.errno}")


def read(process: Process) -> None:
    """Confined as decoders are (if so asked), read a file."""
    path, is_confined = Path(process.arguments[0]), process.arguments[1] == "confined"
    if is_confined:
        confine([process.root])
    process.ready()
    for _ in process.requests():
        try:
            process.report(f"it read {len(path.read_bytes())} bytes")
        except OSError as error:
            process.report(f"it may not read: {error.errno}")


def signal_parent(process: Process) -> None:
    """Confined as decoders are (if so asked), send a signal to who has started it."""
    if process.arguments[0] == "confined":
        confine([process.root])
    process.ready()
    for _ in process.requests():
        try:
            os.kill(os.getppid(), 0)
            process.report("it reached its parent")
        except OSError as error:
            process.report(f"it may not send: {error.errno}")


DEEDS: dict[str, Callable[[Process], None]] = {
    "seal": seal, "seal-learnt": seal_learnt, "learn-own": learn_own, "shrink": shrink, "enormous": enormous,
    "drip": drip, "silent": silent, "write": write, "connect": connect, "read": read, "signal": signal_parent,
}  # fmt: skip


def main() -> None:
    process, name = Process(), sys.argv[1]
    if name in DEEDS:
        DEEDS[name](process)
        return
    process.ready()
    for _ in process.requests():
        process.send(ANSWERS[name])


if __name__ == "__main__":
    main()
