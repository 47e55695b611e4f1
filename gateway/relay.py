"""The hot path: one request from a client to a worker and its answer back.

    read the body → describe it → wait for the controller's dispatch → send it → relay the answer
                                            ↑                            │
                                            └── another worker ── failed before the first event

It reads from and writes to an :class:`~gateway.exchange.Exchange`, and runs in the one task that serves it. When the
client leaves, that task is cancelled, whatever it waits for (the body, a dispatch, a connection, the head or the rest
of the answer), and with it the worker's socket is closed at once.

Where others plug in:

- continuation: :meth:`_Request._failed` hears of every failed attempt, also of a stream that has begun; what
  it leaves undecided goes round :meth:`_Request._deliver` again. A stream passes through
  :class:`~gateway.passage.Passage`, made anew for each attempt.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass

from controller.pipeline import BUSY
from controller.types import Dispatch, Tenant, Usage
from gateway.bulk import CutShort, pass_on
from gateway.continuation import Continuation, Continuations, Ending, Mode, Refused, Resume
from gateway.driver import GONE, Driver, Turn
from gateway.endpoints import dialect_of, target
from gateway.errors import ApiError, ClientLeft
from gateway.exchange import Exchange
from gateway.headers import from_worker, request_id, to_worker
from gateway.kv_caches import SESSION, KvCaches
from gateway.metrics import Metrics, Series
from gateway.openai import Call, body_for, parse
from gateway.passage import Passage, WorkerFault
from gateway.rate_limits import rate_limit_headers
from gateway.remaining import Listener, RemainingDesk
from gateway.stream import StreamMeter
from gateway.tenants import Caller, Tenants
from gateway.trail import Trails
from gateway.turns import Turns
from gateway.upstreams import Upstreams
from gateway.usage import usage_in, usage_of
from gateway.wishes import endpoint_of, wish_of
from upstream.client import Response
from upstream.errors import BodyTooLong, TotalTimeout, UpstreamError
from upstream.types import Header, Timeouts

__all__ = ["Relay", "RelaySettings"]

_ANSWER_LIMIT = 1 << 26
"""Bytes of an answer that is no stream. It is read whole, so that a worker's death in the middle of it stays unseen."""
_log = logging.getLogger("headway.relay")


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Bytes and seconds."""

    max_body_bytes: int
    timeouts: Timeouts
    max_json_depth: int = 100
    """Brackets inside each other in a body."""
    deadline_s: float | None = None
    """Deadline of requests that bring none."""
    pass_key_on: bool = True
    """Send the client's ``Authorization`` on to the worker; off where it names a tenant."""


class Relay:
    """Serves the endpoints of :mod:`gateway.endpoints`; a :data:`gateway.exchange.Handler`."""

    def __init__(
        self,
        driver: Driver,
        upstreams: Upstreams,
        tenants: Tenants,
        metrics: Metrics,
        settings: RelaySettings,
        prefix: str,
        continuations: Continuations | None = None,
    ) -> None:
        self.continuations = continuations or Continuations(Mode.OFF, 0, 0)
        self.driver = driver
        self.upstreams = upstreams
        self.tenants = tenants
        self.metrics = metrics
        self.settings = settings
        self.room: Callable[[Tenant], Awaitable[None]] | None = None
        """Waits for a lease, where limits are shared with other processes."""
        self.trails: Trails | None = None
        """Where requests are noted for the access log and for traces, where there are any."""
        self.caches: KvCaches | None = None
        """What workers say that they have cached, where any say it."""
        self.remaining: RemainingDesk | None = None
        """Reads running streams for what is left of them, where that is asked for."""
        self.turns = Turns()
        self._ids: Iterator[int] = itertools.count(1)
        self._prefix = prefix

    def __call__(self, exchange: Exchange) -> Coroutine[None, None, None]:
        """Answer one request."""
        return _Request(self, exchange, f"{self._prefix}-{next(self._ids):x}").run()


