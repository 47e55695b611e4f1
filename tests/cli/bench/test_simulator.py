"""``headway bench simulator``: its rows, its refusals, and that it does without public data. Never how fast it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.cli.simulate.studies import azure, profile_file

TARGETS = {
    "reference": None,
    "one_engine": 3e6,
    "16_engines_round_robin": 1e6,
    "16_engines_least_load": 1e6,
    "control_plane": 2e4,
    "environment": 2e4,
}


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADWAY_DATA", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "traces"
    folder.mkdir(parents=True)
    azure(folder / "AzureLLMInferenceTrace_conv.csv")
    return folder.parent


def _run(*arguments: str | Path) -> Any:
    tiny = ("--requests", "1000", "--repetitions", "1")
    return CliRunner().invoke(app, ["bench", "simulator", *tiny, *map(str, arguments)], env={"COLUMNS": "80"})


def _report(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    path = folder / "report.json"
    done = _run(*arguments, "--json", path)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _said(done: Any) -> str:
    return " ".join(done.output.split())


def test_a_report_has_a_row_a_case_with_its_speed_and_what_is_wanted(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("gymnasium")
    found = _report(tmp_path, "--data", data)
    assert found["command"] == "bench simulator"
    assert found["settings"]["trace"] == "AzureLLMInferenceTrace_conv.csv"
    rows = {row["case"]: row for row in found["results"]}
    assert {name: (row["metrics"]["target"] or {}).get("value") for name, row in rows.items()} == TARGETS
    for row in rows.values():
        speed, target = row["metrics"]["requests_per_s"], row["metrics"]["target"]
        assert 0 < speed["lo"] == speed["value"] == speed["hi"]
        assert row["met"] == (None if target is None else speed["value"] >= target["value"])
        assert row["what"]


def test_only_the_cases_that_were_named_are_run_and_none_needs_a_data_folder(tmp_path: Path) -> None:
    found = _report(tmp_path, "--only", "control_plane", "--only", "one_engine")
    assert [row["case"] for row in found["results"]] == ["one_engine", "control_plane"]
    assert found["settings"]["trace"] is None
    assert "made conversations" in found["results"][1]["what"]


def test_repetitions_give_a_median_between_the_slowest_and_the_fastest(tmp_path: Path) -> None:
    (row,) = _report(tmp_path, "--only", "one_engine", "--repetitions", "3")["results"]
    speed = row["metrics"]["requests_per_s"]
    assert 0 < speed["lo"] <= speed["value"] <= speed["hi"]


def test_the_table_fits_80_columns(data: Path) -> None:
    done = _run("--data", data, "--only", "16_engines_round_robin", "--only", "reference")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80
    for text in ("16_engines_round_robin", "reference", "slowest", "1 M"):
        assert text in done.output
    assert "…" not in done.output


def test_a_profile_may_be_a_file(tmp_path: Path) -> None:
    # Long enough a context for the prompts that are made.
    tiny = profile_file(tmp_path, max_model_len=4096, kv_blocks=1024)
    found = _report(tmp_path, "--profile", tiny, "--only", "one_engine")
    assert found["settings"]["profile"] == str(tiny)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--only", "two_engines"), "no case is called two_engines; there are reference, one_engine"),
        (("--data", "{folder}"), "has no traces/AzureLLMInferenceTrace_conv.csv; leave --data out"),
        (("--profile", "h100-9b"), "h100-8b"),
        (("--requests", "10"), "1000"),
    ],
)
def test_mistakes_are_told(wrong: tuple[str, str], said: str, tmp_path: Path) -> None:
    done = _run(*(part.format(folder=tmp_path) for part in wrong))
    assert done.exit_code == 2, done.output
    assert said in _said(done)
