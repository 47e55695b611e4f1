"""Collecting answers: every prompt is asked once per model and sample, failures are rows, runs are taken up again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
import pytest

from envs.collection import (
    CollectionError,
    Journal,
    Row,
    Settings,
    Target,
    collect,
    read_parquet,
    targets_of,
    write_parquet,
)
from envs.prompts import Question, read_questions
from envs.tasks import generate
from tests.upstream.servers import Exchange, Server

QUESTIONS = read_questions("tasks:test:6", seed=1)
ANSWERS = {task.prompt: task.worked for task in generate(1, 6, "test")}
REFUSED = QUESTIONS[2].prompt


async def answer(exchange: Exchange) -> None:
    """A worker that knows every answer, and refuses one prompt."""
    if exchange.path == "/v1/models":
        await exchange.reply_json({"object": "list", "data": [{"id": "m"}]})
        return
    body = exchange.json
    prompt = body["messages"][0]["content"] if "messages" in body else body["prompt"]
    if prompt == REFUSED:
        await exchange.reply_json({"error": {"message": "no, thank you", "type": "x", "code": 400}}, 400)
        return
    text = ANSWERS.get(prompt, "hm")
    delta = {"delta": {"content": text}} if "messages" in body else {"text": text}
    chunk = {"model": body["model"], "choices": [{"index": 0, **delta, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(text)}}
    await exchange.head(200, "content-type: text/event-stream")
    for event in (json.dumps(chunk), json.dumps(usage), "[DONE]"):
        await exchange.chunk(f"data: {event}\n\n".encode())
    await exchange.end()


def run(
    path: Path, settings: Settings, questions: Sequence[Question] = QUESTIONS, servers: int = 1
) -> tuple[Journal, list[Exchange], list[Row]]:
    """Collect from servers of one model; the journal, what they were asked, and the rows as they came."""
    seen: list[Row] = []

    async def main() -> tuple[Journal, list[Exchange]]:
        journal = Journal(path, settings.fingerprint())
        running = [Server(answer) for _ in range(servers)]
        for server in running:
            await server.start()
        targets = await targets_of([server.url for server in running], [])
        await collect(questions, targets, settings, journal, seen.append)
        for server in running:
            await server.stop()
        return journal, [e for server in running for e in server.exchanges if e.path != "/v1/models"]

    journal, exchanges = asyncio.run(main())
    return journal, exchanges, seen


def test_every_prompt_becomes_a_row_and_failures_are_rows_too(tmp_path: Path) -> None:
    journal, _, seen = run(tmp_path / "j", Settings())
    assert [row.prompt_id for row in sorted(seen, key=lambda r: r.prompt_id)] == sorted(q.id for q in QUESTIONS)
    (failed,) = [row for row in journal.rows if row.error is not None]
    assert (failed.prompt, failed.status, failed.error, failed.correct) == (REFUSED, 400, "no, thank you", None)
    right = [row for row in journal.rows if row.error is None]
    assert all(row.correct for row in right)
    assert all(row.answer == ANSWERS[row.prompt] and row.output_tokens == len(row.answer) for row in right)
    assert all(row.ttft_s is not None and 0 <= row.ttft_s <= row.e2e_s for row in right)


def test_requests_say_what_was_asked_for(tmp_path: Path) -> None:
    settings = Settings(samples=2, max_tokens=9, temperature=0.5, seed=40, headers=((b"authorization", b"Bearer k"),))
    _, exchanges, _ = run(tmp_path / "j", settings, QUESTIONS[:1])
    assert sorted(e.json["seed"] for e in exchanges) == [40, 41]
    body = exchanges[0].json
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 9, 0.5)
    assert {e.headers["authorization"] for e in exchanges} == {"Bearer k"}


def test_completions_are_asked_with_a_prompt(tmp_path: Path) -> None:
    journal, exchanges, _ = run(tmp_path / "j", Settings(chat=False), QUESTIONS[:1])
    assert exchanges[0].path == "/v1/completions"
    assert exchanges[0].json["prompt"] == QUESTIONS[0].prompt
    assert journal.rows[0].correct


def test_servers_of_one_model_share_the_work(tmp_path: Path) -> None:
    journal, exchanges, _ = run(tmp_path / "j", Settings(concurrency=1), servers=2)
    assert len(exchanges) == len(QUESTIONS)
    assert set(Counter(row.target for row in journal.rows).values()) != {len(QUESTIONS)}


def test_an_interrupted_run_asks_only_for_what_failed_or_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal, _, _ = run(path, Settings(), QUESTIONS[:4])
    journal.close(discard=False)
    with path.open("a") as file:
        file.write('{"prompt_id": "cut sho')
    journal, exchanges, _ = run(path, Settings())
    asked = {e.json["messages"][0]["content"] for e in exchanges}
    assert asked == {REFUSED, QUESTIONS[4].prompt, QUESTIONS[5].prompt}
    assert len(journal.rows) == 6


def test_a_journal_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    journal, _, _ = run(tmp_path / "j", Settings(), QUESTIONS[:1])
    journal.close(discard=False)
    with pytest.raises(CollectionError, match="--fresh"):
        Journal(tmp_path / "j", Settings(max_tokens=1).fingerprint())


def test_the_parquet_file_has_every_row_and_its_settings(tmp_path: Path) -> None:
    journal, _, _ = run(tmp_path / "j", Settings())
    write_parquet(journal.rows, tmp_path / "out" / "rows.parquet", {"seed": 1})
    table = pyarrow.parquet.read_table(tmp_path / "out" / "rows.parquet")
    assert json.loads(table.schema.metadata[b"headway"]) == {"seed": 1}
    assert {Row(**row).key for row in table.to_pylist()} == {row.key for row in journal.rows}
    assert str(table.schema.field("correct").type) == "bool"
    journal.close(discard=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["rows.parquet"]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    journal, _, _ = run(tmp_path / "j", Settings(samples=2))
    path = tmp_path / "rows.parquet"
    write_parquet(journal.rows, path, {"temperature": 0.0})
    rows, settings = read_parquet(path)
    assert sorted(rows, key=lambda row: row.key) == sorted(journal.rows, key=lambda row: row.key)
    assert settings == {"temperature": 0.0}


@pytest.mark.parametrize("content", [None, b"no Parquet", {"prompt": ["a"]}])
def test_what_was_not_collected_is_refused(tmp_path: Path, content: bytes | dict[str, list[str]] | None) -> None:
    path = tmp_path / "rows.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        pyarrow.parquet.write_table(pyarrow.table(content), path)
    with pytest.raises(CollectionError, match=r"rows.parquet (cannot be read|is not what headway collect writes)"):
        read_parquet(path)


def test_a_worker_that_is_gone_is_a_failure_of_each_prompt(tmp_path: Path) -> None:
    async def main() -> list[Row]:
        async with Server(answer) as server:
            url = server.url
        journal = Journal(tmp_path / "j", {})
        await collect(QUESTIONS[:2], [Target(url, "m")], Settings(), journal, lambda row: None)
        return journal.rows

    rows = asyncio.run(main())
    assert [row.status for row in rows] == [0, 0]
    assert all(row.error for row in rows)


def test_targets_say_which_models_there_are() -> None:
    async def two_models(exchange: Exchange) -> None:
        await exchange.reply_json({"object": "list", "data": [{"id": "small"}, {"id": "large"}]})

    async def targets(models: list[str]) -> list[Target]:
        async with Server(two_models) as server:
            return await targets_of([server.url + "/"], models)

    assert [t.model for t in asyncio.run(targets(["large"]))] == ["large"]
    with pytest.raises(CollectionError, match="small, large; choose with --model"):
        asyncio.run(targets([]))
    with pytest.raises(CollectionError, match="no target serves huge"):
        asyncio.run(targets(["small", "huge"]))
    with pytest.raises(CollectionError, match="does not list its models"):
        asyncio.run(targets_of(["http://127.0.0.1:9"], []))
