"""Byte-pair merges of one piece of a text, compiled: of all neighbours that may be merged, those of the earliest merge
first, and of equals the leftmost; as the tokenizers library does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.codes import Codes, Entries, find
from predictors.compiled import compiled, lined

__all__ = ["CODES", "Ids", "Merges", "merged_ids"]

CODES: Final = 0x20000
"""Characters under this may have a token of their own."""
_SPACE: Final = "▁"
_NEVER: Final = 1 << 30
_MIX: Final = 0x9E3779B97F4A7C15

Ids = NDArray[np.int32]


class Merges:
    """A vocabulary and its merges, the earliest first."""

    def __init__(self, vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> None:
        bytes_of = [vocabulary.get(f"<0x{byte:02X}>", -1) for byte in range(256)]
        singles = {word: token for word, token in vocabulary.items() if len(word) == 1}
        self.usable = -1 not in bytes_of and _SPACE in singles and max(map(ord, singles), default=0) < CODES
        """Whether every text has tokens, and :func:`merged_ids` can be asked."""
        self.characters: Ids = np.full(CODES + 256, -1, dtype=np.int32)
        """The token of each character, -1 for none; a space's is that of U+2581. Then those of the 256 bytes."""
        self.pairs = np.zeros((1, 2), dtype=np.uint64)
        """A hash table of two tokens that are merged: the key, then the merge's number and the token they make."""
        if self.usable:
            self.characters[list(map(ord, singles))] = list(singles.values())
            self.characters[ord(" ")] = singles[_SPACE]
            self.characters[CODES:] = bytes_of
            made = [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in merges]
            self.pairs = lined(np.zeros((1 << (2 * len(made)).bit_length(), 2), dtype=np.uint64))
            _fill(np.array(made, dtype=np.int64).reshape(-1, 3), self.pairs)


@compiled
def _key(left: int, right: int) -> np.uint64:
    key = (np.uint64(left) << np.uint64(32) | np.uint64(right)) * np.uint64(_MIX)
    key ^= key >> np.uint64(32)
    return key if key != np.uint64(0) else np.uint64(1)


@compiled
def _fill(made: NDArray[np.int64], pairs: Entries) -> None:
    last = np.uint64(len(pairs) - 1)
    for rank in range(len(made)):
        key = _key(made[rank, 0], made[rank, 1])
        at = key & last
        while pairs[at, 0] != np.uint64(0) and pairs[at, 0] != key:
            at = (at + np.uint64(1)) & last
        pairs[at, 0] = key
        pairs[at, 1] = np.uint64(rank) << np.uint64(32) | np.uint64(made[rank, 2])


@compiled
def merged_ids(codes: Codes, start: int, end: int, characters: Ids, pairs: Entries, found: Ids) -> int:
    """Fill ``found`` with the tokens of a piece of ``codes``; gives how many. There is room for four a character."""
    size = _symbols(codes, start, end, characters, found)
    ranks = np.empty(size, dtype=np.int32)
    made = np.empty(size, dtype=np.int32)
    for at in range(size - 1):
        ranks[at], made[at] = _merge(found[at], found[at + 1], pairs)
    while size > 1:
        least = np.int32(_NEVER)
        for at in range(size - 1):
            least = min(least, ranks[at])
        if least == _NEVER:
            break
        size = _apply(least, size, ranks, made, pairs, found)
    return size


@compiled
def _apply(least: np.int32, size: int, ranks: Ids, made: Ids, pairs: Entries, found: Ids) -> int:
    """Do one merge wherever it may be done, from the left, until it makes neighbours of an earlier merge; gives how
    many tokens are left."""
    to, at, going = 0, 0, True
    while at < size:
        if going and at + 1 < size and ranks[at] == least:
            found[to] = made[at]
            at += 2
            if to > 0:
                ranks[to - 1], made[to - 1] = _merge(found[to - 1], found[to], pairs)
                going = ranks[to - 1] >= least
            if at < size:
                ranks[to], made[to] = _merge(found[to], found[at], pairs)
                going = going and ranks[to] >= least
        else:
            found[to], ranks[to], made[to] = found[at], ranks[at], made[at]
            at += 1
        to += 1
    return to


@compiled
def _merge(left: int, right: int, pairs: Entries) -> tuple[np.int32, np.int32]:
    """The number of a merge and the token that it makes; :data:`_NEVER` for two tokens that stay apart."""
    place = find(_key(left, right), pairs)
    if place < 0:
        return np.int32(_NEVER), np.int32(-1)
    value = pairs[place, 1]
    return np.int32(value >> np.uint64(32)), np.int32(value & np.uint64(0xFFFFFFFF))


@compiled
def _symbols(codes: Codes, start: int, end: int, characters: Ids, found: Ids) -> int:
    """The tokens of single characters, or of their bytes in UTF-8; gives how many."""
    size = 0
    for at in range(start, end):
        code = np.int64(codes[at])
        token = characters[code] if code < CODES else np.int32(-1)
        if token >= 0:
            found[size] = token
            size += 1
            continue
        more = 0 if code < 0x80 else 1 if code < 0x800 else 2 if code < 0x10000 else 3
        lead = code if more == 0 else (0xF0 << (3 - more) & 0xFF) | code >> 6 * more
        found[size] = characters[CODES + lead]
        for byte in range(1, more + 1):
            found[size + byte] = characters[CODES + (0x80 | code >> 6 * (more - byte) & 0x3F)]
        size += more + 1
    return size
