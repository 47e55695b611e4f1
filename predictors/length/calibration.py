"""From the trees' raw score to a rank and to tokens: linear between knots."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import compiled

__all__ = ["Calibration", "calibrated"]

_FAR: Final = 1000.0

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Strictly increasing knots (k,): the trees' score, its rank among training prompts, the expected tokens there.

    Between knots ranks are linear in the score, and the logarithm of tokens is linear in the rank. :meth:`through` adds
    far knots, so that both go on at the slope of the outermost pieces.
    """

    score: Matrix
    rank: Matrix
    log_tokens: Matrix

    @classmethod
    def through(cls, score: Matrix, rank: Matrix, log_tokens: Matrix) -> Calibration:
        """Through these knots (at least two), and on beyond them."""
        return cls(*(_continued(values, score) for values in (score, rank, log_tokens)))

    def check(self) -> None:
        """Raises ValueError for knots that are not as above: at least two, finite, strictly increasing."""
        knots = (self.score, self.rank, self.log_tokens)
        if any(values.ndim != 1 or values.shape != self.score.shape or values.size < 2 for values in knots):
            raise ValueError("a calibration needs as many ranks and tokens as scores, and at least two")
        if not all(np.isfinite(values).all() and (np.diff(values) > 0).all() for values in knots):
            raise ValueError("a calibration's knots must be finite and strictly increasing")

    def ranks(self, scores: Matrix) -> Matrix:
        """Ranks (n,) of raw scores."""
        return np.asarray(np.interp(scores, self.score, self.rank), dtype=np.float64)

    def tokens(self, ranks: Matrix) -> Matrix:
        """Expected tokens (n,) at ranks."""
        return np.asarray(np.exp(np.interp(ranks, self.rank, self.log_tokens)), dtype=np.float64)

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
    score: float, most_tokens: float, scores: Matrix, ranks: Matrix, log_tokens: Matrix
) -> tuple[float, float]:
    """Rank and tokens of one score as :class:`Calibration` has them, the tokens to 1e-12, under a limit of tokens."""
    rank = _between(score, scores, ranks)
    tokens = math.exp(_between(rank, ranks, log_tokens))
    if tokens > most_tokens:
        tokens = most_tokens
        rank = _between(math.log(tokens), log_tokens, ranks)
    return rank, tokens


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
