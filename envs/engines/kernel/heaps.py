"""The engine's three heaps: who comes when, who is next, and who ends when."""

from __future__ import annotations

from envs.engines.kernel.memory import (
    ARRIVAL,
    COMING,
    COMING_COUNT,
    ENDS,
    ENDS_CAPACITY,
    ENDS_COUNT,
    ENDS_WIDTH,
    ENTRY,
    FINISH,
    JOIN_NUMBER,
    ORDINAL,
    QUEUE,
    QUEUE_COUNT,
    RANK,
    SLOT_WIDTH,
    SLOTS,
    STAGE,
    STAGE_DECODE,
    Memory,
)
from predictors.compiled import compiled


@compiled
def before(m: Memory, one: int, other: int) -> bool:
    """Whether slot ``one`` has the lesser key: rank, then arrival, then order of submission."""
    p, q = m[SLOTS] + one * SLOT_WIDTH, m[SLOTS] + other * SLOT_WIDTH
    if m[p + RANK] != m[q + RANK]:
        return bool(m[p + RANK] < m[q + RANK])
    if m[p + ARRIVAL] != m[q + ARRIVAL]:
        return bool(m[p + ARRIVAL] < m[q + ARRIVAL])
    return bool(m[p + ORDINAL] < m[q + ORDINAL])


@compiled
def _comes_before(m: Memory, one: int, other: int, by_entry: bool) -> bool:
    """As :func:`before`; ``by_entry``: whether slot ``one`` reaches the engine first."""
    if by_entry:
        p, q = m[SLOTS] + one * SLOT_WIDTH, m[SLOTS] + other * SLOT_WIDTH
        if m[p + ENTRY] != m[q + ENTRY]:
            return bool(m[p + ENTRY] < m[q + ENTRY])
    return before(m, one, other)


@compiled
def _push(m: Memory, heap: int, length: int, slot: int, by_entry: bool) -> None:
    """Add a slot to the heap at ``heap``, whose length the field ``length`` holds."""
    at = m[length]
    m[length] = at + 1
    while at > 0:
        parent = (at - 1) >> 1
        if not _comes_before(m, slot, m[heap + parent], by_entry):
            break
        m[heap + at] = m[heap + parent]
        at = parent
    m[heap + at] = slot


@compiled
def _pop(m: Memory, heap: int, length: int, by_entry: bool) -> int:
    """Take out the first slot of such a heap; there is one."""
    count = m[length] - 1
    m[length] = count
    first, slot, at = m[heap], m[heap + count], 0
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and _comes_before(m, m[heap + child + 1], m[heap + child], by_entry):
            child += 1
        if not _comes_before(m, m[heap + child], slot, by_entry):
            break
        m[heap + at] = m[heap + child]
        at = child
    m[heap + at] = slot
    return int(first)


@compiled
def push_coming(m: Memory, slot: int) -> None:
    """Add a slot to those on their way."""
    _push(m, m[COMING], COMING_COUNT, slot, True)


@compiled
def pop_coming(m: Memory) -> int:
    """Take out the slot that comes first; there is one."""
    return _pop(m, m[COMING], COMING_COUNT, True)


@compiled
def push_waiting(m: Memory, slot: int) -> None:
    """Add a slot to the queue."""
    _push(m, m[QUEUE], QUEUE_COUNT, slot, False)


@compiled
def pop_waiting(m: Memory) -> int:
    """Take out the queue's head; there is one."""
    return _pop(m, m[QUEUE], QUEUE_COUNT, False)


@compiled
def _ends_before(m: Memory, p: int, finish: int, number: int) -> bool:
    return bool(m[p] < finish or (m[p] == finish and m[p + 1] < number))


@compiled
def push_end(m: Memory, slot: int) -> None:
    """Note when a decoding sequence will end, behind those that joined before it and end with it."""
    if m[ENDS_COUNT] == m[ENDS_CAPACITY]:
        _sweep_ends(m)
    p = m[SLOTS] + slot * SLOT_WIDTH
    _sift_end(m, m[p + FINISH], m[p + JOIN_NUMBER], slot)


@compiled
def _sift_end(m: Memory, finish: int, number: int, slot: int) -> None:
    heap, at = m[ENDS], m[ENDS_COUNT]
    m[ENDS_COUNT] = at + 1
    while at > 0:
        parent = (at - 1) >> 1
        p = heap + parent * ENDS_WIDTH
        if not (finish < m[p] or (finish == m[p] and number < m[p + 1])):
            break
        _copy_end(m, p, heap + at * ENDS_WIDTH)
        at = parent
    q = heap + at * ENDS_WIDTH
    m[q], m[q + 1], m[q + 2] = finish, number, slot


@compiled
def _copy_end(m: Memory, source: int, target: int) -> None:
    m[target], m[target + 1], m[target + 2] = m[source], m[source + 1], m[source + 2]


@compiled
def _sweep_ends(m: Memory) -> None:
    """Throw out the entries of those that no longer decode, or joined anew since."""
    heap, count = m[ENDS], m[ENDS_COUNT]
    m[ENDS_COUNT] = 0
    for i in range(count):
        p = heap + i * ENDS_WIDTH
        if end_counts(m, p):
            _sift_end(m, m[p], m[p + 1], m[p + 2])


@compiled
def end_counts(m: Memory, p: int) -> bool:
    """Whether the entry at ``p`` is that of a sequence as it decodes now."""
    q = m[SLOTS] + m[p + 2] * SLOT_WIDTH
    return bool(m[q + STAGE] == STAGE_DECODE and m[q + JOIN_NUMBER] == m[p + 1])


@compiled
def pop_end(m: Memory) -> None:
    """Take out the entry that ends first; there is one."""
    heap = m[ENDS]
    count = m[ENDS_COUNT] - 1
    m[ENDS_COUNT] = count
    last = heap + count * ENDS_WIDTH
    finish, number, slot, at = m[last], m[last + 1], m[last + 2], 0
    while 2 * at + 1 < count:
        child = 2 * at + 1
        p = heap + child * ENDS_WIDTH
        if child + 1 < count and _ends_before(m, p + ENDS_WIDTH, m[p], m[p + 1]):
            child += 1
            p += ENDS_WIDTH
        if not _ends_before(m, p, finish, number):
            break
        _copy_end(m, p, heap + at * ENDS_WIDTH)
        at = child
    q = heap + at * ENDS_WIDTH
    m[q], m[q + 1], m[q + 2] = finish, number, slot


@compiled
def drop_stale_ends(m: Memory) -> None:
    """Until the heap's first entry counts; somebody decodes."""
    while not end_counts(m, m[ENDS]):
        pop_end(m)
