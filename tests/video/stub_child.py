"""A decoding process whose reader does what a file's name says: hang, crash, allocate, lie."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from vista_train.video.decode import child, pyav
from vista_train.video.decode.base import Memory, Wanted
from vista_train.video.decode.limits import Limits


def _allocate() -> None:
    """Until it is killed: the limit on addresses is lifted, as if memory ran out before it."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    held = [np.ones(1 << 20, np.uint8) for _ in range(64)]
    assert held
    # Nobody wants the machine to run out of memory for a test: the kernel's signal comes now.
    os.kill(os.getpid(), signal.SIGKILL)


def _spin() -> None:
    while True:
        pass


def _deaf() -> None:
    """Hang, and let no signal in that can be kept out."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    time.sleep(3600)


def _raise() -> None:
    raise KeyError("a bug at 0x7f00deadbeef")


def _fill() -> None:
    """Ask for 5 GiB, of which nothing is touched."""
    np.empty(5 << 30, np.uint8)


def _exit() -> None:
    os._exit(3)


HARM: dict[str, Callable[[], None]] = {
    "hang": lambda: time.sleep(3600),
    "deaf": _deaf,
    "spin": _spin,
    "abort": os.abort,
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "killed": _allocate,
    "fill": _fill,
    "exit": _exit,
    "raise": _raise,
    "slow": lambda: time.sleep(0.6),
}
"""What is done to who decodes a file of which the name begins so."""


def name_of(path: Path) -> str:
    """The name of the file behind a descriptor."""
    return os.path.basename(os.path.realpath(path))


class Harmful:
    """PyAV, but for files with harm in their name."""

    name = "pyav"

    def pictures(
        self, path: Path, wanted: Sequence[Wanted], limits: Limits, memory: Memory
    ) -> Iterator[tuple[int, np.ndarray]]:
        harm = name_of(path).partition("_")[0]
        HARM.get(harm, lambda: None)()
        found = pyav.PyAVReader().pictures(path, wanted, limits, memory)
        return islice(found, 1) if harm == "few" else found


if __name__ == "__main__":
    child.check_reader = lambda name: Harmful()  # type: ignore[assignment,return-value]
    import vista_train.video.decode as door

    door.check_reader = child.check_reader  # type: ignore[assignment]
    sys.exit(child.main())
