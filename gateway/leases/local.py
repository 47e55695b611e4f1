"""The processes of one machine: a hub in their parent, and each one's link to it, over a Unix socket.

The hub leads (unless the leases come from a store), passes on what one process tells the others, and collects what one
asks of all. A link that is cut is made again; what was granted stays in force meanwhile. That a process is dead, the
parent knows from the process itself: a cut link says nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from controller.leases import Grant, MemberName, Report
from controller.leases_leader import Leader
from controller.types import WorkerName
from gateway.leases import wire
from gateway.leases.wire import Answer, Ask, Gone, Hello, Message, Tell

__all__ = ["Hub", "LocalLink"]

_ENDS = ("leave", "remove")
_SOON_S = 0.005
"""Reports that come so close together are answered together."""
_EVERY_S = 0.2
_SHARE = 5
"""Of the parent's time, planning takes at most so small a part."""
_ASK_S = 1.0
_AGAIN_S = 0.1
_UNREAD = 1 << 22
"""Bytes that a process may leave unread before it is told nothing more."""
_log = logging.getLogger("headway.leases")


class Hub:
    """Runs in the parent. ``leader`` is ``None`` where the processes' leases come from a store."""

    def __init__(self, path: Path, leader: Leader | None) -> None:
        self._path = path
        self._leader = leader
        self._links: dict[asyncio.StreamWriter, MemberName | None] = {}
        self.seen: set[MemberName] = set()
        """Processes that have ever come as far as making their link."""
        self._told: list[Tell] = []
        self._started: dict[MemberName, list[WorkerName]] = {}
        self._asked: dict[int, _Question] = {}
        self._numbers = 0
        self._server: asyncio.Server | None = None
        self._planning: asyncio.TimerHandle | None = None
        self._cost = 0.0

    async def start(self) -> None:
        """Listen; the socket is for this user alone."""
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        self._path.chmod(0o600)
        self._plan()

    async def close(self) -> None:
        """Listen no more."""
        if self._planning is not None:
            self._planning.cancel()
        if self._server is not None:
            self._server.close()
        for link in tuple(self._links):
            link.close()

    def gone(self, member: MemberName) -> None:
        """The process has ended, and with it the workers that it had started."""
        for worker in self._started.pop(member, []):
            tell = Tell("remove", worker)
            if any(old.worker == worker for old in self._told):
                self._remember(tell)
                for link in tuple(self._links):
                    self._send(link, tell)
        if self._leader is not None:
            self._leader.gone(member, time.monotonic())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links[writer] = None
        for tell in self._told:
            writer.write(wire.frame(tell))
        try:
            while (message := await wire.read(reader)) is not None:
                self._take(message, writer)
        except wire.WireError as error:
            _log.warning("a process of the gateway sent %s", error)
        finally:
            del self._links[writer]
            for question in tuple(self._asked.values()):
                question.answered(writer, ())
            writer.close()

    def _take(self, message: Message, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, Hello):
            self._links[writer] = message.member
            self.seen.add(message.member)
        elif isinstance(message, Report):
            if self._leader is not None and self._leader.heard(message, time.monotonic()):
                self._plan_within(_SOON_S)
        elif isinstance(message, Tell):
            self._remember(message)
            if message.details.get("started"):
                self._started.setdefault(self._links[writer] or "", []).append(message.worker)
            for link in self._others(writer):
                self._send(link, message)
        elif isinstance(message, Ask):
            self._ask(message, writer)
        elif isinstance(message, Answer) and message.number in self._asked:
            self._asked[message.number].answered(writer, message.bodies)
        elif isinstance(message, Gone):
            self.gone(message.member)
            self._plan_within(_SOON_S)

    # Grants

    def _plan(self) -> None:
        began = time.monotonic()
        if self._leader is not None:
            grants = {grant.member: grant for grant in self._leader.plan(began)}
            for link, member in self._links.items():
                if member in grants:
                    self._send(link, grants[member])
        self._cost = time.monotonic() - began
        self._planning = asyncio.get_running_loop().call_later(_EVERY_S, self._plan)

    def _plan_within(self, seconds: float) -> None:
        seconds = max(seconds, _SHARE * self._cost)
        loop, planning = asyncio.get_running_loop(), self._planning
        if planning is not None and planning.when() <= loop.time() + seconds:
            return
        if planning is not None:
            planning.cancel()
        self._planning = loop.call_later(seconds, self._plan)

    # Telling and asking

    def _remember(self, tell: Tell) -> None:
        """For processes that are started later: what changes the same worker's standing replaces what did before."""
        if tell.what == "reload":
            self.reloaded()
            return
        joined = any(old.what == "add" for old in self._told if old.worker == tell.worker)
        stays = () if tell.what in ("add", *_ENDS) else ("add", *_ENDS)
        self._told = [old for old in self._told if old.worker != tell.worker or old.what in stays]
        if tell.what != "undrain" and not (tell.what in _ENDS and joined):
            self._told.append(tell)

    def reloaded(self) -> None:
        """The configuration is read again: a listed worker that was taken out comes back."""
        self._told = [old for old in self._told if old.what not in _ENDS]

    def _ask(self, ask: Ask, writer: asyncio.StreamWriter) -> None:
        self._numbers += 1
        number, others = self._numbers, self._others(writer)
        loop = asyncio.get_running_loop()

        def done(bodies: tuple[str, ...]) -> None:
            del self._asked[number]
            timer.cancel()
            self._send(writer, Answer(ask.number, bodies))

        question = self._asked[number] = _Question(frozenset(others), done)
        timer = loop.call_later(_ASK_S, question.end)
        for link in others:
            self._send(link, Ask(number, ask.what))
        if not others:
            question.end()

    def _others(self, writer: asyncio.StreamWriter) -> list[asyncio.StreamWriter]:
        return [link for link in self._links if link is not writer]

    @staticmethod
    def _send(writer: asyncio.StreamWriter, message: Message) -> None:
        if not writer.is_closing() and writer.transport.get_write_buffer_size() < _UNREAD:
            writer.write(wire.frame(message))


