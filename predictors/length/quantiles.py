"""How long answers are at a rank: the mean, the 0.9 quantile and the mean beyond it, with a conformal correction.

Ranks are cut into pieces of equal weight. Within each the mean, the quantile and the mean of the answers beyond it
(CVaR, Rockafellar & Uryasev 2000) are taken and made monotone by isotonic regression; between pieces all three are
linear in the rank, on the logarithmic scale. The quantile is then shifted by a split-conformal correction (Lei et al.
2018; one-sided, on residuals of logarithms, Romano et al. 2019): curves fitted to half of the prompts are judged by
the other half, and the other way round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

__all__ = ["HIGH", "Curves", "fit_curves", "limited_tail"]

Matrix = NDArray[np.float64]
HIGH: Final = 0.9
"""The quantile that is called high."""
_LEAST_IN_PIECE: Final = 10
_LEAST_RISE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Curves:
    """Knots (k,), k >= 1, by rising rank: logarithms of the mean, of the 0.9 quantile and of the mean beyond it, in
    tokens. None falls, and at every knot the mean is at most the quantile's tail and the quantile at most its tail."""

    rank: Matrix
    log_tokens: Matrix
    log_high: Matrix
    log_tail: Matrix

    def at(self, ranks: Matrix, limits: Matrix | float = np.inf) -> tuple[Matrix, Matrix, Matrix]:
        """Expected tokens, 0.9 quantile and tail (n,) at ranks, under limits on the answer (n,) in tokens."""
        mean, high, tail = (
            np.exp(np.interp(ranks, self.rank, values)) for values in (self.log_tokens, self.log_high, self.log_tail)
        )
        return np.minimum(mean, limits), np.minimum(high, limits), limited_tail(high, tail, limits)


def limited_tail(high: Matrix, tail: Matrix, limits: Matrix | float) -> Matrix:
    """Mean of ``min(X, limit)`` beyond the quantile, where X beyond it is ``high`` plus an exponential of mean
    ``tail - high``: all (n,), in tokens; the limit itself where that is below the quantile."""
    beyond = np.maximum(tail - high, 1e-9)
    room = np.maximum(np.asarray(limits) - high, 0.0)
    return np.asarray(np.minimum(high, limits) - beyond * np.expm1(-room / beyond), dtype=np.float64)


def fit_curves(
    ranks: Matrix, tokens: Matrix, groups: NDArray[np.intp], pieces: int, weights: Matrix | None = None
) -> Curves:
    """Curves through answers (n,): their prompts' ranks, which must come from a ranker that did not learn from them,
    their lengths in tokens, their prompts (``groups``) and weights.

    Raises:
        ValueError: there is no answer.
    """
    if not len(ranks):
        raise ValueError("curves need at least one answer")
    weights = np.ones(len(ranks)) if weights is None else weights
    lengths = np.log(np.maximum(tokens, 1.0))
    order = np.argsort(ranks, kind="stable")
    ranks, lengths, groups, weights = ranks[order], lengths[order], groups[order], weights[order]
    curves = _raw(ranks, lengths, weights, pieces)
    shift = _correction(ranks, lengths, groups, weights, pieces)
    high = np.maximum(curves.log_high + shift, curves.log_tokens)
    return Curves(curves.rank, curves.log_tokens, high, np.maximum(curves.log_tail + max(shift, 0.0), high))


def _raw(ranks: Matrix, lengths: Matrix, weights: Matrix, pieces: int) -> Curves:
    """Without the correction; the answers are sorted by rank, and those of one rank stay in one piece."""
    share = (np.cumsum(weights) - 0.5 * weights) / weights.sum()
    count = max(1, min(pieces, len(ranks) // _LEAST_IN_PIECE))
    piece = np.minimum((share * count).astype(np.intp), count - 1)
    _, first, of = np.unique(ranks, return_index=True, return_inverse=True)
    piece = piece[first][of]
    knots = []
    for index in np.unique(piece):
        rows = piece == index
        knots.append((np.average(ranks[rows], weights=weights[rows]), *_summary(lengths[rows], weights[rows])))
    at, mean, high, tail = np.array(knots).T
    amounts = np.bincount(piece, weights)[np.unique(piece)]
    mean, high, tail = (isotonic_regression(np.exp(v), weights=amounts).x for v in (mean, high, tail))
    return Curves(at, np.log(mean), np.log(np.maximum(high, mean)), np.log(np.maximum(tail, np.maximum(high, mean))))


def _summary(lengths: Matrix, weights: Matrix) -> tuple[float, float, float]:
    """Logarithms of the mean, the quantile and the mean beyond it of answers given by their logarithms."""
    order = np.argsort(lengths, kind="stable")
    tokens, weights = np.exp(lengths[order]), weights[order]
    share = np.cumsum(weights) / weights.sum()
    at = int(np.searchsorted(share, HIGH - 1e-12))
    tail = np.maximum(np.minimum(share, 1.0) - np.maximum(np.concatenate([[0.0], share[:-1]]), HIGH), 0.0)
    beyond = float((tail * tokens).sum() / tail.sum()) if tail.sum() > 0 else float(tokens[-1])
    return math.log(float(np.average(tokens, weights=weights))), math.log(float(tokens[at])), math.log(beyond)


def _correction(ranks: Matrix, lengths: Matrix, groups: NDArray[np.intp], weights: Matrix, pieces: int) -> float:
    """By how much the logarithm of the quantile is to rise: the conformal quantile of the residuals."""
    _, index = np.unique(groups, return_inverse=True)
    count = int(index.max()) + 1
    if count < 2 * _LEAST_IN_PIECE:
        return 0.0
    half = np.random.default_rng(0).permutation(count)[index] % 2
    residual = np.empty(len(ranks))
    for part in (0, 1):
        fitted, judged = half != part, half == part
        curves = _raw(ranks[fitted], lengths[fitted], weights[fitted], pieces)
        residual[judged] = lengths[judged] - np.interp(ranks[judged], curves.rank, curves.log_high)
    order = np.argsort(residual, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    at = int(np.searchsorted(share, min(HIGH * (count + 1) / count, 1.0) - 1e-12))
    return float(residual[order][min(at, len(order) - 1)])
