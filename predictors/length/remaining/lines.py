"""One line of a running answer, or as much of it as is there: what kind it is, and what is counted in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

__all__ = ["Kind", "Line", "announced", "is_fence", "kind_of", "read_line"]


class Kind(IntEnum):
    """What a line is in Markdown; ``PROSE`` where it is nothing else."""

    BLANK = 0
    PROSE = 1
    HEADING = 2
    BULLET = 3
    NUMBERED = 4
    TABLE = 5
    CODE = 6


_NUMBERED: Final = re.compile(
    r"(\d{1,3})[.)、:](?=\s|\*|$|[^\W\d_])|(?:step|part|day|week|chapter)\s+(\d{1,3})\b", re.I
)
_BULLET: Final = re.compile(r"[-*+•·◦–](?=\s|$)")
_HEADING: Final = re.compile(r"#{1,6}\s|\*\*[^*]{1,80}\*\*:?\s*$|__[^_]{1,80}__:?\s*$|[A-Z][^.!?:]{0,48}:$")
_WORD: Final = re.compile(r"[^\W\d_]+")
_WIDE: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_DIGIT: Final = re.compile(r"[0-9]")
_UPPER: Final = re.compile(r"[A-Z]")
_OTHER: Final = re.compile(r"[^\x00-\x7f]")
_SENTENCE: Final = re.compile(r"[.!?](?=\s|$|[\"')\]*])|[。！？]")
_CONCLUSION: Final = re.compile(
    r"\b(?:in (?:conclusion|summary|short|closing|the end)|to (?:conclude|summari[sz]e|sum up)|overall|ultimately|"
    r"finally|lastly|therefore|thus|hence|by (?:following|using|doing|considering)|remember|conclusion|summary|"
    r"as a result|(?:the )?(?:final )?answer is|total)\b|总之|综上|因此|最后"
)
_CLOSING: Final = re.compile(
    r"\b(?:hope (?:this|that|it)|let me know|feel free|good luck|happy to help|if you (?:have|need|would like|want)|"
    r"(?:please )?don't hesitate|best regards|sincerely|kind regards|yours|the end|fade (?:out|to black)|"
    r"q\.?e\.?d|enjoy|would you like|stay tuned|thank(?:s| you))\b|希望|祝你"
)
_NUMBERS: Final = {
    word: value
    for value, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )
} | {"fifteen": 15, "twenty": 20, "a few": 4, "several": 5, "some": 6}
_ANNOUNCED: Final = re.compile(
    r"\b(\d{1,3}|" + "|".join(_NUMBERS) + r")\s+(?:[\w-]+\s+){0,3}?"
    r"(?:ways|steps|tips|examples?|reasons|points|things|ideas|questions|options|methods|types|factors|items|names|"
    r"categories|benefits|strategies|suggestions|key|main|common|possible|different|words|sentences|titles|titulos|facts|"
    r"exercises|recipes|books|movies|songs|features|approaches|techniques|principles|days|stages|phases|parts|sections)\b"
)


@dataclass(frozen=True, slots=True)
class Line:
    """Counts of a line or a part of one; ``conclusion`` and ``closing`` are the characters after the last such phrase,
    -1 without one. ``number`` is a numbered item's own, 0 for another line."""

    kind: Kind
    chars: int
    words: tuple[str, ...]
    sentences: int
    questions: int
    digits: int
    upper: int
    wide: int
    other: int
    bold: int
    conclusion: int
    closing: int
    number: int
    announced: int
    colon: bool


def is_fence(text: str) -> bool:
    """Whether the line opens or closes a block of code."""
    start = text.lstrip()
    return start.startswith(("```", "~~~"))


def kind_of(text: str, in_code: bool) -> tuple[Kind, int]:
    """The kind of a line by how it begins, and a numbered item's number."""
    start = text.strip()
    if in_code:
        return Kind.CODE, 0
    if not start:
        return Kind.BLANK, 0
    if start[0] == "|":
        return Kind.TABLE, 0
    found = _NUMBERED.match(start.lstrip("#* "))
    if found:
        return Kind.NUMBERED, int(found[1] or found[2])
    if _HEADING.match(start):
        return Kind.HEADING, 0
    return (Kind.BULLET, 0) if _BULLET.match(start) else (Kind.PROSE, 0)


def announced(text: str) -> int:
    """How many things a line, in lower case, says will follow ("here are five ways"); 0 where it does not say."""
    found = _ANNOUNCED.search(text)
    if found is None:
        return 0
    return int(found[1]) if found[1].isdigit() else _NUMBERS[found[1]]


def read_line(text: str, kind: Kind, number: int) -> Line:
    """Count what is in ``text``, of a line whose kind is known."""
    code = kind is Kind.CODE
    plain, lower = text.isascii(), text.lower()
    return Line(
        kind=kind,
        chars=len(text),
        words=tuple(_WORD.findall(lower)),
        sentences=0 if code else len(_SENTENCE.findall(text)),
        questions=text.count("?"),
        digits=len(_DIGIT.findall(text)),
        upper=0 if code else len(_UPPER.findall(text)),
        wide=0 if plain else len(_WIDE.findall(text)),
        other=0 if plain else len(_OTHER.findall(text)),
        bold=text.count("**"),
        conclusion=-1 if code else _after(_CONCLUSION, lower),
        closing=-1 if code else _after(_CLOSING, lower),
        number=number,
        announced=0 if code else announced(lower),
        colon=text.rstrip().endswith((":", "：")),
    )


def _after(pattern: re.Pattern[str], text: str) -> int:
    end = -1
    for found in pattern.finditer(text):
        end = found.start()
    return -1 if end < 0 else len(text) - end
