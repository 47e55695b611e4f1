"""No fairness between tenants."""

from __future__ import annotations

from collections.abc import Mapping

from controller.leases import Served
from controller.protocols import Options, Resources
from controller.settings import ControlSettings
from controller.types import Alternative, PoolName, Tenant

__all__ = ["NoFairness"]


class NoFairness:
    """All tenants share one queue; the order stage alone decides."""

    name = "none"
    prepays = False
    spares_cached = False

    @classmethod
    def create(cls, options: Options, resources: Resources) -> NoFairness:
        return cls()

    def group(self, tenant: Tenant) -> str:
        return ""

    def arrived(self, pool: PoolName, group: str) -> None:
        """Nothing to keep."""

    def emptied(self, pool: PoolName, group: str) -> None:
        """Nothing to keep."""

    def returned(self, pool: PoolName, group: str) -> None:
        """Nothing to keep."""

    def pick(self, pool: PoolName, among: Mapping[str, float] | None = None) -> str:
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
