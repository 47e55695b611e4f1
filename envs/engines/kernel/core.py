"""Continuous batching, step by step and run by run. See :mod:`envs.engines.sim` for what it means."""

from __future__ import annotations

from typing import Final

from envs.engines.kernel import blocks, heaps
from envs.engines.kernel.memory import (
    AHEAD,
    ARRIVAL,
    BASE,
    BASE_SUM,
    BY_PRIORITY,
    CACHED,
    CHAIN_CAPACITY,
    CHAIN_LENGTH,
    CHAINS,
    CLOCK,
    COMING,
    COMING_COUNT,
    DECODING,
    DECODING_COUNT,
    DOOMED,
    DOOMED_COUNT,
    END,
    ENDS,
    ENDS_COUNT,
    ENTRY,
    FILLING,
    FILLING_COUNT,
    FINISH,
    FREE,
    FREE_COUNT,
    HELD_UNITS,
    JOIN_NUMBER,
    JOINED,
    JOINS,
    LIVE,
    LOG,
    LOG_CAPACITY,
    LOG_COUNT,
    LOG_WIDTH,
    MAX_BATCHED_TOKENS,
    MAX_SEQS,
    NEVER,
    NONE,
    NOW,
    NUMBER,
    ORDINAL,
    OUT,
    OUT_CAPACITY,
    OUT_COUNT,
    OUT_WIDTH,
    OUTPUT,
    OUTPUT_TOKENS,
    PARTIAL,
    PARTIAL_LEFT,
    PHASE,
    PLACE,
    PREEMPTIONS,
    PREFILL_TOKENS,
    PRODUCED,
    PROMPT,
    QUEUE,
    RANK,
    READY_AT,
    REQUEST_OVERHEAD,
    SHOWN,
    SLOT_CAPACITY,
    SLOT_WIDTH,
    SLOTS,
    SLOW_UNTIL,
    STAGE,
    STAGE_CANCELLED,
    STAGE_COMING,
    STAGE_DECODE,
    STAGE_FREE,
    STAGE_PREFILL,
    STAGE_WAITING,
    STARTED,
    STEADY,
    STEP,
    STREAM,
    TAG,
    TOKEN_OVERHEAD,
    UNIT_TOKENS,
    VISIBLE,
    WAITING_COUNT,
    Memory,
)
from envs.engines.kernel.timing import growth, run_duration, run_length, step_time
from predictors.compiled import compiled

STARTING: Final = 0
READY: Final = 1
SLEEPING: Final = 2
WAKING: Final = 3
FAILED: Final = 4
"""Phases, in the order of :class:`envs.engines.base.EnginePhase`."""

FIRST_TOKEN: Final = 0
TOKENS: Final = 1
FINISHED: Final = 2
ABORTED: Final = 3
REJECTED: Final = 4
"""Kinds of events, in the order of :class:`envs.engines.base.EventKind`."""


# ---------------------------------------------------------------------- what is done to an engine


@compiled
def submit(m: Memory, tag: int, prompt: int, output: int, priority: int, arrival: int, chain: Memory) -> int:
    """Take a request; its slot. There must be a free one. ``chain`` holds the prompt's hashes, or nothing."""
    m[FREE_COUNT] -= 1
    slot = m[m[FREE] + m[FREE_COUNT]]
    m[NUMBER] += 1
    m[LIVE] += 1
    p = m[SLOTS] + slot * SLOT_WIDTH
    m[p + STAGE], m[p + TAG], m[p + PROMPT], m[p + OUTPUT] = STAGE_COMING, tag, prompt, output
    m[p + RANK] = priority if m[BY_PRIORITY] else 0
    m[p + ARRIVAL], m[p + ORDINAL], m[p + ENTRY] = arrival, m[NUMBER], arrival + m[REQUEST_OVERHEAD]
    m[p + PRODUCED], m[p + SHOWN], m[p + DOOMED], m[p + CACHED], m[p + HELD_UNITS] = 0, 0, 0, NONE, 0
    length = min(len(chain), m[CHAIN_CAPACITY])
    m[p + CHAIN_LENGTH] = length
    at = m[CHAINS] + slot * 2 * m[CHAIN_CAPACITY]
    for i in range(length):
        m[at + i] = chain[i]
        m[at + m[CHAIN_CAPACITY] + i] = NONE
    heaps.push_coming(m, slot)
    return int(slot)


