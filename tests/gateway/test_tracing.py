from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from controller.configuration.telemetry import Tracing
from controller.types import Scores
from gateway.trace_context import TraceParent
from gateway.tracing import Tracer
from gateway.trail import Trails
from predictors.types import Prompt
from tests.gateway.harness import CHAT, HELLO, Gateway, Worker, chat, configured, drive, pool, serving, with_gateway
from tests.upstream.servers import Exchange, Server

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


class Traced:
    """A gateway whose spans stay in memory."""

    def __init__(self, gateway: Gateway, worker: Worker, tracer: Tracer, kept: InMemorySpanExporter) -> None:
        self.gateway = gateway
        self.worker = worker
        self._tracer = tracer
        self._kept = kept

    def counts(self) -> Mapping[str, int]:
        return self._tracer.counts()

    async def spans(self) -> dict[str, list[ReadableSpan]]:
        """By name, once no request is under way; call it once."""
        await self.gateway.quiet()
        await self.gateway.page()
        await asyncio.to_thread(self._tracer.close)
        found: dict[str, list[ReadableSpan]] = {}
        for span in self._kept.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found


@asynccontextmanager
async def traced(
    answer: Any = chat, *, ratio: float = 1.0, scorer: Any = None, **settings: Any
) -> AsyncIterator[Traced]:
    async with Worker(answer) as worker, serving(configured(pool("p", worker), **settings), scorer=scorer) as gateway:
        relay, kept = gateway.app.runtime.relay, InMemorySpanExporter()
        section = Tracing(endpoint="http://127.0.0.1:1/v1/traces", sample_ratio=ratio)
        tracer = Tracer(section, "1", 0.0, relay.tenants, 7, kept)
        relay.trails = Trails([tracer], relay.driver.now, tracer)
        yield Traced(gateway, worker, tracer, kept)
        await asyncio.to_thread(tracer.close)


