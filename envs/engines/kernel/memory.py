"""An engine's whole state in one array of 64-bit integers.

One array is one argument for compiled code, one copy for a snapshot, and one row of a bank of engines. It begins with
the header, whose places have names here; tables follow, whose places the header holds. Times are picoseconds.

Sequences live in *slots*, records of :data:`SLOT_WIDTH` integers. A slot is given back when its sequence has left every
list that may still name it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Memory = NDArray[np.int64]

NEVER: Final = 1 << 62
NONE: Final = -1

# The clock
NOW: Final = 0
"""How far the engine has been advanced."""
CLOCK: Final = 1
"""The last step boundary: everything before it is settled."""
END: Final = 2
"""End of the step in progress, whose members are settled; ``NONE`` between steps."""
STEP: Final = 3
"""Steps made so far."""
VISIBLE: Final = 4
"""When the tokens of the last step were seen outside."""
PHASE: Final = 5
READY_AT: Final = 6
SLOW_UNTIL: Final = 7
"""Steps that begin before this take the slow constants."""

# Constants of a step (a, b, c, d, floor), as they are and while slow
STEADY: Final = 8
SLOW: Final = 13
GRAPH_TOKENS: Final = 18
REQUEST_OVERHEAD: Final = 19
TOKEN_OVERHEAD: Final = 20

# Limits
MAX_SEQS: Final = 21
MAX_BATCHED_TOKENS: Final = 22
BLOCK_SIZE: Final = 23
BLOCKS: Final = 24
BLOCK_SHIFT: Final = 49
"""Logarithm of the block size where that is a power of two, else ``NONE``: a shift takes a tenth of a division."""
BY_PRIORITY: Final = 25
STREAM: Final = 26
"""Whether progress is reported."""

# What is where
LIVE: Final = 27
"""Sequences that have neither ended nor been cancelled."""
WAITING_COUNT: Final = 28
"""Of the waiting heap, those that were not cancelled."""
BASE_SUM: Final = 29
"""Sum of the decoding sequences' ``BASE``."""
JOINS: Final = 30
PARTIAL: Final = 31
"""Slot of the prompt that the step before left unfinished, or ``NONE``."""
PARTIAL_LEFT: Final = 32
DOOMED_COUNT: Final = 33
"""Running sequences that were cancelled during the step in progress."""
NUMBER: Final = 34
"""Sequences submitted so far."""
USED: Final = 35
"""KV blocks that sequences hold."""

# Lengths of the tables
FREE_COUNT: Final = 36
COMING_COUNT: Final = 37
QUEUE_COUNT: Final = 38
ENDS_COUNT: Final = 39
DECODING_COUNT: Final = 40
FILLING_COUNT: Final = 41
OUT_COUNT: Final = 42
LOG_COUNT: Final = 43

# Totals
PREFILL_TOKENS: Final = 44
OUTPUT_TOKENS: Final = 45
PREEMPTIONS: Final = 46
CACHE_QUERIES: Final = 47
"""Prompt tokens that were looked up in the prefix cache."""
CACHE_HITS: Final = 48
"""And found there."""

# The prefix cache
UNIT_TOKENS: Final = 50
"""Tokens that one hash stands for."""
UNIT_BLOCKS: Final = 51
CACHED_COUNT: Final = 52
"""Units that nobody holds and that may be found again."""
OLDEST: Final = 53
NEWEST: Final = 54
"""Ends of the list of those, in the order in which they were let go."""
UNIT_FREE_COUNT: Final = 55

# Prefilling steps (what is hidden of a prompt's time; least time within the graphs), as they are and while slow
STEADY_PREFILL: Final = 56
SLOW_PREFILL: Final = 58
AHEAD: Final = 60
"""Whether a step is put together while the one before it runs."""
STARTED: Final = 61
"""When the latest step began."""

# Wide batches (a sequence beyond how many costs more), as they are and while slow; and what batches are padded to
STEADY_WIDE: Final = 62
SLOW_WIDE: Final = 63
WIDE_BATCH: Final = 64
GRAPH_STEP: Final = 65

# Places and sizes of the tables
SLOTS: Final = 66
SLOT_CAPACITY: Final = 67
FREE: Final = 68
COMING: Final = 69
QUEUE: Final = 70
ENDS: Final = 71
ENDS_CAPACITY: Final = 72
DECODING: Final = 73
FILLING: Final = 74
OUT: Final = 75
OUT_CAPACITY: Final = 76
LOG: Final = 77
LOG_CAPACITY: Final = 78
PHASES: Final = 79
"""Decoding sequences by ``BASE`` modulo the block size."""
UNITS: Final = 80
UNIT_CAPACITY: Final = 81
UNIT_FREE: Final = 82
TABLE: Final = 83
TABLE_CAPACITY: Final = 84
CHAINS: Final = 85
CHAIN_CAPACITY: Final = 86
"""Hashes a slot can hold; its units' numbers lie behind them."""
HEADER: Final = 88