@compiled
def cancel(m: Memory, slot: int) -> None:
    """Abort a request that has not ended. A running one keeps its seat and blocks until the step's end."""
    p = m[SLOTS] + slot * SLOT_WIDTH
    produced, tag, stage = _produced(m, p), m[p + TAG], m[p + STAGE]
    m[LIVE] -= 1
    if stage in (STAGE_WAITING, STAGE_COMING):
        m[WAITING_COUNT] -= stage == STAGE_WAITING
        m[p + STAGE] = STAGE_CANCELLED
    else:
        m[p + DOOMED] = 1
        m[DOOMED_COUNT] += 1
        if m[END] == NONE:
            _drop_doomed(m)
    _silence(m, tag)
    emit(m, m[NOW], ABORTED, tag, produced, 0)


@compiled
def break_off(m: Memory) -> None:
    """Give up the step in progress, with everything in it, which has been cancelled; and forget what was cached."""
    if m[END] != NONE:
        m[CLOCK], m[END] = m[NOW], NONE
        m[STEP] += 1
        _drop_doomed(m)
    blocks.forget_units(m)


@compiled
def _silence(m: Memory, tag: int) -> None:
    """Take back what was about to be told of a request."""
    out, kept = m[OUT], 0
    for i in range(m[OUT_COUNT]):
        p = out + i * OUT_WIDTH
        if m[p + 2] != tag:
            q = out + kept * OUT_WIDTH
            for j in range(OUT_WIDTH):
                m[q + j] = m[p + j]
            kept += 1
    m[OUT_COUNT] = kept


@compiled
def run(m: Memory, limit: int) -> bool:
    """Settle every step boundary before ``limit``, and every step that ends by it. False if there is no more room for
    events or for the log: take some out, and go on."""
    while True:
        if m[END] != NONE:
            if m[END] > limit:
                return True
            _complete(m)
        full = m[OUT_CAPACITY] - m[OUT_COUNT] < 3 * m[SLOT_CAPACITY]
        if full or (m[LOG_CAPACITY] > 0 and m[LOG_COUNT] == m[LOG_CAPACITY]):
            return False
        if m[CLOCK] >= limit or not _start_step(m, limit):
            return True


@compiled
def report_progress(m: Memory) -> None:
    """Tell of every decoding sequence what it has that was not told yet."""
    for i in range(m[DECODING_COUNT]):
        p = m[SLOTS] + m[m[DECODING] + i] * SLOT_WIDTH
        if not m[p + DOOMED]:
            _show(m, p)


@compiled
def settle(m: Memory) -> None:
    """At the clock ``NOW``: who has arrived waits, and who has started is ready."""
    if not m[AHEAD]:
        _admit_arrivals(m, m[NOW])
    if (m[PHASE] == STARTING or m[PHASE] == WAKING) and m[NOW] >= m[READY_AT]:
        m[PHASE] = READY
        m[CLOCK] = max(m[CLOCK], m[READY_AT])
        m[STARTED] = m[CLOCK]


@compiled
def waiting(m: Memory) -> int:
    """Sequences that have arrived by ``NOW`` and have not begun."""
    count = m[WAITING_COUNT]
    for i in range(m[COMING_COUNT]):
        p = m[SLOTS] + m[m[COMING] + i] * SLOT_WIDTH
        count += m[p + ENTRY] <= m[NOW] and m[p + STAGE] == STAGE_COMING
    return int(count)


