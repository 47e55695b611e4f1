"""A bounded queue from one thread to another that lets the reader sleep until there is enough to do."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """``put`` and ``close`` are for one thread, ``wait`` and ``take`` for another.

    ``queue.Queue`` takes a lock and wakes its reader for every item, which costs the writer several microseconds each
    time and a switch of threads besides. Here ``put`` appends, and wakes the reader once so many items are there as it
    asked for.
    """

    def __init__(self, bound: int) -> None:
        self._items: deque[T] = deque()
        self._bound = bound
        self._wanted = 1
        self._awake = threading.Event()
        self._closed = False

    def put(self, item: T) -> bool:
        """Add an item; false if there are ``bound`` already, or the inbox is closed."""
        items = self._items
        if self._closed or len(items) >= self._bound:
            return False
        items.append(item)
        if len(items) >= self._wanted and not self._awake.is_set():
            self._awake.set()
        return True

    def close(self) -> None:
        """No more items; the reader is woken for the rest."""
        self._closed = True
        self._awake.set()

    @property
    def ended(self) -> bool:
        """It is closed, and everything was taken."""
        return self._closed and not self._items

    def wait(self, wanted: int, until: float = float("inf")) -> int:
        """Sleep until so many items are there (at most ``bound``), none come any more, or ``time.monotonic()`` reads
        ``until``; how many there are, at most ``wanted``."""
        self._wanted = wanted = min(wanted, self._bound)
        while True:
            self._awake.clear()
            # Only now is it safe to look: what comes later sets the flag again.
            left = until - time.monotonic()
            if self._closed or len(self._items) >= wanted or left <= 0.0:
                return min(len(self._items), wanted)
            self._awake.wait(min(left, threading.TIMEOUT_MAX))

    def take(self, wanted: int, until: float) -> list[T]:
        """The oldest items, once :meth:`wait` is over; at most ``wanted``."""
        return [self._items.popleft() for _ in range(self.wait(wanted, until))]
