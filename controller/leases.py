"""Leases: how several gateway processes are one control plane.

Each *member* may use only what one *leader* has granted it: so many of every worker's in-flight slots, and a share of
every tenant's rates and concurrency. It reports what it holds, what it is asked for and what it has served; the leader
answers with grants. Without a leader the last grants stay in force.

    member ──Report──▶ leader ──Grant──▶ member      several times a second, and at once when something begins to wait

- :mod:`controller.leases_arithmetic` divides, :mod:`controller.leases_ledger` keeps the sum of what all may use within
  each limit whatever is lost, late or dead, :mod:`controller.leases_leader` puts the two together, and
  :mod:`controller.leases_member` speaks for one control plane.
- A *resource* is anything that is granted in whole units: a worker's slots, a tenant's share in units of
  1/:attr:`TenantUse.units`, and the one right to run ``scale``.

Everything here is sans-IO; times are seconds on the clock of whoever calls.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from controller.types import PoolName, Tenant, WorkerName

__all__ = [
    "Grant",
    "GroupUse",
    "MemberName",
    "Report",
    "Served",
    "Stamp",
    "TenantUse",
    "WorkerUse",
    "decayed",
    "part_keys",
    "share_key",
    "tenant_units",
]

MemberName = str
"""One run of one gateway process; a process that was started again is another member."""
Stamp = tuple[int, int]
"""Which leader (a number that only grows), and the how-many-eth of its grants. Stamps only grow."""
HALVINGS = 16
"""After so many, nothing is left of a lease."""
RATE_UNITS = 1000
"""Into so many parts limits are divided that are none of whole requests."""
_CROWD = 64


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """One worker as a member sees it."""

    pool: PoolName
    capacity: int
    """Requests it takes in all (``max_inflight``)."""
    limit: int
    """Of those, what this member may use."""
    inflight: int
    serves: bool
    """Whether this member would send requests there."""


@dataclass(frozen=True, slots=True)
class GroupUse:
    """What one tenant (as the fairness stage groups them) wants of one pool through one member."""

    inflight: int
    queued: int
    weight: float


@dataclass(frozen=True, slots=True)
class TenantUse:
    """One tenant's limits at one member."""

    units: int
    """Into so many parts they are divided: as many as its concurrency, where it has one."""
    share: int
    """Of those, what this member may use."""
    running: int
    """Units that its running requests hold, where its concurrency is limited."""
    asked: float
    """Requests that it made since the last report, admitted or not; where its concurrency is limited, only those that
    this member's share had no room for."""


@dataclass(frozen=True, slots=True)
class Served:
    """A tenant's fairness counter at one member."""

    charged: float
    """All that was ever charged there, so that nothing is lost with a report."""
    lifted: float = 0.0
    """The highest that the counter was ever lifted to."""


@dataclass(frozen=True, slots=True)
class Report:
    """A member's state. ``number`` grows; ``applied`` is the stamp of the last grant that it goes by."""

    member: MemberName
    number: int
    applied: Stamp
    workers: Mapping[WorkerName, WorkerUse] = field(default_factory=dict)
    demand: Mapping[PoolName, Mapping[str, GroupUse]] = field(default_factory=dict)
    tenants: Mapping[str, TenantUse] = field(default_factory=dict)
    """By tenant, or by part of the tenants that have no limits of their own; see :func:`share_key`."""
    served: Mapping[PoolName, Mapping[str, Served]] = field(default_factory=dict)
    """Of the tenants for which it changed since the last report that a grant has answered."""
    scales: bool = False
    """It runs ``scale`` and the actuators."""
    may_scale: bool = True
    """It could."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a member may use from now on. What is not named, it may not use at all."""

    member: MemberName
    stamp: Stamp
    heard: int
    """The last report that was taken into account."""
    workers: Mapping[WorkerName, int] = field(default_factory=dict)
    tenants: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """(share, units), by the reports' keys."""
    counters: Mapping[PoolName, Mapping[str, float]] = field(default_factory=dict)
    """Fairness counters of all members together, of the tenants that were served lately."""
    floors: Mapping[PoolName, float] = field(default_factory=dict)
    """The least counter among the tenants that want something of the pool, through whatever member."""
    others: Mapping[PoolName, tuple[int, int]] = field(default_factory=dict)
    """Requests in flight and queued at the other members."""
    busy: Mapping[WorkerName, int] = field(default_factory=dict)
    """Requests that the other members have in flight on each worker, where they have any."""
    members: int = 1
    """How many there are."""
    scales: bool = False
    held: Mapping[str, int] = field(default_factory=dict)
    """What the member may be using of each resource until it applies this; for the next leader."""


def decayed(amount: int, halvings: int) -> int:
    """What a member that hears of no leader still uses of a lease: half as much each time, one unit at least, and in
    the end nothing."""
    if halvings >= HALVINGS:
        return 0
    return max(1, amount >> halvings) if amount else 0


def tenant_units(concurrency: int | None) -> int:
    """Into how many parts a tenant's limits are divided: whole requests, where their number is limited."""
    return RATE_UNITS if concurrency is None else concurrency


def share_key(tenant: Tenant, listed: Collection[Tenant]) -> str:
    """Whose share of the limits a tenant goes by: its own if its limits are ``listed``; of the others, who may be any
    number, each :func:`part_keys` is shared out as one, and each tenant in it has that share of what it may take."""
    return f"={tenant}" if tenant in listed else f"~{zlib.crc32(tenant.encode()) % _CROWD}"


def part_keys() -> Iterator[str]:
    """The parts of the tenants that are not listed."""
    return (f"~{part}" for part in range(_CROWD))
