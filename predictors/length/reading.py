"""One prompt read in one compiled pass: the same features and the same sums over words as :mod:`.features` and
:mod:`.trend` give, bit for bit. Prompts with characters from U+20000 on or digits beyond ASCII are left to those."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.codes import FIXED, Codes, Entries, coded, find, hash_span, unpack
from predictors.compiled import AVAILABLE, compiled
from predictors.embedding import excerpt
from predictors.intrinsics import prefetch
from predictors.length import features
from predictors.length.features import FEATURES
from predictors.length.lexicon import GROUPS, LEADING
from predictors.length.words import EXTENT, FILLER, IDF, ITEM, LEADS, LEVEL, MASKS, PLACE, QUANTITY, word_table
from predictors.types import Prompt

__all__ = ["Reader", "coded_twice", "read_text"]

_KNOWN: Final = 0x20000
_LETTER, _DIGIT, _SPACE, _CLAUSE, _STRIPPED, _STRANGE = 1, 2, 4, 8, 16, 32
_SHARE: Final = 8
"""Where in what is known of a character the column of the share begins that it counts towards."""
_GROUPS: Final = len(GROUPS)
_LEADING: Final = len(LEADING)
_CLASSES: Final = FEATURES.index("share_digit")
_SCRIPTS: Final = FEATURES.index("share_latin_extended")
_COUNTS: Final = FEATURES.index("count_fences")
_ENDS: Final = FEATURES.index("ends_with_question")
_WORDS: Final = FEATURES.index("log_clauses") - _GROUPS
_HEADS: Final = FEATURES.index("log_clauses")
_ASKED: Final = FEATURES.index("has_asked_extent")
_LIMIT: Final = FEATURES.index("has_max_tokens")
_REACH: Final = 3
_MOST_ASKED: Final = 10_000.0
_HEAD_CHARS: Final = 80

Floats = NDArray[np.float64]
Characters = NDArray[np.uint16]
Lexical = NDArray[np.float32]


class Reader:
    """Knows characters, and the words of the lexicon and of a trend: (idf, place weight, level weight) by word."""

    def __init__(self, words: Mapping[str, tuple[float, float, float]]) -> None:
        self.characters = _characters()
        self.entries, self.numbers = word_table(words)
        keys = self.entries[:, 0]
        self.usable = AVAILABLE and len(np.unique(keys)) == np.count_nonzero(keys) + 1
        """Whether :meth:`read` can be asked at all."""

    def read(self, prompt: Prompt) -> tuple[Lexical, Floats] | None:
        """Lexical features (F,), and the sums over words (2,) of the trend; ``None`` where this cannot tell."""
        text, lower, plain = coded_twice(excerpt(prompt.text))
        lexical, sums = np.zeros(len(FEATURES), dtype=np.float32), np.zeros(2)
        limit = -1 if prompt.max_tokens is None else prompt.max_tokens
        read = read_text(
            text,
            lower,
            plain,
            len(prompt.text),
            limit,
            prompt.turns,
            self.characters,
            self.entries,
            self.numbers,
            lexical,
            sums,
        )
        return (lexical, sums) if read else None


def coded_twice(text: str) -> tuple[bytes, bytes, bool]:
    """The text and its lower case for :func:`read_text`, and whether it is ASCII, which needs no lower case."""
    if text.isascii():
        return text.encode("ascii"), b"", True
    return coded(text), text.lower().encode("utf-32-le", "surrogatepass"), False


def _characters() -> Characters:
    """Of each character: its kinds, as bits, and the column of the share that it counts towards."""
    everything = "".join(map(chr, range(_KNOWN)))
    codes = np.arange(_KNOWN)
    kinds = np.zeros(_KNOWN, dtype=np.uint16)
    for kind, pattern in (
        (_LETTER, r"[^\W\d_]"),
        (_DIGIT, r"\d"),
        (_SPACE, r"\s"),
        (_CLAUSE, r"[.!?;:\n]"),
        (_STRIPPED, r"[*#'\"(),-]"),
    ):
        kinds[[match.start() for match in re.finditer(pattern, everything)]] |= kind
    kinds[(kinds & _DIGIT > 0) & (codes >= 128)] |= _STRANGE
    shares = _SCRIPTS + features.scripts_of(codes)
    shares[:128] = [_CLASSES + features.class_of(code) for code in range(128)]
    return kinds | (shares << _SHARE).astype(np.uint16)


@compiled
def read_text(
    coded_text: bytes,
    coded_lower: bytes,
    plain: bool,
    chars: int,
    max_tokens: int,
    turns: int,
    characters: Characters,
    entries: Entries,
    numbers: Floats,
    lexical: Lexical,
    sums: Floats,
) -> bool:
    """Fill ``lexical`` (F,) and ``sums`` (2,), both zeros, from :func:`coded_twice`; false where it cannot tell.

    ``chars`` is the length of the whole text, ``max_tokens`` -1 for none.
    """
    text = unpack(coded_text, plain, 0)
    if plain:
        lower = text.copy()
        for at in range(len(lower)):
            lower[at] += 32 if 65 <= lower[at] <= 90 else 0
    else:
        lower = unpack(coded_lower, plain, 0)
        for codes in (text, lower):
            for code in codes:
                if code >= _KNOWN or characters[code] & _STRANGE:
                    return False
    _read_characters(text, lower, characters, lexical)
    words = _read_words(lower, characters, entries, numbers, lexical, sums)
    _read_heads(lower, characters, entries, lexical)
    lexical[0] = math.log1p(float(chars))
    lexical[1] = math.log1p(words * chars / max(len(text), 1))
    lexical[_LIMIT] = max_tokens != -1
    lexical[_LIMIT + 1] = math.log1p(float(max(max_tokens, 0)))
    lexical[_LIMIT + 2] = math.log1p(float(max(turns, 0)))
    return True


@compiled
def _log1p(count: int) -> float:
    """Of a count, most of which are 0."""
    return math.log1p(float(count)) if count else 0.0


@compiled
def _read_characters(text: Codes, lower: Codes, characters: Characters, lexical: Lexical) -> None:
    seen = np.zeros(_COUNTS, dtype=np.int64)
    counts = np.zeros(9, dtype=np.int64)
    lines, fence, dots = 0, 0, 0
    for at in range(len(text)):
        code = text[at]
        seen[characters[code] >> _SHARE] += 1
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
        counts[2] = _bullets(text, characters)
        counts[3] = _choices(lower, characters)
    lexical[2] = _log1p(lines)
    for column in range(_CLASSES, _COUNTS):
        lexical[column] = seen[column] / max(len(text), 1)
    for kind in range(9):
        lexical[_COUNTS + kind] = _log1p(counts[kind])
    end = len(text)
    while end > 0 and characters[text[end - 1]] & _SPACE:
        end -= 1
    if end > 0:
        lexical[_ENDS] = text[end - 1] == 63
        lexical[_ENDS + 1] = text[end - 1] == 58


@compiled
def _bullets(text: Codes, characters: Characters) -> int:
    """Lines that begin with ``-``, ``*``, ``•`` or ``12.`` or ``12)``, and a space."""
    found, size = 0, len(text)
    for start in range(size):
        if start > 0 and text[start - 1] != 10:
            continue
        at = start
        while at < size and characters[text[at]] & _DIGIT:
            at += 1
        if at > start:
            mark = at < size and (text[at] == 46 or text[at] == 41)
        else:
            mark = text[at] == 45 or text[at] == 42 or text[at] == 0x2022
        found += mark and at + 1 < size and characters[text[at + 1]] & _SPACE != 0
    return found


@compiled
def _choices(lower: Codes, characters: Characters) -> int:
    """Lines that begin with ``a)``, ``(b)``, ``c.`` or ``d:``, and a space."""
    found, size = 0, len(lower)
    for start in range(size):
        if start > 0 and lower[start - 1] != 10:
            continue
        at = start + 1 if lower[start] == 40 else start
        if at + 2 < size and 97 <= lower[at] <= 100:
            mark = lower[at + 1]
            found += (mark == 41 or mark == 46 or mark == 58) and characters[lower[at + 2]] & _SPACE != 0
    return found


@compiled
def _word_end(lower: Codes, start: int, characters: Characters) -> int:
    """Where the word that begins here ends: a number, or letters and perhaps ``'`` and more of them (a to z)."""
    at, size = start + 1, len(lower)
    kind = _DIGIT if characters[lower[start]] & _DIGIT else _LETTER
    while at < size and characters[lower[at]] & kind:
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
    lower: Codes, characters: Characters, entries: Entries, numbers: Floats, lexical: Lexical, sums: Floats
) -> int:
    """Fill in what words say; gives how many there are."""
    size = 2
    while size < len(lower) + 2:
        size *= 2
    spans = np.empty((len(lower) + 1, 2), dtype=np.int32)
    keys = np.empty(len(lower) + 1, dtype=np.uint64)
    words, letters, at = 0, 0, 0
    last = np.uint64(entries.shape[0] - 1)
    while at < len(lower):
        if not characters[lower[at]] & (_LETTER | _DIGIT):
            at += 1
            continue
        start, at = at, _word_end(lower, at, characters)
        spans[words, 0], spans[words, 1] = start, at
        keys[words] = hash_span(lower, start, at, np.uint64(FIXED))
        prefetch(entries, int(np.int64(keys[words] & last)), 0)
        letters += at - start
        words += 1
    distinct = _count_words(lower, spans[:words], keys[:words], size, characters, entries, numbers, lexical, sums)
    lexical[3] = letters / max(words, 1)
    lexical[4] = distinct / max(words, 1)
    return words


