"""KV blocks: how many are held, when they run short, and what of them can be found again.

A decoding sequence has ``BASE + n`` tokens of context during step n and holds ``ceil((BASE + n) / block_size)`` blocks
from then on, so it takes a new one every ``block_size`` steps. Sequences are counted by ``BASE`` modulo the block size,
and the blocks that a run of k steps takes cost at most ``block_size`` additions, whatever the batch.

The prefix cache is that of vLLM: full blocks are known by the hash of everything up to their end, are shared while they
are held, and when let go are kept, the last used longest and a sequence's last block going first, until somebody needs
the room. Its *units* are as many blocks as one hash of the workload stands for, which are found and evicted together.
"""

from __future__ import annotations

from envs.engines.kernel import table
from envs.engines.kernel.memory import (
    BASE,
    BLOCK_SHIFT,
    BLOCK_SIZE,
    BLOCKS,
    CACHE_HITS,
    CACHE_QUERIES,
    CACHED,
    CACHED_COUNT,
    CHAIN_CAPACITY,
    CHAIN_LENGTH,
    CHAINS,
    DECODING_COUNT,
    HELD_UNITS,
    NEWEST,
    NONE,
    OLDEST,
    PHASES,
    PRODUCED,
    PROMPT,
    SLOT_WIDTH,
    SLOTS,
    TABLE,
    TABLE_CAPACITY,
    UNIT_BLOCKS,
    UNIT_FREE,
    UNIT_FREE_COUNT,
    UNIT_TOKENS,
    UNIT_WIDTH,
    UNITS,
    USED,
    Memory,
)
from predictors.compiled import compiled


