"""Looking after the servers of a live fleet: their gauges and their health, told to the control plane.

What :mod:`gateway.watch` does for a gateway, without its configuration: one that fails twice in a row is out, and comes
back with the next good look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from controller.pipeline import ControlPlane
from controller.types import WorkerName, WorkerPhase, WorkerReport, WorkerSpec
from envs.engines.base import EnginePhase
from envs.engines.live_errors import NotIdle
from envs.engines.live_loop import report_failure
from envs.engines.live_server import LiveServer

__all__ = ["LiveWatch"]

_FAILURES: Final = 2
"""Looks in a row that fail, after which a worker is out."""


@dataclass(slots=True)
class _Watched:
    spec: WorkerSpec
    server: LiveServer
    phase: WorkerPhase
    """As the fleet's owner has it."""
    failures: int = 0
    out: bool = False
    """Whether it has failed, and the control plane was told that it is unhealthy."""
    look: asyncio.Task[None] | None = field(default=None, repr=False)


class LiveWatch:
    """The servers by their workers' names. Everything happens in one event loop; ``changed`` is called when a worker
    may now be given something, or must not any more."""

    def __init__(self, control: ControlPlane, now: Callable[[], float], changed: Callable[[], None]) -> None:
        self._control = control
        self._now = now
        self._changed = changed
        self._watched: dict[WorkerName, _Watched] = {}

    def add(self, spec: WorkerSpec, server: LiveServer) -> None:
        """Let a connected server join the control plane."""
        phase = WorkerPhase.SLEEPING if server.phase is EnginePhase.SLEEPING else WorkerPhase.READY
        self._watched[spec.name] = _Watched(spec, server, phase)
        self._control.add_worker(spec, self._now(), phase)
        self._changed()

    def server(self, worker: WorkerName) -> LiveServer:
        """A worker's server; KeyError if there is none of that name."""
        return self._watched[worker].server

    def set_phase(self, worker: WorkerName, phase: WorkerPhase) -> None:
        """Tell the control plane where a worker stands, once it is not failing."""
        watched = self._watched[worker]
        watched.phase = phase
        if not watched.out:
            self._tell(worker, phase)

    def look(self, worker: WorkerName | None = None) -> None:
        """Have a worker's gauges read, or all workers'; one that is still being read is not asked again."""
        for watched in self._watched.values() if worker is None else (self._watched[worker],):
            if watched.look is None or watched.look.done():
                watched.look = asyncio.get_running_loop().create_task(self._look(watched))
                watched.look.add_done_callback(report_failure)

    async def close(self) -> None:
        """Look no more."""
        looks = [watched.look for watched in self._watched.values() if watched.look is not None]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def idle(self, patience: float) -> None:
        """Wait until no server has anything to do. Raises NotIdle, naming the workers, after ``patience`` seconds."""
        waits = [watched.server.idle(patience) for watched in self._watched.values()]
        found = dict(zip(self._watched, await asyncio.gather(*waits, return_exceptions=True), strict=True))
        failed = {name: error for name, error in found.items() if isinstance(error, BaseException)}
        if failed:
            told = "; ".join(f"worker {name!r} at {error}" for name, error in failed.items())
            raise NotIdle(told) from next(iter(failed.values()))

    async def _look(self, watched: _Watched) -> None:
        state, name = await watched.server.state(), watched.spec.name
        if state.phase is EnginePhase.FAILED:
            watched.failures += 1
            if watched.failures >= _FAILURES and not watched.out and watched.phase is WorkerPhase.READY:
                watched.out = True
                self._tell(name, WorkerPhase.UNHEALTHY)
            return
        watched.failures = 0
        if watched.out:
            watched.out = False
            self._tell(name, watched.phase)
        report = WorkerReport(state.at, state.running, state.waiting, state.kv_usage)
        self._control.on_worker_report(name, report, self._now())

    def _tell(self, worker: WorkerName, phase: WorkerPhase) -> None:
        self._control.set_phase(worker, phase, self._now())
        self._changed()
