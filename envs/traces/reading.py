"""What all readers of traces share: the error, opening, rows in order, and JSON arrays that are too big to load."""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from envs.workloads import Arrival

_Row = TypeVar("_Row")
_CHUNK = 1 << 16
_WINDOW = 256
"""Rows among which the order in time may be broken, as it is where several machines wrote one log."""
_CHARS_PER_TOKEN = 4.0

TokenCount = Callable[[str], int]
"""How many tokens a text has."""


class TraceError(ValueError):
    """A trace file is not what it should be. Names the file, the line and what was expected."""


def estimated_tokens(text: str) -> int:
    """A token for every four characters, and one at least: a rule of thumb where no tokenizer is at hand."""
    return max(1, round(len(text) / _CHARS_PER_TOKEN))


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A text file, unpacked on the way if its name ends in ``.gz``. Raises ``TraceError`` where it cannot be read."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as file
        ):
            yield cast("TextIO", file)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers; empty lines are passed over."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = parsed(path, number, line, json.loads)
            if not isinstance(row, dict):
                raise TraceError(f"{path}, line {number}: not a JSON object")
            yield number, row


def json_array(path: Path) -> Iterator[Any]:
    """The elements of a file that is one JSON array, one at a time; what is held is one element and a chunk."""
    decoder, number = json.JSONDecoder(), 0
    with opened(path) as file:
        text, place = file.read(_CHUNK).lstrip(), 1
        if not text.startswith("["):
            raise TraceError(f"{path}: not a JSON array")
        while True:
            place = _skip(text, place, ", \t\r\n")
            if text.startswith("]", place):
                return
            try:
                element, end = decoder.raw_decode(text, place)
            except json.JSONDecodeError:
                end = len(text)
            if text.startswith((",", "]"), end := _skip(text, end, " \t\r\n")):
                yield element
                number, place = number + 1, end
                continue
            more = file.read(max(_CHUNK, len(text) - place))
            if not more:
                raise TraceError(f"{path}: the JSON array is damaged or cut short after {number} elements")
            text, place = text[place:] + more, 0


def _skip(text: str, place: int, over: str) -> int:
    while place < len(text) and text[place] in over:
        place += 1
    return place


def parsed(path: Path, number: int, row: _Row, parse: Callable[[_Row], Any]) -> Any:
    """A row through its parser; what goes wrong in it becomes a ``TraceError`` that names the line."""
    try:
        return parse(row)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{path}, line {number}: not a row of this trace: {error!r}") from error


def part(source: Iterable[Arrival], start: int, limit: int | None) -> Iterator[Arrival]:
    """Requests from number ``start`` on, no more than ``limit``; the first of them comes at 0 s."""
    return _from_zero(islice(source, start, None if limit is None else start + limit))


def requests_only(source: Iterable[Arrival]) -> Iterator[Arrival]:
    """Without the rows that asked or answered nothing: public traces log failures with 0 tokens."""
    return (arrival for arrival in source if (s := arrival.lengths) and s.prompt_tokens > 0 and s.output_tokens > 0)


def ordered(path: Path, source: Iterable[Arrival]) -> Iterator[Arrival]:
    """Rows sorted by time within a window of 256; raises ``TraceError`` where one is further from its place."""
    waiting: list[tuple[float, int, Arrival]] = []
    last = float("-inf")
    for number, arrival in enumerate(source):
        if len(waiting) < _WINDOW:
            heapq.heappush(waiting, (arrival.at, number, arrival))
            continue
        at, _, first = heapq.heappushpop(waiting, (arrival.at, number, arrival))
        if at < last:
            raise TraceError(
                f"{path}: out of order: a request comes {last - at:.3f} s before one {_WINDOW} rows above it"
            )
        last = at
        yield first
    yield from (arrival for _, _, arrival in sorted(waiting))


def _from_zero(source: Iterable[Arrival]) -> Iterator[Arrival]:
    first: float | None = None
    for arrival in source:
        first = arrival.at if first is None else first
        yield replace(arrival, at=arrival.at - first)
