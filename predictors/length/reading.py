"""One prompt read in one compiled pass: the same features and the same sums over words as :mod:`.features` and
:mod:`.trend` give, bit for bit. Prompts with characters beyond U+3000 or with digits beyond ASCII are left to those."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import AVAILABLE, compiled
from predictors.embedding import excerpt
from predictors.length import features
from predictors.length.features import FEATURES
from predictors.length.lexicon import GROUPS, LEADING
from predictors.length.words import find, hash_span, word_table
from predictors.types import Prompt

__all__ = ["Reader"]

_KNOWN: Final = 0x3000
_LETTER, _DIGIT, _SPACE, _CLAUSE, _STRIPPED, _STRANGE = 1, 2, 4, 8, 16, 32
_GROUPS: Final = len(GROUPS)
_LEADING: Final = len(LEADING)
_CLASSES: Final = FEATURES.index("share_digit")
_SCRIPTS: Final = FEATURES.index("share_latin_extended")
_COUNTS: Final = FEATURES.index("count_fences")
_ENDS: Final = FEATURES.index("ends_with_question")
_WORDS: Final = FEATURES.index("log_clauses") - _GROUPS
_HEADS: Final = FEATURES.index("log_clauses")
_ASKED: Final = FEATURES.index("has_asked_extent")
_REACH: Final = 3
_MOST_ASKED: Final = 10_000.0
_HEAD_CHARS: Final = 80
_DISTINCT: Final = 2048
"""Places for distinct words: a power of two, and twice as many as an excerpt can have."""

Codes = NDArray[np.uint32]
Floats = NDArray[np.float64]


class Reader:
    """Knows the words of the lexicon and of a trend, which are (idf, place weight, level weight) by word."""

    def __init__(self, words: Mapping[str, tuple[float, float, float]]) -> None:
        self._kinds, self._shares = _characters()
        self._hashes, self._numbers, self._masks = word_table(words)
        self.usable = AVAILABLE and len(np.unique(self._hashes)) == np.count_nonzero(self._hashes) + 1
        """Whether :meth:`read` can be asked at all."""
        if self.usable:
            self.read(Prompt("Compiles the kernel."))

    def read(self, prompt: Prompt) -> tuple[NDArray[np.float32], Floats] | None:
        """Lexical features (F,), and the sums over words (2,) of the trend; ``None`` where this cannot tell."""
        text = excerpt(prompt.text)
        lexical = np.zeros(len(FEATURES), dtype=np.float32)
        sums = np.zeros(2)
        read = _read(
            _codes(text),
            _codes(text.lower()),
            len(prompt.text),
            self._kinds,
            self._shares,
            self._hashes,
            self._numbers,
            self._masks,
            lexical,
            sums,
        )
        if not read:
            return None
        lexical[-3] = prompt.max_tokens is not None
        lexical[-2] = math.log1p(max(prompt.max_tokens or 0, 0))
        lexical[-1] = math.log1p(max(prompt.turns, 0))
        return lexical, sums


def _codes(text: str) -> Codes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _characters() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Of each character: its kinds, as bits, and the column of the share that it counts towards."""
    kinds = np.zeros(_KNOWN, dtype=np.uint8)
    shares = np.empty(_KNOWN, dtype=np.uint8)
    letter, digit = re.compile(r"[^\W\d_]"), re.compile(r"\d")
    for code in range(_KNOWN):
        character = chr(code)
        kinds[code] = (
            _LETTER * bool(letter.match(character))
            + _DIGIT * bool(digit.match(character))
            + _SPACE * character.isspace()
            + _CLAUSE * (character in ".!?;:\n")
            + _STRIPPED * (character in "*#'\"(),-")
            + _STRANGE * bool(digit.match(character) and not character.isascii())
        )
        shares[code] = _SCRIPTS + features.script_of(code) if code >= 128 else _CLASSES + features.class_of(code)
    return kinds, shares


@compiled
def _read(
    text: Codes,
    lower: Codes,
    chars: int,
    kinds: NDArray[np.uint8],
    shares: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    numbers: Floats,
    masks: NDArray[np.int64],
    lexical: NDArray[np.float32],
    sums: Floats,
) -> bool:
    """Fill ``lexical`` but for its last three, and ``sums``; false where it cannot tell."""
    for codes in (text, lower):
        for code in codes:
            if code >= _KNOWN or kinds[code] & _STRANGE:
                return False
    _read_characters(text, lower, kinds, shares, lexical)
    words = _read_words(lower, kinds, hashes, numbers, masks, lexical, sums)
    _read_heads(lower, kinds, hashes, masks, lexical)
    lexical[0] = math.log1p(float(chars))
    lexical[1] = math.log1p(words * chars / max(len(text), 1))
    return True


