"""Virtual token counters: the tenant with the least service so far goes next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from pydantic import Field

from controller.fairness.counters import UNLISTED, Counters, weights_of
from controller.leases import Served
from controller.protocols import Options, Resources
from controller.settings import ControlSettings
from controller.types import Alternative, PoolName, Tenant

__all__ = ["Vtc", "VtcOptions"]


class VtcOptions(Options):
    """Options of ``vtc``."""

    prompt_weight: float = Field(1.0, ge=0)
    """Service that one prompt token counts as."""
    output_weight: float = Field(2.0, gt=0)
    """Service that one output token counts as."""
    predict: bool = True
    """Charge a request's expected output when it is sent, and correct that as its length becomes known. Where several
    control planes share the counters, output is charged as it comes."""
    remembered: int = Field(10_000, ge=1)
    """Tenants per pool whose counters are kept before idle ones are looked through."""


class Vtc:
    """Virtual token counters (Sheng et al., OSDI'24), one set a pool, weighted by tenant.

    The tenant with the least service so far goes next. A tenant that comes back from idleness is lifted to the least
    counter among those waiting, so that it cannot save up credit; prompt tokens are charged when a request is sent,
    and so is the output expected of it (ibid., Algorithm 3: what goes beyond is charged when it is reported, what was
    not used is given back at the end). Two tenants that wait all along differ in service, divided by their weights, by
    at most 2U, U = w_p·L_input + w_q·M, M being the output tokens that one tenant has in flight (ibid., Theorem 4.8,
    where M has the prompts as well). With predictions, M also has those that were charged for and not written.
    """

    name = "vtc"
    spares_cached = False

    def __init__(self, options: VtcOptions, settings: ControlSettings) -> None:
        self._prompt_weight, self._output_weight = options.prompt_weight, options.output_weight
        self._remembered = options.remembered
        self.prepays = options.predict
        self._weights = weights_of(settings)
        self._pools = defaultdict[PoolName, Counters](self._fresh)
        self._shared = False

    @classmethod
    def create(cls, options: VtcOptions, resources: Resources) -> Vtc:
        return cls(options, resources.settings)

    def group(self, tenant: Tenant) -> str:
        return tenant

    def arrived(self, pool: PoolName, group: str) -> None:
        counters = self._pools[pool]
        counters.arrived(group, counters.resting())

    def emptied(self, pool: PoolName, group: str) -> None:
        self._pools[pool].emptied(group)

    def returned(self, pool: PoolName, group: str) -> None:
        self._pools[pool].returned(group)

    def pick(self, pool: PoolName, among: Mapping[str, float] | None = None) -> str | None:
        counters = self._pools[pool]
        least, group = counters.least()
        if among is None or group in among:
            return group
        group = counters.least_of(among)
        return group if counters.values[group] <= least else None

    def standing(self, pool: PoolName) -> tuple[Alternative, ...]:
        return self._pools[pool].standing()

    def admitted(self, pool: PoolName, group: str, prompt_tokens: int) -> None:
        self._pools[pool].charge(group, self._prompt_weight * prompt_tokens / self._weights.get(group, UNLISTED))

    def decoded(self, pool: PoolName, group: str, tokens: int) -> None:
        self._pools[pool].charge(group, self._output_weight * tokens / self._weights.get(group, UNLISTED))

    def reconfigure(self, settings: ControlSettings) -> None:
        self._weights = weights_of(settings)

    def share(self) -> None:
        self._shared = True
        self.prepays = False

    def served(self) -> Mapping[PoolName, Mapping[str, Served]]:
        return {pool: counters.served() for pool, counters in self._pools.items()}

    def adopt(self, counters: Mapping[PoolName, Mapping[str, float]], floors: Mapping[PoolName, float]) -> None:
        for pool, values in counters.items():
            self._pools[pool].adopt(values, floors.get(pool, 0.0))

    def service(self, pool: PoolName, tenant: Tenant) -> float:
        """The tenant's counter, in weighted tokens divided by its weight."""
        return self._pools[pool].values.get(tenant, 0.0)

    def _fresh(self) -> Counters:
        return Counters(self._remembered, shared=self._shared)