@compiled
def next_change(m: Memory) -> int:
    """A time after the clock before which no event can come; ``NEVER`` if none is due."""
    due = m[m[OUT]] if m[OUT_COUNT] > 0 else NEVER
    return int(min(due, _next_of_engine(m)))


@compiled
def _next_of_engine(m: Memory) -> int:
    """Tokens are seen when their step has ended and the API server has handled them; a new prompt takes a step."""
    coming = m[m[SLOTS] + m[m[COMING]] * SLOT_WIDTH + ENTRY] if m[COMING_COUNT] > 0 else NEVER
    a = m[STEADY]
    if m[END] != NONE:
        if m[FILLING_COUNT] > 0:
            return int(m[END] + m[TOKEN_OVERHEAD] * (m[DECODING_COUNT] + m[FILLING_COUNT]))
        due = _next_end(m, m[END], m[STEP] + 1) if m[DECODING_COUNT] > 0 else NEVER
        if m[WAITING_COUNT] > 0 or m[PARTIAL] != NONE:
            return int(min(due, m[END] + a))
        return int(min(due, max(coming, m[END]) + a if coming < NEVER else NEVER))
    if m[LIVE] == 0 or m[PHASE] == SLEEPING or m[PHASE] == FAILED:
        return NEVER
    boundary = max(m[CLOCK], m[READY_AT])
    due = _next_end(m, boundary, m[STEP]) if m[DECODING_COUNT] > 0 else NEVER
    if m[WAITING_COUNT] > 0 or m[PARTIAL] != NONE:
        return int(min(due, boundary + a))
    return int(min(due, max(coming, boundary) + a if coming < NEVER else NEVER))


@compiled
def _next_end(m: Memory, boundary: int, step: int) -> int:
    """When the first decoding sequence is seen to end, if nobody joins; never later than it is."""
    if m[DOOMED_COUNT] > 0:  # they leave at the boundary, and the steps get shorter
        return int(boundary + m[TOKEN_OVERHEAD])
    heaps.drop_stale_ends(m)
    batch = m[DECODING_COUNT]
    first = m[STEADY] + m[STEADY + 2] * batch + m[STEADY + 3] * (m[BASE_SUM] + batch * step)
    wanted = m[m[ENDS]] - step
    steps = blocks.steps_until_short(m, step, wanted)
    ended = boundary + run_duration(first, m[STEADY + 3] * batch, steps)
    return int(ended + (m[TOKEN_OVERHEAD] if steps == wanted else m[STEADY]))  # else somebody is preempted then


# ---------------------------------------------------------------------- time


@compiled
def _start_step(m: Memory, limit: int) -> bool:
    """At a boundary before ``limit``: start the next step, or a whole run. False when there is nothing to do."""
    if m[PHASE] != READY and not _become_ready(m, limit):
        return False
    _admit_arrivals(m, m[STARTED] if m[AHEAD] else m[CLOCK])
    if m[DECODING_COUNT] == 0 and m[WAITING_COUNT] == 0 and m[PARTIAL] == NONE:
        return _idle(m, limit)
    preempted = _preempt_while_short(m)
    idle = m[PARTIAL] == NONE and (preempted or m[WAITING_COUNT] == 0)
    prefill = 0 if idle else _schedule_prefills(m, not preempted)
    if prefill > 0:
        _begin(m, prefill)
    else:
        _decode(m, limit, preempted or (m[AHEAD] and _next_entry(m) <= m[CLOCK]))
    return True


@compiled
def _become_ready(m: Memory, limit: int) -> bool:
    if m[PHASE] == SLEEPING or m[PHASE] == FAILED or m[READY_AT] >= limit:
        m[CLOCK] = limit
        return False
    m[PHASE] = READY
    m[CLOCK] = max(m[CLOCK], m[READY_AT])
    m[STARTED] = m[CLOCK]
    return True


