"""Numbers that the control plane itself goes by, whatever its stages are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.kv.account import KvLimits
from controller.limits import UNLIMITED, Quota
from controller.types import PoolName, Tenant


@dataclass(frozen=True, slots=True)
class TenantSpec:
    """What one tenant may use."""

    weight: float = 1.0
    """Share of the fleet under contention, relative to other tenants."""
    tier_ceiling: int | None = None
    """The highest tier that may serve it."""
    quota: Quota = UNLIMITED
    """What it may take."""


_UNLISTED = TenantSpec()


@dataclass(frozen=True, slots=True)
class ReplicaRange:
    """Bounds for the ``scale`` stage."""

    min: int = 1
    max: int = 1


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Times in seconds, sizes in tickets or tokens."""

    max_queue: int = 1024
    """Tickets waiting at most; ``admit`` refuses the next one."""
    max_queue_bytes: int = 1 << 30
    """Bytes of their bodies at most."""
    max_queue_s: float = 60.0
    """A ticket that waited so long is rejected."""
    drop_late: bool = True
    """Reject a ticket that is still waiting when its deadline passes."""
    scoring_budget_s: float = 0.005
    """A ticket whose tier is open waits so long for its scores; the driver keeps this, ``tick`` is the backstop."""
    score_always: bool = False
    """Score a ticket also where that cannot change its place, because it could be sent at once or its tier is given: it
    then waits for its scores, which are written down and passed on to the worker as its priority."""
    max_attempts: int = 3
    """Times a request is sent to a worker in all, as long as nothing of the answer was seen."""
    max_continuations: int = 5
    """Times another worker is asked to go on with a stream that has begun, after its own has failed."""
    retry_share: float | None = 0.2
    """Further attempts a request, on average, that the whole fleet is asked for; ``None`` for no bound."""
    retry_free_per_s: float = 10.0
    """And so many a second beside."""
    retry_backoff_s: float = 0.05
    """A worker that failed is given nothing for so long; doubles with each failure in a row."""
    breaker_errors: int = 3
    """Failures in a row, of different requests, after which a worker counts as unhealthy."""
    breaker_s: float = 5.0
    """And for how long at first; doubles with each further failure, up to ``breaker_max_s``."""
    breaker_max_s: float = 60.0
    no_worker_s: float = 2.0
    """Tickets wait so long for a pool that has no worker alive; then they are rejected."""
    service_rates: Mapping[PoolName, float] = field(default_factory=dict)
    """Token-work per second of one busy worker, where a profile says; measurement takes over from there."""
    default_service_rate: float = 1000.0
    """The same for pools of which nothing is known."""
    kv: KvLimits | None = None
    """Admission of requests against the workers' KV budgets; ``None`` sends as many as the in-flight limits allow."""
    prompt_work: float = 0.1
    """Work of reading one prompt token, in output tokens."""
    default_output_tokens: float = 256.0
    """Expected output of a request until a pool has shown its own."""
    chars_per_token: float = 4.0
    """Until a pool has shown its own ratio."""
    arrivals_fast_s: float = 2.0
    """Time constant of the fast average of arrivals."""
    arrivals_slow_s: float = 30.0
    """And of the slow one."""
    report_stale_s: float = 10.0
    """A worker's report older than this says nothing any more."""
    recent_records: int = 512
    """Decision records kept for the operator."""
    pending_records: int = 100_000
    """Records kept for a writer that is late; older ones are dropped and counted."""
    record_share: float = 1.0
    """Share of the requests, in [0, 1], of which a decision record is made at all. A hash of the ticket id says which,
    so that every policy is recorded on the same ones. Decisions, counters and limits are the same whatever it is. For
    simulation only: a gateway writes one record a request, with its propensity, and no configuration can set this."""
    tenants: Mapping[Tenant, TenantSpec] = field(default_factory=dict)
    """Tenants with settings of their own."""
    quota: Quota = UNLIMITED
    """What each of the others may take."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.record_share <= 1.0:
            raise ValueError(f"record_share is a share of all requests, from 0 to 1, not {self.record_share}")

    def tenant(self, name: Tenant) -> TenantSpec:
        """The tenant's settings, or the defaults."""
        return self.tenants.get(name, _UNLISTED)
