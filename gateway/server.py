"""The gateway's HTTP server: uvicorn's, with the relay's paths served straight on the connection.

uvicorn.Server keeps sockets, signals and the application's life. :func:`protocol` gives it a protocol whose connections
hand requests that the application relays (:class:`gateway.door.Direct`) to its handler as a
:class:`~gateway.direct.DirectExchange`: no ASGI messages, no task beside the one that answers. Everything else goes to
the ASGI application as ever.

- A client's end of stream is its leaving (see :mod:`gateway.exchange`): the task that serves it is cancelled in the
  same turn of the loop.
- Pipelined requests are answered in order. While one waits, nothing more is read, so that the leaving of a client
  that pipelines is noticed when its answer is written.
- Slow clients: :class:`Waits` bounds the time for a request's head, for its body (more for a large one), between two
  requests, and how long a client may take nothing at all of what is sent. One timer looks at all connections.
- A request that is answered before it has arrived whole (401, 413, …) ends the connection; what still comes is read and
  thrown away for a moment, or the client might lose the answer.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.direct import DirectExchange, head_lines
from gateway.door import Direct, Door, Waits
from gateway.echo import id_for
from gateway.errors import ApiError
from gateway.exchange import status_line
from gateway.instruments import Level

__all__ = ["Connection", "Direct", "Waits", "protocol"]

_HEAD_LIMIT = 1 << 16
"""Bytes of a request's line and headers."""
_LINGER_S = 2.0
_SLOWEST = 16_384
"""Bytes a second. A body is given so much more time for what has arrived of it."""
_log = logging.getLogger("headway.server")


def protocol(app: Direct, waits: Waits | None = None, clients: Level | None = None) -> type[Connection]:
    """The class for ``uvicorn.Config(http=...)``; ``clients`` counts its connections."""
    return type("GatewayConnection", (Connection,), {"door": Door(app, waits or Waits(), clients)})


