"""The hot path: one request from a client to a worker and its answer back, in raw ASGI.

    read the body → describe it → wait for the controller's dispatch → send it → relay the answer
                                            ↑                            │
                                            └── another worker ── failed before the first event

The client is watched all the while. When it leaves, whatever is under way is cancelled, and with it the worker's socket
is closed at once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from controller.pipeline import BUSY
from controller.types import Dispatch, Usage
from gateway.driver import GONE, Driver, Turn
from gateway.errors import ApiError, ClientLeft
from gateway.headers import from_worker, request_id, to_worker
from gateway.metrics import Metrics
from gateway.openai import Call, Endpoint, Wish, body_for, parse
from gateway.stream import StreamMeter, usage_in
from gateway.tenants import Tenants
from upstream.client import Client, Response
from upstream.errors import UpstreamError
from upstream.types import Timeouts

__all__ = ["Receive", "Relay", "RelaySettings", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TELL_EVERY = 16
"""Tokens between two reports of a stream's progress to the controller."""
_ANSWER_LIMIT = 1 << 26
"""Bytes of an answer that is no stream. It is read whole, so that a worker's death in the middle of it stays unseen."""
_log = logging.getLogger("headway.relay")


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Bytes and seconds."""

    max_body_bytes: int
    timeouts: Timeouts
    deadline_s: float | None = None
    """Deadline of requests that bring none."""
    pass_key_on: bool = True
    """Send the client's ``Authorization`` on to the worker; off where it names a tenant."""


