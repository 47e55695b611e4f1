"""The load behind a measurement of headway, to be replayed: CSV with a row for each request that was sent.

Columns: ``arrival`` (seconds), ``prompt_tokens``, ``output_tokens``, and what was measured of it; ``error`` is empty
where the request was answered.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from envs.traces.reading import TraceError, opened, ordered, parsed, part, requests_only
from envs.workloads import Arrival, Lengths

COLUMNS = ("arrival", "prompt_tokens", "output_tokens")


def read_measured(path: Path, *, start: int = 0, limit: int | None = None) -> Iterator[Arrival]:
    """Arrivals of a measurement from request ``start`` on; the first of them comes at 0 s. Failures are left out."""
    return part(ordered(path, requests_only(_rows(path))), start, limit)


def _rows(path: Path) -> Iterator[Arrival]:
    with opened(path) as file:
        rows = csv.DictReader(file)
        if missing := set(COLUMNS) - set(rows.fieldnames or ()):
            raise TraceError(f"{path}: no column {', '.join(sorted(missing))}; a measurement has {COLUMNS}")
        for row in rows:
            if not row.get("error"):
                yield parsed(path, rows.line_num, row, _arrival)


def _arrival(row: dict[str, str]) -> Arrival:
    return Arrival(float(row["arrival"]), lengths=Lengths(int(row["prompt_tokens"]), int(row["output_tokens"])))
