"""Many engines at once: the rows of one array, taken from one event to the next in order of time."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.engines.kernel import core
from envs.engines.kernel.calls import to_ps, to_seconds
from envs.engines.kernel.memory import NEVER, NOW, OUT, OUT_WIDTH, Memory
from predictors.compiled import borrowed, compiled

Floats = NDArray[np.float64]

UNKNOWN: Final = -1
"""Of an engine's next event: something was done to it since that was looked up."""
FULL: Final = -1
"""In place of an event's kind: the engine has no room to go on."""
TOLD_WIDTH: Final = 6
"""The engine's place, then an event as it lies in its memory."""


@compiled
def next_events(bank: Memory, due: Memory, limit: float, told: Memory, seen: Floats) -> tuple[float, int]:
    """Advance until some engine has an event to be seen, but not beyond ``limit`` (s).

    Its time (s) and how many events come with it: in ``told`` (events, ``TOLD_WIDTH``), by engine, and when each is
    seen in ``seen`` (events,), in seconds. No event if none comes by then. What finds no room there comes with the next
    call. ``bank`` is (engines, words). ``due`` (engines,) says before when nothing of an engine is to be seen, and is
    kept. Engines that have nothing to tell may lag behind.
    """
    events = borrowed(told)
    at, count = next_in_order(borrowed(bank), borrowed(due), to_ps(limit), events)
    for i in range(count):
        seen[i] = to_seconds(events[i, 1])
    return to_seconds(at) if count > 0 else math.inf, count


@compiled
def next_in_order(bank: Memory, due: Memory, limit: int, told: Memory) -> tuple[int, int]:
    """As :func:`next_events`, in picoseconds; ``NEVER`` and no event if none comes by then."""
    for i in range(len(due)):
        if due[i] == UNKNOWN:
            due[i] = core.next_change(bank[i])
    while True:
        at = due[0] if len(due) > 0 else NEVER
        for i in range(1, len(due)):
            at = min(at, due[i])
        if at > limit:
            return NEVER, 0
        count = 0
        for i in range(len(due)):
            if due[i] <= at:
                count = _advance(bank[i], i, at, told, count)
                due[i] = UNKNOWN if count > 0 else core.next_change(bank[i])
        if count > 0:
            for i in range(len(due)):
                if due[i] == UNKNOWN:
                    due[i] = core.next_change(bank[i])
            return int(at), count


@compiled
def _advance(m: Memory, place: int, at: int, told: Memory, count: int) -> int:
    """Bring one engine to a time; how many events there are in ``told`` with its own."""
    m[NOW] = max(m[NOW], at)
    done = core.run(m, at)
    events = min(core.events_due(m, at), len(told) - count)
    for event in range(events):
        told[count, 0] = place
        for j in range(OUT_WIDTH):
            told[count, 1 + j] = m[m[OUT] + event * OUT_WIDTH + j]
        count += 1
    core.drop_events(m, events)
    if not done and events == 0 and count < len(told):
        told[count, 0], told[count, 1], told[count, 2] = place, at, FULL
        count += 1
    return count