@compiled
def _idle(m: Memory, limit: int) -> bool:
    """Go to the next arrival before ``limit``, if there is one."""
    _drop_cancelled_coming(m)
    at = max(_next_entry(m), m[CLOCK])
    m[CLOCK] = m[STARTED] = min(at, limit)
    return bool(at < limit)


@compiled
def _next_entry(m: Memory) -> int:
    """When the next of those that are still to come reaches the engine."""
    return int(m[m[SLOTS] + m[m[COMING]] * SLOT_WIDTH + ENTRY] if m[COMING_COUNT] > 0 else NEVER)


@compiled
def _drop_cancelled_coming(m: Memory) -> None:
    while m[COMING_COUNT] > 0 and m[m[SLOTS] + m[m[COMING]] * SLOT_WIDTH + STAGE] == STAGE_CANCELLED:
        _give_back(m, heaps.pop_coming(m))


@compiled
def _admit_arrivals(m: Memory, until: int) -> None:
    while m[COMING_COUNT] > 0 and m[m[SLOTS] + m[m[COMING]] * SLOT_WIDTH + ENTRY] <= until:
        slot = heaps.pop_coming(m)
        if m[m[SLOTS] + slot * SLOT_WIDTH + STAGE] == STAGE_COMING:
            _enqueue(m, slot)
        else:
            _give_back(m, slot)


@compiled
def _enqueue(m: Memory, slot: int) -> None:
    m[m[SLOTS] + slot * SLOT_WIDTH + STAGE] = STAGE_WAITING
    heaps.push_waiting(m, slot)
    m[WAITING_COUNT] += 1


@compiled
def _give_back(m: Memory, slot: int) -> None:
    m[m[SLOTS] + slot * SLOT_WIDTH + STAGE] = STAGE_FREE
    m[m[FREE] + m[FREE_COUNT]] = slot
    m[FREE_COUNT] += 1


# ---------------------------------------------------------------------- what goes into a step


@compiled
def _preempt_while_short(m: Memory) -> bool:
    """Preempt until every decoding sequence that needs a block can have it."""
    if m[DECODING_COUNT] <= blocks.free_blocks(m):
        return False
    preempted = False
    while blocks.needed(m, m[STEP]) > blocks.free_blocks(m):
        victim = m[PARTIAL]
        for i in range(m[DECODING_COUNT]):
            slot = m[m[DECODING] + i]
            if victim == NONE or heaps.before(m, victim, slot):
                victim = slot
        _preempt(m, victim)
        preempted = True
    return preempted


@compiled
def _preempt(m: Memory, slot: int) -> None:
    p = m[SLOTS] + slot * SLOT_WIDTH
    produced = _produced(m, p)
    if m[STREAM]:
        _show(m, p)
    _remove(m, slot)
    m[p + PRODUCED] = produced
    _enqueue(m, slot)
    m[PREEMPTIONS] += 1


@compiled
def _remove(m: Memory, slot: int) -> None:
    """Take a running sequence's seat and blocks away, at a boundary."""
    p = m[SLOTS] + slot * SLOT_WIDTH
    if m[p + STAGE] == STAGE_DECODE:
        tokens = m[p + BASE] + m[STEP] - 1
        blocks.know(m, slot, m[p + PROMPT] + m[p + PRODUCED] - 1, tokens)
        _leave_decoding(m, slot)
        blocks.release(m, slot, tokens)
        return
    blocks.release(m, slot, m[p + PROMPT] + m[p + PRODUCED])
    if slot == m[PARTIAL]:
        m[PARTIAL] = NONE
        return
    filling, kept = m[FILLING], 0
    for i in range(m[FILLING_COUNT]):
        if m[filling + i] != slot:
            m[filling + kept] = m[filling + i]
            kept += 1
    m[FILLING_COUNT] = kept


