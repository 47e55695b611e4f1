"""The one shape of every ``--json`` report, and its table on the terminal."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table


class IntervalLike(Protocol):
    """An estimate with its 95 % interval."""

    @property
    def value(self) -> float: ...
    @property
    def lo(self) -> float: ...
    @property
    def hi(self) -> float: ...


Metric = IntervalLike | float | None
Label = str | int | float | bool | None


def headway_version() -> str:
    """The installed version, or ``unknown`` in a checkout that was not installed."""
    try:
        return version("headway")
    except PackageNotFoundError:
        return "unknown"


def _as_json(metric: Metric) -> dict[str, float | None] | None:
    """What is infinite or no number becomes null: JSON has no word for it."""
    if metric is None:
        return None
    if isinstance(metric, int | float):
        value = _finite(metric)
        return {"value": value, "lo": value, "hi": value}
    return {"value": _finite(metric.value), "lo": _finite(metric.lo), "hi": _finite(metric.hi)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _as_text(value: Metric | Label) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float):
        return f"{value:.4g}"
    if value.lo == value.hi:
        return f"{value.value:.4g}"
    return f"{value.value:.4g} [{value.lo:.4g}, {value.hi:.4g}]"


@dataclass
class Report:
    """Rows of labelled metrics. ``settings`` is what would reproduce the run."""

    command: str
    seed: int | None
    settings: Mapping[str, Any]
    results: list[tuple[dict[str, Label], dict[str, Metric]]] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)

    def row(self, labels: Mapping[str, Label], metrics: Mapping[str, Metric]) -> None:
        """Append a row; a metric without an interval is written with ``lo = hi = value``."""
        self.results.append((dict(labels), dict(metrics)))

    def extra(self, key: str, value: object) -> None:
        """Add a further top-level key."""
        self.extras[key] = value

    def as_dict(self) -> dict[str, Any]:
        """The report as it is written."""
        rows = [
            {**labels, "metrics": {name: _as_json(metric) for name, metric in metrics.items()}}
            for labels, metrics in self.results
        ]
        head = {"command": self.command, "version": headway_version(), "seed": self.seed}
        return {**head, "settings": dict(self.settings), "results": rows, **self.extras}

    def write(self, path: Path | None) -> None:
        """Write the JSON file in one piece; nothing if ``path`` is ``None``."""
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(self.as_dict(), file, indent=1, default=str)
            file.write("\n")
        Path(name).replace(path)
        path.chmod(0o644)

    def table(self, title: str, columns: Sequence[str] | None = None) -> Table:
        """A rich table: one column a label, one a metric."""
        labels = list(dict.fromkeys(name for row, _ in self.results for name in row))
        metrics = list(columns or dict.fromkeys(name for _, row in self.results for name in row))
        table = Table(title=title)
        for name in labels:
            table.add_column(name)
        for name in metrics:
            table.add_column(name, justify="right")
        for row, values in self.results:
            table.add_row(*(_as_text(row.get(n)) for n in labels), *(_as_text(values.get(n)) for n in metrics))
        return table

    def show(self, console: Console, title: str, columns: Sequence[str] | None = None) -> None:
        """Print the table."""
        console.print(self.table(title, columns))
