"""The figures of one policy, and their ratios to those of the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cli.report import Metric
from cli.simulate.machines import Machines
from cli.simulate.resampling import Blocks, Resampled
from cli.simulate.runner import COMPLETED, FAILED, REJECTED, Outcome
from cli.simulate.workload import Workload

if TYPE_CHECKING:
    from controller.objectives import Objective, PhaseSpan, ServedColumns

__all__ = ["TIMES", "figures"]

TIMES: Final = ("ttft", "tpot", "e2e", "normalised")
_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class _Judged:
    """One policy's columns: times and shares that can be resampled."""

    served: ServedColumns
    times: Mapping[str, Resampled]
    good: Resampled
    available: Resampled


def figures(
    workload: Workload, outcomes: Sequence[Outcome], machines: Machines, objective: Objective, seed: int
) -> list[dict[str, Metric]]:
    """A mapping from a metric's name to its value for each outcome, in their order; the first is the baseline.

    Means are over answered requests (ratios of means: over those that both policies answered); in quantiles a request
    that was not answered takes for ever, so they are ``None`` where too many were not.
    """
    blocks = Blocks(len(workload), seed)
    judged = [_judged(workload, outcome, objective, blocks) for outcome in outcomes]
    return [
        {**_counts(outcome), **_figures(one, outcome, machines), **_ratios(one, judged[0])}
        for one, outcome in zip(judged, outcomes, strict=True)
    ]


def _judged(workload: Workload, outcome: Outcome, objective: Objective, blocks: Blocks) -> _Judged:
    from controller.objectives import ServedColumns

    served = ServedColumns(outcome.e2e, outcome.ttft, outcome.output_tokens, workload.deadline_s)
    answered = served.complete
    columns = {
        "ttft": np.where(answered, outcome.ttft, np.inf),
        "tpot": np.where(answered, served.tpot, np.inf),
        "e2e": np.where(answered, outcome.e2e, np.inf),
        "normalised": served.normalised,
    }
    return _Judged(
        served,
        {name: Resampled(values, blocks) for name, values in columns.items()},
        Resampled(served.met(objective).astype(np.float64), blocks),
        Resampled(served.in_time.astype(np.float64), blocks),
    )


def _counts(outcome: Outcome) -> dict[str, Metric]:
    return {
        "requests": len(outcome.result),
        "completed": int((outcome.result == COMPLETED).sum()),
        "rejected": int((outcome.result == REJECTED).sum()),
        "failed": int((outcome.result == FAILED).sum()),
    }


def _figures(one: _Judged, outcome: Outcome, machines: Machines) -> dict[str, Metric]:
    from controller.objectives import dollars, gpu_hours

    found: dict[str, Metric] = {}
    for name, column in one.times.items():
        found[f"{name}_mean"] = column.mean()
        found |= {f"{name}_{label}": column.quantile(q) for label, q in _QUANTILES.items()}
    spans = _spans(machines, outcome.duration_s)
    completed, fullest = int((outcome.result == COMPLETED).sum()), outcome.gauges.kv_most
    tokens = int(outcome.output_tokens[outcome.result == COMPLETED].sum())
    return found | {
        "availability": one.available.mean(),
        "goodput_rps": _scaled(one.good.mean(), len(one.served), outcome.duration_s),
        "throughput_rps": _per_second(completed, outcome.duration_s),
        "output_tokens_per_s": _per_second(tokens, outcome.duration_s),
        "preemptions": outcome.preemptions,
        "prefix_hit_rate": outcome.prefix_hit_rate,
        "waiting_peak": float(outcome.gauges.waiting.max(initial=0.0)),
        "running_peak": float(outcome.gauges.running.max(initial=0.0)),
        "kv_peak": None if fullest is None else float(fullest.max(initial=0.0)),
        "duration_s": outcome.duration_s,
        "gpu_hours": gpu_hours(spans),
        "usd": dollars(spans),
        "simulated_requests_per_s": _per_second(len(outcome.result), outcome.wall_s),
    }


def _ratios(one: _Judged, first: _Judged) -> dict[str, Metric]:
    if one is first:
        return {}
    found: dict[str, Metric] = {}
    for name, column in one.times.items():
        theirs = first.times[name]
        found[f"{name}_mean_ratio"] = column.mean_ratio(theirs)
        found |= {f"{name}_{label}_ratio": column.quantile_ratio(theirs, q) for label, q in _QUANTILES.items()}
    return found | {
        "availability_ratio": one.available.mean_ratio(first.available),
        "good_ratio": one.good.mean_ratio(first.good),
    }


def _spans(machines: Machines, seconds: float) -> list[PhaseSpan]:
    """Every worker is held from the first arrival to the last end."""
    from controller.objectives import PhaseSpan
    from controller.types import WorkerPhase

    return [
        PhaseSpan(worker.name, WorkerPhase.READY, 0.0, seconds, usd_per_hour=worker.profile.usd_per_hour)
        for worker in machines.workers
    ]


def _scaled(share: Metric, count: int, seconds: float) -> Metric:
    """A share of all requests as requests per second."""
    from predictors.types import Interval

    if share is None or isinstance(share, int | float) or not seconds > 0:
        return None
    by = count / seconds
    return Interval(share.value * by, share.lo * by, share.hi * by)


def _per_second(count: int, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None
