"""A long open-loop replay under a simple policy: one pool, first come first served, three ways to place; compiled.

What :class:`controller.pipeline.ControlPlane` decides with the stages ``fcfs`` and ``round_robin``, ``least_load`` or
``prefix``, driven by :class:`envs.fleet.SimFleet`: the same decisions at the same times, which a test holds. Left out
are scores, tenants, deadlines, failing workers and records.

The account is kept in five plain arrays (tuples of arrays would be counted and discounted at each call):
``r`` (requests, ``R_WIDTH``) and ``t`` (requests, ``T_WIDTH``) are the requests' sizes and times, ``w`` (workers,
``W_WIDTH``) the workers, ``s`` the control plane's numbers and the queue behind them, ``f`` its settings and clocks.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.engines.kernel import affinity, core
from envs.engines.kernel.bank import FULL, UNKNOWN, next_in_order
from envs.engines.kernel.calls import to_ps, to_seconds
from envs.engines.kernel.memory import (
    BLOCKS,
    DECODING,
    DECODING_COUNT,
    FILLING_COUNT,
    FREE_COUNT,
    JOINED,
    NEVER,
    NONE,
    NOW,
    OUT,
    OUT_COUNT,
    OUT_WIDTH,
    PARTIAL,
    PRODUCED,
    SHOWN,
    SLOT_WIDTH,
    SLOTS,
    STEP,
    STREAM,
    TAG,
    USED,
    VISIBLE,
    Memory,
)
from predictors.compiled import borrowed, compiled

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]

ROUND_ROBIN: Final = 0
LEAST_LOAD: Final = 1
PREFIX: Final = 2

COMPLETED: Final = 0
QUEUE_FULL: Final = 1
WAITED_TOO_LONG: Final = 2
ENGINE_REFUSED: Final = 3

_AHEAD: Final = 16
SAMPLE_WIDTH: Final = 5
"""Time (s), tickets queued, requests running on engines, waiting on engines, share of KV blocks held."""

# A request in whole numbers
PROMPT: Final = 0
OUTPUT: Final = 1
MAX_TOKENS: Final = 2
"""0 for no limit."""
CHAIN: Final = 3
CHAIN_END: Final = 4
"""Where its hashes begin and end."""
PROMPT_END: Final = 5
"""Where those of the prompt end; the answer's follow, which only the engine knows."""
WORKER: Final = 6
TOKENS: Final = 7
CACHED: Final = 8
RESULT: Final = 9
WORK: Final = 10
"""Token-work outstanding."""
EXPECTED: Final = 11
SEEN: Final = 12
"""Tokens of the answer that were heard of."""
R_WIDTH: Final = 13

# Its times, in seconds
AT: Final = 0
FIRST: Final = 1
END: Final = 2
T_WIDTH: Final = 3

# A worker
LIMIT: Final = 0
RANK: Final = 1
"""Its place in the order of names."""
LOAD: Final = 2
INFLIGHT: Final = 3
DISPATCHED: Final = 4
DEPTH: Final = 5
"""Blocks of the prompt at hand that it has seen."""
W_WIDTH: Final = 6

# The control plane, in whole numbers
PLACE: Final = 0
MAX_QUEUE: Final = 1
NEXT: Final = 2
"""The next arrival."""
HEAD: Final = 3
TAIL: Final = 4
OPEN: Final = 5
"""Requests that have not ended."""
LAST: Final = 6
"""Rank of the worker chosen last."""
SAMPLES: Final = 7
QUEUE: Final = 8
"""Where the queue begins."""

# And in seconds and shares
CLOCK: Final = 0
READ_AT: Final = 1
"""When gauges are read next."""
MEAN_OUTPUT: Final = 2
SAMPLE_AT: Final = 3
MAX_QUEUE_S: Final = 4
PROMPT_WORK: Final = 5
REPORT_INTERVAL: Final = 6
MIN_MATCH: Final = 7
GATE_RATIO: Final = 8
GATE_SLACK: Final = 9
F_WIDTH: Final = 10


