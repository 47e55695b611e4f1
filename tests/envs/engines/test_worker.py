"""The simulated worker as a client sees it: vLLM's endpoints, shapes, errors, order of service and aborts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from envs.engines.sequence import SchedulingPolicy
from envs.engines.worker import SimWorker
from tests.envs.engines.asgi import Answer, call
from tests.envs.engines.profiles import profile
from upstream.metrics import WorkerMetrics, parse

T = TypeVar("T")
FAST = profile(a=1e-4, b=1e-7, c=1e-7, d=1e-10, request_overhead_s=0.0, token_overhead_s=0.0)
SLOW = profile(a=5e-3, max_num_seqs=1)
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


class Words:
    """Answers every prompt with so many words."""

    def __init__(self, count: int = 5) -> None:
        self.count = count

    def answer(self, prompt: str, max_tokens: int | None = None, /) -> list[str]:
        return [f" w{i}" for i in range(self.count)][:max_tokens]


def worker(shape: Any = FAST, words: int = 5, **options: Any) -> SimWorker:
    return SimWorker(shape, Words(words), **options)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def post(path: str, body: Any, *, app: SimWorker | None = None, headers: dict[str, str] | None = None) -> Answer:
    return run(call(app or worker(), "POST", path, body, headers))


async def metrics(app: SimWorker) -> WorkerMetrics:
    return parse((await call(app, "GET", "/metrics")).body.decode())


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "test-model", "messages": [{"role": "user", "content": "say words"}], **fields}


def test_a_chat_answer_is_whole() -> None:
    answer = post(CHAT, chat(), headers={"X-Request-Id": "abc"})
    assert (answer.status, answer.headers["x-request-id"]) == (200, "abc")
    document = answer.json
    assert (document["id"], document["object"], document["model"]) == ("chatcmpl-abc", "chat.completion", "test-model")
    (choice,) = document["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == " w0 w1 w2 w3 w4"
    assert choice["finish_reason"] == "stop"
    assert document["usage"] == {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}


def test_a_completion_is_cut_at_sixteen_tokens_unless_it_asks_for_more() -> None:
    app = worker(words=40)
    document = post(TEXT, {"prompt": "hello"}, app=app).json
    assert document["object"] == "text_completion"
    assert document["usage"]["completion_tokens"] == 16
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["id"].startswith("cmpl-")


def test_a_streamed_chat_opens_with_its_role_and_ends_with_done() -> None:
    answer = post(CHAT, chat(stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    opening, *tokens, done = answer.events
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(t["choices"][0]["delta"]["content"] for t in tokens) == " w0 w1 w2 w3 w4"
    assert [t["choices"][0]["finish_reason"] for t in tokens] == [None] * 4 + ["stop"]
    assert all("usage" not in t for t in tokens)
    assert done is None


@pytest.mark.parametrize("continuous", [False, True])
def test_usage_comes_when_it_is_asked_for(continuous: bool) -> None:
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    body = {"prompt": "hello you", "stream": True, "stream_options": options}
    *tokens, total, done = post(TEXT, body).events
    assert (total["choices"], total["usage"]["completion_tokens"], done) == ([], 5, None)
    if continuous:
        assert [t["usage"]["completion_tokens"] for t in tokens] == [1, 2, 3, 4, 5]
        assert {t["usage"]["prompt_tokens"] for t in tokens} == {2}
    else:
        assert all("usage" not in t for t in tokens)


def test_each_token_is_an_event_though_several_share_a_write() -> None:
    answer = post(TEXT, {"prompt": "x", "max_tokens": 400, "ignore_eos": True, "stream": True})
    assert len(answer.events) == 401
    assert len(answer.bodies) < 100


def test_it_takes_the_time_that_the_profile_says() -> None:
    async def elapsed() -> tuple[float, float]:
        app = worker(profile())
        await call(app, "GET", "/health")
        start = time.perf_counter()
        await call(app, "POST", TEXT, {"prompt": "x", "max_tokens": 20, "ignore_eos": True})
        return time.perf_counter() - start, 4e-3 + 20 * 5e-3

    taken, least = run(elapsed())
    assert taken >= least


@pytest.mark.parametrize(
    "fields, header, order",
    [
        ({}, {}, ["first", "second"]),
        ({"priority": -1}, {}, ["second", "first"]),
        ({"priority": 3}, {"X-Vllm-Priority": "-4"}, ["second", "first"]),
        ({"priority": -1}, {"X-Vllm-Priority": "soon"}, ["second", "first"]),
    ],
)
def test_priority_orders_who_waits(fields: dict[str, int], header: dict[str, str], order: list[str]) -> None:
    async def finished() -> list[str]:
        app = worker(SLOW, policy=SchedulingPolicy.PRIORITY)
        ended: list[str] = []

        async def ask(name: str, delay: float, extra: dict[str, Any], headers: dict[str, str]) -> None:
            await asyncio.sleep(delay)
            body = {"prompt": name, "max_tokens": 60 if name == "running" else 2, "ignore_eos": True, **extra}
            await call(app, "POST", TEXT, body, headers)
            ended.append(name)

        await asyncio.gather(
            ask("running", 0, {}, {}), ask("first", 0.01, {}, {}), ask("second", 0.015, fields, header)
        )
        return ended

    assert run(finished()) == ["running", *order]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(stream: bool) -> None:
    async def leave() -> tuple[WorkerMetrics, str]:
        app = worker(profile())
        body = {"prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": stream}
        asked = asyncio.create_task(call(app, "POST", TEXT, body, leave_after=0.05))
        await asyncio.sleep(0.03)
        assert (await metrics(app)).running == 1
        await asked
        await asyncio.sleep(0.02)
        return await metrics(app), (await call(app, "GET", "/metrics")).body.decode()

    after, page = run(leave())
    assert (after.running, after.waiting, after.kv_usage) == (0, 0, 0.0)
    assert 'vllm:request_success_total{engine="0",finished_reason="abort",model_name="test-model"} 1.0' in page


def test_above_its_queue_limit_it_answers_503() -> None:
    async def crowd() -> tuple[Answer, str]:
        app = worker(SLOW, max_num_queued_reqs=2)
        body = {"prompt": "x", "max_tokens": 40, "ignore_eos": True}
        running = [asyncio.create_task(call(app, "POST", TEXT, body)) for _ in range(2)]
        await asyncio.sleep(0.01)
        refused = await call(app, "POST", TEXT, body)
        await asyncio.gather(*running)
        assert (await call(app, "POST", TEXT, body)).status == 200
        return refused, (await call(app, "GET", "/metrics")).body.decode()

    refused, page = run(crowd())
    assert refused.status == 503
    assert refused.json["error"]["type"] == "Service Unavailable"
    assert "currently busy" in refused.json["error"]["message"]
    assert 'vllm:admission_rejections_total{model_name="test-model",reason="max_num_queued_reqs"} 1.0' in page


def test_load_counts_requests_being_served() -> None:
    async def look() -> tuple[int, int]:
        app = worker(SLOW)
        body = {"prompt": "x", "max_tokens": 40, "ignore_eos": True}
        asked = asyncio.create_task(call(app, "POST", TEXT, body))
        await asyncio.sleep(0.01)
        during = (await call(app, "GET", "/load")).json["server_load"]
        await asked
        return during, (await call(app, "GET", "/load")).json["server_load"]

    assert run(look()) == (1, 0)


def test_small_endpoints() -> None:
    async def look() -> list[Answer]:
        app = worker(model="served")
        return [await call(app, "GET", path) for path in ("/health", "/ping", "/version", "/v1/models")]

    health, ping, version, models = run(look())
    assert (health.status, health.body, ping.status) == (200, b"", 200)
    assert version.json["version"].startswith("0.")
    (card,) = models.json["data"]
    assert (card["id"], card["max_model_len"]) == ("served", 2048)


def test_tokenize_and_back() -> None:
    async def look() -> tuple[Any, Any, Any]:
        app = worker()
        there = (await call(app, "POST", "/tokenize", {"prompt": "Hello wörld", "return_token_strs": True})).json
        back = (await call(app, "POST", "/detokenize", {"tokens": there["tokens"]})).json
        asked = (await call(app, "POST", "/tokenize", {"messages": [{"role": "user", "content": "Hello"}]})).json
        return there, back, asked

    there, back, asked = run(look())
    assert back == {"prompt": "Hello wörld"}
    assert there["count"] == len(there["tokens"]) == len(there["token_strs"])
    assert (there["max_model_len"], asked["count"]) == (2048, 3 + 4 + 1)


@pytest.mark.parametrize(
    "path, body, status, kind, param",
    [
        (TEXT, {"model": "other", "prompt": "x"}, 404, "NotFoundError", "model"),
        (TEXT, b'{"prompt": ', 400, "Bad Request", "body.11"),
        (TEXT, {"prompt": 7}, 400, "Bad Request", "body.prompt.str"),
        (CHAT, {"messages": "hi"}, 400, "Bad Request", "body.messages"),
        (CHAT, {}, 400, "Bad Request", "body.messages"),
        (TEXT, {"prompt": "x " * 2100}, 400, "BadRequestError", "input_tokens"),
        (TEXT, {"prompt": "x", "max_tokens": 5000}, 400, "BadRequestError", "max_tokens"),
        ("/detokenize", {"tokens": [3]}, 400, "BadRequestError", "tokens"),
        ("/nowhere", {}, 404, "Not Found", None),
        ("/v1/embeddings", {"input": "x"}, 501, "Not Implemented", None),
        ("/v1/messages", {"max_tokens": 1}, 501, "Not Implemented", None),
        ("/health", {}, 405, "Method Not Allowed", None),
    ],
)
def test_errors_have_vllms_shape(path: str, body: Any, status: int, kind: str, param: str | None) -> None:
    answer = post(path, body)
    assert answer.status == status
    error = answer.json["error"]
    assert (error["code"], error["type"], error["param"]) == (status, kind, param)
    assert error["message"]


def test_only_json_is_read() -> None:
    answer = post(TEXT, {"prompt": "x"}, headers={"content-type": "text/plain"})
    assert (answer.status, answer.json["error"]["type"]) == (400, "Bad Request")


def test_sleep_mode_is_there_only_if_it_is_asked_for() -> None:
    async def night(app: SimWorker) -> list[Any]:
        told = [await call(app, "GET", "/is_sleeping"), await call(app, "POST", "/sleep")]
        told += [await call(app, "GET", "/is_sleeping"), await call(app, "POST", "/wake_up")]
        return [answer.json for answer in [*told, await call(app, "GET", "/is_sleeping")]]

    awake, sleeping = {"is_sleeping": False}, {"is_sleeping": True}
    asleep, woken = {"status": "sleeping", "level": 1}, {"status": "awake", "tags": None}
    napping = worker(profile(sleep_s=0.01, wake_s=0.01), sleep_mode=True)
    assert run(night(napping)) == [awake, asleep, sleeping, woken, awake]
    assert {answer["error"]["code"] for answer in run(night(worker()))} == {404}


def test_lifespan_ends_what_runs() -> None:
    async def stop() -> tuple[int, list[str]]:
        app = worker(profile())
        body = {"prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True}
        asked = asyncio.create_task(call(app, "POST", TEXT, body))
        await asyncio.sleep(0.02)
        said: list[str] = []

        async def receive() -> dict[str, str]:
            return {"type": "lifespan"}

        async def send(message: Any) -> None:
            said.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        await asked
        return app.engine.in_flight, said

    assert run(stop()) == (0, ["lifespan.startup.complete", "lifespan.shutdown.complete"])
