"""95 % confidence intervals: percentile bootstrap (Efron 1979) and Wilson's score interval (Wilson 1927)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors.types import Interval

_Z = 1.959963984540054
_CELLS = 1 << 22
"""How many resampled values are held at a time (32 MB of float64)."""


def bootstrap_mean(values: ArrayLike, seed: int | np.random.Generator, resamples: int = 1000) -> Interval:
    """Mean of ``values`` (n,) with its bootstrap interval; ``values`` must not be empty."""
    sample = np.asarray(values, dtype=np.float64)
    _require_rows(sample.shape[0])
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // sample.shape[0])
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        means.append(sample[rng.integers(sample.shape[0], size=(rows, sample.shape[0]))].mean(axis=1))
    return _percentile(float(sample.mean()), np.concatenate(means))


def bootstrap(
    statistic: Callable[..., float],
    *arrays: NDArray[Any],
    seed: int | np.random.Generator,
    resamples: int = 1000,
) -> Interval:
    """``statistic(*arrays)`` with its interval, the rows of all arrays (same first axis) resampled together.

    For clustered rows pass ``np.arange(n_clusters)`` and let the statistic gather the rows of each drawn cluster.
    A resample in which the statistic is undefined (NaN) is left out.
    """
    n = arrays[0].shape[0] if arrays else 0
    _require_rows(n)
    if any(array.shape[0] != n for array in arrays):
        raise ValueError(f"arrays to resample together must have the same length, got {[a.shape[0] for a in arrays]}")
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples, dtype=np.float64)
    for i in range(resamples):
        rows = rng.integers(n, size=n)
        draws[i] = statistic(*(array[rows] for array in arrays))
    return _percentile(float(statistic(*arrays)), draws)


def wilson(successes: int, n: int) -> Interval:
    """Share of ``successes`` among ``n`` trials with Wilson's score interval."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"a share needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    share = successes / n
    scale = 1.0 + _Z * _Z / n
    centre = (share + _Z * _Z / (2 * n)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def _require_rows(n: int) -> None:
    if n == 0:
        raise ValueError("an interval needs at least one row")


def _percentile(value: float, draws: NDArray[np.float64]) -> Interval:
    defined = draws[~np.isnan(draws)]
    if defined.size == 0:
        return Interval(value, value, value)
    lo, hi = np.quantile(defined, (0.025, 0.975))
    return Interval(value, float(lo), float(hi))
