"""Work done ahead: an iterator runs in a thread of its own, some items before they are asked for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import TypeVar

Item = TypeVar("Item")
END = object()
CLOSING_SECONDS = 5.0
"""How long whoever stops early waits for an item that is being made."""


def run_ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """The items in order, up to `depth` of them made ahead; an error is raised in place of the item it befell.

    The thread starts with the first item asked for, so that processes forked until then know nothing of it, and does
    not keep the process alive.
    """
    source = iter(items)
    pool = ThreadPool(1)
    made: deque[AsyncResult] = deque()
    try:
        made.extend(pool.apply_async(next, (source, END)) for _ in range(depth + 1))
        while (item := made.popleft().get()) is not END:
            made.append(pool.apply_async(next, (source, END)))
            yield item
    finally:
        # What is under way ends before the process leaves what it works on, if it ends at all.
        deadline = time.monotonic() + CLOSING_SECONDS
        for task in made:
            task.wait(max(0.0, deadline - time.monotonic()))
        pool.close()
