"""Spans by OpenTelemetry's conventions, sent by OTLP over HTTP. Imported only where tracing is configured.

    POST /v1/chat/completions      SERVER    the client's span above it, where it sent one
    ├── queue                      INTERNAL  one before each attempt
    ├── score                      INTERNAL  until the predictors' scores were there
    └── chat MODEL                 CLIENT    one attempt; its span is the parent that the worker is told

While a request is served, only identifiers are drawn. Its spans are made after its end, off its path, and handed to the
SDK's batch processor, whose thread sends them; where that does not keep up, spans are dropped and counted.
https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from controller.configuration.telemetry import Tracing, parsed_headers
from gateway.metrics import Naming
from gateway.trace_context import TraceParent
from gateway.trail import Attempt, Trail

__all__ = ["Tracer"]

_MOST_PENDING = 16_384
"""Spans that may wait to be sent."""
_BATCH = 512
_EVERY_MS = 1000
_TIMEOUT_S = 5.0
_PATIENCE_S = 3.0
"""At the end, for the last spans."""
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


class Tracer:
    """A :class:`gateway.trail.Sink` and its :class:`gateway.trail.Brancher`. ``epoch`` is added to the driver's times
    to have seconds since 1970; ``exporter`` takes the spans in place of the configured endpoint."""

    def __init__(
        self,
        settings: Tracing,
        version: str,
        epoch: float,
        tenants: Naming,
        seed: int,
        exporter: SpanExporter | None = None,
    ) -> None:
        self.tenants = tenants
        self._epoch = epoch
        self._random = random.Random(seed)
        self._below = round(settings.sample_ratio * 2**64)
        self._resource = Resource({"service.name": settings.service_name, "service.version": version})
        self._scope = InstrumentationScope("headway", version)
        self._counting = _Counting(exporter or _otlp(settings))
        self._processor = BatchSpanProcessor(
            self._counting,
            max_queue_size=_MOST_PENDING,
            schedule_delay_millis=_EVERY_MS,
            max_export_batch_size=_BATCH,
            export_timeout_millis=_TIMEOUT_S * 1000,
        )
        self._handed = self._dropped = 0

    def counts(self) -> Mapping[str, int]:
        """Spans by what became of them."""
        counting = self._counting
        return {"exported": counting.exported, "failed": counting.failed, "dropped": self._dropped}

    def begin(self, parent: TraceParent | None) -> TraceParent:
        """A request's span, in its client's trace or in a new one."""
        if parent is not None:
            return self.branch(parent)
        trace_id = self._drawn(128)
        return TraceParent(trace_id, self._drawn(64), trace_id % 2**64 < self._below)

    def branch(self, of: TraceParent) -> TraceParent:
        """A span below that one."""
        return TraceParent(of.trace_id, self._drawn(64), of.sampled)

    def take(self, trail: Trail) -> None:
        """A request has ended."""
        if trail.span is None or not trail.span.sampled:
            return
        for span in self._spans(trail, trail.span):
            if self._handed - self._counting.exported - self._counting.failed >= _MOST_PENDING:
                self._dropped += 1
            else:
                self._handed += 1
                self._processor.on_end(span)

    def close(self) -> None:
        """Send what waits, for some seconds at most; call it in a thread."""
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(_PATIENCE_S)
        if ending.is_alive():
            self._counting.shutdown()  # breaks off what it waits for

    def _drawn(self, bits: int) -> int:
        return self._random.getrandbits(bits) or 1

    def _spans(self, trail: Trail, place: TraceParent) -> Iterator[ReadableSpan]:
        record, above = trail.record, trail.parent
        name = f"{trail.method} {trail.endpoint.path}" if trail.endpoint is not None else trail.method
        events: tuple[Event, ...] = ()
        if record is not None and record.first_token_at is not None:
            events = (Event("first_token", timestamp=self._ns(record.first_token_at)),)
        yield self._span(
            name, place, above, trail.began, trail.ended, _request(trail, self.tenants), SpanKind.SERVER, events
        )
        if record is None:
            return
        waits = [(attempt.queued_at, attempt.at) for attempt in trail.attempts]
        if not waits:
            waits.append((record.submitted_at, record.finished_at))
        for i, (begin, end) in enumerate(waits):
            begin = record.submitted_at if i == 0 else begin
            yield self._span("queue", self.branch(place), place, begin, end, {})
        scored_at = None if trail.turn is None else trail.turn.scored_at
        if scored_at is not None:
            scores = {"headway.scored": record.scores is not None}
            yield self._span("score", self.branch(place), place, record.submitted_at, scored_at, scores)
        for attempt in trail.attempts:
            if attempt.span is not None:
                end = trail.ended if attempt.ended_at is None else attempt.ended_at
                said = _attempt(trail, attempt)
                called = " ".join(filter(None, (_operation(trail), attempt.dispatch.model)))
                yield self._span(called, attempt.span, place, attempt.at, end, said, SpanKind.CLIENT)

    def _span(
        self,
        name: str,
        place: TraceParent,
        above: TraceParent | None,
        begin: float,
        end: float,
        attributes: Mapping[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
        events: Sequence[Event] = (),
    ) -> ReadableSpan:
        failed = "error.type" in attributes
        return ReadableSpan(
            name,
            _context(place, remote=False),
            None if above is None else _context(above, remote=kind is SpanKind.SERVER),
            self._resource,
            attributes={key: value for key, value in attributes.items() if value is not None},
            events=events,
            kind=kind,
            status=Status(StatusCode.ERROR) if failed else Status(StatusCode.UNSET),
            start_time=self._ns(begin),
            end_time=self._ns(max(begin, end)),
            instrumentation_scope=self._scope,
        )

    def _ns(self, at: float) -> int:
        return int((at + self._epoch) * 1e9)


class _Counting(SpanExporter):
    """Counts what became of spans."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.exported = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """In the processor's thread."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                self.exported += len(spans)
            else:
                self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        """Give up what is under way."""
        self._exporter.shutdown()


