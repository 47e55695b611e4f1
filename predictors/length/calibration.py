"""From a raw score to a rank, and to the mean, the 0.9 quantile and the tail of the tokens: linear between knots."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import compiled
from predictors.length.quantiles import limited_tail

__all__ = ["Calibration", "calibrated"]

_FAR: Final = 1000.0
_LEAST_BEYOND: Final = 1e-9
"""Tokens by which the tail lies above the quantile at least, where a limit is to be applied to it."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Strictly increasing knots (k,): the raw score, its rank among training prompts, the expected tokens there; and
    rising ones, the 0.9 quantile of tokens and the mean beyond it, all NaN in artifacts that were trained without.

    Between knots ranks are linear in the score, and the logarithms of tokens are linear in the rank. :meth:`through`
    adds far knots, so that all go on at the slope of the outermost pieces.
    """

    score: Matrix
    rank: Matrix
    log_tokens: Matrix
    log_high: Matrix
    log_tail: Matrix

    @classmethod
    def through(
        cls,
        score: Matrix,
        rank: Matrix,
        log_tokens: Matrix,
        log_high: Matrix | None = None,
        log_tail: Matrix | None = None,
    ) -> Calibration:
        """Through these knots (at least two), and on beyond them; the quantile and the tail keep their ratio to the
        expected tokens there. Without them they are NaN."""
        mean = _continued(log_tokens, score)
        above = [
            np.full_like(mean, np.nan) if values is None else mean + np.pad(values - log_tokens, 1, mode="edge")
            for values in (log_high, log_tail)
        ]
        return cls(_continued(score, score), _continued(rank, score), mean, *above)

    def check(self) -> None:
        """Raises ValueError for knots that are not as above: at least two, finite, strictly increasing."""
        knots = (self.score, self.rank, self.log_tokens)
        if any(values.ndim != 1 or values.shape != self.score.shape or values.size < 2 for values in knots):
            raise ValueError("a calibration needs as many ranks and tokens as scores, and at least two")
        if not all(np.isfinite(values).all() and (np.diff(values) > 0).all() for values in knots):
            raise ValueError("a calibration's knots must be finite and strictly increasing")
        above = (self.log_high, self.log_tail)
        if any(values.shape != self.score.shape for values in above):
            raise ValueError("a calibration needs as many quantiles and tails as scores")
        unknown = all(np.isnan(values).all() for values in above)
        ordered = (self.log_high >= self.log_tokens).all() and (self.log_tail >= self.log_high).all()
        if not unknown and not (ordered and all((np.diff(values) >= 0).all() for values in above)):
            raise ValueError("a calibration's quantiles and tails must rise, and lie in order above the tokens")

    def ranks(self, scores: Matrix) -> Matrix:
        """Ranks (n,) of raw scores."""
        return np.asarray(np.interp(scores, self.score, self.rank), dtype=np.float64)

    def tokens(self, ranks: Matrix) -> Matrix:
        """Expected tokens (n,) at ranks."""
        return np.asarray(np.exp(np.interp(ranks, self.rank, self.log_tokens)), dtype=np.float64)

    def above(self, ranks: Matrix, limits: Matrix) -> tuple[Matrix, Matrix]:
        """0.9 quantile of tokens and mean beyond it (n,) at ranks, of the smaller of an answer's tokens and its limit
        (n,)."""
        high, tail = (np.exp(np.interp(ranks, self.rank, values)) for values in (self.log_high, self.log_tail))
        return np.minimum(high, limits), limited_tail(high, tail, limits)

    def ranks_of_tokens(self, tokens: Matrix) -> Matrix:
        """The inverse of :meth:`tokens`."""
        return np.asarray(np.interp(np.log(tokens), self.log_tokens, self.rank), dtype=np.float64)


def _continued(values: Matrix, score: Matrix) -> Matrix:
    """Values at knots, and at two more where the score is ``_FAR`` times its range further out."""
    far = _FAR * (score[-1] - score[0])
    before = values[0] - far * (values[1] - values[0]) / (score[1] - score[0])
    after = values[-1] + far * (values[-1] - values[-2]) / (score[-1] - score[-2])
    return np.concatenate([[before], values, [after]])


@compiled
def calibrated(
    score: float,
    most_tokens: float,
    scores: Matrix,
    ranks: Matrix,
    log_tokens: Matrix,
    log_high: Matrix,
    log_tail: Matrix,
) -> tuple[float, float, float, float]:
    """Rank, tokens, 0.9 quantile and tail of one score as :class:`Calibration` has them, to 1e-12, under a limit of
    tokens."""
    rank = _between(score, scores, ranks)
    tokens = math.exp(_between(rank, ranks, log_tokens))
    high = math.exp(_between(rank, ranks, log_high))
    tail = math.exp(_between(rank, ranks, log_tail))
    if high >= most_tokens:
        high = tail = most_tokens
    else:
        beyond = max(tail - high, _LEAST_BEYOND)
        tail = high - beyond * math.expm1(-(most_tokens - high) / beyond)
    if tokens > most_tokens:
        tokens = most_tokens
        rank = _between(math.log(tokens), log_tokens, ranks)
    return rank, tokens, high, tail


@compiled
def _between(x: float, knots: Matrix, values: Matrix) -> float:
    """``np.interp`` of one number, in its own arithmetic."""
    at = -1
    while at + 1 < len(knots) and knots[at + 1] <= x:
        at += 1
    if at < 0:
        return float(values[0])
    if at >= len(knots) - 1:
        return float(values[len(knots) - 1])
    if x == knots[at]:
        return float(values[at])
    slope = (values[at + 1] - values[at]) / (knots[at + 1] - knots[at])
    return float(slope * (x - knots[at]) + values[at])
