"""Whether a text gives the right answer. Harmless form is forgiven; hedging, negation and other units are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from envs.families.dates import MONTHS
from envs.families.measures import aliases
from envs.families.problem import AnswerKind

_MARKER = re.compile(
    r"(?:\banswer\b\s*(?:is\b|was\b|:|=)|\bresult\b\s*(?:is\b|:|=)|####)[\s:]*(?:that\s)?", re.IGNORECASE
)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_DECORATION = re.compile(r"\*\*|__|`|\$\$?|\\\(|\\\)|\\\[|\\\]|\\text\{|\\,")
_NUMBER = re.compile(r"(?<![\w.,])(?:[-−]\s?)?(?:\d{1,3}(?:[, \u00a0\u202f]\d{3})+|\d+)(?:\.\d+)?(?!\d)")
_AFTERTHOUGHT = re.compile(r"\b(?:because|since|as we|which|who|so that)\b|\.\s+(?=[A-Z])|[;(]", re.IGNORECASE)
_NEGATION = re.compile(r"\bnot\b|n't\b|\bnever\b|\bunknown\b", re.IGNORECASE)
_HEDGE = re.compile(r"\b(?:or|either|maybe|perhaps|not sure)\b", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_ISO_DATE = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_MONTH = "|".join(f"{m}|{m[:3]}" for m in MONTHS)
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+({_MONTH})\.?,?\s+(\d{{4}})\b", re.IGNORECASE)
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})\b", re.IGNORECASE)
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_UNITS = aliases()
_SAME = {"yes": "true", "no": "false"}
_EDGES = " \t\r\n.,;:!?\"'’‘“”()[]{}<>"


@dataclass(frozen=True, slots=True)
class Expected:
    """The right answer in canonical form."""

    answer: str
    kind: AnswerKind
    unit: str = ""
    options: tuple[str, ...] = ()


def final_statement(text: str) -> tuple[str, bool]:
    """The part of a text that states its answer, and whether the text marks it as such.

    The last ``answer is``, ``Answer:``, ``####`` or ``\\boxed{}`` counts; without one, the last line.
    """
    boxed = _BOXED.findall(text)
    if boxed:
        return boxed[-1].strip(), True
    plain = _DECORATION.sub("", text).strip()
    marks = list(_MARKER.finditer(plain))
    after = plain[marks[-1].end() :].strip() if marks else ""
    if after:
        return after.split("\n")[0].strip(), True
    lines = [line for line in plain.split("\n") if line.strip()]
    return (lines[-1].strip() if lines else ""), False


def is_right(expected: Expected, text: str) -> bool:
    """Whether the text's final answer is the expected one."""
    statement, marked = final_statement(text)
    if not statement:
        return False
    return _CHECKS[expected.kind](expected, statement, marked, text)


def _clause(statement: str, marked: bool) -> str:
    """Without what is said after the answer (marked), or before it (unmarked)."""
    if marked:
        return _AFTERTHOUGHT.split(statement)[0].rsplit("=", 1)[-1]
    sentence = re.split(r"(?<=[.!?])\s+(?=\S)", statement.strip())[-1]
    return sentence.rsplit("=", 1)[-1]


def numbers(text: str) -> list[tuple[Decimal, str]]:
    """Every number in a text, with the word that follows it (its unit, perhaps)."""
    found = []
    for match in _NUMBER.finditer(text):
        digits = re.sub(r"[,\s\u00a0\u202f]", "", match.group()).replace("−", "-")
        word = re.match(r"\s*([A-Za-z]+)", text[match.end() :])
        found.append((Decimal(digits), word.group(1) if word else ""))
    return found


def _spoken(clause: str) -> list[tuple[Decimal, str]]:
    words = [word.strip(_EDGES).lower() for word in clause.split()]
    following = [*words, ""][1:]
    return [(Decimal(_WORDS.index(w)), after) for w, after in zip(words, following, strict=True) if w in _WORDS]


def _unit(word: str) -> str:
    return _UNITS.get(word, _UNITS.get(word.lower(), ""))


