"""The leader: from everybody's reports to everybody's grants.

Pools' slots are divided between tenants by their weights (weighted max-min over what they demand through all members),
then between members in proportion to their part of each tenant's demand; within a member, the fairness stage serves its
tenants by counters that are those of all members together. So a weight of 4:1 is 4:1 also where each tenant comes in
through another member. The leader needs no configuration: limits and weights come with the reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controller.leases import RATE_UNITS, Grant, GroupUse, MemberName, Report, Stamp
from controller.leases_arithmetic import Rounding, apportion, entitlements, lay_out
from controller.leases_counters import Counters
from controller.leases_ledger import Ledger
from controller.types import PoolName, Tenant, WorkerName

__all__ = ["Leader"]

_SCALE = "scale"
_IDLE_PART = 0.25
"""Of a tenant's rates, what is spread evenly over the members whatever they were asked for."""
_NOTHING = 0.01
_STAYS = 0.4
"""Advantage, in requests, of a member that has a free one already, so that it does not go to and fro."""
_ASKED_S, _UNMET_S = 2.0, 0.1
"""Time constants of how much was asked of rates, and of what is needed at this moment."""


@dataclass(slots=True)
class _Member:
    report: Report
    at: float
    asked: dict[Tenant, float] = field(default_factory=dict)
    """Requests a second, lately."""


