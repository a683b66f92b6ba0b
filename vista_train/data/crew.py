"""A crew of threads that can be stopped at any moment, and what tells it to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class Crew:
    """Threads that look into one file after another until none is left or one of them fails.

    They never hold the process up: what one finds after the crew was told to stop is not kept, for by then its decoding
    process may have been ended under it.
    """

    def __init__(
        self, find: Callable[[int], dict[str, Any] | None], keep: Callable[[int, dict[str, Any] | None], None]
    ) -> None:
        self._find, self._keep = find, keep
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._is_over = False

    def run(self, indices: Iterator[int], num_threads: int) -> None:
        """`keep` what `find` returns for each index, one at a time; the first error of either is raised here."""
        threads = [threading.Thread(target=self._work, args=(indices,), daemon=True) for _ in range(num_threads)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            with self._lock:
                self._is_over = True
        if self._error is not None:
            raise self._error

    def _work(self, indices: Iterator[int]) -> None:
        with self:
            while True:
                with self._lock:
                    index = None if self._is_over else next(indices, None)
                if index is None:
                    return
                record = self._find(index)
                with self._lock:
                    if self._is_over:
                        return
                    self._keep(index, record)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        with self._lock:
            if error is not None and not self._is_over:
                self._error, self._is_over = error, True
        return True


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM is taken like Ctrl-C; only the main thread can arrange that, and only it need."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
