"""One worker and one pool as the fleet keeps them: mutable, with snapshots that are built anew only after a change."""

from __future__ import annotations

from collections import deque

from controller.kv.account import TokenAccount
from controller.rates import ServiceRate
from controller.settings import ControlSettings
from controller.tokens import OutputEstimator, PromptCounter
from controller.types import PoolSpec, TicketId, WorkerName, WorkerPhase, WorkerReport, WorkerSpec
from controller.view import Breaker, PoolView, WorkerView

_ALIVE = frozenset({WorkerPhase.STARTING, WorkerPhase.READY, WorkerPhase.SLEEPING})
_COMING = frozenset({WorkerPhase.STARTING, WorkerPhase.SLEEPING})
_REMEMBERED_ENDS = 1024


class Stir:
    """Whether anything has happened since the last dispatch that could let a waiting ticket go: one came, a worker has
    another seat free, or stands otherwise than before."""

    __slots__ = ("any",)

    def __init__(self) -> None:
        self.any = True


class WorkerState:
    """One worker, mutable; belongs to the fleet."""

    __slots__ = (
        "accepts",
        "blocked_until",
        "breaker",
        "dispatched",
        "ends",
        "errors",
        "external",
        "failed_at",
        "homed",
        "lease",
        "limit",
        "name",
        "phase",
        "pool",
        "removed",
        "report",
        "running",
        "seats",
        "serves",
        "shown",
        "spec",
        "tells_cached",
        "tokens",
        "view",
        "work",
    )

    def __init__(self, spec: WorkerSpec, pool: PoolState, phase: WorkerPhase) -> None:
        self.name = spec.name
        self.spec = spec
        self.pool = pool
        self.phase = phase
        self.removed = False
        self.limit = spec.max_inflight
        self.lease: int | None = None
        """Of its slots, what this control plane may use where it shares them with others; ``None`` is all."""
        self.seats = self.limit
        """Requests that may be in flight there; kept by ``stand``."""
        self.work = 0
        self.homed = 0
        """Token-work of the tickets that wait for it in particular."""
        self.dispatched = 0
        self.tokens = TokenAccount(pool.spec.kv_tokens if spec.kv_tokens is None else spec.kv_tokens)
        """Of its KV cache."""
        self.running: dict[TicketId, float] = {}
        """Ticket → when it was dispatched."""
        self.ends: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED_ENDS)
        """(dispatched, ended) of requests that a report still under way may have counted."""
        self.tells_cached = False
        """Whether it has ever said what it had cached of a prompt; engines leave that out where there was nothing."""
        self.external = 0
        self.report: WorkerReport | None = None
        self.errors = 0
        self.failed_at = float("-inf")
        self.blocked_until: float | None = None
        self.view: WorkerView | None = None
        self.serves = False
        """Whether new requests may be sent there at all; kept by ``stand``."""
        self.accepts = False
        """And whether they may be sent now, but for the in-flight limit."""
        self.shown = phase
        """Its phase as others may see it; this and the next are kept by ``stand``."""
        self.breaker = Breaker.CLOSED
        """Whether repeated errors keep requests away from it."""

    @property
    def broken(self) -> bool:
        """Kept out because of repeated errors."""
        return self.blocked_until is not None and self.limit == 0

    def stand(self) -> None:
        """Phase, limit, lease or block have changed."""
        broken = self.broken
        self.serves = self.phase is WorkerPhase.READY and not self.removed and not broken
        self.accepts = self.serves and self.blocked_until is None
        self.shown = WorkerPhase.UNHEALTHY if broken else self.phase
        whole = self.limit == self.spec.max_inflight
        self.breaker = Breaker.OPEN if broken else Breaker.CLOSED if whole else Breaker.HALF_OPEN
        self.seats = self.limit if self.lease is None else min(self.limit, self.lease)

    def under_way(self, at: float) -> int:
        """How many of our requests were there at that moment, as far back as ends are remembered. The latest are looked
        at first, and mostly those are enough: both accounts are in the order of their times."""
        count = len(self.running)
        for dispatched in reversed(self.running.values()):
            if dispatched <= at:
                break
            count -= 1
        for dispatched, ended in reversed(self.ends):
            if ended <= at:
                break
            count += dispatched <= at
        return count

    def changed(self) -> None:
        self.view = None
        self.pool.view = None

    def load(self) -> float:
        """As :attr:`WorkerView.load` has it."""
        external = self.external
        work = self.work + external * self.pool.output.mean if external else self.work
        return work / (self.limit or 1)

    def snapshot(self) -> WorkerView:
        view = self.view
        if view is None:
            tokens = self.tokens
            view = self.view = WorkerView(
                self.name,
                self.pool.name,
                self.shown,
                self.seats or 1,
                len(self.running),
                self.work,
                self.external,
                self.load(),
                self.dispatched,
                self.removed,
                self.report,
                self.breaker,
                self.homed,
                tokens.held,
                tokens.expected,
                tokens.foreign,
                tokens.capacity,
                tokens.unread,
                tokens.reading,
                tokens.outgrown,
            )
        return view


