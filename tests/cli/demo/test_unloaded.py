from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from cli.demo.unloaded import Unloaded, Worded, ask_unloaded
from tests.upstream.servers import Exchange, Server
from upstream.client import Client


@dataclass
class Worker:
    """Answers with the prompt, a token a word; refuses ``fail`` and is cut at ``long``."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def __call__(self, exchange: Exchange) -> None:
        body = exchange.json
        self.bodies.append(body)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.005)
        self.running -= 1
        text = body["messages"][0]["content"]
        if text == "fail":
            await exchange.reply_json({"error": {"message": "no"}}, 500)
            return
        end: dict[str, Any] = {"delta": {}, "finish_reason": "length" if text == "long" else "stop"}
        await exchange.head()
        await exchange.chunk(event({"choices": [{"delta": {"content": text}}]}) + event({"choices": [end]}))
        await exchange.chunk(event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": len(text)}}))
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()


def event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def worded(prompt: str) -> Worded:
    return Worded({"messages": [{"role": "user", "content": prompt}]}, lambda text: text.startswith("right"))


def asked(worker: Worker, prompts: list[str], at_once: int) -> tuple[Unloaded, int]:
    ended = 0

    def on_end() -> None:
        nonlocal ended
        ended += 1

    async def run() -> Unloaded:
        async with Server(worker) as server, Client() as client:
            questions = [worded(prompt) for prompt in prompts]
            return await ask_unloaded(client, server.url, "small", questions, at_once=at_once, on_end=on_end)

    return asyncio.run(run()), ended


def test_answers_are_graded_in_the_order_of_the_prompts() -> None:
    found, ended = asked(Worker(), ["right one", "wrong", "long", "right", "fail"], 5)
    assert found.correct == (True, False, False, True, False)
    assert found.output_tokens == (9, 5, 4, 5, 0)
    assert (found.cut, found.failed, ended) == (1, 1, 5)
    summary = found.summary()
    assert summary["quality"] == pytest.approx(0.4)
    assert summary["output_tokens_mean"] == pytest.approx(23 / 5)
    assert summary["seconds"] > 0


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_are_asked_at_once_than_was_said(at_once: int) -> None:
    worker = Worker()
    asked(worker, [f"right {i}" for i in range(9)], at_once)
    assert worker.most == at_once
    assert {body["model"] for body in worker.bodies} == {"small"}
