"""What the stages, the observations and the operator may see of the fleet: frozen snapshots of it.

*Work* is counted in token-work: output tokens still expected, plus prompt tokens still to be read at
``ControlSettings.prompt_work`` of an output token each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controller.types import PoolName, PoolSpec, Tenant, TicketId, WorkerName, WorkerPhase, WorkerReport
from controller.values import swift


class Breaker(StrEnum):
    """What errors have brought upon a worker."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    """On probation: it is given one request at a time."""
    OPEN = "open"
    """It is given none."""


@swift
@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker at one moment."""

    name: WorkerName
    pool: PoolName
    phase: WorkerPhase
    """As the driver says, but ``UNHEALTHY`` while repeated errors keep it out."""
    limit: int
    """Requests the gateway keeps in flight there at most; 1 while a worker is on probation after errors."""
    inflight: int
    """Requests this control plane has running there."""
    work: int
    """Token-work outstanding of those requests."""
    external: int
    """Requests of others that its last report showed, over and above ours."""
    load: float
    """Token-work outstanding, others' requests included at the pool's typical size, per in-flight slot."""
    dispatched: int
    """Requests sent there since it joined."""
    removed: bool
    """Gone from the fleet, but for the requests it is still serving."""
    report: WorkerReport | None
    breaker: Breaker = Breaker.CLOSED
    homed: int = 0
    """Token-work of the tickets that wait for this worker in particular."""
    kv_tokens: int = 0
    """Tokens of KV cache that our requests there hold: their prompts, and what they have produced so far. This and the
    following are kept only where somebody goes by them."""
    kv_expected: int = 0
    """And will hold at their ends, as expected."""
    kv_foreign: int = 0
    """Those of others, by the last report."""
    kv_capacity: int | None = None
    """Tokens that fit into its KV cache: configured, or learned; ``None`` where neither."""
    unread: int = 0
    """Prompt tokens of our requests there that have not had a first token."""
    reading: int = 0
    """How many requests those are; the others are decoding."""
    outgrown: int = 0
    """Times an answer there outgrew what was reserved for it."""

    @property
    def serves(self) -> bool:
        """Whether new requests may be sent there at all."""
        return self.phase is WorkerPhase.READY and not self.removed


@swift
@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool at one moment."""

    spec: PoolSpec
    workers: tuple[WorkerView, ...]
    ready: int
    """Workers that may be given requests."""
    coming: int
    """Workers that are starting or asleep."""
    inflight: int
    limit: int
    """In-flight limits of the ready workers together."""
    queued: int
    """Tickets waiting for this pool; tickets whose tier is still open are in no pool's count."""
    queued_work: int
    inflight_work: int
    service_rate: float
    """Token-work per second that the ready workers complete together when kept busy: measured, or as configured."""
    typical_output: float
    """Output tokens of a typical request."""
    kv_usage: float
    """Mean over the ready workers that have reported, 0 to 1."""

    @property
    def name(self) -> PoolName:
        return self.spec.name

    @property
    def tier(self) -> int:
        return self.spec.tier

    @property
    def expected_wait_s(self) -> float:
        """Seconds of work in front of the ready workers; infinite without any."""
        return (self.queued_work + self.inflight_work) / self.service_rate if self.service_rate > 0 else float("inf")

    @property
    def replicas(self) -> int:
        """Workers that run or are about to, draining and sleeping ones left out."""
        running = (WorkerPhase.STARTING, WorkerPhase.READY, WorkerPhase.UNHEALTHY)
        return sum(1 for worker in self.workers if worker.phase in running and not worker.removed)


@swift
@dataclass(frozen=True, slots=True)
class FleetView:
    """The whole fleet at ``at`` (seconds, the caller's clock)."""

    at: float
    pools: tuple[PoolView, ...]
    index: Mapping[PoolName, int]
    """Pool name → position in ``pools``."""
    open: int
    """Tickets whose tier is not chosen yet."""
    arrivals_fast: float
    """Requests per second, exponential average over some seconds."""
    arrivals_slow: float
    """The same over a minute or so."""

    def pool(self, name: PoolName) -> PoolView:
        """The pool of this name; :class:`KeyError` if there is none."""
        return self.pools[self.index[name]]

    @property
    def queued(self) -> int:
        """Tickets waiting, those with an open tier included."""
        return self.open + sum(pool.queued for pool in self.pools)


@swift
@dataclass(frozen=True, slots=True)
class TicketView:
    """One ticket that has not ended, for the operator."""

    ticket: TicketId
    tenant: Tenant
    model: str
    stand: str
    """``open``, ``queued`` or ``running``."""
    submitted_at: float
    pool: PoolName | None
    worker: WorkerName | None
    key: float | None
    """Its key in the queue; smaller goes first."""
    attempts: int
    output_tokens: int
    prompt_tokens: int = 0
    """Exact, or estimated."""
    expected_output: int = 0
    """Output tokens it is expected to have in the end."""
    priority: int = 0
    """The client's own; lower is earlier."""
    first_token_at: float | None = None
    moved: int = 0
    """Times it was moved from one worker to another."""
