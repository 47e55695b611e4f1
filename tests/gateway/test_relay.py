from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest

from controller.order import Mlfq
from tests.gateway.harness import (
    CHAT,
    COMPLETIONS,
    DONE,
    HELLO,
    STREAM,
    USAGE,
    Gateway,
    Worker,
    begin,
    chat,
    configured,
    drive,
    event,
    hold,
    hold_stream,
    pool,
    serving,
    until,
    usage_event,
    with_gateway,
)
from tests.upstream.servers import Exchange

STREAMING = {**HELLO, "stream": True}

# What arrives.


def test_an_answer_comes_back_byte_for_byte() -> None:
    body = b'{"id": "x",  "n":1e400, "usage":{"prompt_tokens":1,"completion_tokens":2}}\n'

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, 200, "content-type: application/json", "x-from-worker: yes")

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with await gateway.post(HELLO) as response:
            assert (response.status, await response.body()) == (200, body)
            assert response.header(b"x-from-worker") == b"yes"
            assert response.header(b"x-headway-pool") == b"p"

    with_gateway(answer, scenario)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_both_endpoints_reach_the_same_path_of_the_worker_with_the_pools_model(path: str) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        body = {"model": "auto", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
        assert (await gateway.ask(body, path))[0] == 200
        seen = await worker.request()
        assert (seen.path, seen.json["model"]) == (path, "p-model")

    with_gateway(chat, scenario)


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_a_stream_is_unaltered_whatever_the_chunks(end: bytes, asks: bool) -> None:
    def lines(data: bytes) -> bytes:
        return data.replace(b"}\n\n", b"}" + end)

    sent = lines(STREAM.removesuffix(DONE) + b": keep-alive\n\n" + usage_event() + DONE)
    expected = sent if asks else sent.replace(lines(usage_event()), b"")
    random = Random(0)

    async def answer(exchange: Exchange) -> None:
        await begin(exchange)
        at = 0
        while at < len(sent):
            size = random.randint(1, 80)
            await exchange.chunk(sent[at : at + size])
            await asyncio.sleep(0)
            at += size
        await exchange.end()

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        options = {"stream_options": {"include_usage": True}} if asks else {}
        for _ in range(25):
            assert await gateway.ask({**STREAMING, **options}) == (200, expected)

    with_gateway(answer, scenario)


def test_what_the_worker_says_last_of_all_is_not_lost_with_the_usage() -> None:
    """vLLM writes its fingerprint on the usage event where there is one, and else on the one with the finish reason."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}
    random = Random(1)

    def last(**more: Any) -> bytes:
        return b"data: " + json.dumps({"id": "x", "choices": [choice], **more}).encode() + b"\n\n"

    ours = {"id": "x", "choices": [], "usage": USAGE, "system_fingerprint": "fp"}
    sent = event("a") + last() + b"data: " + json.dumps(ours).encode() + b"\n\n" + DONE

    async def answer(exchange: Exchange) -> None:
        await begin(exchange)
        at = 0
        while at < len(sent):
            size = random.randint(1, 200)
            await exchange.chunk(sent[at : at + size])
            await asyncio.sleep(0)
            at += size
        await exchange.end()

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for _ in range(25):
            status, body = await gateway.ask(STREAMING)
            assert (status, body.count(b"system_fingerprint")) == (200, 1)
            assert body.replace(b',"system_fingerprint":"fp"', b"") == event("a") + last() + DONE
        for _ in range(10):
            assert await gateway.ask({**STREAMING, "stream_options": {"include_usage": True}}) == (200, sent)

    with_gateway(answer, scenario)


@pytest.mark.parametrize(
    "asks", [{"continuous_usage_stats": True}, {"continuous_usage_stats": True, "include_usage": True}]
)
def test_what_else_is_asked_of_a_stream_survives(asks: dict[str, Any]) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert (await gateway.ask({**STREAMING, "stream_options": asks}))[0] == 200
        options = {"continuous_usage_stats": True, "include_usage": True}
        assert (await worker.request()).json["stream_options"] == options

    with_gateway(chat, scenario)


def test_an_answer_may_take_so_long_in_all() -> None:
    async def drip(exchange: Exchange) -> None:
        await begin(exchange)
        while not exchange.gone.is_set():
            await exchange.chunk(event("a"))
            await asyncio.sleep(0.01)

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, body = await gateway.ask(STREAMING)
        assert status == 200
        assert body.startswith(event("a"))
        assert b'"code":"total_timeout"' in body
        await (await worker.request()).client_left()
        assert (await gateway.get("/health"))["status"] == "ok"
        worker.answer = hold
        status, error = await gateway.error(HELLO)
        assert (status, error["code"]) == (504, "total_timeout")
        assert len(worker.asked_for) == 2

    with_gateway(drip, scenario, timeouts={"total_s": 0.1})


def test_usage_is_asked_for_counted_and_taken_out_again() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert await gateway.ask(STREAMING) == (200, STREAM)
        assert (await worker.request()).json["stream_options"] == {"include_usage": True}
        page = await gateway.page()
        assert 'headway_tokens_total{kind="output",pool="p"} 3.0' in page
        assert 'headway_requests_total{outcome="completed",pool="p",tenant="default"} 1.0' in page

    with_gateway(chat, scenario)


def test_events_pass_as_they_come() -> None:
    go_on = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await begin(exchange)
        await exchange.chunk(event("a"))
        await go_on.wait()
        await exchange.chunk(DONE)
        await exchange.end()

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with await gateway.post(STREAMING) as response:
            assert await response.read() == event("a")
            go_on.set()
            assert await response.body() == DONE

    with_gateway(answer, scenario)


def test_a_slow_client_stops_the_worker_from_sending() -> None:
    sent = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal sent
        await begin(exchange)
        piece = event("x" * 65536)
        for _ in range(400):
            await exchange.chunk(piece)
            sent += len(piece)
        await exchange.end()

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with await gateway.post(STREAMING) as response:
            await response.read()
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 400 * 65536
            total = 0
            while chunk := await response.read():
                total += len(chunk)
            assert total > 390 * 65536

    with_gateway(answer, scenario)


# What the worker sees.


def test_unknown_fields_pass_untouched_and_odd_json_survives() -> None:
    body = (
        b'{"big":123456789012345678901234567890,"tiny":1e-400,"huge":1e400,"x":{"a":[1,2.50,"\\u00e9\\ud83d\\ude00"]},'
        b'"twice":1,"twice":2, "model" : "auto","messages":[{"role":"user","content":"h\xc3\xa9 \\"]}"}],"nan":NaN}'
    )

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert (await gateway.ask(body))[0] == 200
        seen = (await worker.request()).body
        assert seen.replace(b"p-model", b"auto").replace(b" ", b"") == body.replace(b" ", b"")

    with_gateway(chat, scenario)


def test_a_body_that_needs_no_change_is_not_changed() -> None:
    body = b' {"model" : "p-model",\n "messages":[{"content":"x"}] , "seed": 1.0 } '

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await gateway.ask(body)
        assert (await worker.request()).body == body

    with_gateway(chat, scenario)


def test_priority_is_the_gateways_where_the_worker_schedules_by_it() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await gateway.ask({**HELLO, "priority": -99}, headers={"X-Vllm-Priority": "-99"})
        seen = await worker.request()
        assert seen.json["priority"] == int(seen.headers["x-vllm-priority"]) != -99

    with_gateway(chat, scenario, priority_scheduling=True, stages={"order": "fcfs"})


def test_priority_is_dropped_where_the_worker_does_not() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await gateway.ask({**HELLO, "priority": -99}, headers={"X-Vllm-Priority": "-99"})
        seen = await worker.request()
        assert "priority" not in seen.json
        assert "x-vllm-priority" not in seen.headers

    with_gateway(chat, scenario)


def test_headers_of_the_gateway_and_of_the_connection_do_not_reach_the_worker() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        mine = {
            "X-Headway-Tenant": "team",
            "Accept-Encoding": "gzip",
            "TE": "x",
            "X-Mine": "1",
            "Authorization": "Bearer k",
        }
        await gateway.ask(HELLO, headers=mine)
        seen = (await worker.request()).headers
        assert seen["x-mine"] == "1"
        assert seen["authorization"] == "Bearer k"
        assert not {name for name in seen if name.startswith("x-headway")} | ({"accept-encoding", "te"} & set(seen))

    with_gateway(chat, scenario)


def test_a_request_id_is_kept_made_returned_and_passed_on() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with await gateway.post(HELLO, headers={"X-Request-Id": "mine-1"}) as response:
            assert response.header(b"x-request-id") == b"mine-1"
        assert (await worker.request(1)).headers["x-request-id"] == "mine-1"
        async with await gateway.post(HELLO) as response:
            made = response.header(b"x-request-id")
        assert made is not None
        assert (await worker.request(2)).headers["x-request-id"].encode() == made

    with_gateway(chat, scenario)


# Clients that leave.


async def leaves(gateway: Gateway, body: dict[str, Any]) -> asyncio.Task[Any]:
    """A request whose client goes away when the task is cancelled."""

    async def ask() -> None:
        async with await gateway.post(body) as response:
            await response.body()

    return asyncio.ensure_future(ask())


@pytest.mark.parametrize(
    "answer, body",
    [(hold, HELLO), (hold, STREAMING), (hold_stream, STREAMING)],
    ids=["before the answer", "before the head", "in the middle"],
)
def test_a_client_that_leaves_closes_the_workers_connection(answer: Any, body: dict[str, Any]) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        task = await leaves(gateway, body)
        exchange = await worker.request()
        await asyncio.sleep(0.02)
        assert not exchange.gone.is_set()
        task.cancel()
        await exchange.client_left()
        await gateway.quiet()
        assert 'outcome="aborted",pool="p"' in await gateway.page()

    with_gateway(answer, scenario)


def test_a_client_that_leaves_while_queued_never_reaches_a_worker() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        first = await leaves(gateway, HELLO)
        await worker.request(1)
        second = await leaves(gateway, HELLO)
        await until(lambda: len(gateway.app.runtime.plane.queued()) == 1)
        second.cancel()
        await until(lambda: len(gateway.app.runtime.plane.queued()) == 0)
        first.cancel()
        await gateway.quiet()
        assert len(worker.asked_for) == 1

    with_gateway(hold, scenario, max_inflight=1)


def test_a_client_that_leaves_while_sending_is_forgotten() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        host, port = gateway.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()
        assert (await gateway.ask(HELLO))[0] == 200
        assert gateway.app.runtime.driver.running == 0

    with_gateway(chat, scenario)


def test_the_seat_of_a_client_that_left_goes_to_the_next() -> None:
    async def answer(exchange: Exchange) -> None:
        await (hold if exchange.json["max_tokens"] == 1 else chat)(exchange)

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        task = await leaves(gateway, {**HELLO, "max_tokens": 1})
        await worker.request()
        second = asyncio.ensure_future(gateway.ask({**HELLO, "max_tokens": 2}))
        await until(lambda: len(gateway.app.runtime.plane.queued()) == 1)
        task.cancel()
        assert (await second)[0] == 200

    with_gateway(answer, scenario, max_inflight=1)


# Workers that fail.


def test_an_unreachable_worker_costs_no_request_while_another_lives() -> None:
    async def scenario() -> None:
        async with Worker(chat) as good, Worker(chat) as bad:
            slow = configured(pool("p", bad, good), stages={"place": "round_robin"}, health={"interval_s": 60})
            async with serving(slow) as gateway:
                await bad.stop()
                answers = await asyncio.gather(*(gateway.ask(STREAMING) for _ in range(8)))
                assert answers == [(200, STREAM)] * 8
                assert "headway_retries_total" in await gateway.page()

    drive(scenario)


async def _dies_before_head(exchange: Exchange) -> None:
    exchange.kill()


async def _dies_before_first_event(exchange: Exchange) -> None:
    await begin(exchange)
    await exchange.chunk(b'data: {"id":')
    exchange.kill()


async def _answers_garbage(exchange: Exchange) -> None:
    await exchange.raw(b"\x00\x01\x02 nothing of the sort\r\n\r\n")
    await exchange.client_left()


async def _dies_in_body(exchange: Exchange) -> None:
    await exchange.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"id":')
    exchange.kill()


async def _is_busy(exchange: Exchange) -> None:
    await exchange.reply_json({"error": {"message": "too many", "code": 503}}, 503)


async def _fails(exchange: Exchange) -> None:
    await exchange.reply(b"Internal Server Error", 500)


async def _fails_in_first_event(exchange: Exchange) -> None:
    await begin(exchange)
    await exchange.chunk(b'data: {"error": {"message": "EngineDeadError", "type": "x", "code": 500}}\n\n' + DONE)
    await exchange.end()


FAILURES = [
    _dies_before_head,
    _dies_before_first_event,
    _answers_garbage,
    _dies_in_body,
    _is_busy,
    _fails,
    _fails_in_first_event,
]


@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_before_the_first_event_is_done_by_another_worker(failure: Any) -> None:
    async def scenario() -> None:
        async with Worker(failure) as bad, Worker(chat) as good:
            both = configured(pool("p", bad, good), stages={"place": "round_robin"})
            async with serving(both) as gateway:
                answers = [await gateway.ask(STREAMING) for _ in range(2)]
                assert answers == [(200, STREAM)] * 2
                assert bad.asked_for
                ids = [exchange.headers["x-request-id"] for exchange in good.asked_for]
                assert len(set(ids)) == 2
                assert not set(ids) & {exchange.headers["x-request-id"] for exchange in bad.asked_for}

    drive(scenario)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_everywhere_is_told_in_openais_words(failure: Any) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, error = await gateway.error(STREAMING)
        assert status == (503 if failure is _is_busy else 502)
        assert error["code"] == ("worker_busy" if failure is _is_busy else "worker_error")
        assert gateway.app.runtime.plane.records.recent(1)[0].attempts == 2

    with_gateway(failure, scenario, retries={"attempts": 2, "backoff_s": 0.0})


def test_a_worker_that_takes_too_long_to_begin_is_replaced() -> None:
    async def scenario() -> None:
        async with Worker(hold) as bad, Worker(chat) as good:
            quick = configured(pool("p", bad, good), stages={"place": "round_robin"}, timeouts={"first_byte_s": 0.05})
            async with serving(quick) as gateway:
                assert await gateway.ask(STREAMING) == (200, STREAM)
                await (await bad.request()).client_left()

    drive(scenario)


def test_death_in_the_middle_of_a_stream_ends_it_with_an_error_and_harms_nobody_else() -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.json["max_tokens"] == 1:
            await begin(exchange)
            await exchange.chunk(event("a"))
            await asyncio.sleep(0.02)
            exchange.kill()
        else:
            await chat(exchange)

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        dying, *others = await asyncio.gather(
            gateway.ask({**STREAMING, "max_tokens": 1}),
            *(gateway.ask({**STREAMING, "max_tokens": 2}) for _ in range(10)),
        )
        assert others == [(200, STREAM)] * 10
        status, body = dying
        assert status == 200
        assert body.startswith(event("a") + b"data: ")
        assert b"[DONE]" not in body
        error = json.loads(body.removeprefix(event("a")).removeprefix(b"data: "))["error"]
        assert (error["type"], error["code"], error["param"]) == ("upstream_error", "worker_error", None)
        assert 'headway_worker_errors_total{code="connection_lost",worker="p-0"} 1.0' in await gateway.page()

    with_gateway(answer, scenario, max_inflight=32, continuation={"mode": "off"})


def test_a_worker_that_falls_silent_in_the_middle_is_not_waited_for() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, body = await gateway.ask(STREAMING)
        assert status == 200
        assert b"idle_timeout" in body
        await (await worker.request()).client_left()

    with_gateway(hold_stream, scenario, timeouts={"idle_s": 0.05})


def test_an_error_that_the_worker_reports_in_the_stream_passes_and_counts() -> None:
    failed = b'data: {"error": {"message": "oops", "type": "InternalServerError", "code": 500}}\n\n'

    async def answer(exchange: Exchange) -> None:
        await begin(exchange)
        await exchange.chunk(event("a"))
        await asyncio.sleep(0.01)
        await exchange.chunk(failed + DONE)
        await exchange.end()

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert await gateway.ask(STREAMING) == (200, event("a") + failed + DONE)
        assert 'outcome="failed",pool="p"' in await gateway.page()

    with_gateway(answer, scenario, continuation={"mode": "off"})


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429])
def test_a_refusal_of_the_request_passes_unaltered_and_is_not_held_against_the_worker(status: int) -> None:
    body = b'{"object":"error",  "message":"no such thing","code":%d}' % status

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, status, "content-type: application/json", "x-why: so")

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for _ in range(5):
            async with await gateway.post(STREAMING) as response:
                assert (response.status, response.header(b"x-why"), await response.body()) == (status, b"so", body)
        assert len(worker.asked_for) == 5
        assert (await gateway.get("/health"))["status"] == "ok"

    with_gateway(answer, scenario)


def test_an_answer_too_large_to_hold_is_told_and_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay._ANSWER_LIMIT", 1000)

    async def scenario() -> None:
        async def long(exchange: Exchange) -> None:
            await exchange.reply(b'{"x": "' + b"y" * 2000 + b'"}')

        async with Worker(long) as one, Worker(long) as two, serving(configured(pool("p", one, two))) as gateway:
            for _ in range(5):
                status, body = await gateway.ask(HELLO)
                assert (status, json.loads(body)["error"]["code"]) == (502, "answer_too_large")
            assert len(one.asked_for) + len(two.asked_for) == 5
            assert gateway.app.runtime.ready_workers() == {"p": 2}

    drive(scenario)


def test_no_worker_alive_is_told_and_a_worker_that_comes_back_is_used() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await worker.stop()
        status, error = await gateway.error(HELLO)
        assert status in (502, 503)
        assert error["type"] in ("upstream_error", "service_unavailable_error")
        await until(lambda: gateway.app.runtime.ready_workers() == {"p": 0})
        assert (await gateway.error(HELLO))[0] == 503
        await worker.start()
        await until(lambda: gateway.app.runtime.ready_workers() == {"p": 1})
        assert (await gateway.ask(HELLO))[0] == 200

    with_gateway(chat, scenario, retries={"attempts": 2, "no_worker_s": 0.05})


# Requests that are wrong.


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"auto",}', b"\xff\xfe{}", b"null", b'{"a":' * 5000])
def test_a_body_that_is_no_json_object(body: bytes) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, error = await gateway.error(body)
        assert (status, error["code"], error["type"]) == (400, "invalid_json", "invalid_request_error")
        assert worker.asked_for == []

    with_gateway(chat, scenario)


def test_a_body_that_is_too_large_announced_or_not() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, error = await gateway.error(b"x" * 2000)
        assert (status, error["code"]) == (413, "request_too_large")
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"7d0\r\n" + b"x" * 2000 + b"\r\n")
        assert (await reader.readline()).split()[1] == b"413"
        writer.close()
        assert (await gateway.ask(HELLO))[0] == 200

    with_gateway(chat, scenario, limits={"max_body_bytes": 1000})


def test_an_unknown_model_is_told_with_those_there_are() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, error = await gateway.error({**HELLO, "model": "p-modle"})
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "p-model" in error["message"]

    with_gateway(chat, scenario)


def test_a_prompt_that_no_pool_can_hold() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, error = await gateway.error({**HELLO, "max_tokens": 1000})
        assert (status, error["code"]) == (400, "context_length_exceeded")

    with_gateway(chat, scenario, context_length=100)


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
def test_only_post(method: bytes) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with gateway.client.stream(method, gateway.url + CHAT) as response:
            assert response.status == 405
            assert json.loads(await response.body())["error"]["code"] == "method_not_allowed"

    with_gateway(chat, scenario)


def test_a_compressed_body_is_refused_not_misread() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert (await gateway.error(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}))[0] == 415

    with_gateway(chat, scenario)


# Waiting.


def test_a_full_queue_says_when_to_come_back() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        tasks = [await leaves(gateway, HELLO) for _ in range(2)]
        await until(lambda: gateway.app.runtime.driver.running == 2)
        async with await gateway.post(HELLO) as response:
            assert (response.status, json.loads(await response.body())["error"]["code"]) == (429, "queue_full")
            assert int(response.header(b"retry-after") or b"0") >= 1
        for task in tasks:
            task.cancel()

    with_gateway(hold, scenario, max_inflight=1, limits={"max_queue": 1})


def test_a_deadline_that_passes_in_the_queue() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        task = await leaves(gateway, HELLO)
        await worker.request()
        status, error = await gateway.error(HELLO, headers={"X-Headway-Deadline-Ms": "30"})
        assert (status, error["code"]) == (504, "deadline_exceeded")
        task.cancel()
        await gateway.quiet()
        assert len(worker.asked_for) == 1

    with_gateway(hold, scenario, max_inflight=1)


def test_a_session_reaches_the_queue_and_no_worker() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, error = await gateway.error(HELLO, headers={"X-Headway-Session": "two words"})
        assert (status, error["code"]) == (400, "invalid_session")
        async with await gateway.post(HELLO, headers={"X-Headway-Session": "run-7"}) as response:
            assert response.status == 200
            await response.body()
        order = gateway.app.runtime.plane.stages.order
        assert isinstance(order, Mlfq)
        assert len(order) == 1
        assert b"x-headway-session" not in dict(worker.asked_for[-1].headers)

    with_gateway(chat, scenario, stages={"order": "mlfq"})


@pytest.mark.parametrize("given_", ["soon", "-1", "0", "nan", "inf"])
def test_a_deadline_that_is_none(given_: str) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, error = await gateway.error(HELLO, headers={"X-Headway-Deadline-Ms": given_})
        assert (status, error["code"]) == (400, "invalid_deadline")
        assert error["message"].endswith(f"not {given_!r}")

    with_gateway(chat, scenario)


def test_shutting_down_breaks_off_what_is_under_way_and_says_so() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with await gateway.post(STREAMING) as response:
            await response.read()
            waiting = asyncio.ensure_future(gateway.error(HELLO))
            await until(lambda: len(gateway.app.runtime.plane.queued()) == 1)
            await gateway.app.runtime.close()
            await (await worker.request()).client_left()
            assert b'"code":"shutting_down"' in await response.body()
            assert (await waiting)[0] == 503

    with_gateway(hold_stream, scenario, max_inflight=1)


def test_a_server_that_waits_no_longer_says_so_too() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with await gateway.post(STREAMING) as response:
            await response.read()
            waiting = asyncio.ensure_future(gateway.error(HELLO))
            await until(lambda: len(gateway.app.runtime.plane.queued()) == 1)
            for task in tuple(gateway.tasks):  # as uvicorn does when the time to shut down is over
                task.cancel()
            await (await worker.request()).client_left()
            assert b'"code":"shutting_down"' in await response.body()
            status, error = await waiting
            assert (status, error["code"]) == (503, "shutting_down")
        await gateway.quiet()
        assert 'headway_not_served_total{code="shutting_down"} 2.0' in await gateway.page()

    with_gateway(hold_stream, scenario, max_inflight=1)


def test_a_fault_of_the_gateway_itself_is_told_and_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("a secret")

        client = gateway.app.runtime.upstreams.plain
        whole, client.send = client.send, broken  # type: ignore[method-assign, assignment]
        status, error = await gateway.error(HELLO)
        assert (status, error["code"]) == (500, "internal_error")
        assert "secret" not in error["message"]
        assert gateway.app.runtime.driver.running == 0
        client.send = whole  # type: ignore[method-assign]
        assert (await gateway.ask(HELLO))[0] == 200

    with_gateway(chat, scenario, max_inflight=1)
    assert "the gateway itself failed" in caplog.text
