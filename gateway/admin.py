"""What the operator may see: the fleet, the queue, the last decisions with their explanation, and totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel

from controller.actuators.reconciler import ReplicaEvent
from controller.explain import explain
from controller.pipeline import ControlPlane
from controller.records import row
from controller.types import DecisionRecord, Result
from controller.view import FleetView, PoolView, WorkerView
from gateway.admin_workers import Draining, Workers, add_routes, draining_of
from gateway.authorization import bearer, same, unauthorized
from gateway.driver import Clock
from gateway.errors import ApiError
from gateway.metrics import Standing
from gateway.roster import Roster

__all__ = ["Fleet", "Operator", "Queue", "Summary", "router"]

_EVENTS = 50


class Worker(BaseModel):
    """One worker. ``source`` is where it comes from, ``error`` what the last look at it found wrong,
    ``kv_events_error`` why it is not heard what it has cached."""

    name: str
    url: str | None
    source: str | None
    phase: str
    inflight: int
    limit: int
    running: int | None
    waiting: int | None
    kv_usage: float | None
    dispatched: int
    draining: Draining | None
    error: str | None
    kv_events_error: str | None = None


class Pool(BaseModel):
    """One pool. Waits are seconds; ``expected_wait_s`` is null where no worker is ready. ``discovery_error`` is why the
    last look-up of its workers failed."""

    name: str
    model: str
    tier: int
    ready: int
    coming: int
    inflight: int
    limit: int
    queued: int
    expected_wait_s: float | None
    kv_usage: float
    discovery_error: str | None
    workers: list[Worker]


class Fleet(BaseModel):
    """The fleet at this moment. ``draining`` is the gateway itself, on its way out; ``open`` counts requests whose
    pool is not chosen yet; arrivals are a second."""

    draining: bool
    pools: list[Pool]
    open: int
    queued: int
    arrivals_fast: float
    arrivals_slow: float


class Waiting(BaseModel):
    """One request in the controller's hands. ``since_s`` is how long ago it came."""

    ticket: str
    tenant: str
    model: str
    stand: str
    pool: str | None
    worker: str | None
    since_s: float
    key: float | None
    attempts: int
    output_tokens: int


class Queue(BaseModel):
    """Requests that wait, in order within each pool and tenant, and those that run."""

    waiting: list[Waiting]
    running: int


class Stage(BaseModel):
    """How often an implementation decided (predictors are stage ``score``), and why it fell back."""

    stage: str
    implementation: str
    scored: int
    skipped: int
    fallback: int
    reasons: dict[str, int]


class Artifact(BaseModel):
    """What became of an artifact that the configuration names."""

    ref: str
    state: str
    version: str
    sha256: str
    why: str


class Event(BaseModel):
    """One step in a replica's life. ``ago_s`` is how long ago."""

    ago_s: float
    kind: str
    pool: str
    worker: str | None
    detail: str


class Summary(BaseModel):
    """Totals since the gateway started. ``mix`` is requests completed by pool; records are decision records."""

    version: str
    uptime_s: float
    outcomes: dict[str, int]
    mix: dict[str, int]
    tokens: dict[str, int]
    stages: list[Stage]
    artifacts: list[Artifact]
    events: list[Event]
    records_dropped: int


