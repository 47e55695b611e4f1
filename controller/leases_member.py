"""One control plane's part in the leases: its reports, and what a grant changes in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Protocol

from controller.leases import (
    Grant,
    GroupUse,
    MemberName,
    Report,
    Served,
    Stamp,
    TenantUse,
    WorkerUse,
    decayed,
    part_keys,
    share_key,
    tenant_units,
)
from controller.limits import Limits
from controller.settings import ControlSettings
from controller.types import PoolName, Tenant, WorkerName

__all__ = ["Leased", "Member"]

_REMEMBERED = 64
"""Reports that no grant has answered yet; of older ones it is only forgotten when they were made."""


class Leased(Protocol):
    """What a member needs of a control plane: :class:`controller.sharing.Sharing`."""

    limits: Limits
    settings: ControlSettings

    scales: bool

    def begin(self, now: float) -> None: ...
    def lease(self, workers: Mapping[WorkerName, int], now: float) -> None: ...
    def lend(
        self, others: Mapping[PoolName, tuple[int, int]], busy: Mapping[WorkerName, int], scales: bool
    ) -> None: ...
    def uses(self) -> Mapping[WorkerName, WorkerUse]: ...
    def demand(self) -> Mapping[PoolName, Mapping[str, GroupUse]]: ...
    def served(self) -> Mapping[PoolName, Mapping[str, Served]]: ...
    def adopt(self, counters: Mapping[PoolName, Mapping[str, float]], floors: Mapping[PoolName, float]) -> None: ...


class Member:
    """Until the first grant the control plane sends nothing. ``half_life_s``: without a leader for so long, half of
    every lease is given up, and so on (see :mod:`controller.leases_ledger`); ``None`` keeps them."""

    def __init__(
        self,
        plane: Leased,
        name: MemberName,
        now: float,
        *,
        half_life_s: float | None = None,
        may_scale: bool = True,
    ) -> None:
        self.name = name
        self._plane = plane
        self._half_life_s = half_life_s
        self._may_scale = may_scale
        self._number = 0
        self._grant: Grant | None = None
        self._applied: Stamp = (-1, -1)
        self._made: deque[tuple[int, float, Mapping[PoolName, Mapping[str, Served]]]] = deque(maxlen=_REMEMBERED)
        """(number, when, the fairness counters then) of reports without an answer."""
        self._answered_at = now
        self._base: dict[PoolName, dict[str, float]] = {}
        """Of what was charged here, what is in the leader's sums."""
        self._halvings = 0
        self._shares: dict[str, tuple[int, int]] = {}
        self._shared_by = 0
        plane.begin(now)
        self._share_out(now)

    @property
    def granted(self) -> bool:
        """Whether there is a lease at all."""
        return self._grant is not None

    @property
    def scales(self) -> bool:
        """Whether this member runs ``scale`` and the actuators."""
        return self._grant is not None and self._grant.scales and not self._halvings

    @property
    def members(self) -> int:
        """How many there are."""
        return 1 if self._grant is None else self._grant.members

    def report(self, now: float) -> Report:
        """The state at this moment, under the next number."""
        self._number += 1
        served = self._changed(self._plane.served())
        self._made.append((self._number, now, served))
        return Report(
            self.name,
            self._number,
            self._applied,
            self._plane.uses(),
            self._plane.demand(),
            self._tenants(),
            served,
            self.scales,
            self._may_scale,
        )

    def apply(self, grant: Grant, now: float) -> bool:
        """Go by this grant from now on. True if something is less than before, so that the leader waits to hear of it.
        Grants that come late are left alone."""
        if grant.stamp <= self._applied:
            return False
        before = self._grant
        self._applied, self._grant = grant.stamp, grant
        while self._made and self._made[0][0] <= grant.heard:
            _, self._answered_at, served = self._made.popleft()
            for pool, tenants in served.items():
                self._base.setdefault(pool, {}).update({one: each.charged for one, each in tenants.items()})
        self._halvings = self._overdue(now)
        self._put(now)
        self._plane.adopt(self._whole(grant.counters), grant.floors)
        return before is not None and _less(grant, before)

    def tick(self, now: float) -> bool:
        """Time passes; without a leader it halves the leases. True if it just did."""
        halvings = self._overdue(now)
        if self._grant is None or halvings <= self._halvings:
            return False
        self._halvings = halvings
        self._put(now)
        return True

    def _put(self, now: float) -> None:
        assert self._grant is not None
        grant, halvings = self._grant, self._halvings
        self._plane.lease({name: decayed(limit, halvings) for name, limit in grant.workers.items()}, now)
        self._plane.lend(grant.others, grant.busy, self.scales)
        shares = {key: (decayed(share, halvings), units) for key, (share, units) in grant.tenants.items()}
        if shares != self._shares or self.members != self._shared_by:
            self._shares = shares
            self._share_out(now)

    def _overdue(self, now: float) -> int:
        return 0 if self._half_life_s is None else int(max(0.0, now - self._answered_at) / self._half_life_s)

    # Tenants

    def _share_out(self, now: float) -> None:
        listed = self._plane.settings.tenants
        self._shared_by = self.members

        def share(tenant: Tenant) -> float:
            part, units = self._shares.get(share_key(tenant, listed), (0, 1))
            return part / units

        self._plane.limits.lease(share, self.members, now)

    def _tenants(self) -> dict[str, TenantUse]:
        settings = self._plane.settings
        demands = self._plane.limits.demand()
        running: dict[str, int] = {}
        asked: dict[str, float] = {}
        for tenant, demand in demands.items():
            key = share_key(tenant, settings.tenants)
            running[key] = max(running.get(key, 0), demand.concurrency)
            asked[key] = asked.get(key, 0.0) + (demand.requests if _rates(settings, tenant) else demand.unmet)
        quotas = {f"={name}": spec.quota for name, spec in settings.tenants.items() if not spec.quota.unlimited}
        if not settings.quota.unlimited:
            quotas.update(dict.fromkeys(part_keys(), settings.quota))
        found: dict[str, TenantUse] = {}
        for key, quota in quotas.items():
            units = tenant_units(quota.concurrency)
            share, of = self._shares.get(key, (0, units))
            held = running.get(key, 0) if quota.concurrency is not None else 0
            found[key] = TenantUse(units, share if of == units else -(-share * units // of), held, asked.get(key, 0.0))
        return found

    # Fairness

    def _changed(self, served: Mapping[PoolName, Mapping[str, Served]]) -> dict[PoolName, dict[str, Served]]:
        """What the leader's sums do not have yet."""
        return {
            pool: {
                tenant: each for tenant, each in tenants.items() if self._base.get(pool, {}).get(tenant) != each.charged
            }
            for pool, tenants in served.items()
        }

    def _whole(self, counters: Mapping[PoolName, Mapping[str, float]]) -> dict[PoolName, dict[str, float]]:
        """The leader's sums, and what was charged here since."""
        here = self._plane.served()
        whole: dict[PoolName, dict[str, float]] = {}
        for pool, values in counters.items():
            mine, base = here.get(pool, {}), self._base.get(pool, {})
            whole[pool] = {
                tenant: value + (mine[tenant].charged - base.get(tenant, 0.0) if tenant in mine else 0.0)
                for tenant, value in values.items()
            }
        return whole


def _rates(settings: ControlSettings, tenant: Tenant) -> bool:
    """Whether only its rates are limited."""
    spec = settings.tenants.get(tenant)
    return (settings.quota if spec is None else spec.quota).concurrency is None


def _less(grant: Grant, before: Grant) -> bool:
    if before.scales and not grant.scales:
        return True
    if any(grant.workers.get(name, 0) < limit for name, limit in before.workers.items()):
        return True
    return any(grant.tenants.get(key, (0, 1))[0] < share for key, (share, _) in before.tenants.items())
