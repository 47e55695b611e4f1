"""A table from hashes to numbered entries, by open addressing, inside an array of integers.

An entry has ``WIDTH`` integers, the first its hash, the last its place in the table. A place holds the entry's number
plus one, or zero.
"""

from __future__ import annotations

from typing import Final

from envs.engines.kernel.memory import Memory
from predictors.compiled import compiled

WIDTH: Final = 5
_PLACE: Final = 4


@compiled
def _home(key: int, mask: int) -> int:
    """Where a hash is looked for first (Fibonacci hashing)."""
    mixed = (key ^ (key >> 29)) * 0x9E3779B97F4A7C1 & 0x7FFFFFFFFFFFFFF
    return int((mixed >> 20) & mask)


@compiled
def find(m: Memory, table: int, mask: int, entries: int, key: int) -> int:
    """Place of a hash, or the empty one where it would be. The table has ``mask`` + 1 places, a power of two."""
    at = _home(key, mask)
    while m[table + at] != 0 and m[entries + (m[table + at] - 1) * WIDTH] != key:
        at = (at + 1) & mask
    return int(table + at)


@compiled
def empty(m: Memory, table: int, mask: int, entries: int, place: int) -> None:
    """Empty a place, and move up what was pushed past it."""
    hole = place - table
    m[place] = 0
    at = (hole + 1) & mask
    while m[table + at] != 0:
        e = entries + (m[table + at] - 1) * WIDTH
        if ((at - _home(m[e], mask)) & mask) >= ((at - hole) & mask):
            m[table + hole] = m[table + at]
            m[e + _PLACE] = table + hole
            m[table + at] = 0
            hole = at
        at = (at + 1) & mask
