from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cli.bench.decision import decision
from cli.bench.decision_prompts import distinct
from cli.bench.stopwatch import Stopwatch


def test_prompts_are_all_different_and_as_many_as_asked_for() -> None:
    texts = ["one two three four", "five six seven eight", "nine ten"]
    made = distinct(texts, 40, seed=0)
    assert len(set(made)) == len(made) == 40
    assert set(texts) <= set(made)
    assert made == distinct(texts, 40, seed=0)
    assert {len(text) for text in distinct(texts, 5, seed=0, chars=30)} == {30}


def test_inner_parts_are_not_counted_in_outer_ones() -> None:
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    watch = Stopwatch(2, clock=lambda: now)
    inner = watch.timed("inner", spend)

    def both(seconds: float) -> None:
        spend(1.0)
        inner(seconds)

    outer = watch.timed("outer", both)
    outer(0.5)
    watch.request = 1
    outer(0.25)
    shared = watch.timed("shared", spend, lambda seconds: [0, 1])
    shared(2.0)
    assert {part: spent.tolist() for part, spent in watch.parts.items()} == {
        "inner": [0.5, 0.25],
        "outer": [1.0, 1.0],
        "shared": [1.0, 1.0],
    }


def test_a_failure_is_measured_too() -> None:
    watch = Stopwatch(1, clock=iter([1.0, 3.0]).__next__)

    def fail() -> None:
        raise RuntimeError("as asked")

    with pytest.raises(RuntimeError):
        watch.timed("part", fail)()
    assert watch.parts["part"].tolist() == [2.0]


@pytest.mark.parametrize("tier", ["best_effort", "router"])
def test_a_short_run_scores_every_request_and_reports_every_part(
    tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADWAY_DATA", raising=False)
    monkeypatch.setattr("cli.bench.decision._RESAMPLES", 20)
    app = typer.Typer()
    app.command()(decision)
    file = tmp_path / "report.json"
    arguments = ["--rate", "40", "--seconds", "1", "--tier", tier, "--json", str(file)]
    result = CliRunner().invoke(app, arguments)
    report = json.loads(file.read_text())
    parts = {row["part"]: row["metrics"] for row in report["results"]}
    for part in ("embed", "rank", "quality", "tier", "place", "submit", "dispatch", "record", "total"):
        assert parts[part]["p50_us"]["value"] >= 0
        assert parts[part]["p99_us"]["value"] > 0
    whole = sum(row["share"]["value"] for part, row in parts.items() if part not in ("computed", "total", "total, CPU"))
    assert np.isclose(whole, 1.0)
    assert parts["computed"]["p50_us"]["value"] < parts["total"]["p50_us"]["value"]
    assert 0 < parts["computed"]["share"]["value"] < 1
    assert report["command"] == "bench decision"
    assert report["settings"]["prompts"] == "task suite"
    shares = report["scores"]
    assert np.isclose(sum(shares.values()), 1.0)
    assert shares["skipped"] == 0
    assert result.exit_code == (0 if shares["scored"] + shares["unknown"] >= 0.99 else 1)
    assert sum(report["pools"].values()) == 40


def test_an_unknown_tier_stage_is_named() -> None:
    app = typer.Typer()
    app.command()(decision)
    assert CliRunner().invoke(app, ["--tier", "pinned"]).exit_code == 2
