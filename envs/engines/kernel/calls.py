"""What the rest of the program calls: one call, one array, times in seconds at the border."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from envs.engines.kernel import core
from envs.engines.kernel.memory import (
    BLOCKS,
    CACHE_HITS,
    CACHE_QUERIES,
    DECODING_COUNT,
    FILLING_COUNT,
    FREE_COUNT,
    NEVER,
    NONE,
    NOW,
    OUT_CAPACITY,
    OUT_COUNT,
    PARTIAL,
    PHASE,
    PREEMPTIONS,
    SLOT_WIDTH,
    SLOTS,
    STAGE,
    STAGE_CANCELLED,
    STAGE_FREE,
    STREAM,
    TAG,
    USED,
    Memory,
)
from predictors.compiled import borrowed, compiled

NO_ROOM: Final = -1
"""The memory must grow before this can be done."""
BACKWARDS: Final = -2
"""The clock stands later."""

_PS_PER_S: Final = 1e12
_REACH_S: Final = 4_600_000.0


@compiled
def to_ps(seconds: float) -> int:
    """As :func:`envs.engines.timing.to_ps`; what lies beyond the clock's reach, 53 days, is its end."""
    return int(np.rint(seconds * _PS_PER_S)) if seconds < _REACH_S else NEVER - 1


@compiled
def to_seconds(ps: int) -> float:
    """As :func:`envs.engines.timing.to_seconds`."""
    seconds = ps / _PS_PER_S
    while to_ps(seconds) < ps:
        seconds = float(np.nextafter(seconds, np.inf))
    return seconds


@compiled
def submit(memory: Memory, tag: int, prompt: int, output: int, priority: int, arrival: float, chain: Memory) -> int:
    """Take a request; its slot, or ``NO_ROOM``, or ``BACKWARDS``."""
    m = borrowed(memory)
    at = to_ps(arrival)
    if at < m[NOW]:
        return BACKWARDS
    if m[FREE_COUNT] == 0:
        return NO_ROOM
    return int(core.submit(m, tag, prompt, output, priority, at, chain))


@compiled
def tell(memory: Memory, at: float, kind: int, tag: int) -> bool:
    """An event from outside; false if there is no room for it."""
    m = borrowed(memory)
    if m[OUT_COUNT] == m[OUT_CAPACITY]:
        return False
    core.emit(m, to_ps(at), kind, tag, 0, 0)
    return True


@compiled
def lives(memory: Memory, slot: int, tag: int) -> bool:
    """Whether the slot still holds the request of this tag, and it has not ended."""
    m = borrowed(memory)
    p = m[SLOTS] + slot * SLOT_WIDTH
    return bool(m[p + TAG] == tag and m[p + STAGE] != STAGE_FREE and m[p + STAGE] != STAGE_CANCELLED)


@compiled
def cancel(memory: Memory, slot: int) -> bool:
    """Abort the request in a slot; false if there is no room for the event."""
    m = borrowed(memory)
    if m[OUT_COUNT] == m[OUT_CAPACITY]:
        return False
    core.cancel(m, slot)
    return True


@compiled
def advance(memory: Memory, until: float) -> tuple[int, bool]:
    """Let time pass; how many events are there to be taken, and whether that was all. ``BACKWARDS`` if it cannot."""
    m = borrowed(memory)
    limit = to_ps(until)
    if limit < m[NOW]:
        return BACKWARDS, True
    m[NOW] = limit
    done = core.run(m, limit)
    if done and m[STREAM]:
        if m[OUT_CAPACITY] - m[OUT_COUNT] < m[DECODING_COUNT]:
            done = False
        else:
            core.report_progress(m)
    return core.events_due(m, limit), done


@compiled
def next_event(memory: Memory) -> float:
    """As :meth:`envs.engines.base.Engine.next_event_at`; infinity for none."""
    m = borrowed(memory)
    due = core.next_change(m)
    return math.inf if due == NEVER else to_seconds(due)


@compiled
def gauges(memory: Memory) -> tuple[int, int, float, int, int, int, int]:
    """Running, waiting, share of blocks held, preemptions, phase, prompt tokens looked up in the cache, and found."""
    m = borrowed(memory)
    core.settle(m)
    running = m[DECODING_COUNT] + m[FILLING_COUNT] + (m[PARTIAL] != NONE)
    usage = m[USED] / m[BLOCKS]
    return running, core.waiting(m), usage, m[PREEMPTIONS], m[PHASE], m[CACHE_QUERIES], m[CACHE_HITS]
