"""The fairness counters of all members together (see :class:`controller.fairness.Vtc`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.leases import MemberName, Report
from controller.types import PoolName

__all__ = ["Counters"]

_REMEMBERED_S = 60.0
"""So long the counter of a tenant that wants nothing is kept; on its return it is lifted anyway."""


@dataclass(slots=True)
class _Counter:
    value: float = 0.0
    seen_at: float = 0.0


class Counters:
    """Sums of what the members charged; lifts, which every member makes for itself, count once."""

    def __init__(self) -> None:
        self._pools: dict[PoolName, dict[str, _Counter]] = {}
        self._charged: dict[MemberName, dict[tuple[PoolName, str], float]] = {}
        self._adopted: set[MemberName] = set()
        """Members that another leader knew before: what they charged until then is in its sums."""

    def heard(self, report: Report, now: float) -> None:
        """What a member has served since its last report, and who wants something."""
        if report.member not in self._charged:
            self._charged[report.member] = {}
            if report.number > 1:
                self._adopted.add(report.member)
        known = self._charged[report.member]
        for pool, changes in report.served.items():
            for tenant, change in changes.items():
                counter = self._of(pool, tenant)
                counter.value = max(counter.value, change.lifted)
                before = known.get((pool, tenant), change.charged if report.member in self._adopted else 0.0)
                counter.value += max(0.0, change.charged - before)
                counter.seen_at = now
                known[pool, tenant] = change.charged
        for pool, groups in report.demand.items():
            for tenant in groups:
                self._of(pool, tenant).seen_at = now

    def restore(self, counters: Mapping[PoolName, Mapping[str, float]], now: float) -> None:
        """What another leader knew."""
        for pool, values in counters.items():
            for tenant, value in values.items():
                counter = self._of(pool, tenant)
                counter.value, counter.seen_at = max(counter.value, value), now

    def values(self) -> dict[PoolName, dict[str, float]]:
        """Every counter."""
        return {pool: {one: counter.value for one, counter in found.items()} for pool, found in self._pools.items()}

    def floors(self, reports: Iterable[Report]) -> dict[PoolName, float]:
        """The least counter among those who wait, by pool."""
        floors: dict[PoolName, float] = {}
        for report in reports:
            for pool, groups in report.demand.items():
                waiting = [self._of(pool, tenant).value for tenant, use in groups.items() if use.queued]
                if waiting:
                    floors[pool] = min(floors.get(pool, math.inf), *waiting)
        return floors

    def left(self, member: MemberName) -> None:
        """A member will report no more."""
        self._charged.pop(member, None)
        self._adopted.discard(member)

    def tidy(self, now: float) -> None:
        """Forget who has wanted nothing for long."""
        for counters in self._pools.values():
            for tenant in [one for one, counter in counters.items() if now - counter.seen_at > _REMEMBERED_S]:
                del counters[tenant]

    def _of(self, pool: PoolName, tenant: str) -> _Counter:
        return self._pools.setdefault(pool, {}).setdefault(tenant, _Counter())