class _Question:
    """One :class:`Ask` while its answers come in."""

    def __init__(self, asked: frozenset[asyncio.StreamWriter], done: Callable[[tuple[str, ...]], None]) -> None:
        self._missing = set(asked)
        self._bodies: list[str] = []
        self._done: Callable[[tuple[str, ...]], None] | None = done

    def answered(self, by: asyncio.StreamWriter, bodies: tuple[str, ...]) -> None:
        if by in self._missing:
            self._missing.discard(by)
            self._bodies += bodies
            if not self._missing:
                self.end()

    def end(self) -> None:
        if self._done is not None:
            done, self._done = self._done, None
            done(tuple(self._bodies))


class LocalLink:
    """One process's end. ``answers`` are what it can be asked; ``told`` hears what another process told all."""

    def __init__(self, path: Path, member: MemberName) -> None:
        self._path = path
        self._member = member
        self._parent = os.getppid()
        self.orphaned: Callable[[], None] = _nothing
        """Called once when the parent is gone."""
        self.answers: Mapping[str, Callable[[], str]] = {}
        self.told: Callable[[Tell], None] = _nobody
        self._on_grant: Callable[[Grant], None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[tuple[str, ...]]] = {}
        self._numbers = 0

    async def start(self, on_grant: Callable[[Grant], None] | None = None) -> None:
        """See :class:`gateway.leases.membership.Link`; without ``on_grant`` it only tells, asks and answers."""
        self._on_grant = on_grant
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def connected(self) -> bool:
        """Whether the hub can be reached at this moment."""
        return self._writer is not None

    def send(self, report: Report) -> None:
        """See :class:`gateway.leases.membership.Link`."""
        self._write(report)

    def tell(self, tell: Tell) -> None:
        """Let the other processes know."""
        self._write(tell)

    async def ask(self, what: str) -> tuple[str, ...]:
        """The answers of the other processes that answer in time."""
        if self._writer is None:
            return ()
        self._numbers += 1
        number = self._numbers
        waiting: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        self._write(Ask(number, what))
        try:
            async with asyncio.timeout(2 * _ASK_S):
                return await waiting
        except TimeoutError:
            return ()
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        """See :class:`gateway.leases.membership.Link`."""
        self._write(Gone(self._member))
        if self._writer is not None:
            with suppress(ConnectionError):
                await self._writer.drain()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._path)
                self._writer = writer
                self._write(Hello(self._member))
                try:
                    while (message := await wire.read(reader)) is not None:
                        self._take(message)
                finally:
                    self._writer = None
                    writer.close()
            if os.getppid() != self._parent:
                self._parent = os.getppid()
                _log.error("the parent of this process is gone")
                self.orphaned()
            await asyncio.sleep(_AGAIN_S)

    def _take(self, message: Message) -> None:
        if isinstance(message, Grant):
            if self._on_grant is not None and message.member == self._member:
                self._on_grant(message)
        elif isinstance(message, Tell):
            self.told(message)
        elif isinstance(message, Ask):
            answer = self.answers.get(message.what)
            self._write(Answer(message.number, () if answer is None else (answer(),)))
        elif isinstance(message, Answer):
            waiting = self._waiting.get(message.number)
            if waiting is not None and not waiting.done():
                waiting.set_result(message.bodies)

    def _write(self, message: Message) -> None:
        writer = self._writer
        if writer is not None and not writer.is_closing() and writer.transport.get_write_buffer_size() < _UNREAD:
            writer.write(wire.frame(message))


def _nothing() -> None:
    """Nobody has to know."""


def _nobody(tell: Tell) -> None:
    _log.debug("nobody hears that worker %s: %s", tell.worker, tell.what)
