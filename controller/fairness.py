"""Stage ``fairness``: whose turn it is when a worker of a pool has room."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping

from pydantic import Field

from controller.leases import Served
from controller.protocols import Options, Resources
from controller.settings import ControlSettings, TenantSpec
from controller.types import Alternative, PoolName, Tenant

_SHOWN = 8
_UNLISTED = TenantSpec().weight


class NoFairness:
    """All tenants share one queue; the order stage alone decides."""

    name = "none"

    @classmethod
    def create(cls, options: Options, resources: Resources) -> NoFairness:
        return cls()

    def group(self, tenant: Tenant) -> str:
        return ""

    def arrived(self, pool: PoolName, group: str) -> None:
        """Nothing to keep."""

    def emptied(self, pool: PoolName, group: str) -> None:
        """Nothing to keep."""

    def pick(self, pool: PoolName) -> str:
        return ""

    def standing(self, pool: PoolName) -> tuple[Alternative, ...]:
        return ()

    def admitted(self, pool: PoolName, group: str, prompt_tokens: int) -> None:
        """Nothing to charge."""

    def decoded(self, pool: PoolName, group: str, tokens: int) -> None:
        """Nothing to charge."""

    def reconfigure(self, settings: ControlSettings) -> None:
        """Nothing to go by."""

    def share(self) -> None:
        """Nothing to share."""

    def served(self) -> Mapping[PoolName, Mapping[str, Served]]:
        return {}

    def adopt(self, counters: Mapping[PoolName, Mapping[str, float]], floors: Mapping[PoolName, float]) -> None:
        """Nothing to go by."""


class VtcOptions(Options):
    """Options of ``vtc``."""

    prompt_weight: float = Field(1.0, ge=0)
    """Service that one prompt token counts as."""
    output_weight: float = Field(2.0, gt=0)
    """Service that one output token counts as."""
    remembered: int = Field(10_000, ge=1)
    """Tenants per pool whose counters are kept before idle ones are looked through."""


class Vtc:
    """Virtual token counters (Sheng et al., OSDI'24), one set a pool, weighted by tenant.

    The tenant with the least service so far goes next. A tenant that comes back from idleness is lifted to the least
    counter among those waiting, so that it cannot save up credit; prompt tokens are charged when a request is sent,
    output tokens when they are reported. Two tenants that wait all along differ in service by at most
    2·max(w_p·L_input, w_q·M), M being the output tokens in flight.
    """

    name = "vtc"

    def __init__(self, options: VtcOptions, settings: ControlSettings) -> None:
        self._prompt_weight, self._output_weight = options.prompt_weight, options.output_weight
        self._remembered = options.remembered
        self._weights = _weights(settings)
        self._pools = defaultdict[PoolName, _Counters](self._fresh)
        self._shared = False

    @classmethod
    def create(cls, options: VtcOptions, resources: Resources) -> Vtc:
        return cls(options, resources.settings)

    def group(self, tenant: Tenant) -> str:
        return tenant

    def arrived(self, pool: PoolName, group: str) -> None:
        self._pools[pool].arrived(group)

    def emptied(self, pool: PoolName, group: str) -> None:
        self._pools[pool].emptied(group)

    def pick(self, pool: PoolName) -> str:
        return self._pools[pool].least()[1]

    def standing(self, pool: PoolName) -> tuple[Alternative, ...]:
        return self._pools[pool].standing()

    def admitted(self, pool: PoolName, group: str, prompt_tokens: int) -> None:
        self._pools[pool].charge(group, self._prompt_weight * prompt_tokens / self._weights.get(group, _UNLISTED))

    def decoded(self, pool: PoolName, group: str, tokens: int) -> None:
        self._pools[pool].charge(group, self._output_weight * tokens / self._weights.get(group, _UNLISTED))

    def reconfigure(self, settings: ControlSettings) -> None:
        self._weights = _weights(settings)

    def share(self) -> None:
        self._shared = True

    def served(self) -> Mapping[PoolName, Mapping[str, Served]]:
        return {pool: counters.served() for pool, counters in self._pools.items()}

    def adopt(self, counters: Mapping[PoolName, Mapping[str, float]], floors: Mapping[PoolName, float]) -> None:
        for pool, values in counters.items():
            self._pools[pool].adopt(values, floors.get(pool, 0.0))

    def service(self, pool: PoolName, tenant: Tenant) -> float:
        """The tenant's counter, in weighted tokens divided by its weight."""
        return self._pools[pool].counters.get(tenant, 0.0)

    def _fresh(self) -> _Counters:
        return _Counters(self._remembered, shared=self._shared)


def _weights(settings: ControlSettings) -> dict[str, float]:
    return {name: tenant.weight for name, tenant in settings.tenants.items()}


class _Counters:
    """One pool's counters, and a heap with one entry for each of those waiting.

    An entry may be too small, never too large, because counters only grow; one that surfaces with an old value is put
    back with the right one. An entry whose tenant has left stays until it surfaces, and serves again if it returns.
    """

    __slots__ = (
        "_bound",
        "_charged",
        "_entered",
        "_floor",
        "_heap",
        "_last_left",
        "_lifted",
        "_remembered",
        "_waiting",
        "counters",
    )

    def __init__(self, remembered: int, *, shared: bool = False) -> None:
        self.counters: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._heap: list[tuple[float, str]] = []
        self._entered: set[str] = set()
        self._last_left = 0.0
        self._floor = 0.0
        """The least counter among those who wait for the same pool at other control planes."""
        self._charged: dict[str, float] | None = {} if shared else None
        """All that was ever charged here; ``None`` where nobody asks."""
        self._lifted: dict[str, float] = {}
        self._remembered = remembered
        self._bound = remembered

    def arrived(self, group: str) -> None:
        floor = self.least()[0] if self._waiting else self._last_left
        if self._floor > floor:
            floor = self._floor
        value = self.counters.get(group, 0.0)
        if floor > value:
            value = floor
        self.counters[group] = value
        if self._charged is not None and value == floor:
            self._lifted[group] = floor
        self._waiting.add(group)
        if group not in self._entered:
            self._entered.add(group)
            heapq.heappush(self._heap, (value, group))
        if len(self.counters) > self._bound:
            self._forget()

    def emptied(self, group: str) -> None:
        self._waiting.discard(group)
        self._last_left = self.counters.get(group, 0.0)

    def charge(self, group: str, service: float) -> None:
        self.counters[group] = self.counters.get(group, 0.0) + service
        if self._charged is not None:
            self._charged[group] = self._charged.get(group, 0.0) + service

    def served(self) -> dict[str, Served]:
        """What was charged here, and the lifts, of every tenant that is known."""
        charged = self._charged or {}
        known = charged.keys() | self._lifted.keys()
        return {group: Served(charged.get(group, 0.0), self._lifted.get(group, 0.0)) for group in known}

    def adopt(self, values: Mapping[str, float], floor: float) -> None:
        """Counters of all control planes together; here, too, they only grow."""
        self._floor = floor
        for group, value in values.items():
            if value > self.counters.get(group, 0.0):
                self.counters[group] = value

    def least(self) -> tuple[float, str]:
        """The smallest counter among those waiting, and whose it is."""
        heap = self._heap
        while True:
            value, group = heap[0]
            if group not in self._waiting:
                heapq.heappop(heap)
                self._entered.discard(group)
            elif value < self.counters[group]:
                heapq.heapreplace(heap, (self.counters[group], group))
            else:
                return value, group

    def standing(self) -> tuple[Alternative, ...]:
        waiting, counters, heap = self._waiting, self.counters, self._heap
        if len(heap) == 1:
            group = heap[0][1]
            return (Alternative(group, -counters[group]),) if group in waiting else ()
        return tuple([Alternative(g, -counters[g]) for _, g in heap[:_SHOWN] if g in waiting])

    def _forget(self) -> None:
        """Drop idle tenants that a lift would bring to the same value anyway."""
        floor = self.least()[0] if self._waiting else self._last_left
        for group in [g for g, value in self.counters.items() if value <= floor and g not in self._waiting]:
            del self.counters[group]
            self._lifted.pop(group, None)
            if self._charged is not None:
                self._charged.pop(group, None)
        self._heap = [(self.counters[group], group) for group in sorted(self._waiting)]
        heapq.heapify(self._heap)
        self._entered = set(self._waiting)
        self._bound = max(self._remembered, 2 * len(self.counters))
