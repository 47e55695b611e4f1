"""The ladder on real servers: its folders are served as they are, and its models are two really different pools."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer

from envs.engines.vllm_process import VllmProcess
from envs.ladder.shapes import shipped
from envs.ladder.vocabulary import ASSISTANT, END, PAD, USER
from envs.tasks import Split, Task, generate
from tests.live.fleet import ABLE, MODEL, QUICK, UPPER, Gateway, body, stream, whole
from tests.live.test_collect import collect
from upstream.client import Client
from upstream.vllm import VllmClient

CHAT = "/v1/chat/completions"
ASKED = 60
ANSWER = 1024
"""Tokens that all but the longest answers fit into."""
POOLS = {MODEL: QUICK, UPPER: ABLE}


def chat(model: str, task: Task, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": task.messages, "max_tokens": 64, "temperature": 0, **fields}


def tokenizer_of(name: str) -> Tokenizer:
    return Tokenizer.from_file(str(shipped(name) / "tokenizer.json"))


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"] or "")


@pytest.mark.parametrize("name", [MODEL, UPPER])
def test_the_tokens_of_a_chat_are_those_of_the_shipped_tokenizer(servers: list[VllmProcess], name: str) -> None:
    (task,) = generate(1, 1, Split.TEST)
    tokenizer = tokenizer_of(name)
    expected = tokenizer.encode(f"{USER}{task.prompt}{END}{ASSISTANT}", add_special_tokens=False).ids

    async def main() -> None:
        async with Client() as client:
            url = next(server.url for server in servers if server.options.served_name == name)
            tokens = await VllmClient(client, url).tokenize(name, messages=task.messages)
            assert list(tokens.tokens) == expected
            assert tokenizer.decode(expected, skip_special_tokens=True) == task.prompt

    asyncio.run(main())


def test_the_end_token_ends_an_answer_and_is_not_shown(workers: list[VllmProcess]) -> None:
    (task,) = generate(1, 1, Split.TEST)
    tokenizer = tokenizer_of(MODEL)

    async def main() -> None:
        async with httpx.AsyncClient() as client:
            for token, reason, count in ((END, "stop", 1), (PAD, "length", 5)):
                asked = chat(MODEL, task, max_tokens=5, allowed_token_ids=[tokenizer.token_to_id(token)])
                answer = await whole(client, workers[0].url, asked, CHAT)
                assert text(answer) == ""
                assert answer["choices"][0]["finish_reason"] == reason
                assert answer["usage"]["completion_tokens"] == count

    asyncio.run(main())


def test_a_pinned_model_answers_as_its_own_server_does(
    two_pools: Gateway, workers: list[VllmProcess], upper: VllmProcess
) -> None:
    tasks = generate(2, 6, Split.TEST)

    async def main() -> None:
        async with httpx.AsyncClient() as client:
            said: dict[str, list[str]] = {}
            for model, server in ((MODEL, workers[0]), (UPPER, upper)):
                for name in (model, POOLS[model].name):
                    relayed = [await whole(client, two_pools.url, chat(name, task), CHAT) for task in tasks]
                    direct = [await whole(client, server.url, chat(model, task), CHAT) for task in tasks]
                    assert {answer["model"] for answer in relayed} == {model}
                    assert [text(answer) for answer in relayed] == [text(answer) for answer in direct]
                    said[model] = [text(answer) for answer in relayed]
            assert said[MODEL] != said[UPPER]

    asyncio.run(main())


def test_auto_takes_the_better_model_and_under_load_both(two_pools: Gateway) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as client:
            alone = await stream(client, two_pools.url, body("Once", 8, model="auto"))
            assert {event["model"] for event in alone.events} == {UPPER}
            crowd = [stream(client, two_pools.url, body(f"Crowd {i}:", 200, model="auto")) for i in range(32)]
            answers = await asyncio.gather(*crowd)
            assert all(answer.done and answer.error is None for answer in answers)
            assert {event["model"] for answer in answers for event in answer.events} == {MODEL, UPPER}

    asyncio.run(main())


@pytest.fixture(scope="module")
def graded(
    workers: list[VllmProcess], upper: VllmProcess, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """By model, what each answered to the same test tasks."""
    folder = tmp_path_factory.mktemp("collected")
    out, report = folder / "rows.parquet", folder / "report.json"
    ran = collect(
        *("--target", workers[0].url, "--target", upper.url, "--prompts", f"tasks:test:{ASKED}", "--samples", "1"),
        *("--max-tokens", str(ANSWER), "--concurrency", "4", "--out", str(out), "--json", str(report)),
    )
    assert ran.returncode == 0, ran.stderr
    rows = pyarrow.parquet.read_table(out).to_pylist()
    by_model = {model: [row for row in rows if row["model"] == model] for model in POOLS}
    for result in json.loads(report.read_text())["results"]:
        right = [row["correct"] for row in by_model[result["model"]]]
        assert result["metrics"]["accuracy"]["value"] == pytest.approx(sum(right) / len(right))
    return by_model


def test_two_real_pools_are_collected_and_graded(graded: dict[str, list[dict[str, Any]]]) -> None:
    prompts = {task.prompt for task in generate(0, ASKED, Split.TEST)}
    for model, rows in graded.items():
        assert {row["prompt"] for row in rows} == prompts
        assert len(rows) == ASKED
        assert {(row["error"], row["status"], row["answered_by"]) for row in rows} == {(None, 200, model)}
        assert {type(row["correct"]) for row in rows} == {bool}
        assert all(0 < row["output_tokens"] <= ANSWER for row in rows)
    answers = [{row["prompt"]: row["answer"] for row in rows} for rows in graded.values()]
    assert answers[0] != answers[1]


def test_answers_end_by_themselves(graded: dict[str, list[dict[str, Any]]]) -> None:
    for rows in graded.values():
        stopped = [row for row in rows if row["finish_reason"] == "stop"]
        assert len(stopped) > 0.9 * len(rows)
        assert all(row["answer"] for row in stopped)
        assert len({row["output_tokens"] for row in rows}) > ASKED / 4, "answers do not differ in length"


def test_the_bigger_model_answers_more_tasks_rightly(graded: dict[str, list[dict[str, Any]]]) -> None:
    right = {model: sum(row["correct"] for row in rows) for model, rows in graded.items()}
    assert right[UPPER] > right[MODEL] + 0.05 * ASKED, right
    assert right[MODEL] > 0
