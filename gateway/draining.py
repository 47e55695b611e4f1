"""uvicorn's server, with a life that loses nothing: how the gateway begins to listen, reads its file again, and ends.

    SIGTERM ──▶ not ready; every answer says ``Connection: close``
        │  the drain delay: load balancers look, and send their requests elsewhere
        ▼
    no longer listening; what was connected by then is served
        │  the grace: requests that run or wait come to their end
        ▼
    what is left is told so, and ended             a second SIGTERM, at any time, comes straight here
    SIGHUP  ──▶ the configuration is read again

A connection that has no request under way might be about to send one. It is given a second for that, then closed.

Closing a listening socket resets connections that the kernel has set up and nobody has accepted. So they are accepted
first. Where another process shares the port, the kernel is told before that to take no new connection for this socket:
clients' kernels try again within a second, and then reach the other process.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Protocol, cast

import uvicorn

from controller.errors import ConfigurationError
from gateway.reload import RestartNeeded

__all__ = ["GatewayServer", "Life", "bind"]

_log = logging.getLogger("headway.gateway")
_CLOSE = (b"connection", b"close")
_IDLE_S = 1.0
"""A connection without a request is kept so long once the gateway drains."""
_HANDSHAKES_S = 0.1
"""Connections whose set-up has begun may take so long to be there."""
_LAST_WORDS_S = 1.0
_LOOK_S = 0.05
_SO_ATTACH_FILTER = 26
_REFUSE_SYN = (
    (0x30, 0, 0, 13),  # load the byte with TCP's flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone:
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # anything else passes
)
"""Classic BPF: code, jump if true, jump if false, constant."""


class Life(Protocol):
    """What the server tells of its life; :class:`gateway.runtime.Runtime` hears it."""

    def drain(self) -> None:
        """The gateway will end soon."""

    async def reload(self) -> tuple[str, ...]:
        """Read the configuration again."""


class _Cycle(Protocol):
    response_complete: bool


class _Connection(Protocol):
    """A connection of :mod:`gateway.server`, or of uvicorn's own."""

    cycle: _Cycle | None
    transport: asyncio.Transport

    def shutdown(self) -> None: ...


def bind(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """Sockets bound to every address of the host, not listening yet; ``reuse_port`` shares the port with others.

    Raises OSError.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.setblocking(False)
            if port == 0:
                break  # another address would get another port
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound


class GatewayServer(uvicorn.Server):
    """Serves on sockets that :func:`bind` made: ``serve(sockets=...)``. Times in seconds. ``inherited`` sockets are
    those of other processes too, and go on without this one."""

    def __init__(
        self,
        config: uvicorn.Config,
        life: Life,
        *,
        grace_s: float,
        drain_delay_s: float = 0.0,
        inherited: bool = False,
    ) -> None:
        super().__init__(config)
        self._inherited = inherited
        self._life = life
        self._grace_s = grace_s
        self._drain_delay_s = drain_delay_s
        self._draining_since: float | None = None
        self._told = False
        self._reloading: set[asyncio.Task[None]] = set()

    # Signals

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins to drain, the second ends at once."""
        if self.should_exit:
            self.force_exit = True
            return
        self._captured_signals.append(sig)
        self.should_exit = True
        self._draining_since = time.monotonic()
        self._life.drain()
        self.config.encoded_headers.append(_CLOSE)
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]

    def _hang_up(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        try:
            await self._life.reload()
        except (ConfigurationError, RestartNeeded) as error:
            _log.error("the configuration was not changed: %s", error)
        except Exception:
            _log.exception("reading the configuration again failed")

    # uvicorn's hooks

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve; SIGHUP is heard from now on."""
        await super().startup(sockets)
        if sockets:
            self._log_started_message(sockets)
        if sys.platform != "win32":
            with suppress(ValueError, RuntimeError):  # not in the main thread: somebody else hears signals
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    async def on_tick(self, counter: int) -> bool:
        """Whether to go on to the end: the drain delay is over."""
        ends = await super().on_tick(counter)
        since = self._draining_since
        if since is not None and not self._told:  # not in handle_exit: it may have interrupted the log itself
            self._told = True
            _log.info("draining: %d connections, %d requests", len(self.server_state.connections), self._requests)
        if self.force_exit or since is None:
            return ends
        return time.monotonic() - since >= self._drain_delay_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """From listening to the end of the application's life."""
        await self._stop_listening()
        for listener in sockets or []:
            listener.close()
        await self._finish()
        await self._break_off()
        await self.lifespan.shutdown()

    # The end

    @property
    def _requests(self) -> int:
        return len(self.server_state.tasks)

    async def _stop_listening(self) -> None:
        spares = [socket.socket(fileno=socket.dup(listener.fileno())) for listener in self._listeners()]
        sharing = [one for one in spares if one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)]
        shared = [_refuse_new(spare) for spare in sharing if not self._inherited]
        if any(shared) and not self.force_exit:
            await asyncio.sleep(_HANDSHAKES_S)
        for server in self.servers:
            server.close()
        for spare in spares:
            await self._accept_all(spare)

    def _listeners(self) -> Iterator[socket.socket]:
        for server in self.servers:
            yield from server.sockets

    async def _accept_all(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepted = []
        listener.setblocking(False)
        with suppress(OSError):  # at the latest: nobody is left
            while True:
                accepted.append(listener.accept()[0])
        listener.close()  # before anything else happens: whoever comes in between is reset
        for connection in accepted:
            connection.setblocking(False)
            with suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        made: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def _finish(self) -> None:
        """Until every connection is closed and every request has ended, or the grace has, or there is a hurry."""
        began = time.monotonic()
        while (self.server_state.connections or self._requests) and not self.force_exit:
            waited = time.monotonic() - began
            if waited >= self._grace_s:
                break
            for connection in tuple(self.server_state.connections):
                _release(cast("_Connection", connection), waited)
            await asyncio.sleep(_LOOK_S)

    async def _break_off(self) -> None:
        tasks = tuple(self.server_state.tasks)
        if tasks:
            _log.warning("%d requests are ended before they were complete", len(tasks))
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS_S)
        began = time.monotonic()
        for connection in tuple(self.server_state.connections):
            cast("_Connection", connection).transport.close()
        while self.server_state.connections and time.monotonic() - began < _LAST_WORDS_S:
            await asyncio.sleep(_LOOK_S)


def _release(connection: _Connection, waited: float) -> None:
    """Close it as soon as that loses nothing."""
    cycle = connection.cycle
    busy = cycle is not None and not cycle.response_complete
    if busy or (waited >= _IDLE_S and not getattr(connection, "receiving", False)):
        connection.shutdown()


def _refuse_new(listener: socket.socket) -> bool:
    """Have the kernel drop what asks for a connection here, so that it is asked for again; false where it cannot."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _REFUSE_SYN))
    program = struct.pack("HL", len(_REFUSE_SYN), ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True
