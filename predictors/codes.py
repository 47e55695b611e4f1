"""Texts as compiled code reads them: code points, and hash tables of words over them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import compiled

__all__ = ["FIXED", "Codes", "Entries", "coded", "find", "hash_of", "hash_span", "insert", "unpack"]

FIXED: Final = 0xCBF29CE484222325
"""The basis of FNV-1a, for tables that no client can add words to."""
_PRIME: Final = 0x100000001B3
_WORD: Final = 0xFFFFFFFFFFFFFFFF

Codes = NDArray[np.uint32]
Entries = NDArray[np.uint64]
"""A hash table with linear probing (a power of two, columns): a key, 0 for an empty place, and what is known of it."""


def coded(text: str, errors: str = "surrogatepass") -> bytes:
    """One byte a character of an ASCII text, else four: an array would cost more to make than to read."""
    return text.encode("ascii") if text.isascii() else text.encode("utf-32-le", errors)


@compiled
def unpack(text: bytes, ascii_only: bool, before: int) -> Codes:
    """The code points (before + n,) of :func:`coded`, after as many spaces."""
    if ascii_only:
        codes = np.empty(before + len(text), dtype=np.uint32)
        for at in range(len(text)):
            codes[before + at] = text[at]
    else:
        codes = np.empty(before + len(text) // 4, dtype=np.uint32)
        for at in range(len(text) // 4):
            low = np.uint32(text[4 * at]) | np.uint32(text[4 * at + 1]) << np.uint32(8)
            codes[before + at] = low | np.uint32(text[4 * at + 2]) << np.uint32(16)
    for at in range(before):
        codes[at] = 32
    return codes


def hash_of(word: str, basis: int) -> int:
    """As :func:`hash_span` has it."""
    key = basis
    for character in word:
        key = ((key ^ ord(character)) * _PRIME) & _WORD
    return key or 1


@compiled
def hash_span(codes: Codes, start: int, end: int, basis: np.uint64) -> np.uint64:
    """FNV-1a over code points, 64 bits, never 0: two words in 10^19 would be taken for one another."""
    key = basis
    for at in range(start, end):
        key = (key ^ np.uint64(codes[at])) * np.uint64(_PRIME)
    return key if key != np.uint64(0) else np.uint64(1)


@compiled
def find(key: np.uint64, entries: Entries) -> int:
    """The word's place in the table, or -1."""
    last = np.uint64(entries.shape[0] - 1)
    at = key & last
    while entries[at, 0] != key:
        if entries[at, 0] == np.uint64(0):
            return -1
        at = (at + np.uint64(1)) & last
    return int(np.int64(at))


def insert(key: int, entries: NDArray[Any]) -> int:
    """Take a place for a word that is not in the table."""
    at = key & (len(entries) - 1)
    while entries[at, 0]:
        at = (at + 1) & (len(entries) - 1)
    entries[at, 0] = key
    return at
