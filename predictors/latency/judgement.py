"""Whether a fitted profile may be called good: signed errors on loads that it has not seen, against fixed bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictors.latency.measurements import Floats, Latencies, Measurements, signed_errors
from predictors.types import Interval

BARS: Final[Mapping[str, float]] = {
    "e2e_mean": 0.05,
    "e2e_p90": 0.08,
    "itl_p50": 0.07,
    "ttft_p50": 0.15,
    "ttft_p90": 0.20,
}
"""The largest error, either way, of a good profile's statistics on held-out load."""
_ADVICE: Final = {
    "ttft": "measure more prompts alone and in bursts, and check that the server's limits are the ones given",
    "itl": "measure more closed loops at the batch sizes that the held-out load reaches",
    "e2e": "add an open load nearer to the held-out rate to those that are fitted",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A load's errors: statistic to signed relative error, with its 95 % interval over resampled requests."""

    load: Measurements
    simulated: Latencies
    errors: Mapping[str, Interval]

    @property
    def strain(self) -> float:
        """The largest share of its bar that an error takes; above one, the load condemns the profile."""
        return max(abs(self.errors[name].value) / bar for name, bar in BARS.items() if name in self.errors)


@dataclass(frozen=True, slots=True)
class Failure:
    """A statistic that is off by more than its bar."""

    load: str
    statistic: str
    error: float
    bar: float

    def __str__(self) -> str:
        kind = self.statistic.partition("_")[0]
        advice = _ADVICE[kind]
        return f"{self.load}: {self.statistic} is off by {self.error:+.1%}, the bar is ±{self.bar:.0%}; {advice}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for reports."""
        return {"load": self.load, "statistic": self.statistic, "error": self.error, "bar": self.bar}


def judged(load: Measurements, simulated: Latencies, *, seed: int, resamples: int = 200) -> Judged:
    """Every statistic's error; requests whose latency is unknown on either side are left out of it."""
    return Judged(load, simulated, errors_with_intervals(simulated, load.measured, seed, resamples))


def errors_with_intervals(
    simulated: Latencies, measured: Latencies, seed: int, resamples: int = 200
) -> dict[str, Interval]:
    """Signed relative error of every statistic, the requests resampled."""
    count = len(measured.ttft)
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
    found = {}
    for kind in ("ttft", "itl", "e2e"):
        ours, truth = _statistics(getattr(simulated, kind), draws), _statistics(getattr(measured, kind), draws)
        for name, error in signed_errors(simulated, measured).items():
            if name.startswith(kind) and np.isfinite(error):
                found[name] = _interval(error, ours[name[len(kind) + 1 :]] / truth[name[len(kind) + 1 :]] - 1.0)
    return found


def _statistics(values: Floats, draws: NDArray[np.int64]) -> dict[str, Floats]:
    """Each statistic of each resample; draws (m, n) are rows."""
    drawn = values[draws]
    if not np.isfinite(drawn).any(axis=1).all():
        return {name: np.full(len(draws), np.nan) for name in ("mean", "p50", "p90", "p99")}
    quantiles = np.nanquantile if np.isnan(drawn).any() else np.quantile
    p50, p90, p99 = quantiles(drawn, (0.5, 0.9, 0.99), axis=1)
    return {"mean": np.nanmean(drawn, axis=1), "p50": p50, "p90": p90, "p99": p99}


def _interval(value: float, draws: Floats) -> Interval:
    known = draws[np.isfinite(draws)]
    lo, hi = np.quantile(known, (0.025, 0.975)) if len(known) else (value, value)
    return Interval(value, float(lo), float(hi))


def failures(held_out: Sequence[Judged]) -> list[Failure]:
    """What condemns the profile, the worst first. An empty list of loads condemns nothing, and proves nothing."""
    found = [
        Failure(one.load.name, name, one.errors[name].value, bar)
        for one in held_out
        for name, bar in BARS.items()
        if name in one.errors and not abs(one.errors[name].value) <= bar
    ]
    return sorted(found, key=lambda failure: -abs(failure.error) / failure.bar)


def nested(errors: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """``{ttft,itl,e2e} → {mean,p50,p90,p99} →`` plain signed fractions."""
    found: dict[str, dict[str, float]] = {"ttft": {}, "itl": {}, "e2e": {}}
    for name, error in errors.items():
        kind, _, statistic = name.partition("_")
        found[kind][statistic] = error.value
    return found