@compiled
def _leave_decoding(m: Memory, slot: int) -> None:
    p = m[SLOTS] + slot * SLOT_WIDTH
    m[DECODING_COUNT] -= 1
    last = m[m[DECODING] + m[DECODING_COUNT]]
    m[m[DECODING] + m[p + PLACE]] = last
    m[m[SLOTS] + last * SLOT_WIDTH + PLACE] = m[p + PLACE]
    m[BASE_SUM] -= m[p + BASE]
    blocks.join_phase(m, slot, -1)


@compiled
def _schedule_prefills(m: Memory, admit: bool) -> int:
    """Choose the step's prompt tokens: the unfinished prompt first, then waiting ones in order."""
    budget = m[MAX_BATCHED_TOKENS] - m[DECODING_COUNT]
    before = budget
    reserved = blocks.needed(m, m[STEP])
    blocks.make_room(m, reserved)
    if m[PARTIAL] != NONE:
        budget -= _fill(m, m[PARTIAL], budget)
    while admit and budget > 0 and m[WAITING_COUNT] > 0:
        slot, units = _next_admissible(m, reserved)
        if slot == NONE:
            break
        heaps.pop_waiting(m)
        m[WAITING_COUNT] -= 1
        blocks.admit(m, slot, units, reserved)
        p = m[SLOTS] + slot * SLOT_WIDTH
        m[p + STAGE] = STAGE_PREFILL
        m[PARTIAL_LEFT] = m[p + PROMPT] + m[p + PRODUCED] - units * m[UNIT_TOKENS]
        budget -= _fill(m, slot, budget)
    return int(before - budget)


@compiled
def _next_admissible(m: Memory, reserved: int) -> tuple[int, int]:
    """The head of the queue, if there are a seat and blocks for all of its prompt; and its units in the cache."""
    while m[m[SLOTS] + m[m[QUEUE]] * SLOT_WIDTH + STAGE] != STAGE_WAITING:
        _give_back(m, heaps.pop_waiting(m))
    if m[DECODING_COUNT] + m[FILLING_COUNT] >= m[MAX_SEQS]:
        return NONE, 0
    slot = m[m[QUEUE]]
    units = blocks.found_units(m, slot) if m[UNIT_TOKENS] > 0 else 0
    if blocks.admission_blocks(m, slot, units) > blocks.free_blocks(m) - reserved:
        return NONE, 0
    return int(slot), units


@compiled
def _fill(m: Memory, slot: int, budget: int) -> int:
    """Give a prompt up to ``budget`` tokens of this step; how many it took."""
    p = m[SLOTS] + slot * SLOT_WIDTH
    taken = min(m[PARTIAL_LEFT], budget)
    done = m[p + PROMPT] + m[p + PRODUCED] - m[PARTIAL_LEFT]
    m[PARTIAL_LEFT] -= taken
    blocks.know(m, slot, done, done + taken)
    if m[PARTIAL_LEFT] > 0:
        m[PARTIAL] = slot
    else:
        m[PARTIAL] = NONE
        m[m[FILLING] + m[FILLING_COUNT]] = slot
        m[FILLING_COUNT] += 1
    return int(taken)


# ---------------------------------------------------------------------- steps


@compiled
def _begin(m: Memory, prefill: int) -> None:
    """Start one step; what it works on is settled now, its results come with :func:`_complete`."""
    batch = m[DECODING_COUNT]
    context = m[BASE_SUM] + batch * m[STEP]
    duration = step_time(m, prefill, batch, context)
    blocks.grow(m, m[STEP], 1)
    m[PREFILL_TOKENS] += prefill
    _log(m, duration, 0, 1, prefill, batch, context, batch + m[FILLING_COUNT])
    m[STARTED], m[END] = m[CLOCK], m[CLOCK] + duration


@compiled
def _complete(m: Memory) -> None:
    """Settle the end of the step in progress."""
    m[CLOCK], m[END] = m[END], NONE
    m[STEP] += 1
    _produce(m, m[DECODING_COUNT] + m[FILLING_COUNT], 1)
    if m[DOOMED_COUNT] > 0:
        _drop_doomed(m)
    _finish_due(m)
    if m[FILLING_COUNT] > 0:
        _join_filled(m)