def _number(expected: Expected, statement: str, marked: bool, text: str) -> bool:
    clause = _clause(statement, marked)
    if _NEGATION.search(clause) or _HEDGE.search(clause):
        return False
    found = numbers(clause) or _spoken(clause)
    if not found or (marked and len({value for value, _ in found}) > 1):
        return False
    value, word = found[-1]
    unit = _unit(word) if expected.unit else ""
    return value == Decimal(expected.answer) and unit in ("", expected.unit)


def _plain_number(item: str) -> str:
    bare = item.replace("−", "-")
    return str(Decimal(bare).normalize()) if re.fullmatch(r"-?\d+(\.\d+)?", bare) else item.casefold()


def _items(text: str) -> list[str]:
    raw = re.split(r"(?:\s|,|;|→|->|<|>|\band\b|\bthen\b)+", text)
    return [_plain_number(stripped) for item in raw if (stripped := item.strip(_EDGES))]


def _sequence(expected: Expected, statement: str, marked: bool, text: str) -> bool:
    wanted = _items(expected.answer)
    listing = " ".join(_BULLET.sub("", line) for line in _DECORATION.sub("", text).splitlines())
    last = re.split(r"\bis\b|\bare\b|:", statement)[-1]
    sentence = re.split(r"\.\s", statement)[0]
    return any(_items(candidate) == wanted for candidate in (statement, sentence, last, listing))


def _word(expected: Expected, statement: str, marked: bool, text: str) -> bool:
    clause = _clause(statement, marked)
    if _NEGATION.search(clause) or _HEDGE.search(clause):
        return False
    parts = [part for raw in re.split(r"[\s:→]+", clause) if (part := raw.strip(_EDGES))]
    if not parts or (marked and len(parts) > 6):
        return False
    said = parts[0] if marked and len(parts) == 1 else parts[-1]
    bare = said.replace("-", "") if re.fullmatch(r"\w(-\w)+", said) else said
    return bare.casefold() == expected.answer.casefold()


def _month(name: str) -> int:
    return next(i for i, month in enumerate(MONTHS, 1) if month[:3].lower() == name[:3].lower())


def dates_in(text: str) -> set[date]:
    """Every day of the calendar that a text names, with its year, in ISO or English form."""
    parts = [(y, m, d) for y, m, d in _ISO_DATE.findall(text)]
    parts += [(y, str(_month(m)), d) for d, m, y in _DAY_FIRST.findall(text)]
    parts += [(y, str(_month(m)), d) for m, d, y in _MONTH_FIRST.findall(text)]
    found = set()
    for year, month, day in parts:
        try:
            found.add(date(int(year), int(month), int(day)))
        except ValueError:
            continue
    return found


def _date(expected: Expected, statement: str, marked: bool, text: str) -> bool:
    clause = re.split(r"\b(?:because|since)\b", statement, flags=re.IGNORECASE)[0]
    if _NEGATION.search(clause):
        return False
    if not marked:
        clause = re.split(r"\bis\b|=|:", clause)[-1]
    return dates_in(clause) == {date.fromisoformat(expected.answer)}


def _choice(expected: Expected, statement: str, marked: bool, text: str) -> bool:
    clause = _clause(statement, marked)
    truth = set(expected.options) == {"true", "false"}
    if _HEDGE.search(clause) or _NEGATION.search(clause):
        return False
    names = {option.casefold() for option in expected.options} | (set(_SAME) if truth else set())
    said = [word.strip(_EDGES).removesuffix("'s").casefold() for word in clause.split()]
    # Naming two of them is no answer: "Ada is older than Ben" is a step, whoever is the oldest.
    found = list(dict.fromkeys(_SAME.get(w, w) if truth else w for w in said if w in names))
    return found == [expected.answer.casefold()]


_Check = Callable[[Expected, str, bool, str], bool]
_CHECKS: Mapping[AnswerKind, _Check] = {
    AnswerKind.NUMBER: _number,
    AnswerKind.SEQUENCE: _sequence,
    AnswerKind.WORD: _word,
    AnswerKind.DATE: _date,
    AnswerKind.CHOICE: _choice,
}