@compiled
def for_tokens(m: Memory, tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return whole_blocks(m, tokens + m[BLOCK_SIZE] - 1)


@compiled
def whole_blocks(m: Memory, tokens: int) -> int:
    """Blocks that so many tokens fill."""
    shift = m[BLOCK_SHIFT]
    return int(tokens >> shift if shift >= 0 else tokens // m[BLOCK_SIZE])


@compiled
def _phase(m: Memory, step: int) -> int:
    """``1 - step`` modulo the block size: of the sequences that take a block in this step."""
    size = m[BLOCK_SIZE]
    tokens = 1 + step * (size - 1)
    return int(tokens - whole_blocks(m, tokens) * size)


@compiled
def free_blocks(m: Memory) -> int:
    """Blocks that nobody holds."""
    return int(m[BLOCKS] - m[USED])


@compiled
def needed(m: Memory, step: int) -> int:
    """Blocks that the decoding sequences take in step ``step``."""
    return int(m[m[PHASES] + _phase(m, step)])


@compiled
def make_room(m: Memory, blocks: int) -> None:
    """So many more can be held: what was kept to be found again goes, the oldest first."""
    while m[USED] + blocks + m[CACHED_COUNT] * m[UNIT_BLOCKS] > m[BLOCKS]:
        _evict(m)


@compiled
def grow(m: Memory, step: int, steps: int) -> None:
    """Take what the decoding sequences need in ``steps`` steps from ``step`` on."""
    size, phases = m[BLOCK_SIZE], m[PHASES]
    cycles = whole_blocks(m, steps)
    taken = cycles * m[DECODING_COUNT]
    phase = _phase(m, step)
    for _ in range(steps - cycles * size):
        taken += m[phases + phase]
        phase = phase - 1 if phase > 0 else size - 1
    if m[CACHED_COUNT] > 0:
        make_room(m, taken)
    m[USED] += taken


@compiled
def steps_until_short(m: Memory, step: int, at_most: int) -> int:
    """How many steps from ``step`` on have blocks enough, but no more than ``at_most``."""
    free, decoding, size = free_blocks(m), m[DECODING_COUNT], m[BLOCK_SIZE]
    if decoding * (at_most + size) <= free * size:
        return at_most
    cycles, left = divmod(free, decoding)
    steps = cycles * size
    while steps < at_most:
        need = needed(m, step + steps)
        if need > left:
            break
        left -= need
        steps += 1
    return int(min(steps, at_most))


# ---------------------------------------------------------------------- a sequence's blocks


@compiled
def found_units(m: Memory, slot: int) -> int:
    """Of a prompt to be computed, the leading units that are in the cache; one token at least is left to compute."""
    p = m[SLOTS] + slot * SLOT_WIDTH
    most = min((m[p + PROMPT] + m[p + PRODUCED] - 1) // m[UNIT_TOKENS], m[p + CHAIN_LENGTH])
    chain = m[CHAINS] + slot * 2 * m[CHAIN_CAPACITY]
    found = 0
    while found < most and m[_find(m, m[chain + found])] != 0:
        found += 1
    return found


@compiled
def admission_blocks(m: Memory, slot: int, units: int) -> int:
    """Free blocks that admitting a prompt takes whose first ``units`` units are in the cache."""
    p = m[SLOTS] + slot * SLOT_WIDTH
    blocks = for_tokens(m, m[p + PROMPT] + m[p + PRODUCED])
    chain = m[CHAINS] + slot * 2 * m[CHAIN_CAPACITY]
    for i in range(units):
        if m[m[UNITS] + (m[_find(m, m[chain + i])] - 1) * UNIT_WIDTH + 1] > 0:
            blocks -= m[UNIT_BLOCKS]
    return int(blocks)


@compiled
def admit(m: Memory, slot: int, units: int, reserved: int) -> None:
    """Give a prompt its blocks, the first ``units`` units from the cache; ``reserved`` blocks are for others."""
    p = m[SLOTS] + slot * SLOT_WIDTH
    context = m[p + PROMPT] + m[p + PRODUCED]
    if m[UNIT_TOKENS] == 0:
        m[p + CACHED] = 0
    else:
        chain = m[CHAINS] + slot * 2 * m[CHAIN_CAPACITY]
        for i in range(units):
            unit = m[_find(m, m[chain + i])] - 1
            _hold(m, unit)
            m[chain + m[CHAIN_CAPACITY] + i] = unit
        for i in range(units, m[p + CHAIN_LENGTH]):
            m[chain + m[CHAIN_CAPACITY] + i] = NONE
        m[p + HELD_UNITS] = units
        m[CACHE_QUERIES] += context
        m[CACHE_HITS] += units * m[UNIT_TOKENS]
        if m[p + CACHED] == NONE:
            m[p + CACHED] = units * m[UNIT_TOKENS]
    m[USED] += for_tokens(m, context) - units * m[UNIT_BLOCKS]
    make_room(m, reserved)


@compiled
def know(m: Memory, slot: int, begin: int, end: int) -> None:
    """Let units between ``begin`` and ``end`` tokens of a sequence be found; one that is known already stays double."""
    if m[UNIT_TOKENS] == 0:
        return
    p = m[SLOTS] + slot * SLOT_WIDTH
    chain = m[CHAINS] + slot * 2 * m[CHAIN_CAPACITY]
    for i in range(begin // m[UNIT_TOKENS], min(end // m[UNIT_TOKENS], m[p + CHAIN_LENGTH])):
        place = _find(m, m[chain + i])
        if m[place] == 0 and m[chain + m[CHAIN_CAPACITY] + i] == NONE:
            m[UNIT_FREE_COUNT] -= 1
            unit = m[m[UNIT_FREE] + m[UNIT_FREE_COUNT]]
            u = m[UNITS] + unit * UNIT_WIDTH
            m[u], m[u + 1], m[u + 4] = m[chain + i], 1, place
            m[place] = unit + 1
            m[chain + m[CHAIN_CAPACITY] + i] = unit
            m[p + HELD_UNITS] += 1


@compiled
def release(m: Memory, slot: int, tokens: int) -> None:
    """A sequence lets go of the blocks that held its ``tokens``, the last one first."""
    p = m[SLOTS] + slot * SLOT_WIDTH
    m[USED] -= for_tokens(m, tokens) - m[p + HELD_UNITS] * m[UNIT_BLOCKS]
    if m[p + HELD_UNITS] == 0:
        return
    chain = m[CHAINS] + slot * 2 * m[CHAIN_CAPACITY] + m[CHAIN_CAPACITY]
    for i in range(m[p + CHAIN_LENGTH] - 1, -1, -1):
        if m[chain + i] != NONE:
            _let_go(m, m[chain + i])
            m[chain + i] = NONE
    m[p + HELD_UNITS] = 0


@compiled
def join_phase(m: Memory, slot: int, change: int) -> None:
    """One more, or one less, decodes with this base."""
    p = m[SLOTS] + slot * SLOT_WIDTH
    size = m[BLOCK_SIZE]
    base = m[p + BASE]
    m[m[PHASES] + (base % size + size) % size] += change


# ---------------------------------------------------------------------- units


@compiled
def _hold(m: Memory, unit: int) -> None:
    u = m[UNITS] + unit * UNIT_WIDTH
    if m[u + 1] == 0:
        _unlink(m, u)
        m[USED] += m[UNIT_BLOCKS]
    m[u + 1] += 1


@compiled
def _let_go(m: Memory, unit: int) -> None:
    u = m[UNITS] + unit * UNIT_WIDTH
    m[u + 1] -= 1
    if m[u + 1] > 0:
        return
    m[USED] -= m[UNIT_BLOCKS]
    m[CACHED_COUNT] += 1
    m[u + 2], m[u + 3] = m[NEWEST], NONE
    if m[NEWEST] == NONE:
        m[OLDEST] = unit
    else:
        m[m[UNITS] + m[NEWEST] * UNIT_WIDTH + 3] = unit
    m[NEWEST] = unit


@compiled
def _unlink(m: Memory, u: int) -> None:
    """Take a unit that nobody holds out of the list of those."""
    older, newer = m[u + 2], m[u + 3]
    if older == NONE:
        m[OLDEST] = newer
    else:
        m[m[UNITS] + older * UNIT_WIDTH + 3] = newer
    if newer == NONE:
        m[NEWEST] = older
    else:
        m[m[UNITS] + newer * UNIT_WIDTH + 2] = older
    m[CACHED_COUNT] -= 1


@compiled
def _evict(m: Memory) -> None:
    unit = m[OLDEST]
    u = m[UNITS] + unit * UNIT_WIDTH
    _unlink(m, u)
    table.empty(m, m[TABLE], m[TABLE_CAPACITY] - 1, m[UNITS], m[u + 4])
    m[m[UNIT_FREE] + m[UNIT_FREE_COUNT]] = unit
    m[UNIT_FREE_COUNT] += 1


@compiled
def forget_units(m: Memory) -> None:
    """Empty the cache of everything that nobody holds."""
    while m[CACHED_COUNT] > 0:
        _evict(m)


@compiled
def _find(m: Memory, key: int) -> int:
    """Place in the table of a hash's unit (its number plus one), or of the empty one where it would be."""
    return int(table.find(m, m[TABLE], m[TABLE_CAPACITY] - 1, m[UNITS], key))