@compiled
def _decode(m: Memory, limit: int, single: bool) -> None:
    """Run decode steps until somebody may join or leave, or a step would pass ``limit``; that one is begun."""
    batch = m[DECODING_COUNT]
    context = m[BASE_SUM] + batch * m[STEP]
    more = growth(m, batch)
    first = step_time(m, 0, batch, context)
    steps = 1 if single else _steps_alike(m, first, more)
    steps = run_length(first, more, limit - m[CLOCK], steps)
    if steps == 0:
        _begin(m, 0)
        return
    _log(m, first, more, steps, 0, batch, context, batch)
    duration = run_duration(first, more, steps)
    blocks.grow(m, m[STEP], steps)
    m[STEP] += steps
    m[CLOCK] += duration
    m[STARTED] = m[CLOCK] - first - more * (steps - 1)
    _produce(m, batch, steps)
    _finish_due(m)


@compiled
def _steps_alike(m: Memory, first: int, more: int) -> int:
    """Decode steps until the first end, until blocks run short, until an arrival could be admitted, or while slow."""
    heaps.drop_stale_ends(m)
    steps = blocks.steps_until_short(m, m[STEP], m[m[ENDS]] - m[STEP])
    blocked = m[DECODING_COUNT] >= m[MAX_SEQS] or (m[WAITING_COUNT] > 0 and not m[BY_PRIORITY])
    if m[COMING_COUNT] > 0 and not blocked:
        entry = m[m[SLOTS] + m[m[COMING]] * SLOT_WIDTH + ENTRY]
        steps = min(steps, 1 + run_length(first, more, entry - m[CLOCK] - 1, steps))
    if m[CLOCK] < m[SLOW_UNTIL]:
        steps = min(steps, 1 + run_length(first, more, m[SLOW_UNTIL] - m[CLOCK] - 1, steps))
    return int(steps)


@compiled
def _produce(m: Memory, batch: int, steps: int) -> None:
    m[OUTPUT_TOKENS] += batch * steps
    m[VISIBLE] = max(m[VISIBLE], m[CLOCK] + m[TOKEN_OVERHEAD] * batch)


@compiled
def _log(m: Memory, first: int, more: int, steps: int, prefill: int, batch: int, context: int, tokens: int) -> None:
    if m[LOG_CAPACITY] == 0:
        return
    p = m[LOG] + m[LOG_COUNT] * LOG_WIDTH
    m[p], m[p + 1], m[p + 2], m[p + 3] = m[CLOCK], first, more, steps
    m[p + 4], m[p + 5], m[p + 6], m[p + 7] = prefill, batch, context, tokens
    m[LOG_COUNT] += 1


# ---------------------------------------------------------------------- joining and leaving, at a boundary


@compiled
def _join_filled(m: Memory) -> None:
    for i in range(m[FILLING_COUNT]):
        slot = m[m[FILLING] + i]
        p = m[SLOTS] + slot * SLOT_WIDTH
        m[p + STAGE] = STAGE_DECODE
        m[p + PRODUCED] += 1
        m[p + JOINED] = m[STEP]
        m[p + BASE] = m[p + PROMPT] + m[p + PRODUCED] - m[STEP]
        m[p + FINISH] = m[STEP] + m[p + OUTPUT] - m[p + PRODUCED]
        if m[p + PRODUCED] == 1:
            emit(m, m[VISIBLE], FIRST_TOKEN, m[p + TAG], 1, m[p + CACHED])
            m[p + SHOWN] = 1
        m[JOINS] += 1
        m[p + JOIN_NUMBER] = m[JOINS]
        m[p + PLACE] = m[DECODING_COUNT]
        m[m[DECODING] + m[DECODING_COUNT]] = slot
        m[DECODING_COUNT] += 1
        m[BASE_SUM] += m[p + BASE]
        blocks.join_phase(m, slot, 1)
        heaps.push_end(m, slot)
    m[FILLING_COUNT] = 0
    _finish_due(m)


