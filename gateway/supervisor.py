"""The parent of several gateway processes on one machine: it holds the port, leads their leases, and replaces the dead.

It listens and never accepts: the processes inherit its sockets, so that no connection is refused while one of them is
replaced. SIGTERM and SIGINT end all of them, each with its grace; a second one ends them at once. At SIGHUP each reads
the configuration again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from gateway.leases.local import Hub

__all__ = ["Supervisor"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_SETTLED_S = 30.0
"""A process that lived so long did not fail for what failed before."""
_MARGIN_S = 15.0
"""Beyond its grace, for a process to close what is left."""
_TOLD = (0, -signal.SIGTERM)
_log = logging.getLogger("headway.supervisor")

Command = Callable[[str], Sequence[str]]
"""The command line of the process that has this name as a member."""


class Supervisor:
    """``run`` keeps ``processes`` of them until it is told to end."""

    def __init__(
        self, command: Command, processes: int, hub: Hub, sockets: Sequence[socket.socket], *, grace_s: float
    ) -> None:
        self._command = command
        self._processes = processes
        self._hub = hub
        self._sockets = sockets
        self._grace_s = grace_s
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._ending = asyncio.Event()
        self._status = 0

    @property
    def children(self) -> dict[str, int]:
        """The processes that there are, by name: their ids."""
        return {name: process.pid for name, process in self._children.items()}

    async def run(self) -> int:
        """The exit status: 0 after a signal, else that of the process that could not be started."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        await self._hub.start()
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(self._processes):
                    group.create_task(self._keep(index))
                await self._ending.wait()
                group.create_task(self._insist())
        finally:
            await self._hub.close()
        return self._status

    async def _keep(self, index: int) -> None:
        """Start it, and again whenever it ends, after a pause that doubles while it fails."""
        pause, run = _FIRST_PAUSE_S, 0
        while not self._ending.is_set():
            began, run = time.monotonic(), run + 1
            name = f"{index}.{run}"
            try:
                status, served = await self._once(name)
            except OSError as error:  # no memory or no process left: the others go on
                _log.error("process %s could not be made: %s", name, error)
                status, served = 1, False
            if self._ending.is_set():
                return
            if not served and run == 1:
                _log.critical("process %s could not start (status %d)", name, status)
                self._status = status or 1
                self._end(signal.SIGTERM)
                return
            if served and status in _TOLD:
                _log.info("process %s was told to end; another one takes its place", name)
                pause = _FIRST_PAUSE_S
                continue
            if time.monotonic() - began > _SETTLED_S:
                pause = _FIRST_PAUSE_S
            _log.error("process %s ended with status %d; the next one starts in %g s", name, status, pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _once(self, name: str) -> tuple[int, bool]:
        """One process from its start to its end: its status, and whether it came as far as serving."""
        fds = [listener.fileno() for listener in self._sockets]
        process = await asyncio.create_subprocess_exec(
            *self._command(name), pass_fds=fds, start_new_session=True
        )  # a session of its own: what the terminal sends comes from here, once
        self._children[name] = process
        if self._ending.is_set():
            process.terminate()
        _log.info("process %s is %d", name, process.pid)
        try:
            return await process.wait(), name in self._hub.seen
        finally:
            del self._children[name]
            self._hub.gone(name)

    def _end(self, number: signal.Signals) -> None:
        self._ending.set()
        for listener in self._sockets:
            listener.close()  # the processes have their own, and know when to close them
        _log.info("%s: the processes end", number.name)
        self._pass_on(signal.SIGTERM)

    def _hang_up(self) -> None:
        self._hub.reloaded()
        self._pass_on(signal.SIGHUP)

    def _pass_on(self, number: signal.Signals) -> None:
        for process in self._children.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _insist(self) -> None:
        """End what does not end by itself."""
        until = time.monotonic() + self._grace_s + _MARGIN_S
        while self._children and time.monotonic() < until:
            await asyncio.sleep(0.05)
        if self._children:
            _log.error("%d processes did not end in time and are killed", len(self._children))
            self._pass_on(signal.SIGKILL)
