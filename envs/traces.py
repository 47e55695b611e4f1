"""Readers of public request traces: Azure's LLM inference trace (CSV) and Mooncake's (JSON lines)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from envs.workloads import Arrival, Lengths

_Row = TypeVar("_Row")
_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceError(ValueError):
    """A trace file is not what it should be. Names the file, the line and what was expected."""


def read_azure(path: Path, *, start: int = 0, limit: int | None = None) -> Iterator[Arrival]:
    """Arrivals of Azure's trace from data row ``start`` on; the first of them comes at 0 s.

    Source: AzureLLMInferenceTrace (CC-BY-4.0). Time stamps have seven decimals; rows are in order of time.
    """
    return _from_zero(islice(_azure(path), start, None if limit is None else start + limit))


def read_mooncake(path: Path, *, start: int = 0, limit: int | None = None) -> Iterator[Arrival]:
    """Arrivals of Mooncake's trace from line ``start`` on; the first of them comes at 0 s.

    ``hash_ids``, one per 512 tokens of the prompt, become the prefix. Many rows share a time stamp (milliseconds).
    """
    return _from_zero(islice(_mooncake(path), start, None if limit is None else start + limit))


def stretched(source: Iterable[Arrival], factor: float) -> Iterator[Arrival]:
    """All times, deadlines excepted, multiplied: 0.5 doubles the rate."""
    if not factor > 0:
        raise ValueError(f"the factor must be above 0, not {factor}")
    return (replace(arrival, at=arrival.at * factor) for arrival in source)


def at_rate(source: Iterable[Arrival], rate: float) -> list[Arrival]:
    """Times scaled so that the mean rate is ``rate`` requests per second; reads the source to its end."""
    rows = list(source)
    if len(rows) < 2 or rows[-1].at <= 0 or not rate > 0:
        raise ValueError("a mean rate needs at least two arrivals at different times, and a rate above 0")
    return list(stretched(rows, (len(rows) - 1) / (rate * rows[-1].at)))


def _from_zero(source: Iterator[Arrival]) -> Iterator[Arrival]:
    first: float | None = None
    for arrival in source:
        first = arrival.at if first is None else first
        yield replace(arrival, at=arrival.at - first)


def _azure(path: Path) -> Iterator[Arrival]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := set(_AZURE_COLUMNS) - set(rows.fieldnames or ()):
            raise TraceError(f"{path}: no column {', '.join(sorted(missing))}; an Azure trace has {_AZURE_COLUMNS}")
        for row in rows:
            yield _parsed(path, rows.line_num, row, _azure_arrival)


def _azure_arrival(row: dict[str, str]) -> Arrival:
    whole, _, fraction = row["TIMESTAMP"].partition(".")
    at = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")
    return Arrival(at, lengths=Lengths(int(row["ContextTokens"]), int(row["GeneratedTokens"])))


def _mooncake(path: Path) -> Iterator[Arrival]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(path, number, line, _mooncake_arrival)


def _mooncake_arrival(line: str) -> Arrival:
    row = json.loads(line)
    lengths = Lengths(int(row["input_length"]), int(row["output_length"]), tuple(map(int, row.get("hash_ids", ()))))
    return Arrival(float(row["timestamp"]) / 1000.0, lengths=lengths)


def _parsed(path: Path, number: int, row: _Row, parse: Callable[[_Row], Arrival]) -> Arrival:
    try:
        return parse(row)
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{path}, line {number}: not a row of this trace: {error!r}") from error