# A slot
STAGE: Final = 0
TAG: Final = 1
"""The caller's number for it."""
PROMPT: Final = 2
OUTPUT: Final = 3
RANK: Final = 4
ARRIVAL: Final = 5
ORDINAL: Final = 6
"""``RANK``, ``ARRIVAL`` and this are its key: the queue's order, and its maximum is preempted first."""
ENTRY: Final = 7
"""When the engine hears of it."""
PRODUCED: Final = 8
JOINED: Final = 9
BASE: Final = 10
FINISH: Final = 11
"""While decoding, n the engine's step counter: it has ``PRODUCED + n - JOINED`` tokens of output, ``BASE + n`` of
context, and ends when the counter reaches this."""
JOIN_NUMBER: Final = 12
SHOWN: Final = 13
PLACE: Final = 14
"""Where it stands in the list of decoding ones."""
CHAIN_LENGTH: Final = 15
HELD_UNITS: Final = 16
"""Units of the prefix cache that it holds."""
DOOMED: Final = 17
CACHED: Final = 18
"""Prompt tokens found in the cache when it was admitted first."""
SLOT_WIDTH: Final = 20

STAGE_FREE: Final = 0
STAGE_COMING: Final = 1
STAGE_WAITING: Final = 2
STAGE_PREFILL: Final = 3
STAGE_DECODE: Final = 4
STAGE_CANCELLED: Final = 5
"""Still named by a heap."""

OUT_WIDTH: Final = 5
"""Time, kind, tag, output tokens, prompt tokens found in the cache."""
ENDS_WIDTH: Final = 3
LOG_WIDTH: Final = 8
UNIT_WIDTH: Final = 5
"""Hash, holders, older and newer neighbour, place in the table."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes that decide where the tables lie."""

    slots: int
    block_size: int
    log: int = 0
    """Runs that can be logged before they have to be taken out."""
    units: int = 0
    """Units of the prefix cache; 0 without one."""
    chain: int = 0
    """Hashes of a slot."""

    def sizes(self) -> dict[int, int]:
        """How long each table is, by the header's field, in the order in which they lie."""
        return {
            SLOTS: self.slots * SLOT_WIDTH,
            FREE: self.slots,
            COMING: self.slots,
            QUEUE: self.slots,
            ENDS: 2 * self.slots * ENDS_WIDTH,
            DECODING: self.slots,
            FILLING: self.slots,
            OUT: self.out_capacity * OUT_WIDTH,
            LOG: self.log * LOG_WIDTH,
            PHASES: self.block_size,
            UNITS: self.units * UNIT_WIDTH,
            UNIT_FREE: self.units,
            TABLE: self.table_capacity,
            CHAINS: self.slots * 2 * self.chain,
        }

    def places(self) -> tuple[dict[int, int], int]:
        """Where each table begins, by the header's field; and the length of the whole."""
        at, places = HEADER, {}
        for field, size in self.sizes().items():
            places[field] = at
            at += size
        return places, at

    def capacities(self) -> dict[int, int]:
        """What fits, by the header's field."""
        return {
            SLOT_CAPACITY: self.slots,
            ENDS_CAPACITY: 2 * self.slots,
            OUT_CAPACITY: self.out_capacity,
            LOG_CAPACITY: self.log,
            UNIT_CAPACITY: self.units,
            TABLE_CAPACITY: self.table_capacity,
            CHAIN_CAPACITY: self.chain,
        }

    @property
    def table_capacity(self) -> int:
        """Places from hashes to units: a power of two, at most half full."""
        return 1 << (2 * self.units).bit_length()

    @property
    def out_capacity(self) -> int:
        """Events: one turn of the loop brings at most three a slot."""
        return 8 * self.slots + 64


def empty(layout: Layout) -> Memory:
    """An engine's memory with its tables laid out, every slot and unit free, and everything else zero."""
    places, length = layout.places()
    memory = np.zeros(length, dtype=np.int64)
    for field, value in (*places.items(), *layout.capacities().items()):
        memory[field] = value
    memory[FREE_COUNT] = layout.slots
    memory[places[FREE] : places[FREE] + layout.slots] = np.arange(layout.slots)[::-1]
    memory[UNIT_FREE_COUNT] = layout.units
    memory[places[UNIT_FREE] : places[UNIT_FREE] + layout.units] = np.arange(layout.units)[::-1]
    memory[[END, PARTIAL, OLDEST, NEWEST]] = NONE
    return memory


def grown(memory: Memory, layout: Layout, slots: int) -> tuple[Memory, Layout]:
    """A copy with room for more slots; slots keep their numbers."""
    wider = replace(layout, slots=slots)
    copy = empty(wider)
    old, _ = layout.places()
    new, _ = wider.places()
    copy[:SLOTS] = memory[:SLOTS]
    for field, size in layout.sizes().items():
        copy[new[field] : new[field] + size] = memory[old[field] : old[field] + size]
    unit_places = copy[new[UNITS] + UNIT_WIDTH - 1 : new[UNITS] + layout.units * UNIT_WIDTH : UNIT_WIDTH]
    unit_places += new[TABLE] - old[TABLE]
    added = slots - layout.slots
    free = int(memory[FREE_COUNT])
    copy[new[FREE] : new[FREE] + added] = np.arange(layout.slots, slots)[::-1]
    copy[new[FREE] + added : new[FREE] + added + free] = memory[old[FREE] : old[FREE] + free]
    copy[FREE_COUNT] = free + added
    return copy, wider
