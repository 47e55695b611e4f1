"""From the answer lengths of several models to one label a prompt: its consensus.

Prompts explain most of an answer's length, and models agree on their order, so a prompt's label is its mean rank over
the models that answered it: robust against verbose models and heavy tails. Ranks of different sources are put on one
scale, tokens, by each source's typical distribution (the quantile function averaged over its models, in logarithms).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from predictors.length.data import LengthData

Matrix = NDArray[np.float64]
_PRIOR_ANSWERS = 3.0
"""A label from k answers weighs k / (k + 3): the noise of one answer against the spread between prompts."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """Labels of n prompts. ``log_tokens``: expected length for a typical model; ``place``: rank among the prompts of
    the same source, 0 to 1; ``level``: rank among all; ``weight``: how far to trust it, 1 on average; ``source``: index
    of the prompt's source."""

    log_tokens: Matrix
    place: Matrix
    level: Matrix
    weight: Matrix
    source: NDArray[np.intp]


def consensus(data: LengthData) -> Consensus:
    """Label every prompt; each must have at least one answer."""
    shares = within_model_ranks(data.tokens)
    _, source = np.unique(np.asarray(data.sources), return_inverse=True)
    log_tokens, place = np.empty(len(data)), np.empty(len(data))
    for index in range(int(source.max()) + 1):
        rows = source == index
        place[rows] = (rankdata(np.nanmean(shares[rows], axis=1)) - 0.5) / int(rows.sum())
        log_tokens[rows] = _typical_quantiles(data.tokens[rows], place[rows])
    answers = (~np.isnan(data.tokens)).sum(axis=1)
    weight = answers / (answers + _PRIOR_ANSWERS)
    level = (rankdata(log_tokens) - 0.5) / len(data)
    return Consensus(log_tokens, place, level, weight / weight.mean(), source.astype(np.intp))


def typical_answers(data: LengthData) -> Matrix:
    """Each answer (n, M) as a typical model of its source would have written it, in tokens: the one of the same rank
    among the typical model's; NaN where there is no answer."""
    ranks = within_model_ranks(data.tokens)
    typical = np.full_like(data.tokens, np.nan)
    sources = np.asarray(data.sources)
    for source in dict.fromkeys(data.sources):
        rows = sources == source
        known = rows[:, None] & ~np.isnan(ranks)
        typical[known] = np.exp(_typical_quantiles(data.tokens[rows], ranks[known]))
    return typical


def within_model_ranks(tokens: Matrix) -> Matrix:
    """Rank of each answer (n, M) among the same model's, 0 to 1; NaN where there is no answer."""
    ranks = np.full_like(tokens, np.nan)
    for column, lengths in zip(ranks.T, tokens.T, strict=True):
        known = ~np.isnan(lengths)
        column[known] = (rankdata(lengths[known]) - 0.5) / max(int(known.sum()), 1)
    return ranks


def _typical_quantiles(tokens: Matrix, places: Matrix) -> Matrix:
    """Quantiles (n,) of log length at ``places``, averaged over the models that have answers here."""
    answered = [np.log(np.maximum(column[~np.isnan(column)], 1.0)) for column in tokens.T]
    quantiles = [np.quantile(lengths, places) for lengths in answered if lengths.size]
    return np.asarray(np.mean(quantiles, axis=0), dtype=np.float64)