@dataclass(slots=True)
class Operator:
    """Keeps the operator's totals, and answers from the control plane."""

    plane: ControlPlane
    now: Clock
    version: str
    standings: Collection[Standing]
    url_of: Callable[[str], str | None]
    roster: Roster
    lost: Callable[[], Mapping[str, str]]
    """Why look-ups of pools' workers failed."""
    errors: Callable[[], Mapping[str, str]]
    records_dropped: Callable[[], int]
    unheard: Callable[[], Mapping[str, str]] = dict
    """Why workers' KV-cache events are not heard."""
    outcomes: Counter[str] = field(default_factory=Counter)
    mix: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    events: list[ReplicaEvent] = field(default_factory=list)
    draining: bool = False
    """Whether the gateway is on its way out."""
    others: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] | None = None
    """Adds what other processes have to a fleet."""
    started_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_at = self.now()

    def recorded(self, record: DecisionRecord) -> None:
        """A request ended."""
        self.outcomes[record.result.value] += 1
        if record.result is Result.COMPLETED and record.pool is not None:
            self.mix[record.pool] += 1
        if record.usage is not None:
            self.tokens["prompt"] += record.usage.prompt_tokens
            self.tokens["output"] += record.usage.output_tokens

    def replica(self, event: ReplicaEvent) -> None:
        """A replica took a step; the last ones are kept."""
        self.events = [*self.events[1 - _EVENTS :], event]

    def fleet(self) -> Fleet:
        """The fleet as it stands."""
        view: FleetView = self.plane.view(self.now())
        errors, lost, unheard = self.errors(), self.lost(), self.unheard()
        return Fleet(
            draining=self.draining,
            pools=[self._pool(pool, errors, lost.get(pool.name), unheard) for pool in view.pools],
            open=view.open,
            queued=view.queued,
            arrivals_fast=view.arrivals_fast,
            arrivals_slow=view.arrivals_slow,
        )

    def queue(self, limit: int) -> Queue:
        """The first ``limit`` requests that wait."""
        now = self.now()
        waiting = [
            Waiting(
                ticket=t.ticket,
                tenant=t.tenant,
                model=t.model,
                stand=t.stand,
                pool=t.pool,
                worker=t.worker,
                since_s=now - t.submitted_at,
                key=t.key,
                attempts=t.attempts,
                output_tokens=t.output_tokens,
            )
            for t in self.plane.queued()[:limit]
        ]
        return Queue(waiting=waiting, running=len(self.plane.running()))

    def decisions(self, limit: int) -> list[dict[str, Any]]:
        """The last decision records, newest first, each with an explanation in words; times as seconds ago."""
        return [self._decision(record) for record in self.plane.records.recent(limit)]

    def decision(self, ticket: str) -> dict[str, Any]:
        """One record. Raises ApiError (404) if it is not among the last ones."""
        record = self.plane.records.find(ticket)
        if record is None:
            raise ApiError(404, "decision_not_found", f"no lately ended request has the ticket {ticket!r}")
        return self._decision(record)

    def summary(self) -> Summary:
        """Totals."""
        now = self.now()
        return Summary(
            version=self.version,
            uptime_s=now - self.started_at,
            outcomes={result.value: self.outcomes[result.value] for result in Result},
            mix={pool.name: self.mix[pool.name] for pool in self.plane.view(now).pools},
            tokens=dict(self.tokens),
            stages=self._stages(),
            artifacts=[
                Artifact(ref=f"{s.kind}/{s.name}", state=s.state, version=s.version, sha256=s.sha256, why=s.why)
                for s in self.standings
            ],
            events=[
                Event(ago_s=now - e.at, kind=e.kind, pool=e.pool, worker=e.worker, detail=e.detail)
                for e in reversed(self.events)
            ],
            records_dropped=self.records_dropped(),
        )

    def _pool(self, pool: PoolView, errors: Mapping[str, str], lost: str | None, unheard: Mapping[str, str]) -> Pool:
        wait = pool.expected_wait_s
        return Pool(
            name=pool.name,
            model=pool.spec.model,
            tier=pool.tier,
            ready=pool.ready,
            coming=pool.coming,
            inflight=pool.inflight,
            limit=pool.limit,
            queued=pool.queued,
            expected_wait_s=wait if wait < float("inf") else None,
            kv_usage=pool.kv_usage,
            discovery_error=lost,
            workers=[self._worker(worker, errors, unheard) for worker in pool.workers],
        )

    def _worker(self, worker: WorkerView, errors: Mapping[str, str], unheard: Mapping[str, str]) -> Worker:
        report = worker.report
        return Worker(
            name=worker.name,
            url=self.url_of(worker.name),
            source=self.roster.source(worker.name),
            phase=worker.phase,
            inflight=worker.inflight,
            limit=worker.limit,
            running=None if report is None else report.running,
            waiting=None if report is None else report.waiting,
            kv_usage=None if report is None else report.kv_usage,
            dispatched=worker.dispatched,
            draining=draining_of(self.roster.draining(worker.name), self.now()),
            error=errors.get(worker.name),
            kv_events_error=unheard.get(worker.name),
        )

    def _decision(self, record: DecisionRecord) -> dict[str, Any]:
        return {**row(record), "ago_s": self.now() - record.finished_at, "explanation": explain(record)}

    def _stages(self) -> list[Stage]:
        counts: dict[tuple[str, str], Counter[str]] = {}
        for (stage, by, outcome), times in self.plane.counters().items():
            counts.setdefault((stage, by), Counter())[outcome] += times
        reasons: dict[tuple[str, str], dict[str, int]] = {}
        for (stage, by, reason), times in self.plane.fallbacks().items():
            reasons.setdefault((stage, by), {})[reason] = times
        return [
            Stage(
                stage=stage,
                implementation=by,
                scored=outcomes["scored"],
                skipped=outcomes["skipped"],
                fallback=outcomes["fallback"],
                reasons=reasons.get((stage, by), {}),
            )
            for (stage, by), outcomes in counts.items()
        ]


def router(
    operator: Operator, token: str | None, workers: Workers, reload: Callable[[], Awaitable[Iterable[str]]]
) -> APIRouter:
    """``/admin/*``. With a ``token``, requests need ``Authorization: Bearer TOKEN``."""

    def allowed(authorization: str = Header("", description="Bearer and the admin token, where one is set")) -> None:
        if token is not None and not same(bearer(authorization), token):
            message = "this needs the header Authorization: Bearer ADMIN_TOKEN"
            raise unauthorized(message, code="invalid_admin_token")

    admin = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(allowed)])
    count = Query(50, ge=1, le=1000, description="At most so many")

    @admin.get("/fleet")
    async def fleet() -> Fleet:
        """Pools and workers as they stand; what several processes have there is added up."""
        own = operator.fleet()
        return own if operator.others is None else Fleet.model_validate(await operator.others(own.model_dump()))

    @admin.get("/queue")
    async def queue(limit: int = count) -> Queue:
        """Requests that wait."""
        return operator.queue(limit)

    @admin.get("/decisions")
    async def decisions(limit: int = count) -> list[dict[str, Any]]:
        """The last decisions, newest first, each with its explanation."""
        return operator.decisions(limit)

    @admin.get("/decisions/{ticket}")
    async def decision(ticket: str) -> dict[str, Any]:
        """One decision, by the ``X-Headway-Ticket`` of its answer."""
        return operator.decision(ticket)

    @admin.get("/summary")
    async def summary() -> Summary:
        """Totals, the learned stages, artifacts and replicas."""
        return operator.summary()

    add_routes(admin, workers, reload)
    return admin
