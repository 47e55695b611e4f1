"""A hash table of the words that the ranker knows, for compiled code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import compiled
from predictors.length.lexicon import EXTENTS, FILLERS, GROUPS, ITEMS, LEADING, QUANTITIES

__all__ = ["find", "hash_span", "word_table"]

Codes = NDArray[np.uint32]
Floats = NDArray[np.float64]


def word_table(words: Mapping[str, tuple[float, float, float]]) -> tuple[NDArray[np.uint64], Floats, NDArray[np.int64]]:
    """A hash table of words with linear probing, 0 for an empty place.

    ``numbers`` are quantity, extent (0 for none), idf (0 for a word that the trend does not know), and the trend's
    weights; ``masks`` are groups, leading groups, and bits for a filler and an item.
    """
    known = set().union(words, *GROUPS.values(), FILLERS, ITEMS, EXTENTS, QUANTITIES)
    size = 1 << (2 * len(known)).bit_length()
    hashes, numbers, masks = np.zeros(size, np.uint64), np.zeros((size, 5)), np.zeros((size, 3), np.int64)
    for word in sorted(known):
        key = _hash_of(word)
        at = key & (size - 1)
        while hashes[at]:
            at = (at + 1) & (size - 1)
        hashes[at] = key
        numbers[at] = (QUANTITIES.get(word, 0.0), EXTENTS.get(word, 0.0), *words.get(word, (0.0, 0.0, 0.0)))
        masks[at] = (
            sum(1 << group for group, members in enumerate(GROUPS.values()) if word in members),
            sum(1 << group for group, name in enumerate(LEADING) if word in GROUPS[name]),
            (word in FILLERS) + 2 * (word in ITEMS),
        )
    return hashes, numbers, masks


def _hash_of(word: str) -> int:
    """As :func:`hash_span` has it."""
    key = 0xCBF29CE484222325
    for character in word:
        key = ((key ^ ord(character)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return key


@compiled
def hash_span(codes: Codes, start: int, end: int) -> np.uint64:
    """FNV-1a over code points, 64 bits: two words in 10^19 would be taken for one another."""
    key = np.uint64(0xCBF29CE484222325)
    for at in range(start, end):
        key = (key ^ np.uint64(codes[at])) * np.uint64(0x100000001B3)
    return key


@compiled
def find(key: np.uint64, hashes: NDArray[np.uint64]) -> np.int64:
    """The word's place in the table, or -1."""
    last = np.uint64(hashes.shape[0] - 1)
    at = key & last
    while hashes[at] != key:
        if hashes[at] == 0:
            return np.int64(-1)
        at = (at + np.uint64(1)) & last
    return np.int64(at)
