"""Looking after the workers: ``/health`` and ``/metrics`` of each, told to the control plane.

A worker that is listed joins with its first good look, and is out until then. One that fails several looks in a row is
taken out, and comes back with the next good one; a request that failed there brings the next look forward. Workers that
the reconciler starts and drains are left to it, but for taking out ready ones that stop answering.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from controller.types import WorkerName, WorkerPhase, WorkerReport, WorkerSpec
from gateway.driver import Clock, Driver
from upstream.client import Client
from upstream.errors import UnexpectedStatus, UpstreamError
from upstream.types import Timeouts
from upstream.vllm import VllmClient

__all__ = ["Intervals", "Watch"]

_log = logging.getLogger("headway.workers")


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds, and ``failures`` looks in a row that take a worker out."""

    health: float = 1.0
    report: float = 0.5
    timeout: float = 2.0
    failures: int = 2


@dataclass(slots=True)
class _Watched:
    """What is known of one worker."""

    spec: WorkerSpec
    listed: bool
    client: VllmClient
    out: bool = False
    """Taken out by this watch."""
    failures: int = 0
    """Looks in a row that failed."""
    health_due: float = 0.0
    report_due: float = 0.0
    reports: bool | None = None
    """Whether its last metrics page could be read; ``None`` before the first."""
    error: str | None = None
    look: asyncio.Task[None] | None = field(default=None, repr=False)


class Watch:
    """One for a gateway. ``add`` the listed workers, then ``start``."""

    def __init__(self, driver: Driver, client: Client, intervals: Intervals, clock: Clock) -> None:
        self._driver = driver
        self._client = client
        self._intervals = intervals
        self._now = clock
        self._watched: dict[WorkerName, _Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._timeouts = Timeouts(
            connect=intervals.timeout, first_byte=intervals.timeout, idle=intervals.timeout, total=intervals.timeout
        )

    def add(self, spec: WorkerSpec, *, listed: bool) -> None:
        """Watch this worker. A ``listed`` one is ready as soon as it is healthy; others say so themselves."""
        client = VllmClient(self._client, spec.url, timeouts=self._timeouts)
        self._watched[spec.name] = _Watched(spec, listed, client)

    def remove(self, name: WorkerName) -> None:
        """Watch it no more."""
        watched = self._watched.pop(name, None)
        if watched is not None and watched.look is not None:
            watched.look.cancel()

    def errors(self) -> dict[WorkerName, str]:
        """What is wrong with workers, where something is."""
        return {name: watched.error for name, watched in self._watched.items() if watched.error is not None}

    def suspect(self, name: WorkerName) -> None:
        """Look at this worker now."""
        watched = self._watched.get(name)
        if watched is not None and watched.look is None:
            watched.health_due = 0.0
            self._begin(watched)

    async def start(self) -> None:
        """Have a first look at every worker, then go on looking."""
        for watched in self._watched.values():
            self._begin(watched)
        await asyncio.gather(*(watched.look for watched in self._watched.values() if watched.look is not None))
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop looking."""
        tasks = [w.look for w in self._watched.values()] + [self._task]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self) -> None:
        pause = min(self._intervals.health, self._intervals.report)
        while True:
            await asyncio.sleep(pause)
            for watched in self._watched.values():
                if watched.look is None:
                    self._begin(watched)

    def _begin(self, watched: _Watched) -> None:
        watched.look = asyncio.get_running_loop().create_task(self._look(watched))

    async def _look(self, watched: _Watched) -> None:
        try:
            now = self._now()
            if now >= watched.health_due:
                watched.health_due = now + 0.9 * self._intervals.health
                await self._check_health(watched)
            if watched.failures == 0 and now >= watched.report_due:
                watched.report_due = now + 0.9 * self._intervals.report
                await self._read_report(watched)
        finally:
            watched.look = None

    async def _check_health(self, watched: _Watched) -> None:
        try:
            healthy = await watched.client.health()
            error = None if healthy else "its engine is dead (/health answered 503)"
        except UnexpectedStatus as unexpected:
            healthy = unexpected.status < 500  # a server without this endpoint answers, so it lives
            error = None if healthy else str(unexpected)
        except UpstreamError as failure:
            healthy, error = False, str(failure)
        watched.error = error
        watched.failures = 0 if healthy else watched.failures + 1
        self._conclude(watched, healthy)

    def _conclude(self, watched: _Watched, healthy: bool) -> None:
        phase = self._phase(watched)
        # A listed worker that does not answer is started by nobody: there is nothing to wait for.
        enough = 1 if phase is WorkerPhase.STARTING and watched.listed else self._intervals.failures
        if healthy and (watched.out or (phase is WorkerPhase.STARTING and watched.listed)):
            self._set(watched, WorkerPhase.READY)
        elif not healthy and watched.failures >= enough and self._may_be_taken_out(watched, phase):
            self._set(watched, WorkerPhase.UNHEALTHY)

    @staticmethod
    def _may_be_taken_out(watched: _Watched, phase: WorkerPhase | None) -> bool:
        return phase is WorkerPhase.READY or (phase is WorkerPhase.STARTING and watched.listed)

    def _set(self, watched: _Watched, phase: WorkerPhase) -> None:
        watched.out = phase is WorkerPhase.UNHEALTHY
        level = logging.WARNING if phase is WorkerPhase.UNHEALTHY else logging.INFO
        _log.log(level, "worker %s is %s%s", watched.spec.name, phase, f": {watched.error}" if watched.error else "")
        self._driver.set_phase(watched.spec.name, phase, self._now())

    def _phase(self, watched: _Watched) -> WorkerPhase | None:
        """Where the control plane sees it; ``None`` once it has left."""
        workers = self._driver.view(self._now()).pool(watched.spec.pool).workers
        return next((w.phase for w in workers if w.name == watched.spec.name and not w.removed), None)

    async def _read_report(self, watched: _Watched) -> None:
        name = watched.spec.name
        try:
            found = await watched.client.metrics()
        except UpstreamError as error:
            if watched.reports is not False:
                _log.warning("worker %s gives no report, its load is taken from our own requests: %s", name, error)
            watched.reports = False
            return
        watched.reports = True
        now = self._now()
        report = WorkerReport(at=now, running=found.running, waiting=found.waiting, kv_usage=found.kv_usage)
        if self._phase(watched) is not None:
            self._driver.on_worker_report(name, report, now)
