"""The bench's own generator: open loop at a fixed rate, free of coordinated omission; closed loop where wrk is missing.

An open-loop request is timed from when it was due, not from when it was sent, so that a gateway that stalls is charged
for every request that it kept from being sent. The event loop waits with ``select``, whose timeouts are microseconds;
epoll's and libuv's are whole milliseconds.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, TypeVar, cast

import httptools
import numpy as np

from cli.bench.gateway_prompts import Requests
from cli.bench.gateway_upstream import PIECES, TEXT
from cli.bench.gateway_wrk import Load, LoadError

__all__ = ["Latencies", "closed_loop", "is_whole", "open_loop", "poisson", "sample"]

_T = TypeVar("_T")
_LAST_WORD = PIECES[-1].strip().encode()
_PATIENCE_S = 60.0
"""For answers that are still out when the last request was sent."""
_MOST_CONNECTIONS = 800
"""``select`` takes descriptors below 1024."""


@dataclass(slots=True)
class Latencies:
    """Seconds from when a request was due: to the first byte of the answer's body, and to its end."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    failed: int = 0


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process."""
    gaps = np.random.default_rng(seed).exponential(1.0 / rate, int(rate * seconds * 1.5) + 50)
    times = np.cumsum(gaps)
    return [float(at) for at in times[times < seconds]]


def is_whole(body: bytes, streams: bool) -> bool:
    """Whether this is all that the upstream says: every piece of the text, the usage, and the end of a stream."""
    if not streams:
        return TEXT.encode() in body and b'"usage"' in body
    ended = body.rstrip().endswith(b"data: [DONE]")
    return ended and body.count(b" word") == len(PIECES) and _LAST_WORD in body and b'"total_tokens"' in body


class _Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._done: Callable[[_Connection, int, bytes, float], None] | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._first = 0.0

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing() and self._done is None

    def ask(self, request: bytes, done: Callable[[_Connection, int, bytes, float], None]) -> None:
        """Send; ``done(connection, status, body, when its first byte came)``, with status 0 if it broke."""
        assert self.transport is not None
        self._done = done
        self._reset()
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._finish(0)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self.transport is not None:
                self.transport.abort()

    def on_body(self, body: bytes) -> None:
        if not self._body:
            self._first = time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self.transport is not None and not self._parser.should_keep_alive():
            self.transport.close()
        self._finish(self._parser.get_status_code())

    def _finish(self, status: int) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self, status, b"".join(self._body), self._first or time.perf_counter())

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Pool:
    """Connections to a target, over its ports in turn."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = cycle(ports)
        self._idle: list[_Connection] = []
        self.open = 0

    async def connect(self) -> _Connection:
        self.open += 1
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", next(self._ports))
        return connection

    async def warm(self, count: int) -> None:
        self._idle += [await self.connect() for _ in range(count)]

    def take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self.open -= 1
        return None

    def give_back(self, connection: _Connection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def _run(main: Coroutine[Any, Any, _T]) -> _T:
    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def sample(ports: Sequence[int], requests: Requests, count: int) -> list[tuple[int, bytes]]:
    """Status and body of so many requests, one after the other. Raises LoadError if nothing listens."""

    async def main() -> list[tuple[int, bytes]]:
        pool = _Pool(ports)
        feed = iter(requests)
        answers = []
        for _ in range(count):
            connection = pool.take() or await pool.connect()
            status, body = await _ask(connection, next(feed))
            answers.append((status, body))
            pool.give_back(connection)
        pool.close()
        return answers

    try:
        return _run(main())
    except OSError as error:
        raise LoadError(f"no connection: {error}") from error


async def _ask(connection: _Connection, request: bytes) -> tuple[int, bytes]:
    future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    connection.ask(request, lambda _, status, body, __: future.set_result((status, body)))
    return await asyncio.wait_for(future, _PATIENCE_S)


def closed_loop(ports: Sequence[int], requests: Requests, *, connections: int, seconds: float) -> Load:
    """As :func:`cli.bench.gateway_wrk.run`, in Python and slower."""
    answers = failed = size = 0

    async def one(pool: _Pool, feed: Iterator[bytes], until: float) -> None:
        nonlocal answers, failed, size
        connection = await pool.connect()
        while time.perf_counter() < until:
            if not connection.usable:
                connection = await pool.connect()
            status, body = await _ask(connection, next(feed))
            size += len(body)
            if status == 200 and is_whole(body, requests.streams):
                answers += 1
            else:
                failed += 1
        connection.close()

    async def main() -> float:
        pool, feed = _Pool(ports), iter(requests)
        began = time.perf_counter()
        await asyncio.gather(*(one(pool, feed, began + seconds) for _ in range(connections)))
        return time.perf_counter() - began

    took = asyncio.run(main())
    return Load(answers, took, failed, size)


class _OpenLoop:
    """One run: requests go out when they are due, whatever became of the earlier ones."""

    def __init__(self, pool: _Pool, requests: Requests, due: Sequence[float]) -> None:
        self._pool = pool
        self._feed = iter(requests)
        self._streams = requests.streams
        self._due = due
        self._next = 0
        self._out = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self.found = Latencies()

    async def run(self) -> Latencies:
        loop = asyncio.get_running_loop()
        self._began = time.perf_counter() + 0.05
        loop.call_later(0.05, self._send_due)
        limit = (self._due[-1] if self._due else 0.0) + _PATIENCE_S
        try:
            async with asyncio.timeout(limit):
                await self._over.wait()
        except TimeoutError:
            self.found.failed += self._out
        return self.found

    def _send_due(self) -> None:
        now = time.perf_counter() - self._began
        while self._next < len(self._due) and self._due[self._next] <= now:
            self._next += 1
            self._send(self._began + self._due[self._next - 1])
        if self._next < len(self._due):
            wait = self._due[self._next] - (time.perf_counter() - self._began)
            asyncio.get_running_loop().call_later(max(0.0, wait), self._send_due)

    def _send(self, due: float) -> None:
        self._out += 1
        connection = self._pool.take()
        if connection is not None:
            self._ask(connection, due)
        elif self._pool.open >= _MOST_CONNECTIONS:
            self._ended(failed=True)
        else:
            task = asyncio.get_running_loop().create_task(self._open(due))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, due: float) -> None:
        try:
            connection = await self._pool.connect()
        except OSError:
            self._ended(failed=True)
        else:
            self._ask(connection, due)

    def _ask(self, connection: _Connection, due: float) -> None:
        def done(connection: _Connection, status: int, body: bytes, first: float) -> None:
            now = time.perf_counter()
            whole = status == 200 and is_whole(body, self._streams)
            if whole:
                self.found.first.append(first - due)
                self.found.whole.append(now - due)
            self._pool.give_back(connection)
            self._ended(failed=not whole)

        connection.ask(next(self._feed), done)

    def _ended(self, *, failed: bool) -> None:
        self._out -= 1
        self.found.failed += failed
        if self._out == 0 and self._next == len(self._due):
            self._over.set()


def open_loop(ports: Sequence[int], requests: Requests, due: Sequence[float], *, warm: int = 32) -> Latencies:
    """Send a request at each of these times (seconds from the start, ascending) and time the answers."""

    async def main() -> Latencies:
        pool = _Pool(ports)
        await pool.warm(warm)
        try:
            return await _OpenLoop(pool, requests, due).run()
        finally:
            pool.close()

    return _run(main())
