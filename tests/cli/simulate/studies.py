"""Tiny traces, a tiny fleet, and the command run on them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from cli.main import app
from predictors.latency.model import Profile

Row = tuple[float, int, int]
"""Seconds, prompt tokens, output tokens."""
STEADY: list[Row] = [(0.5 * i, 100 + i, 5 + i % 7) for i in range(20)]


def profile(**changes: Any) -> Profile:
    """An engine whose every step takes 10 ms, and a millisecond more for each sequence."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": "tiny-model",
        "a": 0.01,
        "b": 0.0,
        "c": 0.001,
        "d": 0.0,
        "request_overhead_s": 0.0,
        "token_overhead_s": 0.0,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 2048,
        "kv_blocks": 256,
        "block_size": 16,
        "max_model_len": 1024,
        "cold_start_s": 1.0,
        "sleep_s": 1.0,
        "wake_s": 1.0,
        "usd_per_hour": 3.6,
    }
    return Profile(**{**values, **changes})


def profile_file(folder: Path, **changes: Any) -> Path:
    """The same, as a JSON file."""
    chosen = profile(**changes)
    path = folder / f"{chosen.name}.json"
    path.write_text(chosen.to_json(), encoding="utf-8")
    return path


def azure(path: Path, rows: Iterable[Row] = STEADY) -> Path:
    """A trace in Azure's format."""
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for at, prompt, output in rows:
        lines.append(f"2023-11-16 18:{int(at // 60):02}:{at % 60:010.7f},{prompt},{output}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(*arguments: str | Path) -> Any:
    """``headway simulate`` with these arguments."""
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def said_by(result: Any) -> str:
    """What a run printed, without its line breaks."""
    return " ".join(result.output.split())


def report(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    """The report of a run that must succeed."""
    path = folder / "report.json"
    done = run(*arguments, "--json", path)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def metrics(report: dict[str, Any], policy: str) -> dict[str, float | None]:
    """A policy's values by name."""
    (row,) = (row for row in report["results"] if row["policy"] == policy)
    return {name: None if metric is None else metric["value"] for name, metric in row["metrics"].items()}
