from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner

from cli.length import evaluate, train
from envs.answers import token_texts
from envs.tasks import generate
from predictors.artifact import load_manifest, verify
from predictors.length.model import FastLength

QUICK = ["--tasks", "60", "--resamples", "100", "--least", "20"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADWAY_DATA", raising=False)
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))


def run(command: Any, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def data_folder(folder: Path) -> Path:
    """Two models' answers to 90 prompts, in the files of the arena lengths."""
    (folder / "lengths").mkdir(parents=True)
    tasks = generate(5, 90)
    prompts = [{"prompt_id": str(i), "source": "s", "prompt": task.prompt} for i, task in enumerate(tasks)]
    lengths = [
        {"prompt_id": str(i), "model": model, "output_tokens": str(scale * len(token_texts(task.worked)))}
        for i, task in enumerate(tasks)
        for model, scale in (("a", 1), ("b", 3))
    ]
    for name, rows in (("arena_prompts", prompts), ("arena_lengths", lengths)):
        with gzip.open(folder / "lengths" / f"{name}.csv.gz", "wt", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return folder


def collected(path: Path) -> Path:
    tasks = generate(6, 60)
    lengths = [len(token_texts(task.worked)) for task in tasks]
    columns = {"prompt": [task.prompt for task in tasks], "model": ["m"] * 60, "output_tokens": lengths}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "error": pyarrow.nulls(60, pyarrow.string())}), path)
    return path


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["predictor"], row["source"]): row for row in json.loads(path.read_bytes())["results"]}


def test_training_writes_an_artifact_that_loads_and_is_judged_on_what_it_never_saw(tmp_path: Path) -> None:
    data, out = data_folder(tmp_path / "data"), tmp_path / "models"
    arguments = ["--data", str(data), "--out", str(out), "--folds", "2", *QUICK]
    done = run(train, *arguments, "--json", str(tmp_path / "train.json"))
    assert done.exit_code == 0, done.output
    ref = json.loads((tmp_path / "train.json").read_bytes())["artifact"]["ref"]
    manifest = verify(out / ref)
    FastLength.load(out / ref)
    assert {"tau_b", "tau_b_arena", "tau_b_tasks", "held_out_tau_b_arena"} <= manifest.metrics.keys()
    assert {source.name for source in manifest.data} == {"arena", "tasks"}
    held_out = set(manifest.held_out["arena"]["groups"])
    assert 0 < len(held_out) == 90 - next(s.rows for s in manifest.data if s.name == "arena")

    arguments = ["--source", "arena", "--data", str(data), "--artifact", str(out / ref), "--folds", "2", *QUICK]
    judged = run(evaluate, *arguments, "--json", str(tmp_path / "eval.json"))
    assert judged.exit_code == 0, judged.output
    rows = rows_of(tmp_path / "eval.json")
    assert rows["shipped", "arena"]["metrics"]["prompts"]["value"] == len(held_out)
    assert rows["shipped", "arena"]["setting"] == "shipped"


def test_evaluation_has_a_row_for_each_predictor_and_source(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    rows_file = collected(tmp_path / "rows.parquet")
    arguments = ["--data", str(data), "--rows", str(rows_file), "--folds", "2", *QUICK]
    done = run(evaluate, *arguments, "--json", str(tmp_path / "f.json"))
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "f.json").read_bytes())
    assert (document["command"], document["seed"]) == ("eval length", 0)
    rows = rows_of(tmp_path / "f.json")
    assert {source for _, source in rows} == {"arena", "tasks", "rows", "all"}
    predictors = {"fast", "lexical", "wordllama", "prompt_length", "max_tokens", "oracle"}
    assert {name for name, source in rows if source == "all"} == predictors
    fast = rows["fast", "all"]
    assert fast["setting"] == "default"
    tau = fast["metrics"]["tau_b"]
    assert 0.2 < tau["lo"] <= tau["value"] <= tau["hi"] < 1.0
    assert fast["metrics"]["models"]["value"] == 4
    assert fast["metrics"]["latency_us_p50"]["value"] > 0
    assert rows["oracle", "arena"]["metrics"]["tau_b"]["value"] == pytest.approx(1.0, abs=1e-6), "the models agree"
    assert rows["max_tokens", "tasks"]["metrics"]["tau_b"] is None, "no prompt has a limit"


def test_the_same_seed_gives_the_same_report_but_for_time(tmp_path: Path) -> None:
    reports = []
    for name in ("a.json", "b.json"):
        done = run(evaluate, "--source", "tasks", "--folds", "2", *QUICK, "--json", str(tmp_path / name))
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / name).read_bytes())
        for row in report["results"]:
            row["metrics"].pop("latency_us_p50")
        reports.append(report)
    assert reports[0] == reports[1]


def test_versions_count_on_and_the_home_is_the_default(tmp_path: Path) -> None:
    for _ in range(2):
        done = run(train, "--source", "tasks", "--name", "mine", "--folds", "2", *QUICK)
        assert done.exit_code == 0, done.output
    folder = tmp_path / "home" / "models" / "length" / "mine"
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "2"]
    assert load_manifest(folder / "2").held_out["tasks"]["split"] == "test"


@pytest.mark.parametrize("command", [train, evaluate])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "HEADWAY_DATA"),
        (["--data", "nowhere"], "arena_lengths"),
        (["--source", "rows"], "--rows"),
        (["--source", "rows", "--rows", "nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_what_is_missing_is_said(command: Any, arguments: list[str], said: str) -> None:
    done = run(command, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr.replace("\n", "")


def test_too_few_rows_are_said(tmp_path: Path) -> None:
    columns = {"prompt": [f"p{i}" for i in range(8)], "model": ["m"] * 8, "output_tokens": list(range(8))}
    few = pyarrow.table({**columns, "error": pyarrow.nulls(8, pyarrow.string())})
    pyarrow.parquet.write_table(few, tmp_path / "few.parquet")
    done = run(train, "--source", "rows", "--rows", str(tmp_path / "few.parquet"), *QUICK)
    assert done.exit_code == 2
    assert "too few" in done.stderr


def test_a_tampered_artifact_is_refused(tmp_path: Path) -> None:
    assert (
        run(train, "--source", "tasks", "--out", str(tmp_path / "m"), "--name", "t", "--folds", "2", *QUICK).exit_code
        == 0
    )
    folder = tmp_path / "m" / "length" / "t" / "1"
    (folder / "tables.json").write_bytes(b"{}")
    done = run(evaluate, "--source", "tasks", "--artifact", str(folder), *QUICK)
    assert done.exit_code == 1
    assert "tables.json" in done.stderr.replace("\n", "")
