"""``headway eval ladder`` as a user runs it, against servers that stand in for vLLM."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner, Result

from cli.ladder_eval import evaluate
from envs.engines import vllm_process
from envs.tasks import generate
from tests.envs.ladder.ladder_server import LadderServer
from tests.upstream.servers import Server

TASKS = generate(20_000, 40, "test")
RIGHT = {task.prompt: task.worked for task in TASKS}
EASY = {task.prompt: task.worked for task in TASKS if task.level <= 2}
QUICK = ("--prompts", "40", "--sampled", "10", "--repeats", "2", "--step-tokens", "8", "--resamples", "100")


def ladder(fails: frozenset[str] = frozenset()) -> LadderServer:
    """Two models: one that knows the easy half, and one that knows everything."""
    return LadderServer({"small": EASY, "large": RIGHT}, fails)


def invoke(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def against(handler: LadderServer, *arguments: str) -> Result:
    async def main() -> Result:
        async with Server(handler) as server:
            named = ("--target", server.url, "--model", "small", "--model", "large")
            return await asyncio.to_thread(invoke, *named, *QUICK, *arguments)

    return asyncio.run(main())


def rows(report: dict[str, Any], **labels: object) -> list[dict[str, Any]]:
    return [row for row in report["results"] if all(row.get(name) == value for name, value in labels.items())]


def test_the_suite_is_asked_judged_and_written(tmp_path: Path) -> None:
    out, written = tmp_path / "table.parquet", tmp_path / "report.json"
    handler = ladder()
    result = against(handler, "--out", str(out), "--json", str(written))
    assert result.exit_code == 0, result.output
    report = json.loads(written.read_text())
    assert (report["command"], report["seed"]) == ("eval ladder", 20_000)
    (small,), (large,) = (rows(report, setting="overall", model=model) for model in ("small", "large"))
    assert small["metrics"]["accuracy"]["value"] == pytest.approx(len(EASY) / 40)
    assert large["metrics"]["accuracy"]["value"] == 1.0
    (step,) = rows(report, setting="step_up")
    assert step["metrics"]["accuracy_gain"]["value"] == pytest.approx(1 - len(EASY) / 40)
    assert {(row["model"], row["in_flight"]) for row in rows(report, setting="step_time")} == {
        (model, k) for model in ("small", "large") for k in (1, 16)
    }
    assert {row["metrics"]["prompts"]["value"] for row in rows(report, setting="length_ceiling")} == {10.0}
    assert rows(report, setting="oracle")[0]["metrics"]["oracle_minus_top"]["value"] == 0.0
    for title in ("by family and level: small/large", "decoding step", "tau-b, 2 answers", "best answer of"):
        assert title in result.output
    table = pyarrow.parquet.read_table(out).to_pylist()
    assert len(table) == 80
    assert {row["prompt"] for row in table} == set(RIGHT)
    pairs = pyarrow.parquet.read_table(tmp_path / "table.samples.parquet").to_pylist()
    assert {(row["model"], row["sample"]) for row in pairs} == {(m, s) for m in ("small", "large") for s in (0, 1)}
    seeds = {(body["temperature"], body["seed"]) for body in handler.asked if not body.get("ignore_eos")}
    assert seeds == {(0.0, 20_000), (0.7, 20_000), (0.7, 20_001)}
    assert not list(tmp_path.glob("*.journal"))


def test_tables_are_judged_again_without_servers(tmp_path: Path) -> None:
    out, first, again = tmp_path / "table.parquet", tmp_path / "first.json", tmp_path / "again.json"
    assert against(ladder(), "--out", str(out), "--json", str(first)).exit_code == 0
    tables = ("--table", str(out), "--table", str(tmp_path / "table.samples.parquet"))
    result = invoke(*tables, "--resamples", "100", "--json", str(again))
    assert result.exit_code == 0, result.output
    before, after = (json.loads(path.read_text())["results"] for path in (first, again))
    assert [row for row in before if row["setting"] != "step_time"] == after
    unknown = invoke("--table", str(out), "--model", "small", "--model", "huge")
    assert unknown.exit_code == 2
    assert "no answers of huge" in " ".join(unknown.output.split())


def test_an_interrupted_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    broken = ladder(frozenset({"large"}))
    stopped = against(broken, "--out", str(out), "--repeats", "0")
    assert stopped.exit_code == 1
    assert "all requests of large failed" in stopped.output
    whole = ladder()

    async def main() -> Result:
        async with Server(whole) as server:
            # The journal is of this very target, so the second server takes the first one's place in it.
            for journal in tmp_path.glob("*.journal"):
                head, *lines = journal.read_text().splitlines()
                head = json.dumps({**json.loads(head), "targets": [server.url]})
                journal.write_text("\n".join([head, *lines]) + "\n")
            named = ("--target", server.url, "--model", "small", "--model", "large", "--out", str(out))
            return await asyncio.to_thread(invoke, *named, *QUICK, "--repeats", "0")

    result = asyncio.run(main())
    assert result.exit_code == 0, result.output
    assert {body["model"] for body in whole.asked} == {"large"}
    assert len(whole.asked) == 40 + 20
    assert not list(tmp_path.glob("*.journal"))


def test_a_journal_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    (tmp_path / "table.parquet.journal").write_text('{"max_tokens": 1}\n{}\n')
    result = against(ladder(), "--out", str(out))
    assert result.exit_code == 2
    assert "--fresh" in result.output
    assert against(ladder(), "--out", str(out), "--fresh", "--repeats", "0").exit_code == 0


def test_a_server_without_fixed_lengths_cannot_be_timed(tmp_path: Path) -> None:
    handler = ladder()
    handler.obeys = False
    result = against(handler, "--out", str(tmp_path / "table.parquet"))
    assert result.exit_code == 1
    assert "ignore_eos" in result.output
    assert (tmp_path / "table.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--table", "none.parquet"), "cannot be read"),
        (("--models", "nowhere"), "headway train ladder makes them"),
        (("--model", "huge"), "there are small, medium, large"),
        (("--target", "http://127.0.0.1:9"), "does not list its models"),
    ],
)
def test_what_cannot_be_judged_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments, "--prompts", "10")
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())


def test_parquet_from_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"]}), path)
    result = invoke("--table", str(path))
    assert result.exit_code == 2
    assert "is not what headway collect writes" in " ".join(result.output.split())


def test_a_server_that_does_not_start_gives_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself ends at once; its log is shown."""
    for name in ("small", "medium", "large"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"no weights")
    ending = "import sys; print('no such checkpoint'); sys.exit(3)"
    monkeypatch.setattr(vllm_process, "command", lambda options: ["python3", "-c", ending])
    monkeypatch.setattr("envs.ladder.serving.find_spec", lambda name: object())
    result = invoke("--models", str(tmp_path), "--prompts", "10", "--out", str(tmp_path / "table.parquet"))
    assert result.exit_code == 1
    assert "no such checkpoint" in result.output
