"""Streams whose worker dies in the middle, over real sockets; the workers' model is :mod:`tests.gateway.scripted`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from controller.types import DecisionRecord, Move, Result
from controller.view import FleetView, TicketView
from tests.gateway.harness import (
    CHAT,
    COMPLETIONS,
    Gateway,
    Worker,
    begin,
    configured,
    drive,
    pool,
    serving,
    until,
)
from tests.gateway.scripted import Model
from tests.gateway.test_continuation import _said as said
from tests.upstream.servers import Exchange, Handler

MODEL = Model(every=30)
ASKED = {"model": "p", "stream": True, "temperature": 0, "messages": [{"role": "user", "content": "hello"}]}
WITH_USAGE = {**ASKED, "stream_options": {"include_usage": True}}
Scenario = Callable[[Gateway, list[Worker]], Awaitable[None]]


class Engine:
    """What the workers of a test have in common: the model, and when to die. ``cut(whole)`` says after how many bytes
    of its stream the next request does; ``None`` for never."""

    def __init__(self, cut: Callable[[bytes], int | None], pause: float = 0.0) -> None:
        self.cut = cut
        self.pause = pause
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, exchange: Exchange) -> None:
        body = exchange.json
        self.asked.append({**body, "path": exchange.path})
        whole = b"".join(MODEL.events(exchange.path, body, f"n{len(self.asked)}"))
        length = self.cut(whole)
        await begin(exchange)
        random = Random(len(self.asked))
        at, end = 0, len(whole) if length is None else length
        while at < end:
            size = min(random.choice([20, 300, 4000]), end - at)
            await exchange.chunk(whole[at : at + size])
            await asyncio.sleep(self.pause)
            at += size
        if length is None:
            await exchange.end()
        else:
            await asyncio.sleep(0.005)
            exchange.kill()


def _once(at: Callable[[bytes], int]) -> Callable[[bytes], int | None]:
    """Only the first stream is cut."""
    left = [at]
    return lambda whole: left.pop()(whole) if left else None


def _with_workers(answer: Handler, scenario: Scenario, workers: int = 2, **settings: Any) -> None:
    async def run() -> None:
        servers = [Worker(answer) for _ in range(workers)]
        for server in servers:
            await server.start()
        options = {"stages": {"place": "round_robin"}, **settings}
        options["retries"] = {"backoff_s": 0.0, "budget": None, **options.get("retries", {})}
        try:
            async with serving(configured(pool("p", *servers), **options)) as gateway:
                await scenario(gateway, servers)
        finally:
            for server in servers:
                await server.stop()

    drive(run)


def _unbroken(body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    return said(b"".join(MODEL.events(path, {**body, "model": "p-model"}, "n1")))


def _records(gateway: Gateway) -> tuple[DecisionRecord, ...]:
    return gateway.app.runtime.driver.plane.records.recent(1000)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_streams_that_are_cut_at_random_bytes_are_unbroken_to_the_client(path: str) -> None:
    random = Random(7)
    engine = Engine(lambda whole: None)
    asked = dict(WITH_USAGE) if path == CHAT else {**WITH_USAGE, "prompt": "hello", "max_tokens": 60}
    if path == COMPLETIONS:
        del asked["messages"]

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        for _ in range(20):
            engine.asked.clear()
            engine.cut = _once(lambda whole: random.randrange(len(whole)))
            status, body = await gateway.ask(asked, path)
            assert status == 200
            told, whole = said(body), _unbroken(asked, path)
            whole["heads"] = told["heads"]
            assert len(told["heads"]) == 1
            assert told == whole
        ended = _records(gateway)
        assert {record.result for record in ended} == {Result.COMPLETED}
        assert {record.continued for record in ended} <= {0, 1}
        assert sum(record.continued for record in ended) > 10
        assert all(record.attempts == 1 + record.continued or record.continued == 0 for record in ended)
        assert {record.usage and record.usage.output_tokens for record in ended} == {
            whole["usage"][0]["completion_tokens"]
        }

    _with_workers(engine, scenario)


def test_a_stream_survives_several_deaths_and_no_more_than_were_configured() -> None:
    engine = Engine(lambda whole: len(whole) // 3)

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        status, body = await gateway.ask(ASKED)
        assert status == 200
        assert len(engine.asked) == 3
        assert b"[DONE]" not in body
        last = json.loads(body.removesuffix(b"\n\n").rpartition(b"data: ")[2])
        assert last["error"]["code"] == "worker_error"
        (record,) = _records(gateway)
        assert (record.result, record.continued, record.attempts) == (Result.FAILED, 2, 3)
        engine.asked.clear()
        engine.cut = lambda whole: len(whole) // 3 if len(engine.asked) < 3 else None
        told = said((await gateway.ask(ASKED))[1])
        whole = _unbroken(ASKED)
        assert (told["text"], told["finish"], told["roles"], told["done"]) == (
            whole["text"],
            whole["finish"],
            ["assistant"],
            True,
        )

    _with_workers(engine, scenario, workers=3, continuation={"attempts": 2})


def _end_of(event: int) -> Callable[[bytes], int]:
    return lambda whole: len(b"\n\n".join(whole.split(b"\n\n")[:event])) + 2


@pytest.mark.parametrize(
    ("cut", "requests"),
    [
        (lambda whole: 30, 2),  # inside the role's event: nothing was seen
        (_end_of(1), 2),  # after it
        (_end_of(-4), 2),  # before the last token
        (_end_of(-3), 1),  # after the finish reason, before the usage
        (_end_of(-2), 1),  # before [DONE]
        (lambda whole: len(whole) - 5, 1),  # inside it
    ],
)
def test_wherever_it_is_cut_the_end_is_the_same(cut: Callable[[bytes], int], requests: int) -> None:
    engine = Engine(_once(cut))

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        told, whole = said((await gateway.ask(WITH_USAGE))[1]), _unbroken(WITH_USAGE)
        whole["heads"] = told["heads"]
        assert told == whole
        assert len(engine.asked) == requests
        (record,) = _records(gateway)
        assert record.usage is not None
        assert record.usage.output_tokens == whole["usage"][0]["completion_tokens"]

    _with_workers(engine, scenario)


def test_what_cannot_be_continued_ends_with_an_error_that_says_why() -> None:
    engine = Engine(_once(lambda whole: len(whole) // 2))

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        status, body = await gateway.ask({**ASKED, "presence_penalty": 0.5})
        error = json.loads(body.removesuffix(b"\n\n").rpartition(b"data: ")[2])["error"]
        assert (status, error["type"], error["code"]) == (200, "upstream_error", "worker_error")
        assert "presence_penalty" in error["message"]
        assert b"[DONE]" not in body
        assert len(engine.asked) == 1

    _with_workers(engine, scenario)


@pytest.mark.parametrize(
    "last",
    [b"", b'data: {"error":{"message":"dead","code":500}}\n\ndata: [DONE]\n\n'],
    ids=["clean end", "error event"],
)
def test_a_worker_that_ends_too_soon_or_says_that_it_failed_is_continued_from(last: bytes) -> None:
    async def answer(exchange: Exchange) -> None:
        whole = MODEL.events(exchange.path, exchange.json, "n1")
        await begin(exchange)
        if exchange.path == CHAT:
            await exchange.chunk(b"".join(whole[:5]) + last)
        else:
            await exchange.chunk(b"".join(whole))
        await exchange.end()

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        assert said((await gateway.ask(WITH_USAGE))[1]) == _unbroken(WITH_USAGE)

    _with_workers(answer, scenario)


def test_a_worker_that_does_not_take_tokens_is_given_the_text() -> None:
    engine = Engine(_once(lambda whole: len(whole) // 2))

    async def answer(exchange: Exchange) -> None:
        if exchange.path == COMPLETIONS:
            await exchange.reply_json({"error": {"message": "no", "code": 400}}, 400)
        else:
            await engine(exchange)

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        told = said((await gateway.ask(ASKED))[1])
        assert (len(told["heads"]), told["roles"], told["done"]) == (1, ["assistant"], True)
        assert engine.asked[-1]["continue_final_message"] is True

    _with_workers(answer, scenario, workers=3)


def test_in_text_mode_workers_are_asked_for_nothing_and_the_rest_comes_from_the_text() -> None:
    engine = Engine(_once(lambda whole: len(whole) // 2))

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        told = said((await gateway.ask(ASKED))[1])
        assert (len(told["heads"]), told["roles"], told["done"]) == (1, ["assistant"], True)
        first, second = engine.asked
        assert "return_token_ids" not in first
        assert second["messages"][-1]["role"] == "assistant"
        assert told["text"].startswith(second["messages"][-1]["content"])

    _with_workers(engine, scenario, continuation={"mode": "text"})


def test_without_another_worker_the_same_one_is_asked_again() -> None:
    engine = Engine(_once(lambda whole: len(whole) // 2))

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        assert said((await gateway.ask(ASKED))[1])["text"] == _unbroken(ASKED)["text"]

    _with_workers(engine, scenario, workers=1)


def test_when_every_worker_is_gone_the_stream_ends_with_an_error() -> None:
    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        async with await gateway.post(ASKED) as response:
            body = await response.read()
            for worker in workers:
                await worker.stop()
            body += await response.body()
        assert b'"error"' in body
        assert b"[DONE]" not in body
        (record,) = _records(gateway)
        assert record.result is Result.FAILED
        await gateway.quiet()

    _with_workers(Engine(lambda whole: None, pause=0.02), scenario, retries={"no_worker_s": 0.1})


def test_a_stream_waits_for_its_only_worker_to_come_back() -> None:
    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        async with await gateway.post(ASKED) as response:
            body = await response.read()
            await workers[0].stop()
            await asyncio.sleep(0.3)
            await workers[0].start()
            body += await response.body()
        told, whole = said(body), _unbroken(ASKED)
        assert (told["text"], told["roles"], told["done"]) == (whole["text"], ["assistant"], True)

    breaker = {"breaker_errors": 2, "breaker_s": 0.2, "no_worker_s": 5}
    _with_workers(Engine(lambda whole: None, pause=0.02), scenario, workers=1, retries=breaker)


def test_a_client_that_leaves_between_two_workers_leaves_nothing_behind() -> None:
    engine = Engine(lambda whole: len(whole) // 2 if len(engine.asked) == 1 else None)

    async def answer(exchange: Exchange) -> None:
        if engine.asked:
            await exchange.client_left()
        else:
            await engine(exchange)

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        async with await gateway.post(ASKED) as response:
            await response.read()
            await until(lambda: sum(len(worker.asked_for) for worker in workers) == 2)
        await gateway.quiet()
        (record,) = _records(gateway)
        assert (record.result, record.code, record.continued) == (Result.ABORTED, "client_left", 1)
        assert gateway.app.runtime.relay.continuations.held == 0

    _with_workers(answer, scenario)


class Scripted:
    """Moves every stream once, as soon as it has begun."""

    name = "scripted"
    interval_s: float | None = 0.01

    def __init__(self) -> None:
        self.moved: set[str] = set()

    def plan(self, view: FleetView, running: Sequence[TicketView], now: float) -> list[Move]:
        moves = []
        for ticket in running:
            if ticket.output_tokens and ticket.ticket not in self.moved:
                self.moved.add(ticket.ticket)
                moves.append(Move(ticket.ticket, "p-1" if ticket.worker == "p-0" else "p-0", "test"))
        return moves


def test_a_running_stream_is_moved_to_the_worker_that_the_controller_names() -> None:
    prompts = ([{"role": "user", "content": f"tell me {number}"}] for number in range(100))
    bodies = ({**WITH_USAGE, "messages": messages} for messages in prompts)
    asked = next(body for body in bodies if 80 < len(MODEL.events(CHAT, body)) < 120)
    engine = Engine(lambda whole: None, pause=0.01)

    async def scenario(gateway: Gateway, workers: list[Worker]) -> None:
        plane = gateway.app.runtime.driver.plane
        plane.stages = replace(plane.stages, rebalance=Scripted())
        gateway.app.runtime.driver.start()  # there is something to plan now
        told, whole = said((await gateway.ask(asked))[1]), _unbroken(asked)
        assert told == whole
        (record,) = _records(gateway)
        assert (record.continued, record.attempts, record.result) == (1, 2, Result.COMPLETED)
        assert [len(worker.asked_for) for worker in workers] == [1, 1]
        await workers[0].asked_for[0].client_left()
        assert not any(worker.errors for worker in plane._fleet), "nobody is at fault"

    _with_workers(engine, scenario)
