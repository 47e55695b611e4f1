"""Judging routers on held-out prompts: AIQ, accuracy, cost and calibration, each with an interval over prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from predictors.quality import frontier
from predictors.quality.frontier import LeftRule, Sweep
from predictors.quality.splits import NEVER, Folds, Split
from predictors.quality.table import Labelled
from predictors.types import Interval

Array = NDArray[np.float64]
Metrics = dict[str, Interval | None]
"""``None`` where a metric is undefined, as ``gap_closed`` where the oracle gains nothing."""

_BINS: Final = 10
_PAIR_RESAMPLES: Final = 200


class QualityEstimator(Protocol):
    """Expected quality of each model's answer: learned in ``fit``; ``predict`` takes embeddings (n, 256) to (n, M)."""

    def fit(self, data: Labelled) -> Self: ...

    def predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """How intervals are made: bootstrap ``resamples`` over prompts from ``seed``; ``left`` as in the frontier."""

    seed: int = 0
    resamples: int = 1000
    left: LeftRule = LeftRule.NULL_ROUTER


@dataclass(frozen=True, slots=True)
class Study:
    """Prompts with labels, and how they are held out: ``folds`` (n,), see :mod:`predictors.quality.splits`."""

    table: str
    split: Split
    data: Labelled
    folds: Folds

    @property
    def judged_rows(self) -> NDArray[np.intp]:
        """Numbers of the rows that are held out at some time."""
        return np.flatnonzero(self.folds != NEVER)

    @property
    def judged(self) -> Labelled:
        """The rows that are held out at some time."""
        return self.data.take(self.judged_rows)

    @property
    def training(self) -> Labelled:
        """The rows that are never held out."""
        return self.data.take(self.folds == NEVER)

    def predict(self, make: Callable[[], QualityEstimator]) -> NDArray[np.float32]:
        """Expected quality of the judged rows, each from an estimator that never saw its fold."""
        predicted = np.zeros_like(self.data.quality)
        for held_out in self._held_out():
            estimator = make().fit(self.data.take(~held_out))
            predicted[held_out] = estimator.predict(self.data.embeddings[held_out])
        judged: NDArray[np.float32] = predicted[self.judged_rows]
        return judged

    def references(self) -> dict[str, Sweep]:
        """Routers that need no estimator, on the judged rows.

        ``random`` throws a fair die. ``best_single`` is chosen on the training rows of each fold. ``zero`` is the hull
        of the single models on the judged rows themselves, in hindsight. ``oracle`` knows every answer.
        """
        best = np.zeros(len(self.data), dtype=np.intp)
        for held_out in self._held_out():
            best[held_out] = int(np.argmax(self.data.quality[~held_out].mean(axis=0)))
        one = best[self.folds != NEVER][:, None]
        costs, quality = self.judged.costs, self.judged.quality.astype(np.float64)
        return {
            "random": Sweep(costs.mean(axis=1, keepdims=True), quality.mean(axis=1, keepdims=True)),
            "best_single": Sweep(np.take_along_axis(costs, one, axis=1), np.take_along_axis(quality, one, axis=1)),
            "zero": frontier.singles(quality, costs),
            "oracle": frontier.oracle(quality, costs, frontier.willingness(costs)),
        }

    def _held_out(self) -> Iterator[NDArray[np.bool_]]:
        return (self.folds == fold for fold in np.unique(self.folds) if fold != NEVER)


