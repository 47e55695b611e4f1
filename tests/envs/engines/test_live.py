"""The live engine against servers that misbehave, and what it has beyond the engines' common interface."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from envs.engines.base import EngineEvent, EnginePhase, EngineRequest, EventKind
from envs.engines.live import LiveEngine
from envs.engines.live_errors import LoopFailed, ServerUnusable
from envs.engines.live_loop import LoopThread, WallClock
from envs.engines.vllm_process import free_port
from tests.envs.engines.profiles import profile
from tests.envs.engines.serving import QUICK, Served, served
from tests.upstream.servers import Exchange, Handler, Server
from upstream.types import Timeouts

LIMIT_S = 20.0
METRICS = b'vllm:num_requests_running{e="0"} 0\nvllm:num_requests_waiting{e="0"} 0\nvllm:kv_cache_usage_perc{e="0"} 0\n'


@pytest.fixture(scope="module")
def worker() -> Iterator[Served]:
    with served(sleep_mode=True) as running:
        yield running


@pytest.fixture
def engine(worker: Served) -> Iterator[LiveEngine]:
    with LiveEngine.connect(worker.url) as connected:
        yield connected


class Scripted:
    """A server whose answers to completions a test writes; the rest is as vLLM has it."""

    def __init__(self, loop: LoopThread, answer: Handler, **limits: Any) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._answer = answer
        self._limits = limits
        self.server = Server(self._handle)
        loop.run(self.server.start())

    async def _handle(self, exchange: Exchange) -> None:
        if exchange.path == "/v1/models":
            await exchange.reply_json({"data": [{"id": "m", **self._limits}]})
        elif exchange.path == "/tokenize":
            await exchange.reply_json({"count": 3, "tokens": [5, 6, 7]})
        elif exchange.path == "/metrics":
            await exchange.reply(METRICS)
        elif exchange.path.startswith("/v1/"):
            self.bodies.append(exchange.json)
            await self._answer(exchange)
        else:
            await exchange.reply(b"", 200 if exchange.path == "/health" else 404)


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    running = LoopThread()
    yield running
    running.close()


Script = Callable[..., Scripted]


@pytest.fixture
def script(loop: LoopThread) -> Iterator[Script]:
    """Makes scripted servers, which end with the test."""
    begun: list[Scripted] = []

    def begin(answer: Handler, **limits: Any) -> Scripted:
        begun.append(Scripted(loop, answer, **limits))
        return begun[-1]

    yield begin
    for scripted in begun:
        loop.run(scripted.server.stop())


def ends(engine: LiveEngine) -> list[EngineEvent]:
    """Everything that happens until nothing is open."""
    seen: list[EngineEvent] = []
    limit = engine.now + LIMIT_S
    while (at := engine.next_event_at()) is not None:
        assert engine.now < limit
        seen += engine.advance(at)
    return seen


def event(count: int | None, text: str = "x", **fields: Any) -> bytes:
    usage = {} if count is None else {"usage": {"prompt_tokens": 4, "completion_tokens": count}}
    return b"data: " + json.dumps({"choices": [{"text": text}], **usage, **fields}).encode() + b"\n\n"


def said(*pieces: bytes, end: bool = True) -> Handler:
    """An answer of these pieces, each sent by itself; without ``end`` the connection is cut after them."""

    async def answer(exchange: Exchange) -> None:
        await exchange.head(200, "content-type: text/event-stream")
        for piece in pieces:
            await exchange.chunk(piece)
            await asyncio.sleep(0.002)
        if end:
            await exchange.end()
        else:
            exchange.kill()

    return answer


def status(code: int) -> Handler:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply_json({"error": {"message": "no"}}, code)

    return answer


BEGUN, FINISHED, ABORTED, REJECTED = EventKind.FIRST_TOKEN, EventKind.FINISHED, EventKind.ABORTED, EventKind.REJECTED
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("answer", "kinds", "tokens"),
    [
        (said(event(1), event(2), event(3), DONE), [BEGUN, FINISHED], [1, 3]),
        (said(event(2) + event(3)[:30], event(3)[30:] + DONE), [BEGUN, FINISHED], [2, 3]),
        (said(event(None), event(None), DONE), [BEGUN, FINISHED], [1, 2]),
        (said(event(None), event(3, choices=[]), DONE), [BEGUN, FINISHED], [1, 3]),
        (said(event(1), event(2), end=False), [BEGUN, ABORTED], [1, 2]),
        (said(event(1), event(2)), [BEGUN, ABORTED], [1, 2]),
        (said(end=False), [ABORTED], [0]),
        (said(b'data: {"error": {"message": "out of memory"}}\n\n', DONE), [ABORTED], [0]),
        (said(event(1), b"data: nonsense\n\n", DONE), [BEGUN, ABORTED], [1, 1]),
        (said(event(1), b'data: {"choices": 3}\n\n', DONE), [BEGUN, ABORTED], [1, 1]),
        (said(event(1, choices=[{"text": "x", "finish_reason": "abort"}]), DONE), [BEGUN, ABORTED], [1, 1]),
        (status(500), [REJECTED], [0]),
        (status(503), [REJECTED], [0]),
        (status(400), [REJECTED], [0]),
    ],
    ids=[
        "whole", "cut-in-the-middle-of-an-event", "no-usage", "usage-at-the-end", "lost", "no-done", "lost-at-once",
        "error-event", "not-json", "not-openai", "aborted-there", "500", "503", "400",
    ],
)  # fmt: skip
def test_every_way_to_end_is_an_event(
    loop: LoopThread, script: Script, answer: Handler, kinds: list[EventKind], tokens: list[int]
) -> None:
    with LiveEngine.connect(script(answer).server.url, loop=loop, stream=True) as engine:
        engine.submit(EngineRequest("a", 4, 3, arrival=engine.now))
        seen = [one for one in ends(engine) if one.kind is not EventKind.TOKENS]
    assert ([one.kind for one in seen], [one.output_tokens for one in seen]) == (kinds, tokens)


def test_a_server_that_falls_silent_is_given_up(loop: LoopThread, script: Script) -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.head(200, "content-type: text/event-stream")
        await exchange.chunk(event(1))
        await exchange.gone.wait()

    scripted = script(silent)
    with LiveEngine.connect(scripted.server.url, loop=loop, timeouts=Timeouts(idle=0.05)) as engine:
        engine.submit(EngineRequest("a", 4, 3, arrival=engine.now))
        assert [one.kind for one in ends(engine)] == [BEGUN, ABORTED]


def test_a_synthetic_request_has_exactly_its_sizes_and_is_its_own(loop: LoopThread, script: Script) -> None:
    scripted = script(said(event(1), DONE), max_model_len=100)
    with LiveEngine.connect(scripted.server.url, loop=loop) as engine:
        for name in ("a", "b", "a"):
            engine.submit(EngineRequest(name, 12, 7, priority=-3, arrival=engine.now))
            ends(engine)
    first, other, again = scripted.bodies
    assert len(first["prompt"]) == 12
    assert set(first["prompt"]) <= {5, 6, 7}
    assert first == again
    assert first["prompt"] != other["prompt"]
    expected = {"model": "m", "max_tokens": 7, "ignore_eos": True, "priority": -3, "temperature": 0, "stream": True}
    assert expected.items() <= first.items()
    assert first["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_where_the_context_is_unknown_the_server_is_made_to_refuse_what_does_not_fit(
    loop: LoopThread, script: Script
) -> None:
    scripted = script(status(400))
    with LiveEngine.connect(scripted.server.url, loop=loop) as engine:
        engine.submit(EngineRequest("a", 12, 7, arrival=engine.now))
        assert [one.kind for one in ends(engine)] == [REJECTED]
    assert scripted.bodies[0]["min_tokens"] == 7


def test_bodies_say_what_is_asked(worker: Served) -> None:
    def chat(request: EngineRequest) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": f"words, {request.id}"}], "max_tokens": 50}

    with LiveEngine.connect(worker.url, bodies=chat, stream=True) as engine:
        engine.submit(EngineRequest("a", 1, 1, arrival=engine.now))
        seen = ends(engine)
    assert seen[-1].kind is FINISHED
    assert seen[-1].output_tokens == 5  # as long as the model's answer, whatever the request believes


def test_bodies_that_fail_fail_where_they_are_asked_for(worker: Served) -> None:
    with LiveEngine.connect(worker.url, bodies=lambda request: {"prompt": {1, 2}}) as engine:
        with pytest.raises(TypeError, match="not JSON"):
            engine.submit(EngineRequest("a", 1, 1, arrival=engine.now))
        assert engine.next_event_at() is None


def test_progress_is_reported_as_it_stands_at_each_advance(worker: Served) -> None:
    with LiveEngine.connect(worker.url, stream=True) as engine:
        engine.submit(EngineRequest("a", 5, 60, arrival=engine.now))
        seen = ends(engine)
    counts = [one.output_tokens for one in seen if one.kind is EventKind.TOKENS]
    assert counts == sorted(set(counts))
    assert 1 < len(counts) < 60
    assert [one.at for one in seen] == sorted(one.at for one in seen)


def test_sleep_aborts_and_what_comes_then_waits_for_waking() -> None:
    shape = profile(a=2e-3, sleep_s=0.02, wake_s=0.02)
    with served(shape, sleep_mode=True) as worker, LiveEngine.connect(worker.url) as engine:
        engine.submit(EngineRequest("a", 5, 2000, arrival=engine.now))
        while engine.state().running == 0:
            engine.advance(engine.now + 0.01)
        engine.sleep()
        assert engine.state().phase is EnginePhase.SLEEPING
        assert [one.kind for one in ends(engine)][-1] is ABORTED
        with LiveEngine.connect(worker.url) as other:
            assert other.state().phase is EnginePhase.SLEEPING
        engine.submit(EngineRequest("b", 5, 3, arrival=engine.now))
        assert engine.advance(engine.now + 0.05) == []
        engine.wake()
        assert [one.kind for one in ends(engine)] == [BEGUN, FINISHED]
        assert engine.state().phase is EnginePhase.READY


def test_a_server_without_sleep_mode_is_told_of() -> None:
    with served() as worker, LiveEngine.connect(worker.url) as engine:
        for change in (engine.sleep, engine.wake):
            with pytest.raises(ServerUnusable, match="--enable-sleep-mode"):
                change()
        assert engine.state().phase is EnginePhase.READY


def test_a_server_that_dies_takes_its_requests_along_and_shows_as_failed() -> None:
    worker = served()
    with LiveEngine.connect(worker.__enter__().url) as engine:
        engine.submit(EngineRequest("a", 5, 2000, arrival=engine.now))
        while engine.state().running == 0:
            engine.advance(engine.now + 0.01)
        worker.__exit__(None, None, None)
        assert [one.kind for one in ends(engine)][-1] is ABORTED
        assert engine.state().phase is EnginePhase.FAILED
        engine.submit(EngineRequest("b", 5, 5, arrival=engine.now))
        assert [one.kind for one in ends(engine)] == [REJECTED]


def test_a_server_that_shows_no_load_cannot_be_used(loop: LoopThread) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply_json({"data": [{"id": "m"}]}, 200 if exchange.path == "/v1/models" else 404)

    server = Server(answer)
    loop.run(server.start())
    with pytest.raises(ServerUnusable, match="does not show its load as vLLM does"):
        LiveEngine.connect(server.url, loop=loop)
    loop.run(server.stop())


@pytest.mark.parametrize(
    ("url", "model", "why"),
    [
        (lambda worker: f"http://127.0.0.1:{free_port()}", None, "does not list its models; is a vLLM server running"),
        (lambda worker: worker.url, "other", "serves test-model, not other"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(
    worker: Served, url: Callable[[Served], str], model: str | None, why: str
) -> None:
    with pytest.raises(ServerUnusable, match=why):
        LiveEngine.connect(url(worker), model)


def test_time_is_real(engine: LiveEngine) -> None:
    before = engine.now
    engine.advance(before + 0.03)
    assert engine.now >= before + 0.03
    assert engine.advance(before) == []
    with pytest.raises(ValueError, match="real time"):
        engine.advance(float("inf"))


def test_engines_share_a_loop_and_a_clock_that_outlive_them(loop: LoopThread, worker: Served) -> None:
    clock = WallClock(start=50.0)
    shared: dict[str, Any] = {"loop": loop, "clock": clock}
    with LiveEngine.connect(worker.url, **shared) as one, LiveEngine.connect(worker.url, **shared) as other:
        for engine in (one, other):
            engine.submit(EngineRequest("same", 5, 4, arrival=engine.now))
        last = [ends(engine)[-1] for engine in (one, other)]
    assert [end.kind for end in last] == [FINISHED, FINISHED]
    assert all(50.0 < end.at < clock() for end in last)
    assert loop.call(lambda: True)


def test_closing_aborts_what_runs(worker: Served) -> None:
    with LiveEngine.connect(worker.url) as engine:
        for i in range(QUICK.max_num_seqs + 2):
            engine.submit(EngineRequest(f"r{i}", 5, 1500, arrival=engine.now))
        engine.advance(engine.now + 0.05)
    engine.close()
    with LiveEngine.connect(worker.url) as engine:
        limit = engine.now + LIMIT_S
        while (state := engine.state()).running or state.waiting:
            assert engine.now < limit
            engine.advance(engine.now + 0.01)


def test_an_error_that_nobody_waits_for_is_raised_by_the_next_call(loop: LoopThread) -> None:
    def broken() -> None:
        raise ZeroDivisionError("one by nothing")

    loop.call(lambda: asyncio.get_running_loop().call_soon(broken))
    with pytest.raises(LoopFailed, match="one by nothing"):
        loop.wait(LIMIT_S)
    assert loop.call(lambda: 7) == 7


def test_a_loop_is_not_called_from_inside_nor_after_its_end(loop: LoopThread) -> None:
    with pytest.raises(RuntimeError, match="inside of it"):
        loop.call(lambda: loop.call(lambda: 1))
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call(lambda: 1)
