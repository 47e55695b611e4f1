"""From what a load generator saw to one row of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.report import Metric

if TYPE_CHECKING:
    from controller.objectives import Served

__all__ = ["Outcome", "Row", "Stages", "measured"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended, as its client saw it. Times in seconds; ``None`` where there was no such moment.

    ``correct`` is whether a whole answer was right; ``peak`` the chance that the best pool answers it rightly,
    ``None`` where nobody knows. ``status`` is 0 where no answer came at all.
    """

    status: int
    whole: bool
    correct: bool
    ttft: float | None
    e2e: float
    deadline: float
    in_burst: bool
    peak: float | None
    pool: str | None
    late_by: float

    def served(self) -> Served:
        """The same in the words of :mod:`controller.objectives`; an unknown peak counts as 1 there."""
        from controller.objectives import Served

        return Served(
            latency=self.e2e if self.whole else None,
            deadline=self.deadline,
            quality=float(self.correct),
            peak=1.0 if self.peak is None else self.peak,
            ttft=self.ttft,
        )

    @property
    def rejected(self) -> bool:
        """Refused with a clear word: too busy (429, 503), or too late to begin (504)."""
        return self.status in (429, 503, 504)

    @property
    def lost(self) -> bool:
        """Sent, and never answered."""
        return self.status == 0


@dataclass(frozen=True, slots=True)
class Stages:
    """How often learned stages decided, had nothing to decide, and fell back; over all of them."""

    scored: int = 0
    skipped: int = 0
    fallbacks: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One policy's figures."""

    policy: str
    metrics: Mapping[str, Metric]
    mix: str
    """Which pools answered, for the terminal."""

    @property
    def lost(self) -> int:
        """Requests that were never answered."""
        value = self.metrics["lost"]
        return int(value) if isinstance(value, int | float) else 0


def measured(
    policy: str, outcomes: Sequence[Outcome], *, seconds: float, gpu_seconds: float, stages: Stages, seed: int
) -> Row:
    """The row of ``outcomes``; ``seconds`` is how long the replay took, from its start to the last answer."""
    from controller.objectives import goodput

    burst = [outcome for outcome in outcomes if outcome.in_burst]
    whole = [outcome for outcome in outcomes if outcome.whole]
    metrics: dict[str, Metric] = {
        "requests": len(outcomes),
        "completed": len(whole),
        "rejected": sum(outcome.rejected for outcome in outcomes),
        "failed": sum(not (o.whole or o.rejected or o.lost) for o in outcomes),
        "lost": sum(outcome.lost for outcome in outcomes),
        **_served(outcomes, seed),
        "goodput_rps": goodput([outcome.served() for outcome in outcomes], seconds),
        **_quantiles("ttft", [outcome.ttft for outcome in whole if outcome.ttft is not None]),
        **_quantiles("e2e", [outcome.e2e for outcome in whole]),
        "gpu_seconds": gpu_seconds,
        "scored": stages.scored,
        "skipped": stages.skipped,
        "fallbacks": stages.fallbacks,
        **{f"burst_{name}": value for name, value in _served(burst, seed).items()},
        "sent_late_p99": _quantile([outcome.late_by for outcome in outcomes], 0.99),
    }
    mix = Counter(outcome.pool or "none" for outcome in outcomes)
    return Row(policy, metrics, ", ".join(f"{pool} {count}" for pool, count in mix.most_common()))


def _served(outcomes: Sequence[Outcome], seed: int) -> dict[str, Metric]:
    """Availability, quality and share of peak, with intervals over requests."""
    import numpy as np

    from controller.objectives import availability, mean_quality, share_of_peak
    from predictors.intervals import bootstrap

    served = [outcome.served() for outcome in outcomes]
    if not served:
        return dict.fromkeys(("availability", "quality", "share_of_peak"))
    rows = np.arange(len(served))
    figures: dict[str, Callable[[list[Served]], float | None]] = {
        "availability": availability,
        "quality": mean_quality,
    }
    if all(outcome.peak is not None for outcome in outcomes) and any(outcome.peak for outcome in outcomes):
        figures["share_of_peak"] = share_of_peak

    def over(figure: Callable[[list[Served]], float | None]) -> Callable[..., float]:
        return lambda chosen: figure([served[row] for row in chosen]) or 0.0

    found: dict[str, Metric] = {name: bootstrap(over(f), rows, seed=seed) for name, f in figures.items()}
    return {"share_of_peak": None, **found} if "share_of_peak" not in found else found


def _quantiles(name: str, values: Sequence[float]) -> dict[str, Metric]:
    return {f"{name}_p50": _quantile(values, 0.5), f"{name}_p99": _quantile(values, 0.99)}


def _quantile(values: Sequence[float], q: float) -> float | None:
    from controller.objectives import quantile

    return quantile(values, q)