class Leader:
    """``epoch`` is greater than that of any leader before it. Members that were silent for ``silent_s`` are granted
    nothing. A new leader may not know everybody yet, so that it grants nothing until ``settle_s`` after its first
    report. The other times are those of :class:`controller.leases_ledger.Ledger`."""

    def __init__(
        self,
        *,
        epoch: int = 0,
        silent_s: float = 3.0,
        settle_s: float = 0.0,
        release_s: float = 0.5,
        half_life_s: float | None = None,
    ) -> None:
        self._epoch = epoch
        self._seq = 0
        self._silent_s = silent_s
        self._settle_s = settle_s
        self._settled_at: float | None = None
        self._ledger = Ledger(release_s=release_s, half_life_s=half_life_s, brief=frozenset({_SCALE}))
        self._members: dict[MemberName, _Member] = {}
        self._rounding: dict[PoolName, Rounding] = {}
        self._tenants: dict[str, Rounding] = {}
        self._counters = Counters()

    # What it hears

    def heard(self, report: Report, now: float) -> bool:
        """A member's report; false if it tells nothing new."""
        if not self._ledger.heard(report.member, report.number, report.applied, _used(report), now):
            return False
        if self._settled_at is None:
            self._settled_at = now + self._settle_s
        before = self._members.get(report.member)
        asked = _asked(report, before, now)
        self._members[report.member] = _Member(report, now, asked)
        self._counters.heard(report, now)
        return True

    def restore(self, grants: Iterable[Grant], now: float) -> None:
        """What the leader before this one granted last."""
        for grant in grants:
            self._ledger.restore(grant.member, grant.stamp, grant.held, now)
            self._counters.restore(grant.counters, now)

    def gone(self, member: MemberName, now: float) -> None:
        """A member is known to be dead, and its connections closed."""
        self._ledger.gone(member, now)

    def members(self) -> tuple[MemberName, ...]:
        """All whose use still counts."""
        return self._ledger.members()

    # What it says

    def plan(self, now: float) -> tuple[Grant, ...]:
        """A grant for each member that is there."""
        if self._settled_at is None or now < self._settled_at:
            return ()
        self._ledger.forget_gone(now)
        for name in [name for name in self._members if name not in self._ledger]:
            del self._members[name]
            self._counters.left(name)
        reports = {
            name: member.report
            for name, member in sorted(self._members.items())
            if self._ledger.alive(name, now, self._silent_s)
        }
        if not reports:
            return ()
        amounts: dict[MemberName, dict[str, int]] = {name: {} for name in reports}
        self._divide_workers(reports, amounts, now)
        units = self._divide_tenants(reports, amounts, now)
        able = [name for name, report in reports.items() if report.may_scale]
        self._allow(_SCALE, 1, {name: int(name == self._scaler(able)) for name in reports}, amounts, now)
        self._seq += 1
        self._counters.tidy(now)
        counters, floors = self._counters.values(), self._counters.floors(reports.values())
        return tuple(self._grant(name, amounts[name], units, counters, floors, reports) for name in reports)

    def _grant(
        self,
        name: MemberName,
        amounts: Mapping[str, int],
        units: Mapping[Tenant, int],
        counters: Mapping[PoolName, Mapping[str, float]],
        floors: Mapping[PoolName, float],
        reports: Mapping[MemberName, Report],
    ) -> Grant:
        stamp: Stamp = (self._epoch, self._seq)
        self._ledger.granted(name, stamp, amounts)
        return Grant(
            name,
            stamp,
            self._ledger.number(name),
            workers={key[2:]: amount for key, amount in amounts.items() if key.startswith("w:")},
            tenants={key[2:]: (amount, units[key[2:]]) for key, amount in amounts.items() if key.startswith("t:")},
            counters=counters,
            floors=floors,
            others=_others(name, reports),
            busy=_busy(name, reports),
            members=len(reports),
            scales=bool(amounts.get(_SCALE)),
            held=self._ledger.held(name),
        )

    # Workers' slots

    def _divide_workers(
        self, reports: Mapping[MemberName, Report], amounts: dict[MemberName, dict[str, int]], now: float
    ) -> None:
        pools: dict[PoolName, dict[WorkerName, int]] = {}
        for report in reports.values():
            for name, use in report.workers.items():
                workers = pools.setdefault(use.pool, {})
                workers[name] = min(use.capacity, workers.get(name, use.capacity))
        for name in [name for name in self._rounding if name not in pools]:
            del self._rounding[name]
        for pool, capacities in pools.items():
            targets = self._targets(pool, capacities, reports, now)
            for worker, capacity in capacities.items():
                self._allow(_worker(worker), capacity, targets[worker], amounts, now)

    def _targets(
        self, pool: PoolName, capacities: Mapping[WorkerName, int], reports: Mapping[MemberName, Report], now: float
    ) -> dict[WorkerName, dict[MemberName, int]]:
        """Worker → member → slots, once all have given up what they have to."""
        members = tuple(reports)
        free = {worker: self._divisible(worker, size, members, now) for worker, size in capacities.items()}
        users = {
            worker: [m for m in members if _serves(reports[m], worker)]
            or [m for m in members if worker in reports[m].workers]
            for worker in capacities
        }
        demands, weights = _demands(pool, reports)
        total = sum(free.values())
        counts = self._rounding.setdefault(pool, Rounding())(total, entitlements(total, demands, weights), now)
        names = sorted(capacities)
        rows = lay_out([free[name] for name in names], [counts[member] for member in members])
        targets: dict[WorkerName, dict[MemberName, int]] = {}
        for column, worker in enumerate(names):
            dealt = {member: row[column] for member, row in zip(members, rows, strict=True)}
            targets[worker] = _to_users(dealt, users[worker])
        return targets

    def _divisible(self, worker: WorkerName, capacity: int, members: Iterable[MemberName], now: float) -> int:
        """What is left of a worker's slots for those who are there; the silent and the dead still hold theirs."""
        resource = _worker(worker)
        others = self._ledger.total(resource, now) - sum(self._ledger.bound(m, resource, now) for m in members)
        return max(0, capacity - others)

    # Tenants' limits

    def _divide_tenants(
        self, reports: Mapping[MemberName, Report], amounts: dict[MemberName, dict[str, int]], now: float
    ) -> dict[Tenant, int]:
        units: dict[Tenant, int] = {}
        for report in reports.values():
            for tenant, use in report.tenants.items():
                units[tenant] = min(use.units, units.get(tenant, use.units))
        for tenant, size in units.items():
            resource = f"t:{tenant}"
            others = self._ledger.total(resource, now) - sum(self._ledger.bound(m, resource, now) for m in reports)
            free = max(0, size - others)
            if size < RATE_UNITS:
                targets = self._at_once(tenant, free, reports, now)
            else:
                rounding = self._tenants.setdefault(tenant, Rounding())
                targets = rounding(free, self._rate_wishes(tenant, free, reports), now)
            self._allow(resource, size, targets, amounts, now)
        for tenant in [tenant for tenant in self._tenants if tenant not in units]:
            del self._tenants[tenant]
        return units

    def _rate_wishes(self, tenant: str, units: int, reports: Mapping[MemberName, Report]) -> dict[MemberName, float]:
        """A part is spread evenly, and the rest follows what is asked."""
        asked = {name: self._members[name].asked.get(tenant, 0.0) for name in reports}
        wanted = sum(asked.values())
        part = _IDLE_PART if wanted >= _NOTHING else 1.0
        even = units * part / len(reports)
        return {
            name: even + (units - even * len(reports)) * (rate / wanted if wanted else 0.0)
            for name, rate in asked.items()
        }

    def _at_once(
        self, tenant: str, units: int, reports: Mapping[MemberName, Report], now: float
    ) -> dict[MemberName, int]:
        """Of whole requests: what runs stays where it runs; the rest goes to those who need it at this moment, and
        where nobody does, it stays where it is."""
        uses = {name: report.tenants.get(tenant) for name, report in reports.items()}
        running = {name: use.running if use is not None else 0 for name, use in uses.items()}
        rest = units - sum(running.values())
        if rest <= 0:
            return apportion(units, {name: units * each / max(1, units - rest) for name, each in running.items()})
        idle = {name: max(0, self._ledger.bound(name, f"t:{tenant}", now) - running[name]) for name in reports}
        unmet = {name: self._members[name].asked.get(tenant, 0.0) for name in reports}
        parts = unmet if sum(unmet.values()) >= _NOTHING else idle if any(idle.values()) else dict.fromkeys(reports, 1)
        whole = sum(parts.values())
        wishes = {name: running[name] + rest * parts[name] / whole for name in reports}
        return apportion(units, wishes, {name: _STAYS if idle[name] else 0.0 for name in reports})

    # Who runs scale

    def _scaler(self, able: list[MemberName]) -> MemberName | None:
        """Whoever has it already, else the first."""
        having = [name for name in able if self._members[name].report.scales]
        return next(iter(having or able), None)

    def _allow(
        self,
        resource: str,
        capacity: int,
        targets: Mapping[MemberName, int],
        amounts: dict[MemberName, dict[str, int]],
        now: float,
    ) -> None:
        for member, amount in self._ledger.allow(resource, capacity, targets, now).items():
            amounts[member][resource] = amount


