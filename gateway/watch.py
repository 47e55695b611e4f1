"""Looking after the workers: ``/health`` and ``/metrics`` of each, told to the control plane.

A worker that is listed joins with its first good look, and is out until then. One that fails several looks in a row is
taken out, and comes back with the next good one; a request that failed there brings the next look forward. Workers that
the reconciler starts and drains are left to it, but for taking out ready ones that stop answering; of those that stay
silent it is told, so that it starts them anew.

``/health`` of a hanging engine still answers. Where probes are configured, a worker is asked for one token from time to
time, and at once after a request that timed out there; one that does not give it is out until it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from controller.types import WorkerName, WorkerPhase, WorkerReport, WorkerSpec
from gateway.driver import Clock, Driver
from gateway.upstreams import Upstreams
from upstream.errors import UnexpectedStatus, UpstreamError
from upstream.types import Timeouts
from upstream.vllm import VllmClient

__all__ = ["Intervals", "Watch"]

_log = logging.getLogger("headway.workers")
_PROBED = frozenset({WorkerPhase.READY, WorkerPhase.UNHEALTHY})
_URGENT = (b"x-vllm-priority", b"-2147483648")
_BUSY = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds, and how many looks in a row must fail: ``failures`` take a worker out, ``hung`` tell of a hang."""

    health: float = 1.0
    report: float = 0.5
    timeout: float = 2.0
    failures: int = 2
    hung: int | None = None
    probe: float | None = None
    """Between two probes; ``None`` for none."""
    probe_timeout: float = 30.0

    def timeouts(self) -> Timeouts:
        """Of one look."""
        return Timeouts(connect=self.timeout, first_byte=self.timeout, idle=self.timeout, total=self.timeout)

    def probe_timeouts(self) -> Timeouts:
        """Of one probe."""
        return Timeouts(self.timeout, self.probe_timeout, self.probe_timeout, self.probe_timeout)


@dataclass(slots=True)
class _Watched:
    """What is known of one worker."""

    spec: WorkerSpec
    listed: bool
    out: bool = False
    """Taken out by this watch."""
    failures: int = 0
    """Looks in a row that failed."""
    health_due: float = 0.0
    report_due: float = 0.0
    reports: bool | None = None
    """Whether its last metrics page could be read; ``None`` before the first."""
    error: str | None = None
    stalled: str | None = None
    """What was wrong with the last probe."""
    probe_due: float = 0.0
    look: asyncio.Task[None] | None = field(default=None, repr=False)
    probe: asyncio.Task[None] | None = field(default=None, repr=False)


