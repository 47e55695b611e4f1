"""Stage ``fairness``: whose turn it is when a worker of a pool has room."""

from __future__ import annotations

import heapq

from pydantic import Field

from controller.protocols import Options, Resources
from controller.settings import ControlSettings
from controller.types import Alternative, PoolName, Tenant

_SHOWN = 8


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
        self._options = options
        self._settings = settings
        self._pools: dict[PoolName, _Counters] = {}

    @classmethod
    def create(cls, options: VtcOptions, resources: Resources) -> Vtc:
        return cls(options, resources.settings)

    def group(self, tenant: Tenant) -> str:
        return tenant

    def arrived(self, pool: PoolName, group: str) -> None:
        self._pool(pool).arrived(group)

    def emptied(self, pool: PoolName, group: str) -> None:
        self._pool(pool).emptied(group)

    def pick(self, pool: PoolName) -> str:
        return self._pool(pool).least()[1]

    def standing(self, pool: PoolName) -> tuple[Alternative, ...]:
        return self._pool(pool).standing()

    def admitted(self, pool: PoolName, group: str, prompt_tokens: int) -> None:
        self._charge(pool, group, self._options.prompt_weight * prompt_tokens)

    def decoded(self, pool: PoolName, group: str, tokens: int) -> None:
        self._charge(pool, group, self._options.output_weight * tokens)

    def service(self, pool: PoolName, tenant: Tenant) -> float:
        """The tenant's counter, in weighted tokens divided by its weight."""
        return self._pool(pool).counters.get(tenant, 0.0)

    def _charge(self, pool: PoolName, group: str, service: float) -> None:
        self._pool(pool).charge(group, service / self._settings.tenant(group).weight)

    def _pool(self, pool: PoolName) -> _Counters:
        counters = self._pools.get(pool)
        if counters is None:
            counters = self._pools[pool] = _Counters(self._options.remembered)
        return counters


class _Counters:
    """One pool's counters, and a heap with one entry for each of those waiting.

    An entry may be too small, never too large, because counters only grow; one that surfaces with an old value is put
    back with the right one. An entry whose tenant has left stays until it surfaces, and serves again if it returns.
    """

    __slots__ = ("_bound", "_entered", "_heap", "_last_left", "_remembered", "_waiting", "counters")

    def __init__(self, remembered: int) -> None:
        self.counters: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._heap: list[tuple[float, str]] = []
        self._entered: set[str] = set()
        self._last_left = 0.0
        self._remembered = remembered
        self._bound = remembered

    def arrived(self, group: str) -> None:
        floor = self.least()[0] if self._waiting else self._last_left
        value = self.counters[group] = max(self.counters.get(group, 0.0), floor)
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
        shown = [group for _, group in self._heap[:_SHOWN] if group in self._waiting]
        return tuple([Alternative(group, -self.counters[group]) for group in shown])

    def _forget(self) -> None:
        """Drop idle tenants that a lift would bring to the same value anyway."""
        floor = self.least()[0] if self._waiting else self._last_left
        for group in [g for g, value in self.counters.items() if value <= floor and g not in self._waiting]:
            del self.counters[group]
        self._heap = [(self.counters[group], group) for group in sorted(self._waiting)]
        heapq.heapify(self._heap)
        self._entered = set(self._waiting)
        self._bound = max(self._remembered, 2 * len(self.counters))
