"""The fleet as the control plane keeps it: workers, their phases, and what each has to do.

Load is counted at dispatch, so that decisions between two reports see each other. A worker's report adds what others
have sent there: whatever it shows beyond those of our requests that it can have known of when it was read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from controller.errors import DuplicateWorker, UnknownPool, UnknownWorker
from controller.members import PoolState, Stir, WorkerState
from controller.rates import Arrivals
from controller.settings import ControlSettings
from controller.types import PoolName, PoolSpec, TicketId, WorkerName, WorkerPhase, WorkerReport, WorkerSpec
from controller.view import FleetView


class Fleet:
    """All pools and workers."""

    def __init__(self, pools: Sequence[PoolSpec], settings: ControlSettings) -> None:
        self._settings = settings
        self.stir = Stir()
        self.pools: dict[PoolName, PoolState] = {spec.name: PoolState(spec, settings, self.stir) for spec in pools}
        if len(self.pools) != len(pools):
            raise ValueError("two pools have the same name")
        self._pools = tuple(self.pools.values())
        self._index = {name: position for position, name in enumerate(self.pools)}
        self._workers: dict[WorkerName, WorkerState] = {}
        self.blocked: dict[WorkerName, WorkerState] = {}
        self._view: FleetView | None = None
        self._oldest_report = math.inf
        """No report was read before this."""
        self._leases: Mapping[WorkerName, int] | None = None
        self._arrivals = Arrivals(settings.arrivals_fast_s, settings.arrivals_slow_s)

    def worker(self, name: WorkerName) -> WorkerState:
        """The worker of this name; :class:`UnknownWorker` if there is none."""
        if name not in self._workers:
            raise UnknownWorker(f"no worker is called {name!r}")
        return self._workers[name]

    def __iter__(self) -> Iterator[WorkerState]:
        return iter(self._workers.values())

    def add(self, spec: WorkerSpec, phase: WorkerPhase, now: float) -> None:
        """A worker joins.

        Raises:
            UnknownPool: its pool is not in the fleet.
            DuplicateWorker: another worker has its name.
        """
        if spec.pool not in self.pools:
            raise UnknownPool(f"worker {spec.name!r} names pool {spec.pool!r}; known: {', '.join(self.pools)}")
        if spec.name in self._workers:
            raise DuplicateWorker(f"a worker called {spec.name!r} is already there")
        if spec.max_inflight < 1:
            raise ValueError(f"worker {spec.name!r}: max_inflight must be at least 1, not {spec.max_inflight}")
        pool = self.pools[spec.pool]
        # A worker that was removed with requests still running may share the name; its requests keep hold of it.
        worker = self._workers[spec.name] = pool.workers[spec.name] = WorkerState(spec, pool, phase)
        worker.lease = None if self._leases is None else self._leases.get(spec.name, 0)
        pool.recount(now)

    def remove(self, name: WorkerName, now: float) -> None:
        """A worker leaves. Requests still running there may finish; it is shown until the last one has."""
        worker = self.worker(name)
        del self._workers[name]
        self.blocked.pop(name, None)
        worker.removed = True
        worker.changed()
        self._vanish(worker)
        worker.stand()
        worker.pool.recount(now)

    def set_phase(self, name: WorkerName, phase: WorkerPhase, now: float) -> WorkerPhase:
        """The driver says where a worker stands; gives its phase before. Becoming ready wipes out earlier errors."""
        worker = self.worker(name)
        before, worker.phase = worker.phase, phase
        if phase is WorkerPhase.READY and before is not phase:
            self.blocked.pop(name, None)
            worker.blocked_until = None
            worker.errors = 0
            worker.limit = worker.spec.max_inflight
        if before is not phase:
            worker.changed()
            worker.pool.recount(now)
        return before

    def resize(self, name: WorkerName, max_inflight: int, priority_scheduling: bool, now: float) -> None:
        """A worker may have another number of requests, and schedules by priority or not. What runs there goes on."""
        worker = self.worker(name)
        if max_inflight < 1:
            raise ValueError(f"worker {name!r}: max_inflight must be at least 1, not {max_inflight}")
        full = worker.limit == worker.spec.max_inflight  # else its breaker holds it down, and gives the new limit back
        worker.spec = replace(worker.spec, max_inflight=max_inflight, priority_scheduling=priority_scheduling)
        worker.limit = max_inflight if full else min(worker.limit, max_inflight)
        worker.changed()
        worker.pool.recount(now)

    def lease(self, leases: Mapping[WorkerName, int], now: float) -> None:
        """Use no more of the workers' slots than this from now on, and none of a worker that is not named."""
        self._leases = leases
        for worker in self._workers.values():
            lease = leases.get(worker.name, 0)
            if lease != worker.lease:
                worker.lease = lease
                worker.changed()
        for pool in self.pools.values():
            pool.recount(now)

    def reconfigure(self, settings: ControlSettings) -> None:
        """Go by these settings from now on."""
        self._settings = settings

    def report(self, name: WorkerName, report: WorkerReport) -> None:
        """Reconcile our own account with a worker's reading."""
        worker = self.worker(name)
        if worker.report is not None and report.at < worker.report.at:
            return
        worker.report = report
        if report.at < self._oldest_report:
            self._oldest_report = report.at
        others = report.running + report.waiting - worker.under_way(report.at)
        worker.external = others if others > 0 else 0
        worker.tokens.reported(report.kv_usage, worker.external)
        worker.changed()

    def arrived(self, now: float) -> None:
        """A request came in, whatever becomes of it."""
        self._view = None
        self._arrivals.observe(now)

    def start(self, worker: WorkerState, ticket: TicketId, work: int, now: float) -> None:
        """A request is sent to a worker."""
        worker.running[ticket] = now
        worker.work += work
        worker.dispatched += 1
        worker.view = worker.pool.view = None

    def progress(self, worker: WorkerState, done: int, left: int, now: float) -> None:
        """A request has had ``done`` token-work done, which changes what is left of it by ``left``."""
        pool = worker.pool
        worker.work += left
        worker.view = pool.view = None
        pool.rate.done(done, pool.ready, now)

    def end(self, worker: WorkerState, ticket: TicketId, left: int, now: float) -> None:
        """A request has left a worker with ``left`` token-work outstanding."""
        worker.ends.append((worker.running.pop(ticket), now))
        worker.work -= left
        pool = worker.pool
        worker.view = pool.view = None
        if pool.queued:
            self.stir.any = True
        if worker.removed:
            self._vanish(worker)

    def failed(
        self,
        worker: WorkerState,
        dispatched_at: float,
        now: float,
        *,
        busy: bool,
        again: bool = False,
        silent: bool = False,
    ) -> None:
        """A request failed there: give the worker nothing for a while, longer each time, as unhealthy in the end.

        Requests that were under way when it failed last tell nothing new, unless it was ``silent`` towards them: each
        of those has waited in vain by itself. ``busy`` is a refusal, not a fault. A request that failed there before
        may be at fault itself: its failing ``again`` makes no worker unhealthy, or one bad request would close a pool
        of one worker to everybody.
        """
        if worker.removed or (dispatched_at <= worker.failed_at and not busy and not silent):
            return
        innocent = busy or (again and 0 < worker.errors < self._settings.breaker_errors)
        pause = self._settings.retry_backoff_s if innocent else self._count_error(worker, now)
        worker.blocked_until = max(now + pause, worker.blocked_until or now)
        self.blocked[worker.name] = worker
        worker.changed()
        worker.pool.recount(now)

    def succeeded(self, worker: WorkerState, now: float) -> None:
        """A request got an answer there."""
        if worker.errors and not worker.removed and worker.blocked_until is None:
            worker.errors = 0
            worker.limit = worker.spec.max_inflight
            worker.changed()
            worker.pool.recount(now)

    def unblock(self, now: float) -> bool:
        """Let workers back whose time is up, on probation if they were unhealthy; true if there were any."""
        if not self.blocked:
            return False
        due = [worker for worker in self.blocked.values() if (worker.blocked_until or 0.0) <= now]
        for worker in due:
            del self.blocked[worker.name]
            worker.blocked_until = None
            worker.limit = worker.limit or 1
            worker.changed()
            worker.pool.recount(now)
        return bool(due)

    def next_unblock(self) -> float | None:
        """When the next blocked worker comes back."""
        if not self.blocked:
            return None
        return min(worker.blocked_until or 0.0 for worker in self.blocked.values())

    def forget_stale(self, now: float) -> None:
        """Drop reports that are too old to say anything."""
        stale_s = self._settings.report_stale_s
        if not now - self._oldest_report > stale_s:
            return
        self._oldest_report = math.inf
        for worker in self._workers.values():
            report = worker.report
            if report is not None and now - report.at > stale_s:
                worker.report = None
                worker.external = worker.tokens.foreign = 0
                worker.changed()
            elif report is not None and report.at < self._oldest_report:
                self._oldest_report = report.at

    def view(self, now: float, open_tickets: int) -> FleetView:
        """The fleet as it stands. Only what changed since the last call is built anew."""
        last = self._view
        if last is not None and last.at == now and last.open == open_tickets:
            for pool, seen in zip(self._pools, last.pools):  # noqa: B905  (strict takes longer, for every request)
                if pool.view is not seen:
                    break
            else:
                return last
        pools = tuple([pool.view or pool.snapshot() for pool in self._pools])
        self._view = FleetView(now, pools, self._index, open_tickets, *self._arrivals.rates(now))
        return self._view

    def _count_error(self, worker: WorkerState, now: float) -> float:
        settings = self._settings
        worker.errors += 1
        worker.failed_at = now
        beyond = worker.errors - settings.breaker_errors
        if beyond < 0:
            return settings.retry_backoff_s * 2.0 ** (worker.errors - 1)
        worker.limit = 0
        return min(settings.breaker_max_s, settings.breaker_s * 2.0 ** min(beyond, 30))

    def _vanish(self, worker: WorkerState) -> None:
        mine = worker.pool.workers.get(worker.name)
        if worker.removed and not worker.running and mine is worker:
            del worker.pool.workers[worker.name]
            worker.pool.view = None
