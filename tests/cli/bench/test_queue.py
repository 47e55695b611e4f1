"""``headway bench queue``: its rows, its refusals, and that what is measured is a queue in the order of keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.bench.queue import _empty, _interval, _work
from cli.main import app
from controller.protocols import Resources
from controller.stages import Catalogue, names


def _run(*arguments: str | Path) -> Any:
    tiny = ("--queued", "200", "--operations", "100", "--repetitions", "2")
    return CliRunner().invoke(app, ["bench", "queue", *tiny, *map(str, arguments)], env={"COLUMNS": "80"})


def test_a_report_has_a_row_for_every_order_and_queue_with_an_interval(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = _run("--json", path)
    assert done.exit_code == 0, done.output
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["command"] == "bench queue"
    assert found["settings"]["queued"] == 200
    rows = [(row["order"], row["queue"]) for row in found["results"]]
    assert rows == [(order, queue) for order in names("order") for queue in ("heap", "pool", "keyed")]
    for row in found["results"]:
        speed = row["metrics"]["push_pop_per_s"]
        assert 0 < speed["lo"] <= speed["value"] <= speed["hi"]
        assert row["met"] is (speed["value"] >= found["settings"]["target_per_s"])
    assert "length_rank" in done.output


def test_one_order_alone_and_an_unknown_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert _run("--only", "edf", "--json", path).exit_code == 0
    assert {row["order"] for row in json.loads(path.read_text(encoding="utf-8"))["results"]} == {"edf"}
    refused = _run("--only", "fifo")
    assert refused.exit_code != 0
    assert "length_rank" in " ".join(refused.output.split())


@pytest.mark.parametrize("order", names("order"))
@pytest.mark.parametrize("case", ["heap", "pool"])
def test_what_is_measured_sorts_by_the_orders_own_keys(order: str, case: str) -> None:
    work = _work(Catalogue().order.create(order, None, Resources()), 60, 40, seed=1)
    assert len(work.keys) == len(work.contexts) == 100
    push, pop = _empty(case)
    for i, key in enumerate(work.keys):
        push(f"{i}", key, i)
    popped: list[Any] = [pop() for _ in work.keys]
    names_ = [one if case == "heap" else one[0] for one in popped]
    assert names_ == [f"{i}" for i in sorted(range(100), key=lambda i: (work.keys[i], i))]


def test_the_figure_is_the_median() -> None:
    found = _interval([1.0, 9.0, 5.0], seed=0)
    assert (found.value, found.lo, found.hi) == (5.0, 1.0, 9.0)