@compiled
def _count_words(
    lower: Codes,
    spans: NDArray[np.int32],
    keys: NDArray[np.uint64],
    size: int,
    characters: Characters,
    entries: Entries,
    numbers: Floats,
    lexical: Lexical,
    sums: Floats,
) -> int:
    """Count the words, and read what they ask for; gives how many distinct ones there are.

    ``size`` is a power of two greater than the number of words.
    """
    slots = np.zeros(size, dtype=np.int32)
    places = np.empty(len(keys), dtype=np.int64)
    often = np.empty(len(keys), dtype=np.int64)
    firsts = np.empty(len(keys), dtype=np.int64)
    distinct = 0
    tokens, items, number, number_at, spent_at = -1.0, 0.0, 0.0, -_REACH - 1, -1
    for word in range(len(keys)):
        key = keys[word]
        slot = np.int64(key >> np.uint64(20)) & (size - 1)
        while slots[slot] and keys[firsts[slots[slot] - 1]] != key:
            slot = (slot + 1) & (size - 1)
        if slots[slot] == 0:
            firsts[distinct] = word
            places[distinct] = find(key, entries)
            often[distinct] = 0
            distinct += 1
            slots[slot] = distinct
        often[slots[slot] - 1] += 1
        place = places[slots[slot] - 1]
        start = spans[word, 0]
        named = numbers[place, QUANTITY] if place >= 0 else 0.0
        if named > 0.0 or characters[lower[start]] & _DIGIT:
            before = number if word == number_at + 1 else 0.0
            number = _quantity(lower, start, spans[word, 1], named, before)
            number_at = word
        elif word - number_at <= _REACH and place >= 0:
            if numbers[place, EXTENT] > 0.0 and number_at != spent_at:
                tokens = max(tokens, 0.0, number * numbers[place, EXTENT])
                spent_at = number_at
            elif entries[place, MASKS] >> np.uint64(ITEM) & np.uint64(1):
                items = max(items, number)
    _sum_words(places[:distinct], often[:distinct], entries, numbers, lexical, sums)
    lexical[_ASKED] = tokens >= 0.0
    lexical[_ASKED + 1] = math.log1p(max(tokens, 0.0))
    lexical[_ASKED + 2] = math.log1p(items)
    return distinct


