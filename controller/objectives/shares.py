"""Shares between 0 and 1: of requests, of the quality there could have been, and how evenly something is divided."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.objectives.outcome import Objective, Served


def availability(requests: Sequence[Served]) -> float | None:
    """Share of all requests that were answered completely by their deadline."""
    return sum(request.in_time for request in requests) / len(requests) if requests else None


def attainment(requests: Sequence[Served], objective: Objective) -> float | None:
    """Share of all requests that were answered within the objective (DistServe's SLO attainment)."""
    return sum(objective.met(request) for request in requests) / len(requests) if requests else None


def mean_quality(requests: Sequence[Served]) -> float | None:
    """Mean quality over all requests, 0 for those without a complete answer, however late it came."""
    if not requests:
        return None
    return sum(request.quality for request in requests if request.latency is not None) / len(requests)


def deadline_reward(quality: float, latency: float | None, deadline: float | None, kappa: float | None = None) -> float:
    """What one answer is worth (Learned Best-Effort LLM Serving, Jha et al. 2024).

    Hard (``kappa`` is ``None``): q·1{L ≤ D}. Soft: q·clip(1 − (L − D)/(κD), 0, 1), nothing from (1 + κ)·D on.
    """
    if latency is None:
        return 0.0
    if deadline is None or latency <= deadline:
        return quality
    if kappa is None:
        return 0.0
    return quality * max(0.0, 1.0 - (latency - deadline) / (kappa * deadline)) if kappa * deadline > 0 else 0.0


def share_of_peak(requests: Sequence[Served], kappa: float | None = None) -> float | None:
    """Σ rewards over Σ peaks: quality delivered in time, of what the best pool would give without any load."""
    peak = sum(request.peak for request in requests)
    if not peak > 0:
        return None
    return sum(deadline_reward(r.quality, r.latency, r.deadline, kappa) for r in requests) / peak


def jains_index(received: Sequence[float]) -> float | None:
    """How evenly something was divided: (Σx)² / (n·Σx²) (Jain, Chiu, Hawe 1984).

    1 where all n got the same, 1/n where one got everything; ``None`` where nobody got anything. Whoever got nothing
    belongs into ``received`` with a 0.

    Raises:
        ValueError: an amount is negative or not finite.
    """
    if any(not 0 <= amount < math.inf for amount in received):
        raise ValueError(f"amounts must be finite and not negative, not {list(received)}")
    most = max(received, default=0.0)
    if not most > 0:
        return None
    scaled = [amount / most for amount in received]
    return math.fsum(scaled) ** 2 / (len(scaled) * math.fsum(amount * amount for amount in scaled))
