"""Workers as processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.actuators import Exit
from controller.actuators.keeper import kept, signal_group
from controller.configuration.pools import ProcessActuatorOptions
from controller.errors import ActuatorError, NoFreePort, StartFailed, UnknownPool
from controller.types import PoolName, WorkerName, WorkerSpec

Probe = Callable[[str], Awaitable[bool]]
"""Whether a GET of this URL answers 200. Must return false, not raise, where nothing listens; bounds its own time."""

_HOST = "127.0.0.1"
_TIME_WAIT = "06"
"""State of a connection in ``/proc/net/tcp``."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_LOG_LINES, _LOG_BYTES = 20, 8192


@dataclass(slots=True)
class _Running:
    spec: WorkerSpec
    port: int
    options: ProcessActuatorOptions
    process: asyncio.subprocess.Process
    log: Path
    ready: bool = False
    stopping: bool = False


class ProcessActuator:
    """Starts each pool's command on a free port, under a keeper that ends it should this process die.

    ``logs`` is the folder for ``POOL-NUMBER.log``; the log of the run before is kept as ``….log.previous``.
    ``environ`` is what the processes inherit.
    """

    def __init__(
        self,
        options: Mapping[PoolName, ProcessActuatorOptions],
        *,
        logs: Path,
        environ: Mapping[str, str],
        probe: Probe,
    ) -> None:
        self._options = dict(options)
        self._logs = logs
        self._environ = dict(environ)
        self._probe = probe
        self._running: dict[WorkerName, _Running] = {}
        self._ports: set[int] = set()
        self._numbers = {pool: itertools.count(1) for pool in options}

    @property
    def pools(self) -> frozenset[PoolName]:
        """The pools that have a command."""
        return frozenset(self._options)

    def pid(self, worker: WorkerName) -> int | None:
        """The process group of a worker; ``None`` once it is gone."""
        running = self._running.get(worker)
        return running.process.pid if running else None

    async def launch(self, pool: PoolName) -> WorkerSpec:
        """Start the pool's command on a free port; it is not healthy yet.

        Raises :class:`UnknownPool`, :class:`NoFreePort`, or :class:`ActuatorError` where no process can be made.
        """
        options = self._options.get(pool)
        if options is None:
            raise UnknownPool(f"pool {pool!r} has no process actuator")
        port = self._take_port(pool, options)
        number = next(self._numbers[pool])
        spec = WorkerSpec(
            name=f"{pool}:{number}",
            pool=pool,
            url=f"http://{_HOST}:{port}",
            max_inflight=options.max_inflight,
            priority_scheduling=options.priority_scheduling,
        )
        try:
            log = self._logs / f"{pool}-{number}.log"
            process = await self._spawn(spec, port, options, log)
        except OSError as error:
            self._ports.discard(port)
            raise ActuatorError(f"worker {spec.name} cannot be started: {error}") from error
        except asyncio.CancelledError:
            self._ports.discard(port)
            raise
        self._running[spec.name] = _Running(spec, port, options, process, log)
        return spec

    async def ready(self, worker: WorkerName) -> None:
        """Return once ``/health`` answers 200.

        Raises :class:`StartFailed` with the end of its log if it ended or took too long; the worker is gone then.
        """
        running = self._running.get(worker)
        if running is None:
            raise StartFailed(f"worker {worker} was stopped before it was ready")
        try:
            async with asyncio.timeout(running.options.start_timeout_s):
                failure = await self._wait(running)
        except TimeoutError:
            failure = f"did not answer {running.spec.url}/health within {running.options.start_timeout_s:g} s"
        if failure is None:
            running.ready = True
            return
        await self.stop(worker)
        raise StartFailed(f"worker {worker} {failure}; the end of {running.log}:", _tail(running.log))

    async def start(self, pool: PoolName) -> WorkerSpec:
        """Launch a worker and wait until it is healthy. Raises as those two."""
        spec = await self.launch(pool)
        try:
            await self.ready(spec.name)
        except asyncio.CancelledError:
            await self.stop(spec.name)
            raise
        return spec

    async def stop(self, worker: WorkerName) -> None:
        """SIGTERM to the worker's process group, SIGKILL after the pool's grace; returns when all of it is gone."""
        running = self._running.get(worker)
        if running is None:
            return
        running.stopping = True
        signal_group(running.process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(running.options.stop_grace_s):
                await running.process.wait()
        except TimeoutError:
            pass
        finally:
            self._forget(running)
        await running.process.wait()

    def exits(self) -> tuple[Exit, ...]:
        """Workers that were ready and have ended unasked since the last call."""
        ended = [r for r in self._running.values() if r.ready and not r.stopping and r.process.returncode is not None]
        for running in ended:
            self._forget(running)
        return tuple(Exit(r.spec.name, r.spec.pool, r.process.returncode, _tail(r.log)) for r in ended)

    async def close(self) -> None:
        """Stop everything, all at once."""
        await asyncio.gather(*(self.stop(worker) for worker in tuple(self._running)))

    async def _spawn(
        self, spec: WorkerSpec, port: int, options: ProcessActuatorOptions, log: Path
    ) -> asyncio.subprocess.Process:
        command = [word.replace("{port}", str(port)).replace("{name}", spec.name) for word in options.command]
        environ = {**self._environ, **options.environment}
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.previous"))
        with log.open("wb") as output:
            return await asyncio.create_subprocess_exec(
                *kept(command, options.stop_grace_s),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env={name: value for name, value in environ.items() if value is not None},
                start_new_session=True,
            )

    async def _wait(self, running: _Running) -> str | None:
        """``None`` once healthy, else what went wrong."""
        for pause in _pauses():
            if running.process.returncode is not None:
                return f"ended with status {running.process.returncode} before it was healthy"
            if running.stopping:
                return "was stopped before it was ready"
            if await self._probe(f"{running.spec.url}/health"):
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await running.process.wait()
        raise AssertionError("pauses never end")

    def _take_port(self, pool: PoolName, options: ProcessActuatorOptions) -> int:
        for port in options.port_range:
            if port not in self._ports and _is_free(port):
                self._ports.add(port)
                return port
        raise NoFreePort(f"pool {pool!r}: every port of {options.ports} is taken; give its actuator a wider range")

    def _forget(self, running: _Running) -> None:
        """End what may be left of the process group, and free the name and the port."""
        signal_group(running.process.pid, signal.SIGKILL)
        if self._running.pop(running.spec.name, None) is not None:
            self._ports.discard(running.port)


def _is_free(port: int) -> bool:
    """Whether nobody has bound the port: neither a server that listens, nor one that is still starting."""
    # With SO_REUSEADDR a port that another process has bound, and does not listen on yet, would look free. Without it,
    # so does one in TIME_WAIT look taken, which keeps no server from binding it: those are told apart by the kernel.
    return _can_bind(port, reuse=False) or (port in _closing_ports() and _can_bind(port, reuse=True))


def _can_bind(port: int, *, reuse: bool) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            trial.bind((_HOST, port))
        except OSError:
            return False
    return True


def _closing_ports() -> frozenset[int]:
    """Local ports with connections in TIME_WAIT; none where the kernel does not say."""
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), Path(table).open() as lines:
            rows = (line.split() for line in lines)
            found.update(int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == _TIME_WAIT)
    return frozenset(found)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_LINES:])
    except OSError as error:
        return f"(the log cannot be read: {error.strerror})"