@compiled
def replay(
    bank: Memory,
    due: Memory,
    told: Memory,
    r: Counts,
    t: Floats,
    hashes: Memory,
    w: Memory,
    s: Memory,
    f: Floats,
    index: Memory,
    samples: Floats,
) -> bool:
    """Run a load to its end; false if an engine ran out of room. ``samples`` (k, ``SAMPLE_WIDTH``) is filled."""
    bank, due, told, index, samples = borrowed(bank), borrowed(due), borrowed(told), borrowed(index), borrowed(samples)
    r, t, hashes, w, s, f = borrowed(r), borrowed(t), borrowed(hashes), borrowed(w), borrowed(s), borrowed(f)
    n = len(r)
    every = (t[n - 1, AT] + 1e-9) / max(1, len(samples) - 1)
    while s[NEXT] < n or s[OPEN] > 0:
        until = t[s[NEXT], AT] if s[NEXT] < n else math.inf
        own = _own_due(t, s, f)
        limit = min(own, until)
        at, count = next_in_order(bank, due, NEVER - 1 if limit == math.inf else to_ps(limit), told)
        if count > 0:
            f[CLOCK] = max(f[CLOCK], to_seconds(at))
            if not _hear(told, count, r, t, w, s, f):
                return False
        elif own <= until:
            f[CLOCK] = own
        else:
            f[CLOCK] = until
            if s[SAMPLES] < len(samples) and until >= f[SAMPLE_AT]:
                _sample(bank, due, s, f, samples, every)
            _arrive(r, t, s, f)
            _dispatch(bank, due, r, hashes, w, s, f, index)
            continue
        if s[OPEN] > 0 and s[PLACE] != ROUND_ROBIN and f[READ_AT] <= f[CLOCK]:
            _read(bank, due, r, t, w, s, f)
        _expire(r, t, s, f)
        _dispatch(bank, due, r, hashes, w, s, f, index)
    return True


@compiled
def through(memory: Memory, requests: Counts, times: Floats, chains: Memory) -> bool:
    """Send a load straight to one engine, each request at its time; false if the engine ran out of room.

    Requests are told to the engine some ahead: it takes each when it comes.
    """
    m, r, t, hashes = borrowed(memory), borrowed(requests), borrowed(times), borrowed(chains)
    for request in range(len(r)):
        if m[FREE_COUNT] == 0:
            return False
        chain = hashes[r[request, CHAIN] : r[request, CHAIN_END]]
        core.submit(m, request, r[request, PROMPT], r[request, OUTPUT], 0, to_ps(t[request, AT]), chain)
        if request % _AHEAD == 0 and not _settled(m, to_ps(t[request, AT]), r, t):
            return False
    return _settled(m, NEVER - 1, r, t)


@compiled
def _settled(m: Memory, limit: int, r: Counts, t: Floats) -> bool:
    """Advance an engine and note what it tells; false if it has no room to go on."""
    done = core.run(m, limit)
    while not done and m[OUT_COUNT] > 0:
        _note(m, r, t)
        done = core.run(m, limit)
    _note(m, r, t)
    m[NOW] = limit
    return bool(done)


@compiled
def _note(m: Memory, r: Counts, t: Floats) -> None:
    for i in range(m[OUT_COUNT]):
        p = m[OUT] + i * OUT_WIDTH
        request = m[p + 2]
        if m[p + 1] == core.FIRST_TOKEN:
            t[request, FIRST] = to_seconds(m[p])
            r[request, CACHED] = m[p + 4]
        elif m[p + 1] == core.FINISHED:
            t[request, END] = to_seconds(m[p])
            r[request, TOKENS], r[request, RESULT] = m[p + 3], COMPLETED
    m[OUT_COUNT] = 0


@compiled
def _own_due(t: Floats, s: Memory, f: Floats) -> float:
    """When gauges are read or a ticket has waited too long, not before the clock. Taking turns needs no gauges."""
    at = f[READ_AT] if s[OPEN] > 0 and s[PLACE] != ROUND_ROBIN else math.inf
    if s[HEAD] < s[TAIL]:
        at = min(at, t[s[QUEUE + s[HEAD]], AT] + f[MAX_QUEUE_S])
    return float(max(at, f[CLOCK]))


@compiled
def _arrive(r: Counts, t: Floats, s: Memory, f: Floats) -> None:
    request = s[NEXT]
    s[NEXT] += 1
    if s[TAIL] - s[HEAD] >= s[MAX_QUEUE]:
        r[request, RESULT] = QUEUE_FULL
        t[request, END] = f[CLOCK]
        return
    expected = f[MEAN_OUTPUT]
    if r[request, MAX_TOKENS] > 0:
        expected = min(expected, float(r[request, MAX_TOKENS]))
    r[request, EXPECTED] = max(1, int(np.rint(expected)))
    r[request, WORK] = r[request, EXPECTED] + _reading(r, f, request)
    s[QUEUE + s[TAIL]] = request
    s[TAIL] += 1
    s[OPEN] += 1