def judge(
    predictions: Mapping[str, NDArray[np.float32]], fixed: Mapping[str, Sweep], data: Labelled, how: Judgement
) -> dict[str, Metrics]:
    """Metrics of every router on the same resamples of the prompts, so that differences are paired.

    ``predictions`` are expected qualities (n, M) by router; ``fixed``, which must hold ``zero`` and ``oracle``, are
    routers whose choices do not come from one. Metrics: ``aiq``, ``accuracy`` and ``cost`` where money does not count,
    ``aiq_vs_zero``, ``gap_closed`` (share of the way from ``zero`` to ``oracle``); of predictions also ``brier`` and
    ``ece``, and with two models ``apgr``, ``cpt50``, ``cpt80``.
    """
    lams = frontier.willingness(data.costs)
    routed = {name: frontier.sweep(quality, data.quality, data.costs, lams) for name, quality in predictions.items()}
    counts = _counts(len(data), how)
    areas = {name: _areas(one, data.costs, counts, how.left) for name, one in {**fixed, **routed}.items()}
    judged = {name: _of_frontier(one, areas, name, counts) for name, one in {**fixed, **routed}.items()}
    for name, quality in predictions.items():
        judged[name] |= _calibration(quality, data.quality, counts)
        if data.quality.shape[1] == 2:
            judged[name] |= _pair(quality, data.quality, counts[: 1 + _PAIR_RESAMPLES])
    return judged


def _counts(n: int, how: Judgement) -> Array:
    """How often each resample (1 + resamples, n) draws each prompt; the first row is the sample itself."""
    drawn = np.random.default_rng(how.seed).multinomial(n, np.full(n, 1.0 / n), size=how.resamples)
    return np.vstack([np.ones((1, n)), drawn])


def _areas(one: Sweep, costs: Array, counts: Array, left: LeftRule) -> Array:
    n = counts.shape[1]
    points = np.stack([counts @ one.cost / n, counts @ one.quality / n], axis=2)
    singles = counts @ costs / n
    ends = zip(points, singles.min(axis=1), singles.max(axis=1), strict=True)
    return np.array([frontier.aiq(point, float(low), float(high), left) for point, low, high in ends])


def _of_frontier(one: Sweep, areas: Mapping[str, Array], name: str, counts: Array) -> Metrics:
    n = counts.shape[1]
    above, room = areas[name] - areas["zero"], areas["oracle"] - areas["zero"]
    return {
        "aiq": _interval(areas[name]),
        "accuracy": _interval(counts @ one.quality[:, -1] / n),
        "cost": _interval(counts @ one.cost[:, -1] / n),
        "aiq_vs_zero": _interval(above),
        "gap_closed": _interval(np.divide(above, room, out=np.full_like(room, np.nan), where=room > 0)),
    }


def _calibration(predicted: NDArray[np.float32], quality: NDArray[np.float32], counts: Array) -> Metrics:
    residual = predicted.astype(np.float64) - quality
    bins = np.minimum((np.clip(predicted, 0, 1) * _BINS).astype(np.intp), _BINS - 1)
    by_bin = np.stack([np.where(bins == b, residual, 0.0).sum(axis=1) for b in range(_BINS)], axis=1)
    return {
        "brier": _interval(counts @ (residual**2).mean(axis=1) / counts.shape[1]),
        "ece": _interval(np.abs(counts @ by_bin).sum(axis=1) / residual.size),
    }


def _pair(predicted: NDArray[np.float32], quality: NDArray[np.float32], counts: Array) -> Metrics:
    advantage = predicted[:, 1] - predicted[:, 0]
    curves = [frontier.strong_curve(advantage, quality[:, 0], quality[:, 1], row) for row in counts]
    return {
        "apgr": _interval(np.array([frontier.apgr(curve) for curve in curves])),
        "cpt50": _interval(np.array([frontier.cpt(curve, 0.5) for curve in curves])),
        "cpt80": _interval(np.array([frontier.cpt(curve, 0.8) for curve in curves])),
    }


def _interval(values: Array) -> Interval | None:
    """The first value with the 95 % percentile interval of the others; those that are undefined are left out."""
    if np.isnan(values[0]):
        return None
    draws = values[1:][~np.isnan(values[1:])]
    if draws.size == 0:
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    lo, hi = np.quantile(draws, (0.025, 0.975))
    return Interval(float(values[0]), float(lo), float(hi))
