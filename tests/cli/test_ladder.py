"""``headway train ladder``: a few steps on this machine, end to end, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from predictors.artifact import verify

runner = CliRunner()


def train(folder: Path, *options: str) -> list[str]:
    places = ["--out", str(folder / "models"), "--state", str(folder / "state")]
    return ["train", "ladder", "--device", "cpu", "--validation", "3", "--batch-tokens", "1408", *places, *options]


def test_the_smallest_trains_here_for_a_few_steps(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ("--model", "small", "--steps", "3", "--practice", "0.5", "--noise", "0.1", "--learning-rate", "0.002")
    result = runner.invoke(app, train(tmp_path, *options, "--json", str(report)))
    assert result.exit_code == 0, result.output
    manifest = verify(tmp_path / "models" / "ladder" / "small")
    recipe = manifest.settings["recipe"]
    assert (recipe["steps"], recipe["practice"], recipe["noise"], recipe["learning_rate"]) == (3, 0.5, 0.1, 0.002)
    assert "--steps 3 --batch-tokens 1408" in (tmp_path / "models" / "ladder" / "small" / "card.md").read_text()
    row = json.loads(report.read_text())["results"][0]
    assert row["model"] == "small"
    assert 0.0 <= row["metrics"]["accuracy"]["value"] <= 1.0
    assert not list((tmp_path / "state").iterdir())
    again = runner.invoke(app, train(tmp_path, "--model", "small", "--steps", "3"))
    assert again.exit_code == 2
    assert "--force" in again.output


@pytest.mark.parametrize(
    ("options", "word"), [(["--model", "huge"], "small, medium, large"), (["--device", "tpu"], "cpu, cuda or auto")]
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: list[str], word: str) -> None:
    result = runner.invoke(app, [*train(tmp_path), *options])
    assert result.exit_code == 2
    assert word in " ".join(result.output.split())
