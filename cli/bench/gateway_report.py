"""From the rounds' measurements to rows and ratios: medians with bootstrap intervals, ranges, ours over theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from cli.report import Label, Metric, Report

if TYPE_CHECKING:
    from predictors.types import Interval

__all__ = ["DIRECT", "OURS", "RATIO_CONNECTIONS", "Delay", "Measured", "Tables", "fill"]

OURS, DIRECT = "headway", "direct"
RATIO_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Measured:
    """One closed-loop run. CPU seconds are of the gateway's processes, per 1,000 good answers; ``None`` for direct."""

    round: int
    rps: float
    failed: int
    cpu_s_per_1k: float | None
    rss_mb: float | None


@dataclass(frozen=True, slots=True)
class Delay:
    """One open-loop run, in milliseconds: to the answer's end (``whole``) and to its first byte."""

    round: int
    p50: float
    p99: float
    first_p50: float
    first_p99: float
    failed: int

    @classmethod
    def of(cls, round_: int, first: Sequence[float], whole: Sequence[float], failed: int) -> Delay:
        """From seconds; all of them infinite where nothing was answered."""
        if not whole:
            never = float("inf")
            return cls(round_, never, never, never, never, failed)
        p50, p99 = (float(value) * 1e3 for value in np.percentile(whole, (50, 99)))
        first_p50, first_p99 = (float(value) * 1e3 for value in np.percentile(first, (50, 99)))
        return cls(round_, p50, p99, first_p50, first_p99, failed)


@dataclass(slots=True)
class Tables:
    """Everything that was measured: (target, mode, connections) → runs; (target, mode) → open-loop runs."""

    loads: dict[tuple[str, str, int], list[Measured]] = field(default_factory=dict)
    delays: dict[tuple[str, str], list[Delay]] = field(default_factory=dict)

    def added(self, target: str, mode: str, name: str) -> dict[int, float]:
        """Round → what the target adds to direct in the same round, milliseconds."""
        direct = {delay.round: getattr(delay, name) for delay in self.delays.get((DIRECT, mode), [])}
        return {d.round: getattr(d, name) - direct[d.round] for d in self.delays.get((target, mode), [])}


def fill(report: Report, tables: Tables, seed: int) -> None:
    """Rows of all targets, and ``ratios`` with ``ratios_ci``."""
    for (target, mode, connections), runs in tables.loads.items():
        labels: dict[str, Label] = {"target": target, "mode": mode, "connections": connections}
        report.row(labels, _load_metrics(runs, seed))
    for target, mode in tables.delays:
        report.row({"target": target, "mode": mode, "setting": "open_loop"}, _delay_metrics(tables, target, mode, seed))
    ratios, intervals = _ratios(tables, seed)
    report.extra("ratios", ratios)
    report.extra("ratios_ci", intervals)


def _load_metrics(runs: Sequence[Measured], seed: int) -> dict[str, Metric]:
    rates = [run.rps for run in runs]
    return {
        "rps": _median(rates, seed),
        "rps_min": min(rates),
        "rps_max": max(rates),
        "cpu_s_per_1k": _median([run.cpu_s_per_1k for run in runs], seed),
        "rss_mb": _median([run.rss_mb for run in runs], seed),
        "failed": float(sum(run.failed for run in runs)),
    }


def _delay_metrics(tables: Tables, target: str, mode: str, seed: int) -> dict[str, Metric]:
    delays = tables.delays[target, mode]
    metrics: dict[str, Metric] = {
        f"{name}_ms": _median([getattr(delay, name) for delay in delays], seed)
        for name in ("p50", "p99", "first_p50", "first_p99")
    }
    if target != DIRECT:
        for name in ("p50", "p99", "first_p50", "first_p99"):
            metrics[f"{name}_added_ms"] = _median(tables.added(target, mode, name).values(), seed)
    metrics["failed"] = float(sum(delay.failed for delay in delays))
    return metrics


def _ratios(
    tables: Tables, seed: int
) -> tuple[dict[str, dict[str, dict[str, float | None]]], dict[str, dict[str, dict[str, list[float] | None]]]]:
    """Ours ÷ theirs, round by round, and the median of that."""
    ratios: dict[str, dict[str, dict[str, float | None]]] = {}
    intervals: dict[str, dict[str, dict[str, list[float] | None]]] = {}
    for target, mode in dict.fromkeys((target, mode) for target, mode, _ in tables.loads):
        if target in (OURS, DIRECT):
            continue
        found = {"rps": _rps_ratio(tables, target, mode), "p99_added": _added_ratio(tables, target, mode)}
        for name, values in found.items():
            interval = _median(values, seed)
            ratios.setdefault(mode, {}).setdefault(target, {})[name] = None if interval is None else interval.value
            bounds = None if interval is None else [interval.lo, interval.hi]
            intervals.setdefault(mode, {}).setdefault(target, {})[name] = bounds
    return ratios, intervals


def _rps_ratio(tables: Tables, target: str, mode: str) -> list[float]:
    ours = {run.round: run.rps for run in tables.loads.get((OURS, mode, RATIO_CONNECTIONS), [])}
    theirs = tables.loads.get((target, mode, RATIO_CONNECTIONS), [])
    return [ours[run.round] / run.rps for run in theirs if run.round in ours and run.rps > 0]


def _added_ratio(tables: Tables, target: str, mode: str) -> list[float]:
    """Rounds in which the other adds nothing that can be measured are left out."""
    ours, theirs = tables.added(OURS, mode, "p99"), tables.added(target, mode, "p99")
    both: Mapping[int, tuple[float, float]] = {n: (ours[n], theirs[n]) for n in ours if n in theirs}
    return [our / their for our, their in both.values() if their > 0]


def _median(values: Iterable[float | None], seed: int) -> Interval | None:
    from predictors.intervals import bootstrap

    known = np.array([value for value in values if value is not None and np.isfinite(value)], dtype=np.float64)
    if known.size == 0:
        return None
    return bootstrap(lambda sample: median(sample.tolist()), known, seed=seed)  # of a few rounds: quicker than numpy's