class _Request:
    """One request and its answer."""

    __slots__ = (
        "_caller", "_exchange", "_id", "_listener", "_named", "_relay", "_series", "_spent", "_ticket", "_trail",
    )  # fmt: skip

    def __init__(self, relay: Relay, exchange: Exchange, ticket: str) -> None:
        self._relay = relay
        self._exchange = exchange
        self._ticket = ticket
        self._id = request_id(exchange.fields.get(b"x-request-id"), ticket)
        self._caller: Caller | None = None
        """Who asks, once that is known."""
        self._spent = 0.0
        """Seconds that the gateway itself has worked on the request so far."""
        self._series: Series | None = None
        """What is observed of such requests, once there is a worker."""
        self._listener: Listener | None = None
        """Of a stream that is read as it passes."""
        self._named = False
        """Whether the worker calls it by its ticket when it says what it has cached."""
        self._trail = None if relay.trails is None else relay.trails.open(exchange, ticket, self._id)

    async def run(self) -> None:
        """From reading to answering; every outcome ends here."""
        exchange = self._exchange
        try:
            await self._serve()
        except ApiError as error:
            self._refuse(error)
        except ClientLeft:
            self._turned_away("client_left")
        except asyncio.CancelledError:
            if exchange.ended:
                raise
            if not exchange.left:
                self._break_off()
        except CutShort as cut:
            _log.warning("request %s broke off: %s", self._ticket, cut)
            raise
        except Exception:
            _log.exception("request %s: the gateway itself failed", self._ticket)
            if exchange.started:
                raise  # nothing true can be said any more; the server ends the connection
            self._refuse(ApiError(500, "internal_error", "the gateway failed; its log has the reason"))
        finally:
            if self._trail is not None:
                self._trail.close()

    async def _serve(self) -> None:
        relay, exchange = self._relay, self._exchange
        began: float | None = None
        try:
            endpoint = endpoint_of(exchange)
            caller = self._caller = relay.tenants.identify(exchange.fields)
            body = await exchange.body(relay.settings.max_body_bytes)
            if relay.room is not None:
                await relay.room(caller.name)
            arrived = relay.driver.now()
            if relay.turns.over:
                await relay.turns.next()
            began = relay.driver.now()
            settings = relay.settings
            wish = wish_of(exchange, self._ticket, caller, arrived, settings.deadline_s, settings.max_json_depth)
            call = parse(endpoint, body, wish, exchange.fields.get(b"content-type", b""))
        except ApiError as error:
            if began is not None:
                relay.turns.spend(relay.driver.now() - began)
            self._turned_away(error.code)
            raise
        except asyncio.CancelledError:
            self._turned_away("client_left" if exchange.left else GONE.code)
            raise
        if self._trail is not None:
            self._trail.submitted(endpoint, caller.name, len(body))
        try:
            turn = relay.driver.submit(call.ticket, call.prompt)
        finally:
            self._spent = relay.driver.now() - began
            relay.turns.spend(self._spent)
        try:
            await self._deliver(call, turn)
        except asyncio.CancelledError:
            turn.abort("client_left" if exchange.left else GONE.code)
            raise
        finally:
            turn.abort()

    def _turned_away(self, code: str) -> None:
        """The controller has not heard of it."""
        self._relay.metrics.refused(code)
        if self._trail is not None:
            self._trail.code = code
            self._trail.tenant = None if self._caller is None else self._caller.name

    # The answer

    async def _deliver(self, call: Call, turn: Turn) -> None:
        """Send the request to the worker that was chosen, and to another one, until it is answered or given up."""
        going, trail = self._relay.continuations.open(call), self._trail
        if trail is not None:
            trail.turn = turn
        try:
            while True:
                dispatch = turn.dispatch or await turn.dispatched()
                if trail is not None:
                    trail.dispatched(dispatch)
                try:
                    await self._attempt(call, turn, dispatch, going)
                    return
                except (UpstreamError, WorkerFault) as error:
                    if self._failed(turn, dispatch, error, going):
                        return
        except ApiError as error:
            if not self._exchange.started:
                raise
            self._exchange.end(error.event(dialect_of(self._exchange.path)))
        finally:
            if going is not None:
                going.close()
            if self._listener is not None:
                self._listener.close()

    def _failed(
        self, turn: Turn, dispatch: Dispatch, error: UpstreamError | WorkerFault, going: Continuation | None
    ) -> bool:
        """An attempt failed; true if the client has all of its answer. Raises ApiError with the last word on it."""
        exchange = self._exchange
        _log.info("request %s failed on worker %s: %s", self._ticket, dispatch.worker, error)
        if self._trail is not None:
            self._trail.failed(error.code)
        step = going.after_failure() if going is not None and exchange.started else None
        if isinstance(step, Ending):
            turn.finish(None if step.usage is None else usage_in({"usage": step.usage}))
            exchange.end(step.events)
            return True
        if turn.move is not None and isinstance(step, Resume):
            verdict = turn.moved()
        else:
            continues = isinstance(step, Resume) and error.code != TotalTimeout.code
            verdict = turn.fail(error.code, retryable=not exchange.started, continues=continues)
        if verdict is not None and isinstance(step, Refused):
            self._relay.metrics.not_continued(step.why)
        if verdict is not None:
            raise _not_continued(verdict, step.why) if isinstance(step, Refused) else verdict
        if isinstance(step, Resume):
            _log.info("request %s goes on elsewhere, from its %s", self._ticket, step.mode)
        return False

    async def _attempt(self, call: Call, turn: Turn, dispatch: Dispatch, going: Continuation | None) -> None:
        relay = self._relay
        began = relay.driver.now()
        access, keep_key = relay.upstreams.of(dispatch.worker, dispatch.pool), relay.settings.pass_key_on
        headers = to_worker(self._exchange.headers, self._id, dispatch, keep_key=keep_key, key=access.key)
        pending = None if going is None else going.pending
        if pending is None:
            path, body = target(call.endpoint, self._exchange.query), body_for(call, dispatch)
            body = body if going is None else going.body(body)
        else:
            path, body = pending.path, pending.body(dispatch)
        if self._trail is not None:
            headers = self._trail.headers(headers)
        if relay.caches is not None:
            self._named = pending is None and relay.caches.sent(call, dispatch, self._exchange.fields)
            if self._named:
                headers = [*headers, (SESSION, relay.caches.name(self._ticket).encode())]
        class_ = "" if self._caller is None else self._caller.settings.class_
        series = self._series = relay.metrics.series(dispatch.pool, class_)
        series.overhead(self._spent + relay.driver.now() - began)
        self._spent = 0.0
        url = dispatch.url + path
        response = await access.client.send(b"POST", url, headers=headers, body=body, timeouts=relay.settings.timeouts)
        try:
            if response.status >= 500 and response.status != 501:
                raise WorkerFault(BUSY if response.status == 503 else f"status_{response.status}")
            if (response.header(b"content-type") or b"").startswith(b"text/event-stream"):
                await self._stream(call, turn, dispatch, response, going)
            elif going is not None and pending is not None:
                going.declined()
                raise WorkerFault(BUSY)  # it cannot take this up; nothing is wrong with it
            elif call.endpoint.generates:
                await self._whole(turn, dispatch, response)
            else:
                await self._bulk(turn, dispatch, response)
        finally:
            response.close()

    async def _stream(
        self, call: Call, turn: Turn, dispatch: Dispatch, response: Response, going: Continuation | None
    ) -> None:
        """Let the events through as they come."""
        exchange = self._exchange
        meter = StreamMeter(drop_usage=call.adds_usage, screen=None if going is None else going.screen)

        def begin() -> None:
            exchange.start(response.status, self._own_headers(dispatch, response.headers))

        def break_off() -> bool:
            if going is None or not exchange.started or not isinstance(going.after_failure(), Resume):
                return False
            response.close()
            return True

        if going is not None:
            going.answered()
        turn.on_move(break_off)
        exchange.feed(response)
        listener = self._listener or self._listen(call, turn)
        passage = Passage(exchange, turn, meter, begin, going, self._relay.driver.now, listener)
        try:
            await response.pump(passage)
            self._counted(dispatch, meter.usage)
        except (UpstreamError, WorkerFault):
            if exchange.started and (whole := meter.cut()):
                exchange.write(whole)
            raise
        finally:
            turn.on_move(None)
            exchange.feed(None)
            self._observe(passage.spent, passage.longest_gap)

    def _listen(self, call: Call, turn: Turn) -> Listener | None:
        """Have the stream read as it passes, where one answer is being generated and somebody reads."""
        desk, ticket = self._relay.remaining, call.ticket
        if desk is None or not call.endpoint.generates or ticket.answers != 1:
            return None
        known = turn.expectation()
        if known is not None:
            self._listener = desk.listen(ticket.id, *known, ticket.max_tokens)
        return self._listener

    def _counted(self, dispatch: Dispatch, usage: Usage | None) -> None:
        """The answer is complete."""
        if self._named and usage is not None and self._relay.caches is not None:
            self._relay.caches.counted(self._ticket, dispatch.pool, usage.prompt_tokens)

    def _observe(self, spent: float | None, longest_gap: float) -> None:
        if self._series is not None and spent is not None:
            self._series.answer_overhead(spent)
            if longest_gap > 0.0:
                self._series.longest_gap(longest_gap)

    async def _whole(self, turn: Turn, dispatch: Dispatch, response: Response) -> None:
        try:
            body = await response.body(_ANSWER_LIMIT)
        except BodyTooLong as error:  # another worker would say as much
            turn.abort(error.code)
            message = f"the answer is larger than {_ANSWER_LIMIT} bytes; ask for it as a stream"
            raise ApiError(502, "answer_too_large", message) from error
        began = self._relay.driver.now()
        if response.status < 400:
            usage = usage_of(body)
            turn.finish(usage)  # first: the head says what the tenant has left after it
            self._counted(dispatch, usage)
        else:
            turn.abort(f"status_{response.status}")  # the request's fault, not the worker's
        self._exchange.answer(response.status, self._own_headers(dispatch, response.headers), body)
        self._observe(self._relay.driver.now() - began, 0.0)

    async def _bulk(self, turn: Turn, dispatch: Dispatch, response: Response) -> None:
        def begin(length: int | None) -> None:
            self._exchange.start(response.status, self._own_headers(dispatch, response.headers), length)

        await pass_on(self._exchange, turn, response, begin)

    def _own_headers(self, dispatch: Dispatch, headers: list[Header]) -> list[Header]:
        return from_worker(headers, self._id, dispatch, self._rate_limits())

    def _rate_limits(self) -> list[Header]:
        """What the tenant has left, where it is limited."""
        if self._caller is None:
            return []
        driver = self._relay.driver
        return rate_limit_headers(driver.plane.limits.standing(self._caller.name, driver.now()))

    def _break_off(self) -> None:
        """The server does not wait any longer: it is shutting down, and the client is told so."""
        if self._exchange.started:
            self._exchange.end(GONE.event(dialect_of(self._exchange.path)))
        else:
            self._refuse(GONE)

    def _refuse(self, error: ApiError) -> None:
        headers = [*error.headers(), (b"x-request-id", self._id), *self._rate_limits()]
        self._exchange.answer(error.status, headers, error.body(dialect_of(self._exchange.path)))


def _not_continued(verdict: ApiError, why: str) -> ApiError:
    message = f"{verdict.message}; the stream cannot be continued, because {why}"
    return ApiError(verdict.status, verdict.code, message)
