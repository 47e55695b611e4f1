"""``headway train remaining`` and ``headway eval remaining`` on a small made-up data folder."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli import length_remaining
from cli.length_remaining import evaluate, train
from predictors.artifact import load_manifest
from predictors.length.remaining import train as remaining_train
from predictors.length.remaining.model import RemainingLength
from predictors.length.train import FastRanker
from tests.predictors.length import samples
from tests.predictors.length.remaining.samples import SMALL, answers


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADWAY_DATA", raising=False)
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remaining_train, "RemainingSettings", lambda seed: SMALL)
    known = {name: length_remaining._KNOWN[name] for name in ("prompt", length_remaining._OTHERS)}
    monkeypatch.setattr(length_remaining, "_KNOWN", known)
    monkeypatch.setattr(remaining_train, "FastRanker", lambda: FastRanker(samples.SMALL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the public data: prompts, the lengths of answers, and the answers."""
    made = answers(120)
    ids = [f"p{i // 2}" for i in range(len(made))]
    prompts = {row: f"Name ways to do {row}, number {i}" for i, row in enumerate(ids)}
    _write(tmp_path, "prompts", ("prompt_id", "prompt"), prompts.items())
    _write(
        tmp_path, "lengths", ("prompt_id", "model", "output_tokens"), zip(ids, made.models, made.tokens, strict=True)
    )
    _write(tmp_path, "answers", ("prompt_id", "model", "answer"), zip(ids, made.models, made.texts, strict=True))
    return tmp_path


def _write(folder: Path, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    path = folder / "lengths" / f"arena_{name}.csv.gz"
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def run(command: Any, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", [train, evaluate])
def test_missing_data_is_said_plainly(command: Any) -> None:
    result = run(command)
    assert result.exit_code == 2
    assert "arena_answers" in result.output


@pytest.mark.timeout(300)
def test_train_writes_an_artifact_that_eval_judges_on_what_was_held_out(folder: Path, tmp_path: Path) -> None:
    models, report = tmp_path / "models", tmp_path / "report.json"
    quick = ("--data", str(folder), "--folds", "2", "--resamples", "20", "--json", str(report))
    result = run(train, "--out", str(models), "--held-out", "0.3", *quick)
    assert result.exit_code == 0, result.output
    artifact = models / "length" / "remaining" / "1"
    manifest = load_manifest(artifact)
    kept = manifest.held_out["arena"]["groups"]
    assert 5 <= len(kept) <= 40
    assert manifest.data[0].rows == 120 - 2 * len(kept)
    assert RemainingLength.load(artifact).begin(0.5).latest.expected > 0

    result = run(evaluate, "--artifact", str(artifact), *quick)
    assert result.exit_code == 0, result.output
    rows = json.loads(report.read_text())["results"]
    assert {row["predictor"] for row in rows} == {"remaining", "no_memory", "trail", "prompt_only", "shipped"}
    assert {row.get("known") for row in rows} == {"prompt_and_model", "prompt", "other_answers", None}
    held = [row for row in rows if row.get("split") == "held_out" and row["tokens"] == 16]
    assert [row["metrics"]["answers"]["value"] for row in held] == [2 * len(kept)]
    assert rows[-1]["metrics"]["update_us_p50"]["value"] > 0
