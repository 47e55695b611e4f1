"""Time by request and by part, of functions that call one another; what an inner part takes is not in the outer one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stopwatch"]

P = ParamSpec("P")
R = TypeVar("R")


class _Thread(threading.local):
    """What one thread is doing."""

    def __init__(self) -> None:
        self.inner: list[float] = []
        self.owners: Sequence[int] = ()


class Stopwatch:
    """Seconds of ``requests`` by part. ``request`` is the one that is being worked at, where nothing else is said."""

    def __init__(self, requests: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.request = 0
        self._requests = requests
        self._clock = clock
        self._thread = _Thread()
        self._spent: dict[str, NDArray[np.float64]] = {}

    @property
    def parts(self) -> dict[str, NDArray[np.float64]]:
        """Seconds of each request (n,) by part, in the order in which parts were named."""
        return dict(self._spent)

    def watch(self, owner: object, **parts: str) -> None:
        """Measure methods of one object: its method ``name`` as the part ``parts[name]``."""
        for name, part in parts.items():
            setattr(owner, name, self.timed(part, getattr(owner, name)))

    def timed(
        self, part: str, function: Callable[P, R], whose: Callable[..., Sequence[int]] | None = None
    ) -> Callable[P, R]:
        """The function, measured. ``whose`` says of its arguments which requests share what it takes."""
        spent = self._spent.setdefault(part, np.zeros(self._requests))
        thread, clock = self._thread, self._clock

        def measured(*args: P.args, **kwargs: P.kwargs) -> R:
            before = thread.owners
            if whose is not None:
                thread.owners = whose(*args)
            thread.inner.append(0.0)
            started = clock()
            try:
                return function(*args, **kwargs)
            finally:
                took = clock() - started
                own = took - thread.inner.pop()
                if thread.inner:
                    thread.inner[-1] += took
                owners = thread.owners or (self.request,)
                for owner in owners:
                    spent[owner] += own / len(owners)
                thread.owners = before

        return measured
