"""How much longer or shorter than expected answers have been, by tenant and route.

The logarithm of observed over expected length is averaged with exponential forgetting, for a tenant, and within it for
a route as what is left beyond the tenant's. A mean of n answers counts n / (n + κ): a normal prior around nothing.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from typing import Final, Self

__all__ = ["TenantHistory"]

_LEAST_TOKENS: Final = 1.0


class TenantHistory:
    """Keeps the ``capacity`` keys last seen. Not safe to share between threads.

    ``prior`` is κ, ``memory`` the number of answers after which an old one counts 1/e.
    """

    def __init__(self, capacity: int = 10_000, prior: float = 8.0, memory: float = 200.0) -> None:
        if capacity < 1 or prior <= 0 or memory < 1:
            raise ValueError("capacity and memory are at least 1, and prior above 0")
        self.capacity = capacity
        self.prior = prior
        self.memory = memory
        self._kept: OrderedDict[tuple[str, str | None], tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def offset(self, tenant: str | None, route: str | None) -> float:
        """What to add to the logarithm of expected tokens; 0 for those never seen."""
        if tenant is None:
            return 0.0
        own = self._shrunk((tenant, None))
        return own + (self._shrunk((tenant, route)) if route is not None else 0.0)

    def observe(self, tenant: str | None, route: str | None, expected: float, tokens: float) -> None:
        """An answer of ``tokens``, where ``expected`` tokens were expected without this history.

        Raises:
            ValueError: ``expected`` is not a positive, or ``tokens`` not a finite number >= 0.
        """
        if not (math.isfinite(expected) and expected > 0 and math.isfinite(tokens) and tokens >= 0):
            raise ValueError(f"tokens are finite and >= 0, expected ones > 0, not {tokens} and {expected}")
        if tenant is None:
            return
        ratio = math.log(max(tokens, _LEAST_TOKENS) / expected)
        before = self._shrunk((tenant, None))
        self._add((tenant, None), ratio)
        if route is not None:
            self._add((tenant, route), ratio - before)

    def export(self) -> bytes:
        """As JSON."""
        state = {"capacity": self.capacity, "prior": self.prior, "memory": self.memory}
        kept = [[tenant, route, count, mean] for (tenant, route), (count, mean) in self._kept.items()]
        return json.dumps({**state, "kept": kept}, allow_nan=False).encode()

    @classmethod
    def load(cls, encoded: bytes) -> Self:
        """The inverse of :meth:`export`.

        Raises:
            ValueError: it is not one.
        """
        try:
            state = json.loads(encoded)
            found = cls(int(state["capacity"]), float(state["prior"]), float(state["memory"]))
            for tenant, route, count, mean in state["kept"]:
                found._kept[str(tenant), None if route is None else str(route)] = float(count), float(mean)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a history of tenants: {type(error).__name__}: {error}") from error
        return found

    def _shrunk(self, key: tuple[str, str | None]) -> float:
        count, mean = self._kept.get(key, (0.0, 0.0))
        return mean * count / (count + self.prior)

    def _add(self, key: tuple[str, str | None], ratio: float) -> None:
        count, mean = self._kept.pop(key, (0.0, 0.0))
        count = count * (1.0 - 1.0 / self.memory) + 1.0
        self._kept[key] = count, mean + (ratio - mean) / count
        if len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
