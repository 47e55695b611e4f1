from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import cli.best_effort as command
from controller.errors import HeadwayError
from controller.policy import load_policy
from controller.store import ArtifactStore, shipped_models
from envs.episode import EpisodeSource
from envs.sources import LENGTH, QUALITY
from predictors.artifact import ArtifactError, load_manifest
from rl import tune
from rl.train import TrainArguments

FIGURES = {"availability", "quality", "share_of_peak", "goodput_rps", "windows_96", "windows_98", "rejected", "e2e_p99"}
QUICK = ("--prompts", "60", "--validation", "1", "--episodes", "1")
LEARN = ("--steps", "300", "--learning-starts", "100", "--checkpoints", "2", "--probes", "1", "--n-envs", "2")


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command("train")(command.train)
    app.command("eval")(command.evaluate)
    return app


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(_app(), list(arguments))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real scenario, predictors and policies, on five seconds of load and small grids; skips without predictors."""
    store = ArtifactStore(shipped_models(), None)
    try:
        for ref in (LENGTH, QUALITY):
            store.resolve(ref)
    except (HeadwayError, ArtifactError) as error:
        pytest.skip(str(error))
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tune, "_WAITS_S", (1.0,))
    monkeypatch.setattr(tune, "_SHARES", 1)
    original: Callable[..., EpisodeSource] = command._source

    def shorter(*arguments: Any, **options: Any) -> EpisodeSource:
        source = original(*arguments, **options)
        return replace(source, scenario=replace(source.scenario, duration_s=5.0, bursts=((1.0, 4.0),)))

    monkeypatch.setattr(command, "_source", shorter)


def test_the_command_line_is_the_record() -> None:
    parameters = inspect.signature(command.train).parameters
    for field in fields(TrainArguments):
        assert parameters[field.name].default == field.default, field.name
    assert set(parameters) - {field.name for field in fields(TrainArguments)} == {"out", "episodes", "json_path"}


def test_training_writes_an_artifact_that_evaluation_judges(small: None, tmp_path: Path) -> None:
    models = tmp_path / "models"
    trained = _run("train", "--out", str(models), *LEARN, *QUICK, "--json", str(tmp_path / "train.json"))
    assert trained.exit_code == 0, trained.output
    report = json.loads((tmp_path / "train.json").read_text())
    path = Path(report["artifact"]["path"])
    assert path.is_relative_to(models)
    assert load_policy(path).codec.slots == 3
    assert report["command"] == "train best-effort"
    assert {f"share_of_peak_over_{name}_bursty" for name in ("threshold", "static_mix", "feasible_best")} <= set(
        load_manifest(path).metrics
    )

    judged = _run("eval", "--artifact", str(path), *QUICK, "--json", str(tmp_path / "eval.json"))
    assert judged.exit_code == 0, judged.output
    rows = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert {row["workload"] for row in rows} == {"stable", "bursty", "unpredictable"}
    policies = {"static_small", "static_medium", "static_large", "static_mix", "threshold", "feasible_best", "learned"}
    assert {row["policy"] for row in rows} == policies
    # It was trained with other arguments than the default ones, so it is no refit of the default.
    assert {row.get("setting") for row in rows if row["policy"] == "learned"} == {"shipped"}
    for row in rows:
        assert set(row["metrics"]) >= FIGURES
        share = row["metrics"]["share_of_peak"]
        assert 0.0 <= share["lo"] <= share["value"] <= share["hi"] <= 1.0


def test_without_a_policy_it_says_how_to_train_one(small: None, tmp_path: Path) -> None:
    result = _run("eval", "--artifact", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "headway train best-effort" in " ".join(result.output.split())


def test_an_unknown_order_is_refused() -> None:
    result = _run("eval", "--order", "fastest")
    assert result.exit_code == 2
    assert "length_rank" in result.output


def test_missing_predictors_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "_store", lambda: ArtifactStore(tmp_path, None))
    result = _run("train", "--steps", "100")
    assert result.exit_code == 1
    assert "profile/h100-1b" in result.output
