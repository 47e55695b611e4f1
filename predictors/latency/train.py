"""Fitting profiles to measured runs, by bounded least squares through a simulator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, Self

import numpy as np
from scipy.optimize import least_squares

from predictors.latency.measurements import (
    CONSTANTS,
    ClosedLoop,
    Floats,
    Latencies,
    Measurements,
    Simulated,
    SimulatedLoop,
)
from predictors.latency.model import Profile

_SPREAD: Final = 20.0
"""A constant is looked for between its start divided by this and its start times this."""
_PRIOR: Final = 0.05
"""Twice or half a constant's start costs as much as a statistic that is off by this times ln 2, so 3.5 %."""
_LONGEST_STEP: Final = 0.7
"""No constant changes by more than a factor of two in one round."""
_MEAN_EVERY: Final = 6
"""Rounds whose mean is where the next ones begin."""
_SOFT: Final = 0.1
"""Where ``soft_l1`` turns from squares to absolute values."""
_WEIGHTS: Final = {"ttft": 0.7, "e2e": 1.0, "itl": 0.5}
"""Of single requests: a time to first token hangs on the chance of when a step began."""
_QUANTILES: Final = {"ttft": (0.5, 0.9), "e2e": (0.5, 0.9), "itl": (0.5, 0.9)}
_MEANS: Final = ("ttft", "e2e")
_CLOSED_LOOP_WEIGHT: Final = 0.5


_Rows = tuple[Floats, Floats]
"""Residuals (m,) and their derivatives (m, k) by the constants."""


class Replay(Protocol):
    """A simulator of an open loop; :func:`envs.engines.replay.replay` is one."""

    def __call__(self, profile: Profile, load: Measurements, /) -> Simulated: ...


class ReplayClosedLoop(Protocol):
    """A simulator of a closed loop; :func:`envs.engines.replay.closed_loop` is one."""

    def __call__(self, profile: Profile, load: ClosedLoop, /) -> SimulatedLoop: ...


class ProfileFitter:
    """Least squares in the logarithms of latencies: of each request, and of the run's statistics.

    ``start`` has the engine's known limits and a first guess of its constants, from bandwidth and arithmetic, which is
    a weak prior too: a load that says nothing of a constant leaves it there. A guess of zero stays zero. ``fit`` leaves
    the fitted profile in ``profile_`` and the final cost in ``cost_``.

    Latencies jump wherever the schedule changes, so finite differences mislead; but while the schedule stays the same
    they are linear in the constants, and the simulator gives those slopes exactly. Each round solves that problem in
    logarithms, within bounds and with a soft loss (``soft_l1``), so that stragglers do not pull the constants, and
    simulates anew; rounds that make it worse shorten the next ones, and the best one counts. Several starts around the
    given one guard against poor local minima.
    """

    def __init__(
        self,
        start: Profile,
        replay: Replay,
        closed_loop: ReplayClosedLoop,
        *,
        rounds: int = 25,
        starts: int = 4,
        seed: int = 0,
    ) -> None:
        self.start = start
        self.replay = replay
        self.closed_loop = closed_loop
        self.rounds = rounds
        self.starts = starts
        self.seed = seed

    def fit(self, loads: Measurements | Sequence[Measurements], closed_loops: Sequence[ClosedLoop] = ()) -> Self:
        """Fit to one run or several, and to the throughput of closed loops of which no more is known.

        Raises:
            ValueError: no load, or the start cannot hold a request of one.
        """
        runs = (loads,) if isinstance(loads, Measurements) else tuple(loads)
        if not runs:
            raise ValueError("there is no load to fit to")
        objective = _Objective(self, runs, closed_loops)
        rng = np.random.default_rng(self.seed)
        around = rng.normal(0.0, 0.3, size=(self.starts, len(CONSTANTS)))
        around[0] = 0.0
        found = [self._descend(objective, logs) for logs in around]
        self.cost_, best = min(found, key=lambda pair: pair[0])
        self.profile_ = self._scaled(best)
        return self

    def predict(self, load: Measurements) -> Latencies:
        """What the fitted engine makes of another load."""
        return self.replay(self.profile_, load).latencies

    def _descend(self, objective: _Objective, logs: Floats) -> tuple[float, Floats]:
        """Damped Gauss–Newton from one start; the least cost and the logarithms of the factors that gave it.

        Latencies jump with the schedule, so a round's step is right on average only: rounds walk on with steps that get
        shorter, and the mean of where they have been is tried too.
        """
        least, best, damping = math.inf, logs, 1.0
        trail: list[Floats] = []
        for number in range(self.rounds):
            residuals, slopes = objective.at(logs)
            cost = _soft_cost(residuals)
            if cost < least:
                least, best = cost, logs
            else:
                damping = max(0.8 * damping, 0.1)
            trail.append(logs)
            logs = logs + damping * _solved(residuals, slopes, logs)
            if number % _MEAN_EVERY == _MEAN_EVERY - 1:
                logs = np.mean(trail[-_MEAN_EVERY:], axis=0)
        return least, best

    def _scaled(self, logs: Floats) -> Profile:
        values: dict[str, Any] = {
            name: float(getattr(self.start, name) * np.exp(log)) for name, log in zip(CONSTANTS, logs, strict=True)
        }
        return replace(self.start, **values)


