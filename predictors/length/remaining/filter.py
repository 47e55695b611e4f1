"""The countdown: a belief over the tokens that are left, moved by what was produced and by what the text says.

TRAIL (arXiv 2410.01035) keeps a distribution over bins of the remaining length, shifts it by one for each token,
multiplies by what a classifier says, and renormalises. Here the bins grow with the length, and a shift is exact
conditioning: the belief that ``r`` tokens are left, after ``d`` more, is the old one of ``r + d`` given that more than
``d`` were left.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINS",
    "CENTRES",
    "EDGES",
    "LIMIT",
    "bin_of",
    "capped",
    "expectation",
    "lasting",
    "pooled",
    "quantile",
    "shifted",
]

Floats = NDArray[np.float64]

LIMIT: Final = 8192.0
"""Tokens; nothing is thought to be left beyond."""
BINS: Final = 28
_FIRST: Final = 8.0


EDGES: Final = np.concatenate([[0.0], np.geomspace(_FIRST, LIMIT, BINS)])
"""Of the bins (BINS + 1,), in tokens: 0 to 8, then each 1.29 times the last, to 8,192."""
CENTRES: Final = (EDGES[1:] + EDGES[:-1]) / 2
"""Mean of each bin (BINS,): within a bin all lengths are held equally likely."""
_LEAST: Final = 1e-9


def bin_of(remaining: Floats) -> NDArray[np.intp]:
    """The bin of each number of tokens (n,)."""
    return np.clip(np.searchsorted(EDGES, remaining, side="left") - 1, 0, BINS - 1).astype(np.intp)


def shifted(belief: Floats, tokens: float) -> Floats:
    """The belief (BINS,) after ``tokens`` more tokens of a stream that still runs."""
    below = np.empty(BINS + 1)
    below[0] = 0.0
    np.cumsum(belief, out=below[1:])
    moved = np.interp(EDGES + tokens, EDGES, below)
    left = below[-1] - moved[0]
    if left <= _LEAST:
        return lasting(tokens)
    return np.asarray(np.diff(moved) / left, dtype=np.float64)


def lasting(mean: float) -> Floats:
    """The belief (BINS,) that the end is equally near at every token: exponential with this mean, in tokens.

    It is what :func:`shifted` falls back on where nothing was thought to be left, and yet the stream runs.
    """
    belief = -np.diff(np.exp(-EDGES / max(mean, 1.0)))
    return np.asarray(belief / belief.sum(), dtype=np.float64)


def pooled(belief: Floats, log_share: Floats, keep: float, weight: float) -> Floats:
    """``belief`` (BINS,) to the power ``keep``, times the classifier's shares to the power ``weight``, normalised.

    ``keep = weight = 1`` is TRAIL's product, which takes every look for independent of those before;
    ``keep + weight = 1`` is the logarithmic opinion pool (Genest and Zidek 1986), which does not grow surer by hearing
    the same thing twice.
    """
    weighed = keep * np.log(np.maximum(belief, _LEAST)) + weight * log_share
    posterior = np.exp(weighed - weighed.max())
    return np.asarray(posterior / posterior.sum(), dtype=np.float64)


def capped(belief: Floats, most: float) -> Floats:
    """The belief (BINS,) when at most ``most`` tokens can follow: what lay beyond ends there, at the limit."""
    inside = np.clip((most - EDGES[:-1]) / np.diff(EDGES), 0.0, 1.0)
    held = belief * inside
    held[bin_of(np.array([max(most, 0.0)]))[0]] += belief.sum() - held.sum()
    return held


def expectation(belief: Floats) -> float:
    """Expected tokens left."""
    return float(belief @ CENTRES)


def quantile(belief: Floats, share: float) -> float:
    """The number of tokens that at most so many are left with probability ``share``."""
    below = np.cumsum(belief)
    at = min(int(np.searchsorted(below, share * below[-1])), BINS - 1)
    before = below[at - 1] if at else 0.0
    part = (share * below[-1] - before) / max(belief[at], _LEAST)
    return float(EDGES[at] + min(max(part, 0.0), 1.0) * (EDGES[at + 1] - EDGES[at]))