def _otlp(settings: Tracing) -> OTLPSpanExporter:
    headers = "" if settings.headers is None else settings.headers.get_secret_value()
    return OTLPSpanExporter(
        settings.endpoint, headers=parsed_headers(headers), timeout=_TIMEOUT_S, compression=Compression.Gzip
    )


def _context(place: TraceParent, *, remote: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if place.sampled else TraceFlags.DEFAULT)
    return SpanContext(place.trace_id, place.span_id, remote, flags)


def _operation(trail: Trail) -> str | None:
    return None if trail.endpoint is None else _OPERATIONS.get(trail.endpoint.path)


def _request(trail: Trail, tenants: Naming) -> dict[str, Any]:
    record, status = trail.record, trail.status
    said: dict[str, Any] = {
        "http.request.method": trail.method,
        "url.path": trail.path,
        "http.route": None if trail.endpoint is None else trail.endpoint.path,
        "http.response.status_code": status,
        "error.type": trail.failure or (str(status) if status is not None and status >= 500 else None),
        "gen_ai.operation.name": _operation(trail),
        "headway.request_id": trail.request_id.decode("latin-1"),
        "headway.ticket": trail.ticket,
    }
    if trail.tenant is not None:
        said["headway.tenant"] = tenants.label_of(trail.tenant)
        said["headway.tenant_class"] = tenants.class_of(trail.tenant)
    if record is None:
        return said
    usage = record.usage
    said.update(
        {
            "gen_ai.request.model": record.model,
            "gen_ai.request.max_tokens": record.max_tokens,
            "gen_ai.response.model": trail.attempts[-1].dispatch.model if trail.attempts else None,
            "gen_ai.usage.input_tokens": None if usage is None else usage.prompt_tokens,
            "gen_ai.usage.output_tokens": None if usage is None else usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": None if usage is None else usage.cached_tokens,
            "headway.pool": record.pool,
            "headway.worker": record.worker,
            "headway.attempts": record.attempts,
            "headway.continued": record.continued,
        }
    )
    for choice in record.choices:
        said[f"headway.{choice.stage}.by"] = choice.by
        said[f"headway.{choice.stage}.chosen"] = choice.chosen
        said[f"headway.{choice.stage}.fallback"] = choice.fallback
    return said


def _attempt(trail: Trail, attempt: Attempt) -> dict[str, Any]:
    dispatch = attempt.dispatch
    at = urlsplit(dispatch.url)
    return {
        "gen_ai.operation.name": _operation(trail),
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": dispatch.model,
        "server.address": at.hostname,
        "server.port": at.port,
        "error.type": attempt.code,
        "headway.attempt": dispatch.attempt,
        "headway.pool": dispatch.pool,
        "headway.worker": dispatch.worker,
        "headway.priority": dispatch.priority,
    }
