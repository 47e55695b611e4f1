"""Figures of one play, and their intervals over many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from controller.objectives import Served, availability, goodput, mean_quality, quantile, share_of_peak
from controller.types import Result
from predictors.intervals import bootstrap_mean
from predictors.types import Interval
from rl.play import Play

__all__ = ["WINDOW_S", "figures", "intervals", "paired", "windows_above"]

WINDOW_S = 10.0
"""Length of the windows of which is said how many stay above a share of peak."""


def figures(play: Play) -> dict[str, float]:
    """Every figure of a play; NaN where it is not defined. Times in seconds, ``rejected`` a share of all requests."""
    served, ended = play.served, play.ended
    seconds = max(play.episode.scenario.duration_s, max((end.at for end in ended), default=0.0))
    ttft = [request.ttft for request in served if request.ttft is not None]
    latency = [request.latency for request in served if request.latency is not None]
    values: dict[str, float | None] = {
        "requests": len(served),
        "availability": availability(served),
        "quality": mean_quality(served),
        "share_of_peak": share_of_peak(served),
        "goodput_rps": goodput(served, seconds),
        "windows_96": windows_above(play, 0.96),
        "windows_98": windows_above(play, 0.98),
        "rejected": float(np.mean([end.result is Result.REJECTED for end in ended])) if ended else None,
        "ttft_p50": quantile(ttft, 0.5),
        "ttft_p99": quantile(ttft, 0.99),
        "e2e_p50": quantile(latency, 0.5),
        "e2e_p90": quantile(latency, 0.9),
        "e2e_p99": quantile(latency, 0.99),
    }
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def windows_above(play: Play, share: float, window_s: float = WINDOW_S) -> float | None:
    """Share of windows (by arrival; those with a request) in which the share of peak is at least ``share``."""
    windows: dict[int, list[Served]] = {}
    for end, request in zip(play.ended, play.served, strict=True):
        windows.setdefault(int(end.request.at // window_s), []).append(request)
    shares = [share_of_peak(requests) for requests in windows.values()]
    above = [value >= share for value in shares if value is not None]
    return sum(above) / len(above) if above else None


def intervals(rows: Sequence[Mapping[str, float]], seed: int) -> dict[str, Interval | None]:
    """The mean of each figure over plays, with its 95 % interval; ``None`` where no play defines it."""
    return {name: _interval([row[name] for row in rows], seed) for name in (rows[0] if rows else ())}


def paired(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], name: str, seed: int
) -> Interval | None:
    """The mean difference of a figure between two policies on the same episodes, with its 95 % interval."""
    return _interval([a[name] - b[name] for a, b in zip(ours, theirs, strict=True)], seed)


def _interval(values: Sequence[float], seed: int) -> Interval | None:
    defined = [value for value in values if not math.isnan(value)]
    return bootstrap_mean(defined, seed) if defined else None
