"""BurstGPT (CC-BY-4.0): months of ChatGPT and GPT-4 use at a campus, CSV.

Columns: ``Timestamp`` (seconds), ``Model``, ``Request tokens``, ``Response tokens``, ``Total tokens`` and ``Log Type``;
the third part (release v2.0) has ``Session ID`` and ``Elapsed time`` in between, so columns are found by name.
Documented in the README of github.com/HPMLL/BurstGPT. A failure has 0 response tokens; the API log has no session.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from envs.traces.reading import TraceError, opened, ordered, parsed, part, requests_only
from envs.workloads import Arrival, Lengths

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")


def read_burstgpt(path: Path, *, start: int = 0, limit: int | None = None) -> Iterator[Arrival]:
    """Arrivals of a BurstGPT trace from request ``start`` on; the first of them comes at 0 s.

    The tenant is the model that was called. Failures are left out. Sessions have no prefix: the trace does not say
    what a turn repeats.
    """
    return part(ordered(path, requests_only(_rows(path))), start, limit)


def _rows(path: Path) -> Iterator[Arrival]:
    with opened(path) as file:
        rows = csv.DictReader(file)
        if missing := set(COLUMNS) - set(rows.fieldnames or ()):
            raise TraceError(f"{path}: no column {', '.join(sorted(missing))}; a BurstGPT trace has {COLUMNS}")
        for row in rows:
            yield parsed(path, rows.line_num, row, _arrival)


def _arrival(row: dict[str, str]) -> Arrival:
    lengths = Lengths(_tokens(row["Request tokens"]), _tokens(row["Response tokens"]))
    session = row.get("Session ID") or None
    return Arrival(float(row["Timestamp"]), lengths=lengths, tenant=row["Model"] or "default", session=session)


def _tokens(text: str) -> int:
    return int(float(text))
