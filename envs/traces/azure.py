"""Azure's LLM inference traces (CC-BY-4.0): 2023 an hour of chat and of code, 2024 a week of each.

Columns: ``TIMESTAMP``, ``ContextTokens``, ``GeneratedTokens``; documented in AzureLLMInferenceDataset2023.md and
AzureLLMInferenceDataset2024.md of github.com/Azure/AzurePublicDataset. The 2025 multimodal trace has a further column,
which is passed over. 2023 time stamps have seven decimals and no zone; those of 2024 have a zone, and no decimals where
they would be 0.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from envs.traces.reading import TraceError, opened, ordered, parsed, part, requests_only
from envs.workloads import Arrival, Lengths

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_azure(path: Path, *, start: int = 0, limit: int | None = None) -> Iterator[Arrival]:
    """Arrivals of an Azure trace from request ``start`` on; the first of them comes at 0 s. Times to a microsecond."""
    return part(ordered(path, requests_only(_rows(path))), start, limit)


def _rows(path: Path) -> Iterator[Arrival]:
    with opened(path) as file:
        rows = csv.reader(file)
        head = next(rows, [])
        if missing := set(COLUMNS) - set(head):
            raise TraceError(f"{path}: no column {', '.join(sorted(missing))}; an Azure trace has {COLUMNS}")
        at, prompt, output = (head.index(name) for name in COLUMNS)

        def arrival(row: list[str]) -> Arrival:
            return Arrival(_seconds(row[at]), lengths=Lengths(int(row[prompt]), int(row[output])))

        for row in rows:
            if row:
                yield parsed(path, rows.line_num, row, arrival)


def _seconds(stamp: str) -> float:
    when = datetime.fromisoformat(stamp)
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH).total_seconds()
