"""Deficit longest prefix match: whoever has credit left may go, and of those the one with the most cached."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from pydantic import Field

from controller.fairness.counters import UNLISTED, Counters, weights_of
from controller.leases import Served
from controller.protocols import Options, Resources
from controller.settings import ControlSettings
from controller.types import Alternative, PoolName, Tenant

__all__ = ["Dlpm", "DlpmOptions"]


class DlpmOptions(Options):
    """Options of ``dlpm``."""

    quantum: float = Field(100_000.0, gt=0)
    """Service that each tenant of weight 1 is granted at a time. A small one makes turns like those of ``vtc``, a large
    one leaves more of the order to the caches."""
    prompt_weight: float = Field(1.0, ge=0)
    """Service that one prompt token counts as which the worker does not have cached."""
    output_weight: float = Field(2.0, gt=0)
    """Service that one output token counts as."""
    urgency: float = Field(10.0, ge=0)
    """What a whole quantum unspent counts for, where a prompt that is cached as a whole counts for 1."""
    predict: bool = True
    """Charge a request's expected output when it is sent, and correct that as its length becomes known."""
    remembered: int = Field(10_000, ge=1)
    """Tenants per pool whose accounts are kept before idle ones are looked through."""


class _Pool:
    """One pool's counters, and the level up to which each of them has been granted service so far."""

    __slots__ = ("counters", "level")

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self.level = 0.0


class Dlpm:
    """Deficit longest prefix match (Cao et al., 2025, arXiv 2501.14312), one account a tenant and pool.

    A tenant may go while its *deficit*, what it was granted less what it was charged, is above zero; of those that may,
    the one goes whose first request has the largest share cached at the worker. Only what a worker has to compute is
    charged: uncached prompt tokens and output tokens. When nobody who waits has a deficit above zero, all tenants are
    granted another quantum, times their weight, as often as it takes; those that do not wait keep one at most.

    Beside the share, the part of the quantum that is left counts, ``urgency`` times: tenants of little load have most
    of theirs, and hardly wait. The bound does not depend on who goes of those that may. Without it (0), this is the
    algorithm as published.

    Two tenants that wait all along differ in service, divided by their weights, by at most 2·(U + Q), Q being the
    quantum and U = w_e·L_input + w_q·M, with M the output tokens that one tenant has in flight: a deficit lies in
    (-U, Q]. With predictions, M has those as well that were charged for and not written.

    As all are granted the same, a deficit is kept as a counter of the service divided by the weight, and a level that
    is the same for all: ``deficit = level - counter``.
    """

    name = "dlpm"
    spares_cached = True

    def __init__(self, options: DlpmOptions, settings: ControlSettings) -> None:
        self._quantum, self._urgency = options.quantum, options.urgency
        self._prompt_weight, self._output_weight = options.prompt_weight, options.output_weight
        self._remembered = options.remembered
        self.prepays = options.predict
        self._weights = weights_of(settings)
        self._pools = defaultdict[PoolName, _Pool](self._fresh)
        self._shared = False

    @classmethod
    def create(cls, options: DlpmOptions, resources: Resources) -> Dlpm:
        return cls(options, resources.settings)

    def group(self, tenant: Tenant) -> str:
        return tenant

    def arrived(self, pool: PoolName, group: str) -> None:
        account = self._pools[pool]
        counters = account.counters
        reached = counters.floor if counters.floor > account.level else account.level
        counters.arrived(group, reached - self._quantum)

    def emptied(self, pool: PoolName, group: str) -> None:
        self._pools[pool].counters.emptied(group)

    def returned(self, pool: PoolName, group: str) -> None:
        self._pools[pool].counters.returned(group)

    def pick(self, pool: PoolName, among: Mapping[str, float] | None = None) -> str | None:
        account = self._pools[pool]
        least, group = account.counters.least()
        if least >= account.level:
            self._grant(account, least)
        if among is None:
            return group
        values, level = account.counters.values, account.level
        urgency = self._urgency / self._quantum
        able = [
            (-share - urgency * min(level - value, self._quantum), value, one)
            for one, share in among.items()
            if (value := values[one]) < level
        ]
        return min(able)[2] if able else None

    def standing(self, pool: PoolName) -> tuple[Alternative, ...]:
        account = self._pools[pool]
        return account.counters.standing(account.level)

    def admitted(self, pool: PoolName, group: str, prompt_tokens: int) -> None:
        self._charge(pool, group, self._prompt_weight * prompt_tokens)

    def decoded(self, pool: PoolName, group: str, tokens: int) -> None:
        self._charge(pool, group, self._output_weight * tokens)

    def reconfigure(self, settings: ControlSettings) -> None:
        self._weights = weights_of(settings)

    def share(self) -> None:
        """See :class:`FairnessStage`. Each control plane keeps a level of its own, by those who wait there."""
        self._shared = True

    def served(self) -> Mapping[PoolName, Mapping[str, Served]]:
        return {pool: account.counters.served() for pool, account in self._pools.items()}

    def adopt(self, counters: Mapping[PoolName, Mapping[str, float]], floors: Mapping[PoolName, float]) -> None:
        for pool, values in counters.items():
            self._pools[pool].counters.adopt(values, floors.get(pool, 0.0))

    def service(self, pool: PoolName, tenant: Tenant) -> float:
        """What the tenant was charged, in weighted tokens divided by its weight."""
        return self._pools[pool].counters.values.get(tenant, 0.0)

    def deficit(self, pool: PoolName, tenant: Tenant) -> float:
        """What the tenant may still be charged before it has to wait for a grant, in the same units."""
        return self._pools[pool].level - self.service(pool, tenant)

    def _grant(self, account: _Pool, least: float) -> None:
        """So many quanta that the least counter among those waiting is below the level again."""
        account.level += self._quantum * (math.floor((least - account.level) / self._quantum) + 1)
        if account.level <= least:  # where the sum was rounded down
            account.level = math.nextafter(least, math.inf)

    def _charge(self, pool: PoolName, group: str, service: float) -> None:
        self._pools[pool].counters.charge(group, service / self._weights.get(group, UNLISTED))

    def _fresh(self) -> _Pool:
        return _Pool(Counters(self._remembered, shared=self._shared))