@compiled
def _reading(r: Counts, f: Floats, request: int) -> int:
    """Work of reading its prompt."""
    return int(np.rint(f[PROMPT_WORK] * r[request, PROMPT]))


@compiled
def _expire(r: Counts, t: Floats, s: Memory, f: Floats) -> None:
    while s[HEAD] < s[TAIL]:
        request = s[QUEUE + s[HEAD]]
        if t[request, AT] + f[MAX_QUEUE_S] > f[CLOCK]:
            return
        s[HEAD] += 1
        s[OPEN] -= 1
        r[request, RESULT] = WAITED_TOO_LONG
        t[request, END] = f[CLOCK]


@compiled
def _dispatch(
    bank: Memory, due: Memory, r: Counts, hashes: Memory, w: Memory, s: Memory, f: Floats, index: Memory
) -> None:
    while s[HEAD] < s[TAIL]:
        request = s[QUEUE + s[HEAD]]
        chain = hashes[r[request, CHAIN] : r[request, CHAIN_END]]
        prompt = hashes[r[request, CHAIN] : r[request, PROMPT_END]]
        worker = _place(w, s, f, index, prompt)
        if worker == NONE:
            return
        s[HEAD] += 1
        w[worker, INFLIGHT] += 1
        w[worker, DISPATCHED] += 1
        w[worker, LOAD] += r[request, WORK]
        r[request, WORKER] = worker
        if s[PLACE] == PREFIX:
            affinity.add(index, prompt, worker)
        core.submit(bank[worker], request, r[request, PROMPT], r[request, OUTPUT], 0, to_ps(f[CLOCK]), chain)
        due[worker] = UNKNOWN


# ---------------------------------------------------------------------- where


@compiled
def _place(w: Memory, s: Memory, f: Floats, index: Memory, chain: Memory) -> int:
    """A worker with room, or ``NONE``."""
    if s[PLACE] == ROUND_ROBIN:
        return _in_turn(w, s)
    worker = _least_loaded(w, NONE)
    if worker == NONE or s[PLACE] == LEAST_LOAD or len(chain) == 0:
        return worker
    if not affinity.matches(index, chain, w[:, DEPTH]):
        return worker
    gate = w[worker, LOAD] / w[worker, LIMIT] * f[GATE_RATIO] + f[GATE_SLACK]
    most, found = max(1, math.ceil(f[MIN_MATCH] * len(chain))), False
    for other in range(len(w)):
        if w[other, INFLIGHT] >= w[other, LIMIT] or w[other, LOAD] / w[other, LIMIT] > gate:
            w[other, DEPTH] = NONE
        elif w[other, DEPTH] >= most:
            most, found = w[other, DEPTH], True
    return _least_loaded(w, most) if found else worker


@compiled
def _in_turn(w: Memory, s: Memory) -> int:
    """The next by name after the last one, of those with room."""
    after, first = NONE, NONE
    for worker in range(len(w)):
        if w[worker, INFLIGHT] >= w[worker, LIMIT]:
            continue
        rank = w[worker, RANK]
        if rank > s[LAST] and (after == NONE or rank < w[after, RANK]):
            after = worker
        if first == NONE or rank < w[first, RANK]:
            first = worker
    chosen = first if after == NONE else after
    if chosen != NONE:
        s[LAST] = w[chosen, RANK]
    return int(chosen)


@compiled
def _least_loaded(w: Memory, depth: int) -> int:
    """Of those with room, and with this ``DEPTH`` unless it is ``NONE``."""
    best = NONE
    for worker in range(len(w)):
        if w[worker, INFLIGHT] >= w[worker, LIMIT] or (depth != NONE and w[worker, DEPTH] != depth):
            continue
        if best == NONE or _less(w, worker, best):
            best = worker
    return best


@compiled
def _less(w: Memory, one: int, other: int) -> bool:
    p, q = w[one, LIMIT], w[other, LIMIT]
    if w[one, LOAD] / p != w[other, LOAD] / q:
        return bool(w[one, LOAD] / p < w[other, LOAD] / q)
    if w[one, INFLIGHT] / p != w[other, INFLIGHT] / q:
        return bool(w[one, INFLIGHT] / p < w[other, INFLIGHT] / q)
    if w[one, DISPATCHED] != w[other, DISPATCHED]:
        return bool(w[one, DISPATCHED] < w[other, DISPATCHED])
    return bool(w[one, RANK] < w[other, RANK])