class WorkerFault(Exception):
    """The worker answered, and what it said is a fault of its own. ``code`` is for records and metrics."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Relay:
    """Serves the endpoints of :class:`gateway.openai.Endpoint`."""

    def __init__(
        self, driver: Driver, client: Client, tenants: Tenants, metrics: Metrics, settings: RelaySettings, prefix: str
    ) -> None:
        self.driver = driver
        self.client = client
        self.tenants = tenants
        self.metrics = metrics
        self.settings = settings
        self._ids: Iterator[int] = itertools.count(1)
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await _Exchange(self, scope, receive, send, f"{self._prefix}-{next(self._ids):x}").run()


class _Exchange:
    """One request and its answer."""

    def __init__(self, relay: Relay, scope: Scope, receive: Receive, send: Send, ticket: str) -> None:
        self._relay = relay
        self._scope = scope
        self._receive = receive
        self._send = send
        self._ticket = ticket
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._id = request_id(self._headers.get(b"x-request-id"), ticket)
        self._started = False
        """The head of the answer is out; from here on nothing can be taken back."""
        self._finishing = False
        """The last piece of the answer is on its way out: the client may go."""
        self._left = False
        self._spent = 0.0
        """Seconds that the gateway itself has worked on the request so far."""

    async def run(self) -> None:
        """From reading to answering; every outcome ends here."""
        try:
            await self._serve()
        except ApiError as error:
            await self._refuse(error)
        except ClientLeft:
            self._relay.metrics.refused("client_left")
        except asyncio.CancelledError:
            await self._break_off()
        except Exception:
            _log.exception("request %s: the gateway itself failed", self._ticket)
            if self._started:
                raise  # nothing true can be said any more; the server ends the connection
            await self._refuse(ApiError(500, "internal_error", "the gateway failed; its log has the reason"))

    async def _serve(self) -> None:
        relay = self._relay
        try:
            endpoint = self._endpoint()
            body = await self._body()
            began = relay.driver.now()
            call = parse(endpoint, body, self._wish(began))
        except ApiError as error:
            relay.metrics.refused(error.code)
            raise
        turn = relay.driver.submit(call.ticket, call.prompt)
        self._spent = relay.driver.now() - began
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.get_running_loop().create_task(self._watch(task))
        try:
            await self._deliver(call, turn)
        except asyncio.CancelledError:
            if not self._left:
                turn.abort("shutting_down")
                raise
            task.uncancel()
        finally:
            watcher.cancel()
            turn.abort()

    async def _watch(self, task: asyncio.Task[Any]) -> None:
        """Cancel the exchange when its client leaves."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._finishing:
            self._left = True
            task.cancel()

    # The request

    def _endpoint(self) -> Endpoint:
        if self._scope["method"] != "POST":
            message = f"{self._scope['path']} takes POST, not {self._scope['method']}"
            raise ApiError(405, "method_not_allowed", message, close=True)
        encoding = self._headers.get(b"content-encoding", b"identity").lower()
        if encoding != b"identity":
            message = f"the body has the encoding {encoding.decode('latin-1')!r}; send it as it is"
            raise ApiError(415, "unsupported_encoding", message, close=True)
        return Endpoint(self._scope["path"])

    async def _body(self) -> bytes:
        limit = self._relay.settings.max_body_bytes
        announced = self._headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _wish(self, now: float) -> Wish:
        name, tenant = self._relay.tenants.of(self._headers)
        return Wish(self._ticket, name, tenant.priority.min, tenant.priority.max, self._deadline(now))

    def _deadline(self, now: float) -> float | None:
        given = self._headers.get(b"x-headway-deadline-ms")
        if given is None:
            default = self._relay.settings.deadline_s
            return None if default is None else now + default
        with suppress(ValueError):
            milliseconds = float(given)
            if 0 < milliseconds < float("inf"):
                return now + milliseconds / 1000
        shown = given[:40].decode("latin-1")
        message = f"X-Headway-Deadline-Ms must be a positive number of milliseconds, not {shown!r}"
        raise ApiError(400, "invalid_deadline", message, param="X-Headway-Deadline-Ms")

    # The answer

    async def _deliver(self, call: Call, turn: Turn) -> None:
        """Send the request to the worker that was chosen, and to another one, until it is answered or given up."""
        while True:
            dispatch = await turn.dispatched()
            try:
                await self._attempt(call, turn, dispatch)
                return
            except (UpstreamError, WorkerFault) as error:
                _log.info("request %s failed on worker %s: %s", self._ticket, dispatch.worker, error)
                verdict = turn.fail(error.code, retryable=not self._started)
            if verdict is not None:
                if not self._started:
                    raise verdict
                self._finishing = True
                await self._send({"type": "http.response.body", "body": verdict.event(), "more_body": False})
                return

    async def _attempt(self, call: Call, turn: Turn, dispatch: Dispatch) -> None:
        relay = self._relay
        began = relay.driver.now()
        headers = to_worker(self._scope["headers"], self._id, dispatch, keep_key=relay.settings.pass_key_on)
        body = body_for(call, dispatch)
        relay.metrics.overhead(self._spent + relay.driver.now() - began)
        self._spent = 0.0
        url = dispatch.url + call.endpoint
        response = await relay.client.send(b"POST", url, headers=headers, body=body, timeouts=relay.settings.timeouts)
        async with response:
            if response.status >= 500 and response.status != 501:
                raise WorkerFault(BUSY if response.status == 503 else f"status_{response.status}")
            if (response.header(b"content-type") or b"").startswith(b"text/event-stream"):
                await self._stream(call, turn, dispatch, response)
            else:
                await self._whole(turn, dispatch, response)

    async def _stream(self, call: Call, turn: Turn, dispatch: Dispatch, response: Response) -> None:
        """Relay events as they come; nothing before the first one, so that until then another worker may stand in."""
        meter = StreamMeter(drop_usage=call.adds_usage)
        told = 0
        while True:
            chunk = await response.read()
            last = not chunk or response.complete
            events = meter.feed(chunk)
            if last:
                events += meter.end()
            if not self._started and (events or last):
                if meter.error is not None and meter.error >= 500:
                    raise WorkerFault(f"status_{meter.error}")
                turn.first_token()
                await self._start(dispatch, response)
            if last:
                self._end(turn, meter)
                await self._piece(events, more=False)
                return
            if meter.tokens - told >= _TELL_EVERY:
                told = meter.tokens
                turn.tokens(told)
            if events:
                await self._piece(events, more=True)

    def _end(self, turn: Turn, meter: StreamMeter) -> None:
        if meter.error is None:
            turn.finish(meter.usage)
        elif meter.error >= 500:
            turn.fail(f"status_{meter.error}", retryable=False)
        else:
            turn.abort(f"status_{meter.error}")

    async def _whole(self, turn: Turn, dispatch: Dispatch, response: Response) -> None:
        body = await response.body(_ANSWER_LIMIT)
        if response.status < 400:
            turn.finish(_usage(body))
        else:
            turn.abort(f"status_{response.status}")  # the request's fault, not the worker's
        await self._start(dispatch, response, (b"content-length", b"%d" % len(body)))
        await self._piece(body, more=False)

    async def _start(self, dispatch: Dispatch, response: Response, *more: tuple[bytes, bytes]) -> None:
        self._started = True
        headers = [*from_worker(response.headers, self._id, dispatch), *more]
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def _piece(self, body: bytes, *, more: bool) -> None:
        self._finishing = not more
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _break_off(self) -> None:
        """The server does not wait any longer: it is shutting down, and the client is told so."""
        task = asyncio.current_task()
        if self._finishing or task is None:
            raise asyncio.CancelledError
        task.uncancel()
        if self._started:
            await self._piece(GONE.event(), more=False)
        else:
            await self._refuse(GONE)

    async def _refuse(self, error: ApiError) -> None:
        body = error.body()
        headers = [*error.headers(), (b"content-length", b"%d" % len(body)), (b"x-request-id", self._id)]
        self._finishing = True
        await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _usage(body: bytes) -> Usage | None:
    with suppress(orjson.JSONDecodeError):
        answer = orjson.loads(body)
        return usage_in(answer) if isinstance(answer, dict) else None
    return None


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"the body is larger than {limit} bytes", close=True)
