"""``headway collect`` as a user runs it: the file, the report, the exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow.parquet
import pytest
import typer
import uvicorn
from typer.testing import CliRunner, Result

from cli.collect import collect
from envs.answers import TaskAnswerer, TaskBook
from envs.engines.worker import SimWorker
from envs.tasks import FAMILY_NAMES, generate
from tests.envs.engines.profiles import profile
from tests.upstream.servers import Exchange, Handler, Server

TASKS = generate(0, 5, "test")
ANSWERS = {task.prompt: task.worked for task in TASKS}


async def knowing(exchange: Exchange) -> None:
    """A worker of the model ``m`` that answers every task rightly, but for the first."""
    if exchange.path == "/v1/models":
        await exchange.reply_json({"object": "list", "data": [{"id": "m"}]})
        return
    prompt = exchange.json["messages"][0]["content"]
    text = "no idea" if prompt == TASKS[0].prompt else ANSWERS[prompt]
    chunk = {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}
    await exchange.head(200, "content-type: text/event-stream")
    for event in (json.dumps(chunk), json.dumps(usage), "[DONE]"):
        await exchange.chunk(f"data: {event}\n\n".encode())
    await exchange.end()


async def refusing(exchange: Exchange) -> None:
    """A worker that lists its model and answers nothing."""
    if exchange.path == "/v1/models":
        await exchange.reply_json({"object": "list", "data": [{"id": "m"}]})
    else:
        await exchange.reply_json({"error": {"message": "the engine is dead"}}, 500)


def invoke(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(collect)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def against(handler: Handler, *arguments: str) -> Result:
    async def main() -> Result:
        async with Server(handler) as server:
            return await asyncio.to_thread(invoke, "--target", server.url, *arguments)

    return asyncio.run(main())


def test_answers_are_written_and_reported(tmp_path: Path) -> None:
    out, report = tmp_path / "rows.parquet", tmp_path / "report.json"
    result = against(knowing, "--prompts", "tasks:test:5", "--out", str(out), "--json", str(report))
    assert result.exit_code == 0, result.output
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert {row["prompt"] for row in rows} == set(ANSWERS)
    assert sum(row["correct"] for row in rows) == 4
    written = json.loads(report.read_text())
    assert written["command"] == "collect"
    assert written["settings"]["prompts"] == "tasks:test:5"
    (row,) = written["results"]
    assert row["model"] == "m"
    accuracy = row["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx(0.8)
    assert accuracy["lo"] < 0.8 < accuracy["hi"]
    assert (row["metrics"]["requests"]["value"], row["metrics"]["failed"]["value"]) == (5, 0)
    assert row["metrics"]["output_tokens_p50"]["value"] == 7
    assert list(tmp_path.glob("*.journal")) == []


def test_if_everything_fails_the_rows_say_why_and_the_exit_code_is_1(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    result = against(refusing, "--prompts", "tasks:test:5", "--out", str(out))
    assert result.exit_code == 1
    assert "all 5 requests failed; the first: the engine is dead" in result.output
    assert {row["error"] for row in pyarrow.parquet.read_table(out).to_pylist()} == {"the engine is dead"}
    again = against(knowing, "--prompts", "tasks:test:5", "--out", str(out))
    assert again.exit_code == 0
    assert {row["error"] for row in pyarrow.parquet.read_table(out).to_pylist()} == {None}


def test_workers_come_from_a_gateways_configuration(tmp_path: Path) -> None:
    async def main() -> Result:
        async with Server(knowing) as server:
            config = tmp_path / "gateway.yaml"
            config.write_text(f"pools: [{{name: p, model: m, tier: 0, workers: [{{url: '{server.url}'}}]}}]\n")
            common = ("--config", str(config), "--prompts", "tasks:test:5", "--out", str(tmp_path / "rows.parquet"))
            unknown = await asyncio.to_thread(invoke, *common, "--model", "other")
            assert unknown.exit_code == 2
            assert "has no worker of other" in unknown.output
            return await asyncio.to_thread(invoke, *common)

    result = asyncio.run(main())
    assert result.exit_code == 0, result.output
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").num_rows == 5


def test_simulated_workers_answer_as_their_skill_says(tmp_path: Path) -> None:
    fast = profile(a=2e-4, b=1e-7, c=1e-6, request_overhead_s=0.0, token_overhead_s=0.0)
    answerer = TaskAnswerer(TaskBook.generated(0, 30), fast.model, dict.fromkeys(FAMILY_NAMES, (0.9, 0.6, 0.4, 0.2)))

    async def main() -> Result:
        config = uvicorn.Config(SimWorker(fast, answerer), port=0, log_level="error", access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        arguments = ("--prompts", "tasks:test:30", "--max-tokens", "1500", "--out", str(tmp_path / "rows.parquet"))
        try:
            return await asyncio.to_thread(invoke, "--target", f"http://127.0.0.1:{port}", *arguments)
        finally:
            server.should_exit = True
            await serving

    result = asyncio.run(main())
    assert result.exit_code == 0, result.output
    rows = {row["prompt"]: row for row in pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()}
    for task in generate(0, 30, "test"):
        row = rows[task.prompt]
        assert (row["family"], row["level"], row["finish_reason"]) == (task.family, task.level, "stop")
        assert row["answer"] == answerer.answer_to(task)
        assert row["output_tokens"] == len(answerer.answer(task.prompt))
        assert row["correct"] == answerer.is_right(task)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompts", "tasks:test:5"], "give --target URL or --config FILE"),
        (["--prompts", "absent.txt", "--target", "http://127.0.0.1:9"], "absent.txt: no such file"),
        (["--prompts", "tasks:test:5", "--target", "http://127.0.0.1:9"], "does not list its models"),
        (["--prompts", "tasks:test:5", "--target", "http://127.0.0.1:9", "--endpoint", "x"], "chat or completions"),
        (["--prompts", "tasks:test:5", "--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_mistakes_are_explained_with_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = invoke(*arguments, "--out", str(tmp_path / "rows.parquet"))
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert list(tmp_path.iterdir()) == []
