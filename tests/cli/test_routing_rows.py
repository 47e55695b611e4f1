"""Collected answers as a routing table, and a router trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.routing_rows import read_rows
from envs.collection import Row, write_parquet
from envs.tasks import Task, generate
from predictors.quality.model import KnnQuality
from predictors.quality.table import TableError

TASKS = list({task.content: task for task in generate(11, 340)}.values())[:300]
TOKENS = {"small": 20, "large": 50}
SECONDS = {"small": 0.2, "large": 1.0}


def answered(task: Task, model: str, right: bool, sample: int = 0) -> Row:
    return Row(
        prompt_id=task.content, prompt=task.prompt, family=task.family, level=task.level, wording=task.wording,
        model=model, answered_by=model, target="http://w", sample=sample, answer="", finish_reason="stop",
        prompt_tokens=40, output_tokens=TOKENS[model], ttft_s=0.1, e2e_s=SECONDS[model], correct=right,
        status=200, error=None,
    )  # fmt: skip


def rows() -> list[Row]:
    """``small`` knows the first two levels; ``large`` is asked twice, and fails once of two at level 4."""
    found = [answered(task, "small", task.level <= 2) for task in TASKS]
    for sample in (0, 1):
        found += [answered(task, "large", task.level < 4 or sample == 0, sample) for task in TASKS]
    return found


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[Row]], Path]:
    def write(content: list[Row]) -> Path:
        path = tmp_path / "rows.parquet"
        write_parquet(content, path, {"prompts": "tasks:train:300"})
        return path

    return write


def test_quality_is_the_share_of_right_answers_and_time_is_the_cost(written: Callable[[list[Row]], Path]) -> None:
    table = read_rows([written(rows())], None)
    assert table.models == ("small", "large")
    level_of = {task.content: task.level for task in TASKS}
    levels = np.array([level_of[prompt] for prompt in table.ids])
    assert table.quality[:, 0].tolist() == (levels <= 2).astype(float).tolist()
    assert table.quality[:, 1].tolist() == np.where(levels < 4, 1.0, 0.5).tolist()
    np.testing.assert_allclose(table.costs[:, 1] / table.costs[:, 0], 5.0)  # 1.0 s against 0.2 s
    assert [price.output_tokens for price in table.prices] == [20.0, 50.0]


def test_prompts_that_a_model_did_not_answer_are_left_out(written: Callable[[list[Row]], Path]) -> None:
    broken = [replace(row, error="gone") if row.prompt_id == TASKS[3].content else row for row in rows()]
    table = read_rows([written(broken)], None)
    assert len(table.ids) == len(TASKS) - 1
    assert TASKS[3].content not in table.ids


def test_prices_of_a_list_are_used(written: Callable[[list[Row]], Path], tmp_path: Path) -> None:
    listed = tmp_path / "prices.json"
    listed.write_text(json.dumps({m: {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2} for m in ("small", "large")}))
    table = read_rows([written(rows())], listed)
    np.testing.assert_allclose(table.costs[0], [(40 + 2 * 20) / 1e6, (40 + 2 * 50) / 1e6])
    listed.write_text("{}")
    with pytest.raises(TableError, match="prices of all"):
        read_rows([written(rows())], listed)


def test_too_little_is_refused(written: Callable[[list[Row]], Path], tmp_path: Path) -> None:
    with pytest.raises(TableError, match="--rows"):
        read_rows([], None)
    with pytest.raises(TableError, match="two models"):
        read_rows([written([row for row in rows() if row.model == "small"])], None)
    with pytest.raises(TableError, match="at least 200"):
        read_rows([written(rows()[:50])], None)
    (tmp_path / "other.parquet").write_text("no")
    with pytest.raises(TableError, match="other"):
        read_rows([tmp_path / "other.parquet"], None)


def test_a_router_is_trained_on_them(written: Callable[[list[Row]], Path], tmp_path: Path) -> None:
    path = written(rows())
    arguments = ["train", "router", "--source", "rows", "--rows", str(path), "--out", str(tmp_path), "--name", "mine"]
    result = CliRunner().invoke(app, [*arguments, "--resamples", "20"])
    assert result.exit_code == 0, result.output
    model = KnnQuality.load(tmp_path / "quality" / "mine" / "1")
    assert model.models_ == ("small", "large")
    assert "live workers" in (tmp_path / "quality" / "mine" / "1" / "card.md").read_text()
    missing = CliRunner().invoke(app, ["train", "router", "--source", "rows", "--out", str(tmp_path)])
    assert missing.exit_code == 2
    assert "--rows" in missing.output
