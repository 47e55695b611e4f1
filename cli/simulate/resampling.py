"""Intervals of means and quantiles over requests, and of their ratios between two policies on the same requests.

A percentile bootstrap over blocks of consecutive requests: neighbours wait in the same queue, so resampling them one by
one would make intervals too narrow. Every figure of every policy is drawn from the same blocks (common random numbers).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from predictors.types import Interval

__all__ = ["Blocks", "Resampled"]

Floats = npt.NDArray[np.float64]
_BLOCKS: Final = 100
_RESAMPLES: Final = 1_000
_STEPS: Final = 1_024
"""Steps of the distribution function that quantiles are resampled from; exact up to so many requests."""
_TAIL: Final = 0.95
"""From where on steps are as dense as in all the rest."""


class Blocks:
    """How often each block of consecutive requests is drawn in each resample: (resamples, blocks)."""

    def __init__(self, count: int, seed: int, resamples: int = _RESAMPLES) -> None:
        blocks = min(count, _BLOCKS)
        self.of_row = np.arange(count) * blocks // count
        """(requests,): the block of each."""
        rng = np.random.default_rng(seed)
        self.drawn = rng.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=resamples).astype(np.float64)

    def sums(self, values: Floats) -> Floats:
        """Σ of a column (requests,) in each resample (resamples,)."""
        return self.drawn @ np.bincount(self.of_row, weights=values, minlength=self.drawn.shape[1])


class Resampled:
    """One column (requests,) of times or of zeros and ones; infinite where a request was never answered."""

    def __init__(self, values: Floats, blocks: Blocks) -> None:
        self.values = values
        self._blocks = blocks
        self._cumulated: tuple[Floats, Floats] | None = None

    def mean(self) -> Interval | None:
        """Over those that are finite; ``None`` where none is."""
        finite = np.isfinite(self.values)
        return _interval(self._mean(finite), self._means(finite))

    def quantile(self, q: float) -> Interval | None:
        """Over all; ``None`` where so many were never answered."""
        from controller.objectives import column_quantile

        value = column_quantile(self.values, q)
        return _interval(math.nan if value is None else value, self._quantiles(q))

    def mean_ratio(self, first: Resampled) -> Interval | None:
        """Of means over the requests that are finite in both, to those of ``first``."""
        both = np.isfinite(self.values) & np.isfinite(first.values)
        value = _ratio(self._mean(both), first._mean(both))
        return _interval(value, _ratios(self._means(both), first._means(both)))

    def quantile_ratio(self, first: Resampled, q: float) -> Interval | None:
        """Of quantiles over all requests, to those of ``first``."""
        from controller.objectives import column_quantile

        ours, theirs = column_quantile(self.values, q), column_quantile(first.values, q)
        value = math.nan if ours is None or theirs is None else _ratio(ours, theirs)
        return _interval(value, _ratios(self._quantiles(q), first._quantiles(q)))

    def _mean(self, rows: npt.NDArray[np.bool_]) -> float:
        return float(self.values[rows].mean()) if rows.any() else math.nan

    def _means(self, rows: npt.NDArray[np.bool_]) -> Floats:
        sums = self._blocks.sums(np.where(rows, self.values, 0.0))
        return _ratios(sums, self._blocks.sums(rows.astype(np.float64)))

    def _quantiles(self, q: float) -> Floats:
        steps, cumulated = self._distributions()
        wanted = q * (cumulated[:, -1] - 1.0)
        at: Floats = steps[(cumulated > wanted[:, None]).argmax(axis=1)]
        return at

    def _distributions(self) -> tuple[Floats, Floats]:
        """Values (steps,), and how many requests lie at or below each of them in each resample (resamples, steps)."""
        if self._cumulated is None:
            steps = _steps(self.values)
            blocks = self._blocks.drawn.shape[1]
            cells = self._blocks.of_row * len(steps) + np.searchsorted(steps, self.values)
            counts = np.bincount(cells, minlength=blocks * len(steps)).reshape(blocks, len(steps))
            self._cumulated = steps, np.cumsum(self._blocks.drawn @ counts, axis=1)
        return self._cumulated


def _steps(values: Floats) -> Floats:
    """Distinct values, at most so many that stand for the others, the greatest among them."""
    ordered = np.sort(values)
    if len(ordered) > _STEPS:
        half = _STEPS // 2
        shares = np.concatenate((np.linspace(0.0, _TAIL, half, endpoint=False), np.linspace(_TAIL, 1.0, half)))
        ordered = ordered[np.ceil(shares * (len(ordered) - 1)).astype(np.int64)]
    return np.unique(ordered)


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs > 0 and math.isfinite(theirs) else math.nan


def _ratios(ours: Floats, theirs: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((theirs > 0) & np.isfinite(theirs), ours / theirs, np.nan)


def _interval(value: float, draws: Floats) -> Interval | None:
    """The value with the 95 % percentile interval of its draws; ``None`` where it is not a finite number."""
    from predictors.types import Interval

    if not math.isfinite(value):
        return None
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return Interval(value, value, value)
    lo, hi = np.quantile(defined, (0.025, 0.975), method="inverted_cdf").tolist()
    return Interval(value, min(lo, value), max(hi, value))
