"""Quantiles and means of times, in which a request that was never answered took for ever."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from controller.objectives.outcome import Served


def quantile(values: Sequence[float], q: float) -> float | None:
    """The q-quantile, linear between order statistics (as numpy's default); values may be infinite."""
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
    if not values:
        return None
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    if position == low or ordered[low] == ordered[high]:
        return ordered[low]
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def endless(times: Iterable[float | None]) -> list[float]:
    """The times, infinite where there is none: so a quantile over them leaves no request out."""
    return [math.inf if time is None else time for time in times]


def latency_quantile(requests: Sequence[Served], q: float) -> float | None:
    """The q-quantile of the end-to-end latency over all requests; infinite from where on they were not answered."""
    return quantile(endless(request.latency for request in requests), q)


def normalised_latency(requests: Sequence[Served], q: float | None = None) -> float | None:
    """Mean, or the q-quantile, of the end-to-end seconds per output token (Orca's normalised latency).

    Over all requests: the mean is infinite as soon as one was not answered, a quantile where more than its share were
    not. ``None`` where there was no request.
    """
    values = [request.normalised for request in requests]
    if q is not None:
        return quantile(values, q)
    if not values:
        return None
    return math.inf if math.inf in values else math.fsum(values) / len(values)