def identity(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def above(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def test_a_request_is_one_span_with_its_parts_below_it() -> None:
    async def scenario() -> None:
        async with traced(tenants=[{"name": "gold", "class": "paying"}]) as here:
            headers = {"traceparent": SAMPLED, "tracestate": "v=1", "x-headway-tenant": "gold"}
            body = {**HELLO, "stream": True, "max_tokens": 9}
            assert (await here.gateway.ask(body, headers=headers))[0] == 200
            asked = await here.worker.request()
            spans = await here.spans()
            assert set(spans) == {f"POST {CHAT}", "queue", "chat p-model"}
            [server], [queue], [attempt] = spans[f"POST {CHAT}"], spans["queue"], spans["chat p-model"]
            assert {identity(span)[0] for span in (server, queue, attempt)} == {TRACE}
            assert above(server) == SPAN
            assert above(queue) == above(attempt) == identity(server)[1]
            assert asked.headers["traceparent"] == f"00-{TRACE}-{identity(attempt)[1]}-01"
            assert asked.headers["tracestate"] == "v=1"
            assert (server.kind, queue.kind, attempt.kind) == (
                SpanKind.SERVER,
                SpanKind.INTERNAL,
                SpanKind.CLIENT,
            )
            said = dict(server.attributes or {})
            expected = {
                "http.request.method": "POST",
                "http.route": CHAT,
                "http.response.status_code": 200,
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "auto",
                "gen_ai.request.max_tokens": 9,
                "gen_ai.response.model": "p-model",
                "gen_ai.usage.input_tokens": 7,
                "gen_ai.usage.output_tokens": 3,
                "headway.tenant": "gold",
                "headway.tenant_class": "paying",
                "headway.pool": "p",
                "headway.worker": "p-0",
                "headway.attempts": 1,
            }
            assert {key: said.get(key) for key in expected} == expected
            assert [event.name for event in server.events] == ["first_token"]
            assert "hello" not in repr([span.attributes for one in spans.values() for span in one])
            for span in (queue, attempt):
                assert server.start_time is not None
                assert span.start_time is not None
                assert span.end_time is not None
                assert server.start_time <= span.start_time <= span.end_time

    drive(scenario)


def test_each_attempt_has_a_span_and_tells_the_worker_its_own() -> None:
    async def failing_once(exchange: Exchange) -> None:
        if not seen:
            seen.append(exchange)
            await exchange.reply(b"", 500)
        else:
            await chat(exchange)

    seen: list[Exchange] = []

    async def scenario() -> None:
        async with traced(failing_once) as here:
            assert (await here.gateway.ask(HELLO))[0] == 200
            told = [exchange.headers["traceparent"].split("-") for exchange in here.worker.asked_for]
            spans = await here.spans()
            attempts = spans["chat p-model"]
            assert [identity(span) for span in attempts] == [(trace, span) for _, trace, span, _ in told]
            assert [(span.attributes or {}).get("error.type") for span in attempts] == ["status_500", None]
            assert attempts[0].status.status_code is StatusCode.ERROR
            assert len(spans["queue"]) == 2

    drive(scenario)


class Ranks:
    """A scorer that knows the length of everything."""

    def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        return [Scores(length_rank=1.0) for _ in prompts]


def test_scoring_has_a_span_where_there_was_any() -> None:
    async def scenario() -> None:
        async with traced(scorer=Ranks(), scoring={"when": "always", "budget_ms": 1000}) as here:
            assert (await here.gateway.ask(HELLO))[0] == 200
            spans = await here.spans()
            [server], [score] = spans[f"POST {CHAT}"], spans["score"]
            assert above(score) == identity(server)[1]
            assert dict(score.attributes or {}) == {"headway.scored": True}
            assert (server.attributes or {})["headway.order.by"] == "length_rank"

    drive(scenario)


def test_what_finds_no_room_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.tracing._MOST_PENDING", 4)
    monkeypatch.setattr("gateway.tracing._BATCH", 4)

    async def scenario() -> None:
        async with traced() as here:
            for _ in range(3):
                await here.gateway.ask(HELLO)
            spans = await here.spans()
            assert sum(map(len, spans.values())) == 4
            counts = here.counts()
            assert counts["exported"] + counts["dropped"] == 9
            assert counts["dropped"] == 5

    drive(scenario)


def test_a_request_that_is_turned_away_has_its_span_too() -> None:
    async def scenario() -> None:
        async with traced() as here:
            await here.gateway.ask(b"{")
            await here.gateway.ask({**HELLO, "model": "unknown"})
            spans = await here.spans()
            [unread], [unknown] = spans["POST"], spans[f"POST {CHAT}"]
            assert (unread.attributes or {})["error.type"] == "invalid_json"
            assert (unknown.attributes or {})["error.type"] == "model_not_found"

    drive(scenario)


@pytest.mark.parametrize("parent, kept", [(UNSAMPLED, False), (SAMPLED, True), (None, False)])
def test_the_client_decides_what_is_kept_and_else_the_ratio(parent: str | None, kept: bool) -> None:
    async def scenario() -> None:
        async with traced(ratio=0.0) as here:
            await here.gateway.ask(HELLO, headers={} if parent is None else {"traceparent": parent})
            told = (await here.worker.request()).headers["traceparent"]
            assert told.endswith("-01" if kept else "-00")
            assert bool(await here.spans()) is kept

    drive(scenario)


def test_state_of_a_trace_that_is_none_is_not_passed_on() -> None:
    async def scenario() -> None:
        async with traced() as here:
            await here.gateway.ask(HELLO, headers={"traceparent": "junk", "tracestate": "v=1"})
            headers = (await here.worker.request()).headers
            assert TraceParent.parse(headers["traceparent"].encode()) is not None
            assert "tracestate" not in headers

    drive(scenario)


def test_without_tracing_the_context_passes_as_it_is() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await gateway.ask(HELLO, headers={"traceparent": SAMPLED, "tracestate": "v=1"})
        headers = (await worker.request()).headers
        assert (headers["traceparent"], headers["tracestate"]) == (SAMPLED, "v=1")

    with_gateway(chat, scenario)


def test_spans_reach_a_collector_with_its_headers() -> None:
    async def collect(exchange: Exchange) -> None:
        await exchange.reply(b"", 200, "content-type: application/x-protobuf")

    async def scenario() -> None:
        async with Server(collect) as collector, Worker(chat) as worker:
            section = {
                "endpoint": f"{collector.url}/v1/traces",
                "service_name": "edge",
                "headers": "x-team=a%20b",
            }
            async with serving(configured(pool("p", worker), tracing=section)) as gateway:
                await gateway.ask(HELLO)
                await gateway.quiet()
            sent = collector.exchanges[0]
            assert (sent.method, sent.path, sent.headers["x-team"]) == ("POST", "/v1/traces", "a b")
            request = ExportTraceServiceRequest.FromString(gzip.decompress(sent.body))
            [resource] = request.resource_spans
            names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            assert names["service.name"] == "edge"
            assert {span.name for scope in resource.scope_spans for span in scope.spans} == {
                f"POST {CHAT}",
                "queue",
                "chat p-model",
            }

    drive(scenario)


def test_a_collector_that_is_gone_costs_spans_and_nothing_else() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            section = {"endpoint": "http://127.0.0.1:1/v1/traces"}
            async with serving(configured(pool("p", worker), tracing=section)) as gateway:
                assert (await gateway.ask(HELLO))[0] == 200
                await gateway.quiet()
                runtime = gateway.app.runtime
            counts = runtime.telemetry.spans()
            assert (counts["exported"], counts["failed"]) == (0, 3)

    drive(scenario)


def test_nothing_of_opentelemetry_is_imported_where_tracing_is_off() -> None:
    code = "import sys, gateway.application; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
