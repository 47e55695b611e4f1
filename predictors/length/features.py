"""Lexical features of a prompt: what its words and its shape say of the length of the answer.

Counting is done over :func:`predictors.embedding.excerpt` of the text, so that the cost is bounded; only the length
itself is of the whole text. The schema, its order and its hash are part of every artifact that is trained on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.embedding import excerpt
from predictors.length.lexicon import EXTENTS, FILLERS, GROUPS, ITEMS, LEADING, QUANTITIES
from predictors.types import Prompt

_CLASSES: Final = ("digit", "upper", "space", "newline", "punctuation", "bracket", "operator", "letter")
_SCRIPTS: Final = ("latin_extended", "cyrillic", "arabic_hebrew", "asian", "symbols")
_SCRIPT_STARTS: Final = (0x80, 0x370, 0x590, 0x900, 0x2000, 0x2E80, 0xFB1D, 0xFE70, 0xFF00, 0x10000)
_SCRIPT_OF: Final = (0, 1, 2, 3, 4, 3, 2, 2, 3, 4)
_COUNTED: Final = ("fences", "backticks", "bullets", "choices", "urls", "questions", "quotes", "ellipses", "bars")
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|\d+")
_CLAUSE: Final = re.compile(r"[.!?;:\n]+\s*")
_CHOICE: Final = re.compile(r"^\(?[a-d][).:]\s", re.MULTILINE)
_BULLET: Final = re.compile(r"^(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_MOST_ASKED: Final = 10_000.0
_REACH: Final = 3
"""How many words may stand between a number and what it counts, as in ``five short bullet points``."""


def _positions() -> Mapping[str, tuple[int, ...]]:
    groups: dict[str, list[int]] = {}
    for index, words in enumerate(GROUPS.values()):
        for word in words:
            groups.setdefault(word, []).append(index)
    return MappingProxyType({word: tuple(indices) for word, indices in groups.items()})


def _leading_positions() -> Mapping[str, tuple[int, ...]]:
    words = {word for name in LEADING for word in GROUPS[name]}
    return MappingProxyType(
        {word: tuple(i for i, name in enumerate(LEADING) if word in GROUPS[name]) for word in sorted(words)}
    )


def class_of(code: int) -> int:
    """The class, among eight, of an ASCII character."""
    character = chr(code)
    tests = {
        "digit": character.isdigit(),
        "upper": character.isupper(),
        "letter": character.islower(),
        "space": character in " \t\r",
        "newline": character == "\n",
        "bracket": character in "(){}[]<>",
        "operator": character in "=+*/^%$\\|&_#~",
    }
    return _CLASSES.index(next((name for name, belongs in tests.items() if belongs), "punctuation"))


def scripts_of(codes: NDArray[np.integer]) -> NDArray[np.intp]:
    """The script, among five, of characters (n,) beyond ASCII; of others, any."""
    return np.take(_SCRIPT_OF, np.searchsorted(_SCRIPT_STARTS, codes, side="right") - 1)


_GROUPS_OF: Final = _positions()
_LEADING_OF: Final = _leading_positions()
_CLASS_OF: Final = np.array([class_of(code) for code in range(128)], dtype=np.intp)

FEATURES: Final[tuple[str, ...]] = (
    "log_chars",
    "log_words",
    "log_lines",
    "mean_word_chars",
    "distinct_words",
    *(f"share_{name}" for name in _CLASSES),
    *(f"share_{name}" for name in _SCRIPTS),
    *(f"count_{name}" for name in _COUNTED),
    "ends_with_question",
    "ends_with_colon",
    *(f"words_{name}" for name in GROUPS),
    "log_clauses",
    *(f"first_{name}" for name in LEADING),
    *(f"last_{name}" for name in LEADING),
    *(f"heads_{name}" for name in LEADING),
    "has_asked_extent",
    "log_asked_tokens",
    "log_asked_items",
    "has_max_tokens",
    "log_max_tokens",
    "log_turns",
)
"""Names of the columns, in order."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Prompts read once: ``lexical`` (n, len(FEATURES)), finite, and the lower-case ``words`` of each excerpt."""

    lexical: NDArray[np.float32]
    words: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a prompt itself says of the answer: ``tokens`` (``500 words``) and number of ``items`` (``ten ideas``)."""

    tokens: float | None
    items: float


def read(prompts: Sequence[Prompt]) -> Readings:
    """Read prompts. A row depends on its own prompt only."""
    lexical = np.zeros((len(prompts), len(FEATURES)), dtype=np.float32)
    words: list[tuple[str, ...]] = []
    for row, prompt in zip(lexical, prompts, strict=True):
        text = excerpt(prompt.text)
        lower = text.lower()
        words.append(tuple(_WORD.findall(lower)))
        row[:] = _features(prompt, text, lower, words[-1])
    return Readings(lexical, tuple(words))


def asked(words: Sequence[str]) -> Asked:
    """The extent and the number of items that lower-case words ask for; the largest where they name several."""
    tokens: float | None = None
    items = 0.0
    number, number_at, spent_at = 0.0, -_REACH - 1, -1
    for at, word in enumerate(words):
        if word in QUANTITIES or word.isdecimal():
            number, number_at = _quantity(word, number if at == number_at + 1 else 0.0), at
        elif at - number_at > _REACH:
            continue
        elif word in EXTENTS and number_at != spent_at:
            tokens, spent_at = max(tokens or 0.0, number * EXTENTS[word]), number_at
        elif word in ITEMS:
            items = max(items, number)
    return Asked(tokens, items)


def _quantity(word: str, before: float) -> float:
    """``before`` is the number just read, so that ``1``, ``000`` makes a thousand and ``five hundred`` 500."""
    if word.isdecimal():
        value = before * 1000.0 + float(word) if before and len(word) == 3 else float(word[:6])
    else:
        value = QUANTITIES[word] * (before if before and QUANTITIES[word] >= 100.0 else 1.0)
    return min(value, _MOST_ASKED)


def _features(prompt: Prompt, text: str, lower: str, words: Sequence[str]) -> list[float]:
    request = asked(words)
    stripped = text.rstrip()
    return [
        math.log1p(len(prompt.text)),
        math.log1p(len(words) * len(prompt.text) / max(len(text), 1)),
        math.log1p(text.count("\n")),
        sum(map(len, words)) / max(len(words), 1),
        len(set(words)) / max(len(words), 1),
        *_shares(text),
        *map(math.log1p, _counts(text, lower)),
        float(stripped.endswith("?")),
        float(stripped.endswith(":")),
        *_groups(words),
        *_heads(lower),
        float(request.tokens is not None),
        math.log1p(request.tokens or 0.0),
        math.log1p(request.items),
        float(prompt.max_tokens is not None),
        math.log1p(max(prompt.max_tokens or 0, 0)),
        math.log1p(max(prompt.turns, 0)),
    ]


def _shares(text: str) -> list[float]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    total = max(codes.size, 1)
    plain = text.isascii()
    shares = np.bincount(_CLASS_OF[codes if plain else codes[codes < 128]], minlength=len(_CLASSES)) / total
    if plain:
        return [*shares.tolist(), *(0.0 for _ in _SCRIPTS)]
    scripts = np.bincount(scripts_of(codes[codes >= 128]), minlength=len(_SCRIPTS)) / total
    return [*shares.tolist(), *scripts.tolist()]


def _counts(text: str, lower: str) -> tuple[int, ...]:
    lines = "\n" in text
    return (
        text.count("```"),
        text.count("`"),
        len(_BULLET.findall(text)) if lines else 0,
        len(_CHOICE.findall(lower)) if lines else 0,
        text.count("://"),
        text.count("?"),
        text.count('"'),
        text.count("..."),
        text.count("|"),
    )


def _groups(words: Sequence[str]) -> list[float]:
    counts = [0] * len(GROUPS)
    for word in words:
        if word in _GROUPS_OF:
            for group in _GROUPS_OF[word]:
                counts[group] += 1
    return [math.log1p(count) if count else 0.0 for count in counts]


def _heads(lower: str) -> list[float]:
    """What the first clause, the last clause, and how many of all clauses begin by asking for."""
    heads = [head for clause in _CLAUSE.split(lower) if (head := _head(clause)) is not None]
    if not heads:
        return [0.0] * (1 + 3 * len(LEADING))
    counts = [0.0] * len(LEADING)
    for index in (index for head in heads for index in head):
        counts[index] += 1.0
    first = [float(index in heads[0]) for index in range(len(LEADING))]
    last = [float(index in heads[-1]) for index in range(len(LEADING))]
    return [math.log1p(len(heads)), *first, *last, *(math.log1p(count) if count else 0.0 for count in counts)]


def _head(clause: str) -> tuple[int, ...] | None:
    """Positions in ``LEADING`` of the clause's first word that is not a filler; ``None`` for a clause of fillers."""
    for word in clause[:80].split():
        if word not in FILLERS:
            return _LEADING_OF.get(word.strip("*#'\"(),-"), ())
    return None
