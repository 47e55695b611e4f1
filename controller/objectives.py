"""How well a fleet served: the one definition of each figure, for the gateway, the demo and every evaluation.

Nothing drops out of a denominator: a request that was rejected, failed, aborted, or never answered counts as one that
got nothing. ``None`` stands for a figure that is not defined (of no requests at all).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from controller.types import DecisionRecord, Result


@dataclass(frozen=True, slots=True)
class Served:
    """How one request ended, for the one who sent it. Times in seconds from its arrival.

    ``latency`` is ``None`` unless a complete answer came. ``quality`` in [0, 1] is that of the answer, ``peak`` that of
    the best answer the fleet could have given with all the time in the world.
    """

    latency: float | None
    deadline: float | None = None
    quality: float = 0.0
    peak: float = 1.0
    ttft: float | None = None
    output_tokens: int = 0

    @property
    def in_time(self) -> bool:
        """A complete answer came by the deadline, if there was one."""
        return self.latency is not None and (self.deadline is None or self.latency <= self.deadline)

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first (as ``vllm bench serve`` has it: 0 for a single token)."""
        if self.latency is None or self.ttft is None:
            return None
        return (self.latency - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """A service level objective in seconds; limits that are ``None`` do not bind. A request's deadline always does."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def met(self, served: Served) -> bool:
        """Whether every limit was kept; never without a complete answer."""
        limits = ((served.ttft, self.ttft_s), (served.tpot, self.tpot_s), (served.latency, self.e2e_s))
        kept = all(limit is None or (value is not None and value <= limit) for value, limit in limits)
        return served.in_time and kept


def availability(requests: Sequence[Served]) -> float | None:
    """Share of all requests that were answered completely by their deadline."""
    return sum(request.in_time for request in requests) / len(requests) if requests else None


def goodput(requests: Sequence[Served], seconds: float, objective: Objective | None = None) -> float:
    """Requests per second that were answered within their objective (DistServe, Zhong et al., OSDI'24).

    ``seconds`` is the length of the run, from the first arrival to the last answer.
    """
    if not seconds > 0:
        raise ValueError(f"a run lasts longer than {seconds} s")
    wanted = objective or Objective()
    return sum(wanted.met(request) for request in requests) / seconds


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


def quantile(values: Sequence[float], q: float) -> float | None:
    """The q-quantile, linear between order statistics (as numpy's default)."""
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
    if not values:
        return None
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def served(record: DecisionRecord, deadline: float | None, quality: float = 0.0, peak: float = 1.0) -> Served:
    """How the request of a decision record was served; ``deadline`` in seconds from its arrival."""
    complete = record.result is Result.COMPLETED
    first = record.first_token_at
    return Served(
        latency=record.finished_at - record.submitted_at if complete else None,
        deadline=deadline,
        quality=quality if complete else 0.0,
        peak=peak,
        ttft=None if first is None else first - record.submitted_at,
        output_tokens=0 if record.usage is None else record.usage.output_tokens,
    )