@compiled
def _finish_due(m: Memory) -> None:
    while m[ENDS_COUNT] > 0 and m[m[ENDS]] <= m[STEP]:
        due = heaps.end_counts(m, m[ENDS])
        slot = m[m[ENDS] + 2]
        heaps.pop_end(m)
        if due:
            p = m[SLOTS] + slot * SLOT_WIDTH
            emit(m, m[VISIBLE], FINISHED, m[p + TAG], m[p + OUTPUT], m[p + CACHED])
            _remove(m, slot)
            m[LIVE] -= 1
            _give_back(m, slot)


@compiled
def _drop_doomed(m: Memory) -> None:
    """In the order in which they were admitted."""
    slot = _first_doomed(m)
    while slot != NONE:
        _remove(m, slot)
        _give_back(m, slot)
        slot = _first_doomed(m)
    m[DOOMED_COUNT] = 0


@compiled
def _first_doomed(m: Memory) -> int:
    first = NONE
    for i in range(m[DECODING_COUNT]):
        slot = m[m[DECODING] + i]
        p = m[SLOTS] + slot * SLOT_WIDTH
        earlier = first == NONE or m[p + JOIN_NUMBER] < m[m[SLOTS] + first * SLOT_WIDTH + JOIN_NUMBER]
        if m[p + DOOMED] and earlier:
            first = slot
    if first != NONE:
        return int(first)
    for i in range(m[FILLING_COUNT]):
        if m[m[SLOTS] + m[m[FILLING] + i] * SLOT_WIDTH + DOOMED]:
            return int(m[m[FILLING] + i])
    if m[PARTIAL] != NONE and m[m[SLOTS] + m[PARTIAL] * SLOT_WIDTH + DOOMED]:
        return int(m[PARTIAL])
    return NONE


# ---------------------------------------------------------------------- what the client sees


@compiled
def emit(m: Memory, at: int, kind: int, tag: int, produced: int, cached: int) -> None:
    """Tell of something at a time, behind what is told at the same time or before it."""
    out = m[OUT]
    i = m[OUT_COUNT]
    while i > 0 and m[out + (i - 1) * OUT_WIDTH] > at:
        for j in range(OUT_WIDTH):
            m[out + i * OUT_WIDTH + j] = m[out + (i - 1) * OUT_WIDTH + j]
        i -= 1
    p = out + i * OUT_WIDTH
    m[p], m[p + 1], m[p + 2], m[p + 3], m[p + 4] = at, kind, tag, produced, cached
    m[OUT_COUNT] += 1


@compiled
def events_due(m: Memory, limit: int) -> int:
    """How many of the events that lie ready are to be seen by ``limit``."""
    due = 0
    while due < m[OUT_COUNT] and m[m[OUT] + due * OUT_WIDTH] <= limit:
        due += 1
    return due


@compiled
def drop_events(m: Memory, count: int) -> None:
    """Forget the first ``count`` events, which have been told."""
    out = m[OUT]
    for i in range(out, out + (m[OUT_COUNT] - count) * OUT_WIDTH):
        m[i] = m[i + count * OUT_WIDTH]
    m[OUT_COUNT] -= count


@compiled
def _produced(m: Memory, p: int) -> int:
    """Tokens of output so far of the sequence whose slot begins at ``p``."""
    if m[p + STAGE] == STAGE_DECODE:
        return int(m[p + PRODUCED] + m[STEP] - m[p + JOINED])
    return int(m[p + PRODUCED])


@compiled
def _show(m: Memory, p: int) -> None:
    produced = _produced(m, p)
    if produced > m[p + SHOWN]:
        m[p + SHOWN] = produced
        emit(m, m[VISIBLE], TOKENS, m[p + TAG], produced, 0)
