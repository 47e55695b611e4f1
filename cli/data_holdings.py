"""What a data folder holds: every file that is a trace or a known table, with its format, licence and rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet", ".gz"})
_CELL_CHARS = 1 << 24


class Counter(Protocol):
    """Is told of rows as they pass."""

    def each(self, rows: Iterable[Any]) -> Iterator[Any]:
        """The same rows."""
        ...


@dataclass(frozen=True, slots=True)
class Holding:
    """A file or a client pool. ``rows`` is ``None`` where they cannot be counted; ``size`` is in bytes."""

    path: Path
    format: str
    licence: str
    rows: int | None
    size: int


def holdings(folder: Path, counter: Counter) -> Iterator[Holding]:
    """Everything in a folder that could be data, by path; hidden files are passed over."""
    from envs.traces.clients import is_pool

    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not is_pool(path):
            yield from holdings(path, counter)
        elif path.is_dir() or path.suffix in _SUFFIXES:
            yield _holding(path, counter)


def _holding(path: Path, counter: Counter) -> Holding:
    from envs.traces import TraceError, detected
    from envs.traces.catalogue import BY_FILE

    known = BY_FILE.get(path.name)
    size = sum(one.stat().st_size for one in path.iterdir()) if path.is_dir() else path.stat().st_size
    format, licence = (known.format, known.licence) if known else ("unknown", "unknown")
    rows: int | None = None
    with suppress(TraceError, ValueError, csv.Error):
        if known is None:
            format, licence = detected(path).name, _noted(path)
        rows = sum(1 for _ in counter.each(_rows(path)))
    return Holding(path, format, licence, rows, size)


def _noted(path: Path) -> str:
    """The licence that a trace of our own carries."""
    from envs.traces.stored import note

    return note(path).get("licence", "unknown") if path.is_file() else "unknown"


def _rows(path: Path) -> Iterator[Any]:
    """Rows as the file has them: lines of CSV without its head, objects of JSON; of a pool, its clients."""
    from envs.traces.reading import json_array, json_lines, opened
    from envs.traces.stored import is_parquet, parquet_rows

    if path.is_dir():
        yield from path.glob("chunk-*-trace.csv")
        return
    if is_parquet(path):
        yield from range(parquet_rows(path))
        return
    if path.name.removesuffix(".gz").endswith(".csv"):
        csv.field_size_limit(_CELL_CHARS)
        with opened(path) as file:
            rows = csv.reader(file)
            next(rows, None)
            yield from rows
        return
    with opened(path) as file:
        array = file.read(64).lstrip().startswith("[")
    yield from json_array(path) if array else json_lines(path)
