"""Step times of one engine, and runs of steps, in exact integers."""

from __future__ import annotations

import numpy as np

from envs.engines.kernel.memory import (
    CLOCK,
    GRAPH_STEP,
    GRAPH_TOKENS,
    SLOW,
    SLOW_PREFILL,
    SLOW_UNTIL,
    SLOW_WIDE,
    STEADY,
    STEADY_PREFILL,
    STEADY_WIDE,
    WIDE_BATCH,
    Memory,
)
from predictors.compiled import compiled


@compiled
def step_time(m: Memory, prefill: int, decoding: int, context: int) -> int:
    """Duration of an iteration that begins at the clock."""
    slow = m[CLOCK] < m[SLOW_UNTIL]
    t = SLOW if slow else STEADY
    wide = m[SLOW_WIDE] if slow else m[STEADY_WIDE]
    ps = m[t] + m[t + 2] * padded(m, decoding) + m[t + 3] * context + wide * max(decoding - m[WIDE_BATCH], 0)
    if prefill == 0:
        return int(ps)
    u = SLOW_PREFILL if slow else STEADY_PREFILL
    ps += max(m[t + 1] * prefill - m[u], 0)
    return int(max(ps, m[t + 4] if prefill + decoding > m[GRAPH_TOKENS] else m[u + 1]))


@compiled
def padded(m: Memory, decoding: int) -> int:
    """The batch size of the CUDA graph that a decode step of so many sequences runs."""
    step = m[GRAPH_STEP]
    if step == 1:
        return decoding
    if decoding >= step:
        return int((decoding + step - 1) // step * step)
    size = 1
    while size < decoding:
        size *= 2
    return size if decoding > 0 else 0


@compiled
def growth(m: Memory, decoding: int) -> int:
    """How much longer each decode step is than the one before it."""
    t = SLOW if m[CLOCK] < m[SLOW_UNTIL] else STEADY
    return int(m[t + 3] * decoding)


@compiled
def run_duration(first: int, growth: int, steps: int) -> int:
    """The total of ``steps`` durations ``first``, ``first + growth``, …"""
    return steps * first + growth * (steps * (steps - 1) // 2)


@compiled
def run_length(first: int, growth: int, limit: int, most: int) -> int:
    """How many of at most ``most`` steps of such durations end within ``limit``.

    A first guess in floating point is put right in integers: squares of picoseconds do not fit 64 bits.
    """
    if limit < first:
        return 0
    if run_duration(first, growth, most) <= limit:
        return most
    if growth == 0:
        return limit // first
    linear = 2.0 * first - growth
    steps = int((np.sqrt(linear * linear + 8.0 * growth * float(limit)) - linear) / (2.0 * growth))
    steps = min(steps, most)
    while steps > 0 and run_duration(first, growth, steps) > limit:
        steps -= 1
    while run_duration(first, growth, steps + 1) <= limit:
        steps += 1
    return steps