class PoolState:
    """One pool, mutable; belongs to the fleet."""

    __slots__ = (
        "alive",
        "coming",
        "limit",
        "name",
        "output",
        "prompt",
        "queued",
        "queued_work",
        "rate",
        "ready",
        "spec",
        "stir",
        "unavailable_since",
        "view",
        "workers",
    )

    def __init__(self, spec: PoolSpec, settings: ControlSettings, stir: Stir) -> None:
        self.name = spec.name
        self.spec = spec
        self.stir = stir
        """Of the whole fleet."""
        self.workers: dict[WorkerName, WorkerState] = {}
        self.queued = 0
        self.queued_work = 0
        self.ready = 0
        self.coming = 0
        self.alive = 0
        self.limit = 0
        self.unavailable_since: float | None = float("-inf")
        """When the last worker alive was lost; ``None`` while there is one."""
        self.prompt = PromptCounter(settings.chars_per_token)
        self.output = OutputEstimator(settings.default_output_tokens)
        self.rate = ServiceRate(settings.service_rates.get(spec.name, settings.default_service_rate))
        self.view: PoolView | None = None

    def with_room(self) -> list[WorkerState]:
        """Workers that may be sent a request now, in the order in which they joined."""
        return [w for w in self.workers.values() if w.accepts and len(w.running) < w.seats]

    def has_room(self) -> bool:
        """Whether any worker may be sent a request now."""
        for worker in self.workers.values():  # noqa: SIM110  (a generator takes twice as long, for every request)
            if worker.accepts and len(worker.running) < worker.seats:
                return True
        return False

    def wait(self, tickets: int, work: int, now: float) -> None:
        """So many more (or fewer) tickets wait here."""
        queued = self.queued = self.queued + tickets
        self.queued_work += work
        if tickets > 0:
            self.stir.any = True
        if queued <= 1:  # whether any waits may have changed
            self.rate.waiting(queued > 0, now)
        self.view = None

    def learn_output(self, predicted: float | None, actual: int) -> None:
        """An answer was complete; the load that others' requests stand for changes with what is typical."""
        self.output.observe(predicted, actual)
        for worker in self.workers.values():
            if worker.external:
                worker.view = None
        self.view = None

    def recount(self, now: float) -> None:
        """A worker came, went, or changed its phase."""
        self.stir.any = True
        workers = self.workers.values()
        for worker in workers:
            worker.stand()
        self.ready = sum(worker.serves for worker in workers)
        self.limit = sum(worker.seats for worker in workers if worker.serves)
        self.coming = sum(worker.phase in _COMING and not worker.removed for worker in workers)
        alive = sum(worker.phase in _ALIVE and not worker.removed and not worker.broken for worker in workers)
        if alive:
            self.unavailable_since = None
        elif self.unavailable_since is None:
            self.unavailable_since = now
        self.alive = alive
        self.view = None

    def snapshot(self) -> PoolView:
        view = self.view
        if view is None:
            inflight = work = reported = 0
            kv_usage = 0.0
            workers = self.workers.values()
            for worker in workers:
                if worker.serves:
                    inflight += len(worker.running)
                    work += worker.work
                    report = worker.report
                    if report is not None:
                        reported += 1
                        kv_usage += report.kv_usage
            view = self.view = PoolView(
                self.spec,
                tuple([worker.view or worker.snapshot() for worker in workers]),
                self.ready,
                self.coming,
                inflight,
                self.limit,
                self.queued,
                self.queued_work,
                work,
                self.rate.value * self.ready,
                self.output.mean,
                kv_usage / reported if reported else 0.0,
            )
        return view