class Connection(HttpToolsProtocol):
    """One client's connection."""

    door: ClassVar[Door]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since = 0.0
        """When what is waited for began."""
        self._in_head = False
        self._fresh = True
        self._head_size = 0
        self._after_body = 0
        self._lingering = False
        self._unsent: int | None = None
        """Bytes that the client had still to take at the last look, while it does not keep up."""
        self._serving: DirectExchange | None = None
        self._unparsed: int | None = None
        """Bytes of body to come after an offer to change the protocol, which ends parsing."""

    @property
    def receiving(self) -> bool:
        """Whether the head of a request has begun to arrive, and not ended."""
        return self._in_head

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self.door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.leave(self)
        serving, cycle = self._serving, cast("Any", self.cycle)
        if serving is not None:
            serving.lost()
        self.pipeline.clear()
        if isinstance(cycle, DirectExchange):
            cycle.left = True
            self.cycle = cast("Any", None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._unparsed is not None:
            self._take_unparsed(data)
            return
        within = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(ApiError(400, "invalid_http", f"this is not HTTP/1.1: {error}", close=True))
        except httptools.HttpParserUpgrade as offer:
            if self._unparsed is not None:
                self._take_unparsed(data[offer.args[0] :])
        else:
            if self._in_head and (within or self._serving is None):  # else it may be another's body for the most part
                self._head_size += len(data)
            if self._head_size > _HEAD_LIMIT or self._after_body > _HEAD_LIMIT:
                self._refuse(_head_too_large())

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent, self._since = None, self.loop.time()
        if self._serving is not None:
            self._serving.slow(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._serving is not None:
            self._serving.slow(False)

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._in_head = True
        self._fresh = False
        self._head_size = 0
        self._after_body = 0
        self._since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))
        else:
            self._after_body += len(name) + len(value)  # trailers, which nobody reads

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._lingering or self.transport.is_closing():
            return
        if len(self.headers) > 100 or sum([len(value) for _, value in self.headers]) > _HEAD_LIMIT:
            self._refuse(_head_too_large())
            return
        path, _, query = self.url.partition(b"?")
        method, name = self.parser.get_method().decode("ascii"), path.decode("latin-1")
        if not self.door.app.relays(method, name):
            self._to_application()
            return
        parser = self.parser
        modern = parser.get_http_version() == "1.1"
        if parser.should_upgrade():
            self._pass_over_upgrade()
        exchange = DirectExchange(
            self,
            method,
            name,
            query,
            self.headers,
            keep_alive=modern and self._unparsed is None and parser.should_keep_alive(),
            chunks=modern,
            expects=self.expect_100_continue,
        )
        before, self.cycle = self.cycle, cast("Any", exchange)
        if before is None or before.response_complete:
            self._begin(exchange)
        else:
            self.pipeline.appendleft((self.cycle, self.app))
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        cycle = cast("Any", self.cycle)
        if isinstance(cycle, DirectExchange):
            if not cycle.ended:
                cycle.arrived(body)
        elif cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        cycle = cast("Any", self.cycle)
        if isinstance(cycle, DirectExchange):
            if self._unparsed is None:
                cycle.whole()
        elif cycle is not None:
            super().on_message_complete()

    # For exchanges

    def common_head(self) -> bytes:
        """See :class:`gateway.direct.Carrier`, also for what follows."""
        return self.door.common_head(self.server_state.default_headers)

    def finished(self, exchange: DirectExchange, *, keep: bool) -> None:
        self._serving = None
        if keep:
            self.on_response_complete()
        elif exchange.complete or not self._linger():
            self.server_state.total_requests += 1
            self.transport.close()

    def writable(self) -> bool:
        return not self.flow.write_paused

    async def drained(self) -> None:
        await self.flow.drain()

    # uvicorn's hooks

    def on_response_complete(self) -> None:
        """An answer is on its way: begin with the next request, or wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        if not self.pipeline:
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """The server ends: close when nothing runs here, else after the answer."""
        cycle = cast("Any", self.cycle)
        if cycle is None or cycle.response_complete:
            self.transport.close()
            return
        cycle.keep_alive = False
        if self._serving is not None:
            self._serving.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """A request that is no HTTP, in OpenAI's words."""
        self._refuse(ApiError(400, "invalid_http", msg, close=True))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, DirectExchange):
            self._begin(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    # The rest

    def look(self, now: float) -> None:
        """Time has passed; is this client still worth waiting for?"""
        waits, waited, cycle = self.door.waits, now - self._since, cast("Any", self.cycle)
        if self._lingering:
            if waited > _LINGER_S:
                self.transport.abort()
        elif self.flow.write_paused:
            self._look_at_stall(now)
        elif self._serving is not None and cycle is not self._serving:
            pass  # what follows on the same connection has time until the answer is out
        elif self._in_head or self._fresh:
            if waited > waits.head and self._serving is None:
                self._head_is_late()
        elif cycle is None or cycle.response_complete:
            if waited > waits.idle and not self.transport.is_closing():
                self.transport.close()
        elif isinstance(cycle, DirectExchange):
            if not cycle.complete and waited > waits.body + cycle.size / _SLOWEST:
                cycle.late()
        elif cycle.more_body and waited > waits.body:
            self.transport.close()

    def _look_at_stall(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._since = unsent, now
        elif now - self._since > self.door.waits.stall:
            _log.info("a client took nothing for %g s; its connection is closed", self.door.waits.stall)
            self.transport.abort()

    def _head_is_late(self) -> None:
        if self._in_head and not self.transport.is_closing():
            self._refuse(ApiError(408, "request_timeout", "the request's head did not arrive in time", close=True))
        else:
            self.transport.close()

    def _begin(self, exchange: DirectExchange) -> None:
        self._serving = exchange
        task = exchange.task = self.loop.create_task(exchange.run(self.door.app.handler))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _pass_over_upgrade(self) -> None:
        """Java's client, for one, offers HTTP/2 with its first request. The parser takes the body for what comes after
        the change; so it is taken unparsed, and the connection ends with the answer."""
        length = next((value for name, value in self.headers if name == b"content-length"), b"0")
        self._unparsed = int(length)

    def _take_unparsed(self, data: bytes) -> None:
        cycle, left = cast("Any", self.cycle), self._unparsed or 0
        if not isinstance(cycle, DirectExchange) or cycle.complete:
            return
        self._unparsed = left - len(data)
        if data:
            cycle.arrived(data[:left])
        if self._unparsed <= 0:
            cycle.whole()

    def _to_application(self) -> None:
        """What uvicorn does with a request, from its beginning."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def _refuse(self, error: ApiError) -> None:
        """Answer what cannot be a request, and end the connection. Nothing is said in the middle of an answer."""
        serving = self._serving
        if serving is not None:
            serving.lost()
        if self.transport.is_closing():
            return
        cycle = cast("Any", self.cycle)
        if cycle is None or cycle.response_complete or (cycle is serving and not serving.started):
            body = error.body()
            own = [(b"x-request-id", id_for(self.headers or ())), (b"content-length", b"%d" % len(body))]
            head = head_lines([*error.headers(), *own])
            self.transport.write(b"".join((status_line(error.status), self.common_head(), head, b"\r\n", body)))
        if not self._linger():
            self.transport.close()

    def _linger(self) -> bool:
        """Say that nothing more comes, and read what still does for a moment; false where only closing is left."""
        if self.transport.is_closing() or not self.transport.can_write_eof():
            return False
        self.flow.resume_reading()
        self._lingering, self._since = True, self.loop.time()
        self.transport.write_eof()
        return True


def _head_too_large() -> ApiError:
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE.value
    return ApiError(status, "headers_too_large", f"the request's head has more than {_HEAD_LIMIT} bytes", close=True)