@compiled
def _read_characters(
    text: Codes, lower: Codes, kinds: NDArray[np.uint8], shares: NDArray[np.uint8], lexical: NDArray[np.float32]
) -> None:
    seen = np.zeros(_COUNTS, dtype=np.int64)
    counts = np.zeros(9, dtype=np.int64)
    lines, fence, dots = 0, 0, 0
    for at in range(len(text)):
        code = text[at]
        seen[shares[code]] += 1
        lines += code == 10
        fence = fence + 1 if code == 96 else 0
        dots = dots + 1 if code == 46 else 0
        counts[0] += fence > 0 and fence % 3 == 0
        counts[1] += code == 96
        counts[4] += code == 47 and at >= 2 and text[at - 1] == 47 and text[at - 2] == 58
        counts[5] += code == 63
        counts[6] += code == 34
        counts[7] += dots > 0 and dots % 3 == 0
        counts[8] += code == 124
    if lines:
        counts[2] = _bullets(text, kinds)
        counts[3] = _choices(lower, kinds)
    lexical[2] = math.log1p(float(lines))
    for column in range(_CLASSES, _COUNTS):
        lexical[column] = seen[column] / max(len(text), 1)
    for kind in range(9):
        lexical[_COUNTS + kind] = math.log1p(float(counts[kind]))
    end = len(text)
    while end > 0 and kinds[text[end - 1]] & _SPACE:
        end -= 1
    if end > 0:
        lexical[_ENDS] = text[end - 1] == 63
        lexical[_ENDS + 1] = text[end - 1] == 58


@compiled
def _bullets(text: Codes, kinds: NDArray[np.uint8]) -> int:
    """Lines that begin with ``-``, ``*``, ``•`` or ``12.`` or ``12)``, and a space."""
    found, size = 0, len(text)
    for start in range(size):
        if start > 0 and text[start - 1] != 10:
            continue
        at = start
        while at < size and kinds[text[at]] & _DIGIT:
            at += 1
        if at > start:
            mark = at < size and (text[at] == 46 or text[at] == 41)
        else:
            mark = text[at] == 45 or text[at] == 42 or text[at] == 0x2022
        found += mark and at + 1 < size and kinds[text[at + 1]] & _SPACE != 0
    return found


@compiled
def _choices(lower: Codes, kinds: NDArray[np.uint8]) -> int:
    """Lines that begin with ``a)``, ``(b)``, ``c.`` or ``d:``, and a space."""
    found, size = 0, len(lower)
    for start in range(size):
        if start > 0 and lower[start - 1] != 10:
            continue
        at = start + 1 if lower[start] == 40 else start
        if at + 2 < size and 97 <= lower[at] <= 100:
            mark = lower[at + 1]
            found += (mark == 41 or mark == 46 or mark == 58) and kinds[lower[at + 2]] & _SPACE != 0
    return found


@compiled
def _word_end(lower: Codes, start: int, kinds: NDArray[np.uint8]) -> int:
    """Where the word that begins here ends: a number, or letters and perhaps ``'`` and more of them (a to z)."""
    at, size = start + 1, len(lower)
    kind = _DIGIT if kinds[lower[start]] & _DIGIT else _LETTER
    while at < size and kinds[lower[at]] & kind:
        at += 1
    if kind == _LETTER and at + 1 < size and lower[at] == 39 and 97 <= lower[at + 1] <= 122:
        at += 2
        while at < size and 97 <= lower[at] <= 122:
            at += 1
    return at


@compiled
def _quantity(lower: Codes, start: int, end: int, named: float, before: float) -> float:
    if named > 0.0:
        value = named * (before if before != 0.0 and named >= 100.0 else 1.0)
    else:
        value = 0.0
        thousands = before != 0.0 and end - start == 3
        for at in range(start, min(end, start + 6)):
            value = 10.0 * value + (lower[at] - 48)
        if thousands:
            value += before * 1000.0
    return min(value, _MOST_ASKED)