class Watch:
    """One for a gateway. ``add`` the listed workers, then ``start``.

    ``on_hang`` is told of workers that are not listed and have failed ``Intervals.hung`` looks, and why; at each
    further failed look again.
    """

    def __init__(
        self,
        driver: Driver,
        upstreams: Upstreams,
        intervals: Intervals,
        clock: Clock,
        on_hang: Callable[[WorkerName, str], None] = lambda worker, why: None,
    ) -> None:
        self._driver = driver
        self._upstreams = upstreams
        self.intervals = intervals
        """May be replaced at any time."""
        self._now = clock
        self._on_hang = on_hang
        self._watched: dict[WorkerName, _Watched] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, spec: WorkerSpec, *, listed: bool) -> None:
        """Watch this worker. A ``listed`` one is ready as soon as it is healthy; others say so themselves."""
        watched = self._watched[spec.name] = _Watched(spec, listed)
        watched.probe_due = self._now() + (self.intervals.probe or 0.0)
        if self._task is not None:
            self._begin(watched)

    def remove(self, name: WorkerName) -> None:
        """Watch it no more."""
        watched = self._watched.pop(name, None)
        if watched is not None:
            for task in (watched.look, watched.probe):
                if task is not None:
                    task.cancel()

    def errors(self) -> dict[WorkerName, str]:
        """What is wrong with workers, where something is."""
        return {name: watched.error for name, watched in self._watched.items() if watched.error is not None}

    def suspect(self, name: WorkerName, *, silent: bool = False) -> None:
        """Look at this worker now; ``silent``: a request got no answer there, so probe it too."""
        watched = self._watched.get(name)
        if watched is None:
            return
        if watched.look is None:
            watched.health_due = 0.0
            self._begin(watched)
        if silent:
            watched.probe_due = 0.0

    async def start(self) -> None:
        """Have a first look at every worker, then go on looking."""
        for watched in self._watched.values():
            self._begin(watched)
        await asyncio.gather(*(watched.look for watched in self._watched.values() if watched.look is not None))
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop looking."""
        looks = [task for w in self._watched.values() for task in (w.look, w.probe)]
        tasks = [*looks, self._task]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(min(self.intervals.health, self.intervals.report))
            for watched in self._watched.values():
                if watched.look is None:
                    self._begin(watched)
                if self.intervals.probe is None:
                    watched.stalled = None
                elif watched.probe is None and self._now() >= watched.probe_due:
                    watched.probe_due = self._now() + self.intervals.probe
                    watched.probe = asyncio.get_running_loop().create_task(self._probe(watched))

    def _begin(self, watched: _Watched) -> None:
        watched.look = asyncio.get_running_loop().create_task(self._look(watched))

    async def _look(self, watched: _Watched) -> None:
        try:
            now = self._now()
            if now >= watched.health_due:
                watched.health_due = now + 0.9 * self.intervals.health
                await self._check_health(watched)
            if watched.failures == 0 and now >= watched.report_due:
                watched.report_due = now + 0.9 * self.intervals.report
                await self._read_report(watched)
        finally:
            watched.look = None

    async def _check_health(self, watched: _Watched) -> None:
        try:
            healthy = await self._client(watched, self.intervals.timeouts()).health()
            error = None if healthy else "its engine is dead (/health answered 503)"
        except UnexpectedStatus as unexpected:
            healthy = unexpected.status < 500  # a server without this endpoint answers, so it lives
            error = None if healthy else str(unexpected)
        except UpstreamError as failure:
            healthy, error = False, str(failure)
        if healthy and watched.stalled is not None:
            healthy, error = False, watched.stalled
        watched.error = error
        watched.failures = 0 if healthy else watched.failures + 1
        self._conclude(watched, healthy)

    def _conclude(self, watched: _Watched, healthy: bool) -> None:
        phase = self._phase(watched)
        # A listed worker that does not answer is started by nobody: there is nothing to wait for.
        enough = 1 if phase is WorkerPhase.STARTING and watched.listed else self.intervals.failures
        starting = phase is WorkerPhase.STARTING and watched.listed
        if healthy and (starting or (watched.out and phase is WorkerPhase.UNHEALTHY)):
            self._set(watched, WorkerPhase.READY)
        elif not healthy and watched.failures >= enough and (starting or phase is WorkerPhase.READY):
            self._set(watched, WorkerPhase.UNHEALTHY)
        hung = self.intervals.hung
        if not watched.listed and watched.out and hung is not None and watched.failures >= hung:
            self._on_hang(watched.spec.name, f"{watched.failures} looks in a row failed: {watched.error}")

    async def _probe(self, watched: _Watched) -> None:
        try:
            if self._phase(watched) in _PROBED:
                watched.stalled = await self._stall(watched)
            if watched.stalled is not None:  # it shall not stay out for longer than it hangs
                watched.probe_due = min(watched.probe_due, self._now() + self.intervals.health)
        finally:
            watched.probe = None

    async def _stall(self, watched: _Watched) -> str | None:
        """Why the worker gave no token; ``None`` if it gave one, or is only busy."""
        spec = watched.spec
        model = self._driver.view(self._now()).pool(spec.pool).spec.model
        client = self._client(watched, self.intervals.probe_timeouts())
        try:
            await client.one_token(model, *([_URGENT] if spec.priority_scheduling else []))
        except UnexpectedStatus as unexpected:
            if unexpected.status < 500 or unexpected.status in _BUSY:
                return None  # it may have no completions; it answers
            return f"its engine gives no token: {unexpected}"
        except UpstreamError as error:
            return f"its engine gives no token: {error}"
        return None

    def _client(self, watched: _Watched, timeouts: Timeouts) -> VllmClient:
        spec = watched.spec
        access = self._upstreams.of(spec.name, spec.pool)
        return VllmClient(access.client, spec.url, timeouts=timeouts, headers=access.headers)

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
            found = await self._client(watched, self.intervals.timeouts()).metrics()
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
