"""A hash table of the words that the ranker knows, for compiled code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.codes import FIXED, Entries, hash_of, insert
from predictors.compiled import lined
from predictors.length.lexicon import EXTENTS, FILLERS, GROUPS, ITEMS, LEADING, QUANTITIES

__all__ = ["EXTENT", "FILLER", "IDF", "ITEM", "LEADS", "LEVEL", "MASKS", "PLACE", "QUANTITY", "word_table"]

MASKS, QUANTITY, EXTENT, IDF, PLACE, LEVEL = 1, 2, 3, 4, 5, 6
"""Columns after the key: bits of groups, leading groups, a filler and an item; a quantity and an extent (0 for none),
idf (0 for a word that the trend does not know), and the trend's weights."""
LEADS, FILLER, ITEM = 32, 60, 61
"""Where in a mask the bits of leading groups begin, and which say that a word is a filler or an item."""
_COLUMNS: Final = 8
"""One cache line a word."""


def word_table(words: Mapping[str, tuple[float, float, float]]) -> tuple[Entries, NDArray[np.float64]]:
    """The same memory (size, 8) twice: read as keys and masks, and as numbers."""
    known = set().union(words, *GROUPS.values(), FILLERS, ITEMS, EXTENTS, QUANTITIES)
    entries = lined(np.zeros((1 << (2 * len(known)).bit_length(), _COLUMNS), dtype=np.uint64))
    numbers = entries.view(np.float64)
    for word in sorted(known):
        at = insert(hash_of(word, FIXED), entries)
        entries[at, MASKS] = (
            sum(1 << group for group, members in enumerate(GROUPS.values()) if word in members)
            + sum(1 << LEADS + group for group, name in enumerate(LEADING) if word in GROUPS[name])
            + ((word in FILLERS) << FILLER)
            + ((word in ITEMS) << ITEM)
        )
        numbers[at, QUANTITY], numbers[at, EXTENT] = QUANTITIES.get(word, 0.0), EXTENTS.get(word, 0.0)
        numbers[at, IDF : LEVEL + 1] = words.get(word, (0.0, 0.0, 0.0))
    return entries, numbers