@compiled
def _read_words(
    lower: Codes,
    kinds: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    numbers: Floats,
    masks: NDArray[np.int64],
    lexical: NDArray[np.float32],
    sums: Floats,
) -> int:
    """Fill in what words say; gives how many there are."""
    keys = np.zeros(_DISTINCT, dtype=np.uint64)
    often = np.zeros(_DISTINCT, dtype=np.int64)
    places = np.empty(_DISTINCT, dtype=np.int64)
    order = np.empty(_DISTINCT, dtype=np.int64)
    words, distinct, letters = 0, 0, 0
    tokens, items, number, number_at, spent_at = -1.0, 0.0, 0.0, -_REACH - 1, -1
    at = 0
    while at < len(lower):
        if not kinds[lower[at]] & (_LETTER | _DIGIT):
            at += 1
            continue
        start = at
        at = _word_end(lower, start, kinds)
        key = hash_span(lower, start, at)
        own = np.int64(key & np.uint64(_DISTINCT - 1))
        while keys[own] != key and often[own] > 0:
            own = (own + 1) & (_DISTINCT - 1)
        if often[own] == 0:
            keys[own] = key
            places[own] = find(key, hashes)
            order[distinct] = own
            distinct += 1
        often[own] += 1
        place = places[own]
        digits = kinds[lower[start]] & _DIGIT != 0
        named = numbers[place, 0] if place >= 0 else 0.0
        if named > 0.0 or digits:
            number = _quantity(lower, start, at, named, number if words == number_at + 1 else 0.0)
            number_at = words
        elif words - number_at <= _REACH and place >= 0:
            if numbers[place, 1] > 0.0 and number_at != spent_at:
                tokens = max(tokens, 0.0, number * numbers[place, 1])
                spent_at = number_at
            elif masks[place, 2] & 2:
                items = max(items, number)
        words += 1
        letters += at - start
    _sum_words(places[order[:distinct]], often[order[:distinct]], numbers, masks, lexical, sums)
    lexical[3] = letters / max(words, 1)
    lexical[4] = distinct / max(words, 1)
    lexical[_ASKED] = tokens >= 0.0
    lexical[_ASKED + 1] = math.log1p(max(tokens, 0.0))
    lexical[_ASKED + 2] = math.log1p(items)
    return words


@compiled
def _sum_words(
    places: NDArray[np.int64],
    often: NDArray[np.int64],
    numbers: Floats,
    masks: NDArray[np.int64],
    lexical: NDArray[np.float32],
    sums: Floats,
) -> None:
    """Groups, and the trend's sums, of distinct words in the order in which they first came."""
    groups = np.zeros(_GROUPS, dtype=np.int64)
    place_sum, level_sum, square = 0.0, 0.0, 0.0
    for word in range(len(places)):
        place = places[word]
        if place < 0:
            continue
        count = often[word]
        for group in range(_GROUPS):
            if masks[place, 0] >> group & 1:
                groups[group] += count
        if numbers[place, 2] != 0.0:
            value = (1.0 + math.log(float(count))) * numbers[place, 2]
            place_sum += value * numbers[place, 3]
            level_sum += value * numbers[place, 4]
            square += value * value
    norm = math.sqrt(square) if square > 0.0 else 1.0
    sums[0], sums[1] = place_sum / norm, level_sum / norm
    for group in range(_GROUPS):
        lexical[_WORDS + group] = math.log1p(float(groups[group]))


@compiled
def _read_heads(
    lower: Codes,
    kinds: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    masks: NDArray[np.int64],
    lexical: NDArray[np.float32],
) -> None:
    counts = np.zeros(_LEADING, dtype=np.int64)
    heads, first, last = 0, 0, 0
    start, size = 0, len(lower)
    while start <= size:
        end = start
        while end < size and not kinds[lower[end]] & _CLAUSE:
            end += 1
        head = _head(lower, start, min(end, start + _HEAD_CHARS), kinds, hashes, masks)
        if head >= 0:
            first = head if heads == 0 else first
            last = head
            heads += 1
            for group in range(_LEADING):
                counts[group] += head >> group & 1
        if end == size:
            break
        start = end
        while start < size and kinds[lower[start]] & _CLAUSE:
            start += 1
        while start < size and kinds[lower[start]] & _SPACE:
            start += 1
    lexical[_HEADS] = math.log1p(float(heads))
    for group in range(_LEADING):
        lexical[_HEADS + 1 + group] = first >> group & 1
        lexical[_HEADS + 1 + _LEADING + group] = last >> group & 1
        lexical[_HEADS + 1 + 2 * _LEADING + group] = math.log1p(float(counts[group]))


@compiled
def _head(
    lower: Codes, start: int, end: int, kinds: NDArray[np.uint8], hashes: NDArray[np.uint64], masks: NDArray[np.int64]
) -> int:
    """The leading groups of the first word that is no filler; -1 for none."""
    at = start
    while at < end:
        if kinds[lower[at]] & _SPACE:
            at += 1
            continue
        left = at
        while at < end and not kinds[lower[at]] & _SPACE:
            at += 1
        place = find(hash_span(lower, left, at), hashes)
        if place >= 0 and masks[place, 2] & 1:
            continue
        right = at
        while left < right and kinds[lower[left]] & _STRIPPED:
            left += 1
        while left < right and kinds[lower[right - 1]] & _STRIPPED:
            right -= 1
        place = find(hash_span(lower, left, right), hashes)
        return masks[place, 1] if place >= 0 else 0
    return -1
