"""What the visible text of a running answer shows, kept up to date piece by piece.

Finished lines are counted once and forgotten; only the line in progress, at most ``PART`` characters of it, is read
again at each look. So a look costs the same after 20,000 tokens as after 200, memory is bounded, and how the text was
cut into pieces makes no difference.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from predictors.length.remaining.lines import Kind, Line, is_fence, kind_of, read_line

__all__ = ["FEATURES", "StreamReader"]

PART: Final = 512
"""A line longer than this is read in parts of at most so many characters."""
_CELLS: Final = 8192
_DECAY: Final = 1 / 48
"""Of the moving share of words that were not said before."""
_NEVER: Final = -1.0

FEATURES: Final[tuple[str, ...]] = (
    "tokens", "chars_per_token", "lines", "paragraphs", "prose_lines", "headings", "bullets", "numbered", "table_rows",
    "code_lines", "fences_closed", "in_code", "since_code", "sentences", "words_per_sentence", "questions",
    "share_digit", "share_upper", "share_wide", "share_other", "bold", "share_new", "share_new_recent",
    "line_kind", "line_chars", "line_words", "last_kind", "last_chars", "last_colon", "since_blank", "since_heading",
    "since_item", "item_chars", "number", "highest_number", "announced", "announced_left", "announced_tokens",
    "conclusions", "since_conclusion", "since_closing", "opening_chars", "paragraph_chars", "share_code", "share_list",
    "ends_sentence", "open_brackets",
)  # fmt: skip


@dataclass(slots=True)
class _Totals:
    """Counts of all text so far. What is ``since_`` something is in characters, -1 where it has not been."""

    chars: int = 0
    lines: int = 0
    paragraphs: int = 0
    prose: int = 0
    headings: int = 0
    bullets: int = 0
    numbered: int = 0
    table: int = 0
    code: int = 0
    code_chars: int = 0
    list_chars: int = 0
    fences_closed: int = 0
    in_code: bool = False
    sentences: int = 0
    questions: int = 0
    digits: int = 0
    upper: int = 0
    wide: int = 0
    other: int = 0
    bold: int = 0
    words: int = 0
    brackets: int = 0
    kind: Kind = Kind.BLANK
    line_chars: int = 0
    line_words: int = 0
    last_kind: Kind = Kind.BLANK
    last_chars: int = 0
    last_colon: bool = False
    since_blank: int = 0
    since_heading: int = -1
    since_item: int = -1
    since_code: int = -1
    since_conclusion: int = -1
    since_closing: int = -1
    number: int = 0
    highest: int = 0
    announced: int = 0
    conclusions: int = 0
    opening_chars: int = -1

    def add(self, line: Line, begins: bool) -> None:
        """Count a line, or a part of one that ``begins`` it or goes on with it."""
        self._pass(line.chars)
        if begins:
            self._begin(line)
        self.line_chars += line.chars
        self.line_words += len(line.words)
        self.sentences += line.sentences
        self.questions += line.questions
        self.digits += line.digits
        self.upper += line.upper
        self.wide += line.wide
        self.other += line.other
        self.bold += line.bold
        self.words += len(line.words)
        if line.announced:
            self.announced = line.announced
        if line.conclusion >= 0:
            self.conclusions += 1
            self.since_conclusion = line.conclusion
        if line.closing >= 0:
            self.since_closing = line.closing
        if line.kind is Kind.CODE:
            self.code_chars += line.chars
        elif line.kind in (Kind.BULLET, Kind.NUMBERED):
            self.list_chars += line.chars
            self.since_item = 0

    def end(self, line: Line) -> None:
        """The line in progress is over."""
        self._pass(1)
        self.lines += 1
        if self.kind is not Kind.BLANK:
            self.last_kind, self.last_chars, self.last_colon = self.kind, self.line_chars, line.colon
        self.kind, self.line_chars, self.line_words = Kind.BLANK, 0, 0

    def blank(self) -> None:
        """An empty line."""
        self._pass(1)
        self.lines += 1
        if self.since_blank > 1:
            self.paragraphs += 1
            if self.opening_chars < 0:
                self.opening_chars = self.chars
        self.since_blank = 0

    def fence(self, chars: int) -> None:
        """A line that opens or closes a block of code."""
        self._pass(chars + 1)
        self.lines += 1
        if self.in_code:
            self.fences_closed += 1
            self.since_code = 0
        self.in_code = not self.in_code
        self.kind, self.line_chars, self.line_words = Kind.BLANK, 0, 0
        self.last_kind, self.last_chars, self.last_colon = Kind.CODE, chars, False

    def _pass(self, chars: int) -> None:
        self.chars += chars
        self.since_blank += chars
        if self.since_heading >= 0:
            self.since_heading += chars
        if self.since_item >= 0:
            self.since_item += chars
        if self.since_code >= 0:
            self.since_code += chars
        if self.since_conclusion >= 0:
            self.since_conclusion += chars
        if self.since_closing >= 0:
            self.since_closing += chars

    def _begin(self, line: Line) -> None:
        self.kind, self.line_chars, self.line_words = line.kind, 0, 0
        match line.kind:
            case Kind.PROSE:
                self.prose += 1
            case Kind.HEADING:
                self.headings += 1
                self.since_heading = line.chars
            case Kind.BULLET:
                self.bullets += 1
            case Kind.NUMBERED:
                self.numbered += 1
                self.number = line.number
                self.highest = max(self.highest, line.number)
            case Kind.TABLE:
                self.table += 1
            case Kind.CODE:
                self.code += 1


class _Words:
    """How many distinct words were said, and how many of the last ones were new; words may share a cell, rarely."""

    def __init__(self) -> None:
        self._seen = bytearray(_CELLS)
        self.distinct = 0
        self.newness = 1.0

    def add(self, words: tuple[str, ...]) -> None:
        """Count them for good."""
        self.distinct, self.newness = self.look(words)
        for word in words:
            self._seen[_cell(word)] = 1

    def look(self, words: tuple[str, ...]) -> tuple[int, float]:
        """Distinct words and the moving share of new ones, as if ``words`` had been said too."""
        distinct, newness, here = self.distinct, self.newness, set()
        for cell in map(_cell, words):
            if self._seen[cell] or cell in here:
                newness -= newness * _DECAY
            else:
                newness += (1.0 - newness) * _DECAY
                distinct += 1
                here.add(cell)
        return distinct, newness


def _cell(word: str) -> int:
    return crc32(word.encode("utf-8", "surrogatepass")) % _CELLS


class StreamReader:
    """Reads one answer, from its first character on."""

    def __init__(self) -> None:
        self._totals = _Totals()
        self._words = _Words()
        self._tail = ""
        self._begun = False
        """Whether the line in progress has had a part counted already."""
        self._kind, self._number = Kind.BLANK, 0

    def feed(self, text: str) -> None:
        """The next piece, of any size."""
        *lines, last = (self._tail + text).split("\n")
        for line in lines:
            self._line(self._parts(line))
        self._tail = self._parts(last)

    def look(self, tokens: int) -> NDArray[np.float64]:
        """:data:`FEATURES` (F,) of what is seen now, after ``tokens`` tokens. Changes nothing."""
        tail, totals = self._tail, copy.copy(self._totals)
        said: tuple[str, ...] = ()
        if tail and (self._begun or not is_fence(tail)):
            line = self._read(tail)
            totals.add(line, begins=not self._begun)
            said = line.words
        distinct, newness = self._words.look(said)
        return _features(totals, tokens, distinct, newness, tail)

    def _parts(self, line: str) -> str:
        """Count all but the last part of a long line; that part is given back."""
        while len(line) > PART:
            cut = line.rfind(" ", PART // 2, PART) + 1 or PART
            self._add(line[:cut])
            line = line[cut:]
        return line

    def _line(self, text: str) -> None:
        """The line in progress ends with ``text``."""
        if not self._begun and is_fence(text):
            self._totals.fence(len(text))
        elif not self._begun and not text.strip():
            self._totals.blank()
        else:
            self._totals.end(self._add(text))
        self._begun = False

    def _add(self, text: str) -> Line:
        line = self._read(text)
        self._totals.add(line, begins=not self._begun)
        self._totals.brackets += _open_brackets(text)
        self._words.add(line.words)
        self._kind, self._number, self._begun = line.kind, line.number, True
        return line

    def _read(self, text: str) -> Line:
        kind, number = (self._kind, self._number) if self._begun else kind_of(text, self._totals.in_code)
        return read_line(text, kind, number)


def _open_brackets(text: str) -> int:
    return text.count("{") + text.count("(") + text.count("[") - text.count("}") - text.count(")") - text.count("]")


def _features(at: _Totals, tokens: int, distinct: int, newness: float, tail: str) -> NDArray[np.float64]:
    chars, words, items = max(at.chars, 1), max(at.words, 1), at.bullets + at.numbered
    per_token = at.chars / max(tokens, 1)
    left = max(at.announced - at.number, 0) if at.announced else _NEVER
    item = at.list_chars / items if items else _NEVER
    return np.array(
        (
            tokens, per_token, at.lines, at.paragraphs, at.prose, at.headings, at.bullets, at.numbered, at.table,
            at.code, at.fences_closed, at.in_code, at.since_code, at.sentences, words / max(at.sentences, 1),
            at.questions, at.digits / chars, at.upper / chars, at.wide / chars, at.other / chars, at.bold,
            distinct / words, newness, at.kind, at.line_chars, at.line_words, at.last_kind, at.last_chars,
            at.last_colon, at.since_blank, at.since_heading, at.since_item, item, at.number, at.highest,
            at.announced, left, left * item / max(per_token, 1.0) if left > 0 and items else _NEVER,
            at.conclusions, at.since_conclusion, at.since_closing, at.opening_chars,
            at.chars / (at.paragraphs + 1), at.code_chars / chars, at.list_chars / chars,
            tail.rstrip()[-1:] in _ENDS, at.brackets + _open_brackets(tail),
        ),
        dtype=np.float64,
    )  # fmt: skip


_ENDS: Final = frozenset(".!?。！？")
