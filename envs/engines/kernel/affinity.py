"""Which workers were sent which blocks: :class:`controller.prefix.PrefixIndex`, compiled.

An index is one array: a header, then entries of ``ENTRY_WIDTH`` (block, workers as bits, older and newer neighbour,
place in the table), then a table from blocks to entries.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from envs.engines.kernel import table
from envs.engines.kernel.memory import NONE, Memory
from predictors.compiled import compiled

_CAPACITY: Final = 0
_COUNT: Final = 1
_OLDEST: Final = 2
_NEWEST: Final = 3
_TABLE: Final = 4
_MASK: Final = 5
_HEADER: Final = 8
_ENTRY_WIDTH: Final = table.WIDTH

MAX_WORKERS: Final = 62
"""Bits of an entry."""


def index(capacity: int) -> Memory:
    """An empty index of at most so many blocks."""
    places = 1 << (2 * capacity + 1).bit_length()
    i = np.zeros(_HEADER + (capacity + 1) * _ENTRY_WIDTH + places, dtype=np.int64)
    i[[_CAPACITY, _OLDEST, _NEWEST, _TABLE, _MASK]] = capacity, NONE, NONE, len(i) - places, places - 1
    return i


@compiled
def matches(i: Memory, chain: Memory, depths: Memory) -> bool:
    """``depths`` (workers,) becomes how many blocks each has seen from the start; whether any has seen one."""
    depths[:] = 0
    here, depth = 0, 0
    for block in chain:
        place = _find(i, block)
        if i[place] == 0:
            break
        workers = i[_entry(i[place] - 1) + 1]
        if depth > 0:
            _reach(depths, here & ~workers, depth)
            here &= workers
        else:
            here = workers
        if here == 0:
            return depth > 0
        depth += 1
    _reach(depths, here, depth)
    return depth > 0


@compiled
def _reach(depths: Memory, workers: int, depth: int) -> None:
    for worker in range(len(depths)):
        if (workers >> worker) & 1:
            depths[worker] = depth


@compiled
def add(i: Memory, chain: Memory, worker: int) -> None:
    """The worker was sent a prompt that begins so; the last block counts as used the longest ago."""
    kept = min(len(chain), i[_CAPACITY])  # what lies behind would be forgotten at once
    for k in range(kept - 1, -1, -1):  # none of the chain's own may be forgotten to make room for the rest of it
        place = _find(i, chain[k])
        if i[place] != 0:
            entry = i[place] - 1
            _unlink(i, entry)
            _link(i, entry)
    for k in range(kept - 1, -1, -1):
        place = _find(i, chain[k])
        if i[place] == 0:
            if i[_COUNT] == i[_CAPACITY] + 1:
                _forget_oldest(i)
                place = _find(i, chain[k])
            entry = _new_entry(i)
            e = _entry(entry)
            i[e], i[e + 1], i[e + 4] = chain[k], 0, place
            i[place] = entry + 1
        else:
            entry = i[place] - 1
            _unlink(i, entry)
        i[_entry(entry) + 1] |= 1 << worker
        _link(i, entry)
        if i[_COUNT] > i[_CAPACITY]:
            _forget_oldest(i)


@compiled
def _entry(entry: int) -> int:
    return _HEADER + entry * _ENTRY_WIDTH


@compiled
def _new_entry(i: Memory) -> int:
    i[_COUNT] += 1
    return int(i[_COUNT] - 1)


@compiled
def _link(i: Memory, entry: int) -> None:
    e = _entry(entry)
    i[e + 2], i[e + 3] = i[_NEWEST], NONE
    if i[_NEWEST] == NONE:
        i[_OLDEST] = entry
    else:
        i[_entry(i[_NEWEST]) + 3] = entry
    i[_NEWEST] = entry


@compiled
def _unlink(i: Memory, entry: int) -> None:
    e = _entry(entry)
    older, newer = i[e + 2], i[e + 3]
    if older == NONE:
        i[_OLDEST] = newer
    else:
        i[_entry(older) + 3] = newer
    if newer == NONE:
        i[_NEWEST] = older
    else:
        i[_entry(newer) + 2] = older


@compiled
def _forget_oldest(i: Memory) -> None:
    """Its place is taken by the last entry, so that entries lie without gaps."""
    entry = i[_OLDEST]
    _unlink(i, entry)
    table.empty(i, i[_TABLE], i[_MASK], _HEADER, i[_entry(entry) + 4])
    last = i[_COUNT] - 1
    i[_COUNT] = last
    if entry == last:
        return
    e, f = _entry(entry), _entry(last)
    for j in range(_ENTRY_WIDTH):
        i[e + j] = i[f + j]
    i[i[e + 4]] = entry + 1
    if i[e + 2] == NONE:
        i[_OLDEST] = entry
    else:
        i[_entry(i[e + 2]) + 3] = entry
    if i[e + 3] == NONE:
        i[_NEWEST] = entry
    else:
        i[_entry(i[e + 3]) + 2] = entry


@compiled
def _find(i: Memory, block: int) -> int:
    return int(table.find(i, i[_TABLE], i[_MASK], _HEADER, block))