# ---------------------------------------------------------------------- what engines tell


@compiled
def _hear(told: Memory, count: int, r: Counts, t: Floats, w: Memory, s: Memory, f: Floats) -> bool:
    for i in range(count):
        if told[i, 2] == FULL:
            return False
        _event(told[i, 0], told[i, 1], told[i, 2], told[i, 3], told[i, 4], told[i, 5], r, t, w, s, f)
    return True


@compiled
def _event(
    worker: int,
    at: int,
    kind: int,
    request: int,
    produced: int,
    cached: int,
    r: Counts,
    t: Floats,
    w: Memory,
    s: Memory,
    f: Floats,
) -> None:
    if kind == core.FIRST_TOKEN:
        t[request, FIRST] = to_seconds(at)
        r[request, CACHED] = cached
        done = min(r[request, WORK], _reading(r, f, request))
        r[request, WORK] -= done
        w[worker, LOAD] -= done
    elif kind == core.TOKENS:
        _tokens(worker, request, produced, r, w)
    elif kind == core.FINISHED:
        _tokens(worker, request, produced, r, w)
        f[MEAN_OUTPUT] += (produced - f[MEAN_OUTPUT]) / 50.0
        w[worker, LOAD] -= r[request, WORK]
        w[worker, INFLIGHT] -= 1
        s[OPEN] -= 1
        t[request, END] = to_seconds(at)
        r[request, TOKENS], r[request, RESULT] = produced, COMPLETED


@compiled
def _tokens(worker: int, request: int, total: int, r: Counts, w: Memory) -> None:
    if total <= r[request, SEEN]:
        return
    r[request, SEEN] = total
    if total >= r[request, EXPECTED]:
        most = r[request, MAX_TOKENS]
        r[request, EXPECTED] = max(total, min(2 * total, most)) if most > 0 else 2 * total
    left = r[request, EXPECTED] - total
    w[worker, LOAD] += left - r[request, WORK]
    r[request, WORK] = left


@compiled
def _read(bank: Memory, due: Memory, r: Counts, t: Floats, w: Memory, s: Memory, f: Floats) -> None:
    """Hear how far the answers have come."""
    for worker in range(len(bank)):
        m = bank[worker]
        m[NOW] = max(m[NOW], to_ps(f[CLOCK]))
        m[STREAM] = 1  # as the fleet has it: whoever is preempted on the way tells how far it was
        core.run(m, m[NOW])
        m[STREAM] = 0
        seen_now = m[VISIBLE] <= m[NOW]
        if not seen_now:
            core.report_progress(m)
        events = core.events_due(m, m[NOW])
        for i in range(events):
            p = m[OUT] + i * OUT_WIDTH
            _event(worker, m[p], m[p + 1], m[p + 2], m[p + 3], m[p + 4], r, t, w, s, f)
        core.drop_events(m, events)
        if seen_now:
            _progress(m, worker, r, w)
        due[worker] = UNKNOWN
    f[READ_AT] = f[CLOCK] + f[REPORT_INTERVAL]


@compiled
def _progress(m: Memory, worker: int, r: Counts, w: Memory) -> None:
    """As if each decoding sequence told how far it is."""
    for i in range(m[DECODING_COUNT]):
        p = m[SLOTS] + m[m[DECODING] + i] * SLOT_WIDTH
        produced = m[p + PRODUCED] + m[STEP] - m[p + JOINED]
        if produced > m[p + SHOWN]:
            m[p + SHOWN] = produced
            _tokens(worker, m[p + TAG], produced, r, w)


@compiled
def _sample(bank: Memory, due: Memory, s: Memory, f: Floats, samples: Floats, every: float) -> None:
    row = s[SAMPLES]
    s[SAMPLES] += 1
    f[SAMPLE_AT] = (row + 1) * every
    samples[row, 0], samples[row, 1] = f[CLOCK], s[TAIL] - s[HEAD]
    for worker in range(len(bank)):
        m = bank[worker]
        m[NOW] = max(m[NOW], to_ps(f[CLOCK]))
        core.run(m, m[NOW])
        due[worker] = UNKNOWN
        samples[row, 2] += m[DECODING_COUNT] + m[FILLING_COUNT] + (m[PARTIAL] != NONE)
        samples[row, 3] += core.waiting(m)
        samples[row, 4] += m[USED] / m[BLOCKS] / len(bank)