def _worker(name: WorkerName) -> str:
    return f"w:{name}"


def _used(report: Report) -> dict[str, int]:
    used = {_worker(name): max(use.limit, use.inflight) for name, use in report.workers.items()}
    used.update({f"t:{tenant}": max(use.share, use.running) for tenant, use in report.tenants.items()})
    used[_SCALE] = int(report.scales)
    return {resource: amount for resource, amount in used.items() if amount}


def _asked(report: Report, before: _Member | None, now: float) -> dict[str, float]:
    """Moving averages of the requests a second."""
    passed = max(1e-3, now - before.at) if before is not None else _ASKED_S
    rates: dict[str, float] = {}
    for tenant, use in report.tenants.items():
        keep = math.exp(-passed / (_UNMET_S if use.units < RATE_UNITS else _ASKED_S))
        rate = keep * (before.asked.get(tenant, 0.0) if before is not None else 0.0) + (1.0 - keep) * use.asked / passed
        if rate > 1e-6:
            rates[tenant] = rate
    return rates


def _serves(report: Report, worker: WorkerName) -> bool:
    use = report.workers.get(worker)
    return use is not None and use.serves


def _demands(
    pool: PoolName, reports: Mapping[MemberName, Report]
) -> tuple[dict[MemberName, dict[str, float]], dict[str, float]]:
    demands: dict[MemberName, dict[str, float]] = {}
    weights: dict[str, float] = {}
    for name, report in reports.items():
        groups: Mapping[str, GroupUse] = report.demand.get(pool, {})
        demands[name] = {group: float(use.inflight + use.queued) for group, use in groups.items()}
        weights.update({group: use.weight for group, use in groups.items()})
    return demands, weights


def _to_users(dealt: dict[MemberName, int], users: list[MemberName]) -> dict[MemberName, int]:
    """What was dealt to members that would send nothing to this worker goes to those that would."""
    spare = sum(amount for member, amount in dealt.items() if member not in users)
    if not spare or not users:
        return dealt
    targets = {member: amount if member in users else 0 for member, amount in dealt.items()}
    mine = sum(targets.values())
    wishes = {m: spare * (targets[m] / mine if mine else 1 / len(users)) for m in users}
    for member, more in apportion(spare, wishes).items():
        targets[member] += more
    return targets


def _busy(name: MemberName, reports: Mapping[MemberName, Report]) -> dict[WorkerName, int]:
    busy: dict[WorkerName, int] = {}
    for member, report in reports.items():
        for worker, use in report.workers.items() if member != name else ():
            if use.inflight:
                busy[worker] = busy.get(worker, 0) + use.inflight
    return busy


def _others(name: MemberName, reports: Mapping[MemberName, Report]) -> dict[PoolName, tuple[int, int]]:
    load: dict[PoolName, tuple[int, int]] = {}
    for member, report in reports.items():
        for pool, groups in report.demand.items() if member != name else ():
            inflight, queued = load.get(pool, (0, 0))
            load[pool] = (
                inflight + sum(use.inflight for use in groups.values()),
                queued + sum(use.queued for use in groups.values()),
            )
    return load