def _solved(residuals: Floats, slopes: Floats, logs: Floats) -> Floats:
    """The step that is best as long as the schedule stays the same."""
    limit = math.log(_SPREAD)
    low, high = np.maximum(-_LONGEST_STEP, -limit - logs), np.minimum(_LONGEST_STEP, limit - logs)

    def ahead(step: Floats) -> Floats:
        seen: Floats = residuals + slopes @ step
        return seen

    def constant(_: Floats) -> Floats:
        return slopes

    found = least_squares(
        ahead,
        np.clip(0.0, low, high),
        jac=constant,
        bounds=(low - 1e-12, high + 1e-12),
        loss="soft_l1",
        f_scale=_SOFT,
    )
    step: Floats = found.x
    return step


def _soft_cost(residuals: Floats) -> float:
    return float(_SOFT**2 * np.sum(np.sqrt(1.0 + (residuals / _SOFT) ** 2) - 1.0))


class _Objective:
    """Residuals, and their derivatives by the logarithms of the constants."""

    def __init__(
        self, fitter: ProfileFitter, loads: Sequence[Measurements], closed_loops: Sequence[ClosedLoop]
    ) -> None:
        self._fitter = fitter
        self._loads = loads
        self._closed_loops = closed_loops

    def at(self, logs: Floats) -> tuple[Floats, Floats]:
        """Weighted logarithms of simulated over measured (m,), the prior's at their end, and slopes (m, k)."""
        profile = self._fitter._scaled(logs)
        constants = np.array([getattr(profile, name) for name in CONSTANTS])
        rows = [row for load in self._loads for row in self._run(profile, load)]
        rows += [self._loop(profile, loop) for loop in self._closed_loops]
        rows.append((_PRIOR * logs, np.diag(_PRIOR / np.where(constants > 0.0, constants, 1.0))))
        residuals = np.concatenate([residuals for residuals, _ in rows])
        slopes = np.concatenate([slopes for _, slopes in rows]) * constants
        return residuals, slopes

    def _run(self, profile: Profile, load: Measurements) -> list[_Rows]:
        """Of an open loop each request and the statistics; of a closed one, whose requests are alike, means and the
        median gap: which of them came into a wave's first step is chance."""
        simulated = self._fitter.replay(profile, load)
        names = [name for name in _WEIGHTS if _any_known(simulated, load, name)]
        if load.concurrency is None:
            requests = [_requests(simulated, load, name) for name in names]
            return requests + [_statistics(simulated, load, name, _QUANTILES[name]) for name in names]
        rows = [_statistics(simulated, load, name, () if name in _MEANS else (0.5,)) for name in names]
        return [(_CLOSED_LOOP_WEIGHT * values, _CLOSED_LOOP_WEIGHT * slopes) for values, slopes in rows]

    def _loop(self, profile: Profile, loop: ClosedLoop) -> _Rows:
        seen = self._fitter.closed_loop(profile, loop)
        ratio = np.array([seen.tokens_per_s / loop.tokens_per_s])
        return _CLOSED_LOOP_WEIGHT * np.log(ratio), _CLOSED_LOOP_WEIGHT * seen.slopes[None] / seen.tokens_per_s


def _known(simulated: Simulated, load: Measurements, name: str) -> tuple[Floats, Floats, Floats]:
    """Simulated, measured and slopes of the requests that have this latency in both.

    Of answers of few tokens that came all at once, the median gap is zero, which has no logarithm.
    """
    ours, truth = getattr(simulated.latencies, name), getattr(load.measured, name)
    known = (ours > 0.0) & (truth > 0.0)
    return ours[known], truth[known], getattr(simulated.slopes, name)[known]


def _any_known(simulated: Simulated, load: Measurements, name: str) -> bool:
    return len(_known(simulated, load, name)[0]) > 0


def _requests(simulated: Simulated, load: Measurements, name: str) -> _Rows:
    """Each request, weighted so that a run counts alike whatever its length."""
    ours, truth, slopes = _known(simulated, load, name)
    weight = _WEIGHTS[name] / np.sqrt(max(len(ours), 1))
    return weight * np.log(ours / truth), weight * slopes / ours[:, None]


def _statistics(simulated: Simulated, load: Measurements, name: str, quantiles: Sequence[float]) -> _Rows:
    """Quantiles and, where it is a target, the mean."""
    ours, truth, slopes = _known(simulated, load, name)
    order = np.argsort(ours, kind="stable")
    values, derivatives, targets = [], [], []
    for q in quantiles:
        position = q * (len(ours) - 1)
        low, share = int(position), position - int(position)
        pair = order[[low, min(low + 1, len(ours) - 1)]]
        weights = np.array([1.0 - share, share])
        values.append(float(weights @ ours[pair]))
        derivatives.append(weights @ slopes[pair])
        targets.append(float(np.quantile(truth, q)))
    if name in _MEANS:
        values.append(float(ours.mean()))
        derivatives.append(slopes.mean(axis=0))
        targets.append(float(truth.mean()))
    return np.log(np.array(values) / np.array(targets)), np.stack(derivatives) / np.array(values)[:, None]
