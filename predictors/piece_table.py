"""The token ids of a text in one compiled pass: the pieces that :mod:`.pieces` cuts, remembered, and the byte-pair
merges (Sennrich et al. 2016) of a piece that is new."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.codes import Codes, Entries, find, hash_span
from predictors.compiled import compiled, lined
from predictors.intrinsics import prefetch
from predictors.merges import CODES, Ids, Merges, merged_ids
from predictors.pieces import LONGEST, REMEMBERED, Pieces

__all__ = ["FULL", "LEFT", "PieceTable", "Remembered", "token_ids"]

LEFT: Final = -1
"""Only the tokenizer, or a look at the text for its special tokens, can tell."""
FULL: Final = -2
"""There is a new piece, and no room to remember it."""

_LETTER, _DIGIT, _SPACE, _LINE, _MARK, _GLUED, _SPECIAL = 1, 2, 4, 8, 16, 32, 64
_IDS: Final = 1 << 19
"""Token ids that are kept of all pieces, beyond those of pieces of one token."""
_BITS: Final = 8
"""Bits of an entry that count a piece's tokens, at most four a character; the others are the token, or where its tokens
begin."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of pieces: ``entries`` (key, tokens), ``ids``, those of pieces of several tokens, and ``held``: how
    many pieces and how many ids these are."""

    entries: Entries
    ids: Ids
    held: NDArray[np.int64]

    @classmethod
    def nothing(cls) -> Remembered:
        """With room for what comes."""
        entries = lined(np.zeros((2 * REMEMBERED, 2), dtype=np.uint64))
        return cls(entries, np.zeros(_IDS, dtype=np.int32), np.zeros(2, dtype=np.int64))


class PieceTable:
    """Remembers what :class:`~predictors.pieces.Pieces` would. Safe to share between threads: a kernel that adds to it
    holds the interpreter's lock."""

    def __init__(self, pieces: Pieces) -> None:
        self.merges = Merges(pieces.vocabulary_ids, pieces.merges)
        self.basis = np.uint64(secrets.randbits(64))
        """Of the hashes, so that no client can know two pieces that are taken for one another."""
        self.classes = _classes(pieces)
        self.remembered = Remembered.nothing()
        strange = max(map(ord, pieces.glued | pieces.openings), default=0) >= CODES
        self.usable = pieces.usable and self.merges.usable and not strange
        """Whether anything can be asked at all."""

    def forget(self) -> None:
        """Begin again."""
        self.remembered = Remembered.nothing()


def _classes(pieces: Pieces) -> Bytes:
    """Of each character: where pieces are cut, and whether it is glued to punctuation or begins a special token."""
    classes = np.full(CODES, _LETTER, dtype=np.uint8)
    for code in range(128):
        character = chr(code)
        if character == " ":
            classes[code] = _SPACE
        elif character == "\n":
            classes[code] = _LINE
        elif character.isdigit():
            classes[code] = _DIGIT
        elif not character.isalpha():
            classes[code] = _MARK
    for flag, characters in ((_GLUED, pieces.glued), (_SPECIAL, pieces.openings)):
        for character in characters:
            if ord(character) < CODES:
                classes[ord(character)] |= flag
    return classes


@compiled
def _class(code: np.uint32, classes: Bytes) -> int:
    return int(classes[code]) if code < CODES else _LETTER


@compiled
def _piece_end(codes: Codes, start: int, classes: Bytes, glued: bool) -> int:
    """Where the piece that begins here ends: the patterns of :mod:`.pieces`."""
    at, size = start, len(codes)
    while at < size and codes[at] == 32:
        at += 1
    if at == size:
        return at
    if glued:
        while at < size and codes[at] != 32:
            at += 1
        return at
    kind = _class(codes[at], classes) & (_LETTER | _DIGIT | _LINE | _MARK)
    if kind == _LINE:
        return at if at > start else at + 1
    at += 1
    if kind == _DIGIT:
        return at
    while at < size and _class(codes[at], classes) & kind:
        at += 1
    return at


@compiled
def token_ids(
    codes: Codes,
    checked: bool,
    classes: Bytes,
    basis: np.uint64,
    entries: Entries,
    ids: Ids,
    held: NDArray[np.int64],
    characters: Ids,
    pairs: Entries,
    found: Ids,
) -> int:
    """Fill ``found`` with the ids of ``codes``, a text after one space; gives how many, or :data:`LEFT`, or
    :data:`FULL`: at most half of the ``entries`` are taken.

    ``checked`` says that there is no special token; ``found`` has room for four ids a character; ``characters`` and
    ``pairs`` are :class:`~predictors.merges.Merges`'.
    """
    seen, most = 0, len(entries) // 2
    for code in codes:
        seen |= _class(code, classes)
    if seen & _SPECIAL and not checked:
        return LEFT
    glued = seen & _GLUED != 0
    keys = np.empty(len(codes), dtype=np.uint64)
    ends = np.empty(len(codes), dtype=np.int32)
    pieces, at = 0, 0
    last = np.uint64(entries.shape[0] - 1)
    while at < len(codes):
        start, at = at, _piece_end(codes, at, classes, glued)
        keys[pieces] = hash_span(codes, start, at, basis)
        ends[pieces] = at
        prefetch(entries, int(np.int64(keys[pieces] & last)), 0)
        pieces += 1
    count, start = 0, 0
    for piece in range(pieces):
        place = find(keys[piece], entries)
        if place < 0:
            many = merged_ids(codes, start, ends[piece], characters, pairs, found[count:])
            if ends[piece] - start <= LONGEST:
                if held[0] >= most or held[1] + many > len(ids):
                    return FULL
                _remember(keys[piece], found[count : count + many], entries, ids, held)
        else:
            many = int(np.int64(entries[place, 1] & np.uint64((1 << _BITS) - 1)))
            token = int(np.int64(entries[place, 1] >> np.uint64(_BITS)))
            if many == 1:
                found[count] = token
            else:
                for more in range(many):
                    found[count + more] = ids[token + more]
        start = int(ends[piece])
        count += many
    return count


@compiled
def _remember(key: np.uint64, tokens: Ids, entries: Entries, ids: Ids, held: NDArray[np.int64]) -> None:
    last = np.uint64(entries.shape[0] - 1)
    at = key & last
    while entries[at, 0] != np.uint64(0):
        at = (at + np.uint64(1)) & last
    first = np.int64(held[1])
    if len(tokens) == 1:
        first = np.int64(tokens[0])
    else:
        for token in range(len(tokens)):
            ids[first + token] = tokens[token]
        held[1] += len(tokens)
    held[0] += 1
    entries[at, 0] = key
    entries[at, 1] = np.uint64(first) << np.uint64(_BITS) | np.uint64(len(tokens))
