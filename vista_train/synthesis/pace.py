"""How fast requests may follow one another: so many, and so many tokens, a minute; and pauses that servers ask for."""

from __future__ import annotations

import threading
import time


class Stopped(Exception):
    """Whoever waited need not wait any longer: all is over."""


class Pace:
    """Spreads requests and their tokens evenly over time; None is as fast as can be. Any number of threads may ask."""

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        for name, most in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if most is not None and not most > 0:
                raise ValueError(f"{name}-per-minute is {most}; it must be above 0")
        self._between = 60 / requests_per_minute if requests_per_minute else 0.0
        self._each = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._lock = threading.Lock()
        self._request_at = self._tokens_at = self._resumed_at = 0.0
        self._is_over = threading.Event()

    def wait(self, tokens: int) -> None:
        """Until a request of so many tokens may be sent; `Stopped` when that is not wanted any more."""
        with self._lock:
            at = max(time.monotonic(), self._request_at, self._tokens_at)
            self._request_at = at + self._between
            self._tokens_at = at + self._each * tokens
        # A pause may be asked for while this one waits.
        while (left := max(at, self._resumed_at) - time.monotonic()) > 0:
            self.sleep(left)
        if self._is_over.is_set():
            raise Stopped

    def give_back(self, tokens: int) -> None:
        """A request took so many tokens fewer than it was thought to."""
        with self._lock:
            self._tokens_at -= self._each * tokens

    def pause(self, seconds: float) -> None:
        """Nothing is sent for so long."""
        with self._lock:
            self._resumed_at = max(self._resumed_at, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """`Stopped` when all is over before."""
        if self._is_over.wait(seconds):
            raise Stopped

    def stop(self) -> None:
        """Nobody waits any longer."""
        self._is_over.set()