@compiled
def _sum_words(
    places: NDArray[np.int64],
    often: NDArray[np.int64],
    entries: Entries,
    numbers: Floats,
    lexical: Lexical,
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
        mask, group = entries[place, MASKS] & np.uint64((1 << _GROUPS) - 1), 0
        while mask:
            if mask & np.uint64(1):
                groups[group] += count
            mask >>= np.uint64(1)
            group += 1
        idf = numbers[place, IDF]
        if idf != 0.0:
            value = (1.0 + math.log(float(count))) * idf if count > 1 else idf
            place_sum += value * numbers[place, PLACE]
            level_sum += value * numbers[place, LEVEL]
            square += value * value
    norm = math.sqrt(square) if square > 0.0 else 1.0
    sums[0], sums[1] = place_sum / norm, level_sum / norm
    for group in range(_GROUPS):
        lexical[_WORDS + group] = _log1p(groups[group])


@compiled
def _read_heads(
    lower: Codes,
    characters: Characters,
    entries: Entries,
    lexical: Lexical,
) -> None:
    counts = np.zeros(_LEADING, dtype=np.int64)
    heads, first, last = 0, 0, 0
    start, size = 0, len(lower)
    while start <= size:
        end = start
        while end < size and not characters[lower[end]] & _CLAUSE:
            end += 1
        head = _head(lower, start, min(end, start + _HEAD_CHARS), characters, entries)
        if head >= 0:
            first = head if heads == 0 else first
            last = head
            heads += 1
            for group in range(_LEADING):
                counts[group] += head >> group & 1
        if end == size:
            break
        start = end
        while start < size and characters[lower[start]] & _CLAUSE:
            start += 1
        while start < size and characters[lower[start]] & _SPACE:
            start += 1
    lexical[_HEADS] = _log1p(heads)
    for group in range(_LEADING):
        lexical[_HEADS + 1 + group] = first >> group & 1
        lexical[_HEADS + 1 + _LEADING + group] = last >> group & 1
        lexical[_HEADS + 1 + 2 * _LEADING + group] = _log1p(counts[group])


@compiled
def _head(lower: Codes, start: int, end: int, characters: Characters, entries: Entries) -> int:
    """The leading groups of the first word that is no filler; -1 for none."""
    at = start
    while at < end:
        if characters[lower[at]] & _SPACE:
            at += 1
            continue
        left = at
        while at < end and not characters[lower[at]] & _SPACE:
            at += 1
        place = find(hash_span(lower, left, at, np.uint64(FIXED)), entries)
        if place >= 0 and entries[place, MASKS] >> np.uint64(FILLER) & np.uint64(1):
            continue
        first, right = left, at
        while left < right and characters[lower[left]] & _STRIPPED:
            left += 1
        while left < right and characters[lower[right - 1]] & _STRIPPED:
            right -= 1
        if left > first or right < at:
            place = find(hash_span(lower, left, right, np.uint64(FIXED)), entries)
        leads = entries[place, MASKS] >> np.uint64(LEADS) if place >= 0 else np.uint64(0)
        return int(np.int64(leads & np.uint64((1 << _LEADING) - 1)))
    return -1
