from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cli.report import Report


@dataclass(frozen=True)
class Estimate:
    value: float
    lo: float
    hi: float


def _report() -> Report:
    report = Report("eval length", seed=3, settings={"folds": 5})
    report.row({"predictor": "fast", "source": "all"}, {"tau_b": Estimate(0.3, 0.2, 0.4), "n": 12, "mae": None})
    return report


def test_a_report_is_one_object_of_rows_with_labels_and_metrics(tmp_path: Path) -> None:
    report = _report()
    report.extra("ratios", {"tau_b": 1.5})
    report.write(tmp_path / "deep" / "report.json")
    written = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert written["command"] == "eval length"
    assert written["seed"] == 3
    assert written["settings"] == {"folds": 5}
    assert written["ratios"] == {"tau_b": 1.5}
    (row,) = written["results"]
    assert row["predictor"] == "fast"
    assert row["metrics"]["tau_b"] == {"value": 0.3, "lo": 0.2, "hi": 0.4}
    assert row["metrics"]["n"] == {"value": 12.0, "lo": 12.0, "hi": 12.0}
    assert row["metrics"]["mae"] is None


def test_no_path_writes_nothing() -> None:
    _report().write(None)


def test_the_table_shows_intervals_only_where_there_are_some() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    _report().show(console, "Length")
    text = console.export_text()
    assert "0.3 [0.2, 0.4]" in text
    assert "12" in text
    assert "–" in text
