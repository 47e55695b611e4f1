"""Judging length rankers: Kendall's tau-b with each model's own output lengths, on prompts the ranker never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.length.baselines import LengthRanker
from predictors.length.data import LengthData, content_hash
from predictors.length.train import grouped_folds, splits
from predictors.types import Interval

Matrix = NDArray[np.float64]
LEAST_PROMPTS = 300
"""Models with fewer prompts than this are not judged one by one."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One ranker on one table. ``tau_b``: median over ``models`` models; the interval resamples ``prompts`` prompts."""

    tau_b: Interval
    models: int
    prompts: int


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one source (or of several, ``all``), embedded, with the models (columns) that are judged on them."""

    source: str
    data: LengthData
    embeddings: NDArray[np.float32]
    judged: NDArray[np.intp]

    def take(self, source: str, rows: NDArray[np.bool_]) -> Table:
        """The rows under a mask, as a table of their own; the same models are judged."""
        return Table(source, self.data.take(rows), self.embeddings[rows], self.judged)


def out_of_fold(make: Callable[[], LengthRanker], table: Table, folds: int, seed: int) -> Matrix:
    """Score (n,) of every prompt by a ranker that was fitted without its fold."""
    scores = np.empty(len(table.data))
    for train, test in splits(grouped_folds(table.data.groups, folds, seed)):
        ranker = make().fit(table.data.take(train), table.embeddings[train])
        scores[test] = ranker.rank([table.data.prompts[i] for i in test], table.embeddings[test])
    return scores


def judge(scores: Matrix, table: Table, seed: int, resamples: int = 1000) -> Judged | None:
    """Median over the table's judged models of tau-b between scores and tokens, resampling groups of prompts.

    ``scores`` is (n,), or (n, M) for a score that differs by model. ``None`` where tau-b is defined for no model.
    """
    tokens = table.data.tokens
    draws = _draws(table.data.groups, seed, resamples)
    taus = []
    judged = np.zeros(len(tokens), dtype=bool)
    for column in table.judged:
        score = scores if scores.ndim == 1 else scores[:, column]
        rows = ~np.isnan(tokens[:, column]) & ~np.isnan(score)
        if rows.sum() > 1:
            judged |= rows
            taus.append(weighted_tau_b(score[rows], tokens[rows, column], draws[:, rows]))
    defined = [tau for tau in taus if not np.isnan(tau[0])]
    if not defined:
        return None
    medians = np.nanmedian(np.stack(defined), axis=0)
    lo, hi = np.nanquantile(medians[1:], (0.025, 0.975))
    return Judged(Interval(float(medians[0]), float(lo), float(hi)), len(defined), int(judged.sum()))


def judged_columns(data: LengthData, least: int = LEAST_PROMPTS) -> NDArray[np.intp]:
    """Models (columns) with at least ``least`` prompts."""
    return np.flatnonzero((~np.isnan(data.tokens)).sum(axis=0) >= least)


def held_out_mask(data: LengthData, share: float, sources: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows (n,) of these sources are never trained on: decided by each prompt's content hash alone."""
    return np.array(
        [source in sources and int(content_hash(prompt.text)[-8:], 16) < share * 2**32
         for prompt, source in zip(data.prompts, data.sources, strict=True)],
        dtype=np.bool_,
    )  # fmt: skip


def weighted_tau_b(x: Matrix, y: Matrix, weights: Matrix) -> Matrix:
    """Kendall's tau-b (R,) of pairs (n,) under row multiplicities (R, n); NaN where either side is constant.

    With integer weights this is tau-b of the sample with each row repeated that often: the sum over pairs of the signs'
    product, over the geometric mean of the pairs untied in x and those untied in y.
    """
    sign_x, sign_y = _signs(x), _signs(y)
    w = weights.astype(np.float32)
    concordance, untied_x, untied_y = (
        np.einsum("rn,rn->r", w @ matrix, w, dtype=np.float64)
        for matrix in (sign_x * sign_y, np.abs(sign_x), np.abs(sign_y))
    )
    scale = np.sqrt(untied_x * untied_y)
    taus: Matrix = np.divide(concordance, scale, out=np.full(len(w), np.nan), where=scale > 0)
    return taus


def _signs(values: Matrix) -> NDArray[np.float32]:
    return np.sign(values[:, None] - values[None, :]).astype(np.float32)


def _draws(groups: Sequence[str], seed: int, resamples: int) -> Matrix:
    """How often each row occurs (1 + R, n): once, then in each bootstrap draw of whole groups."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.vstack([np.ones(len(index)), drawn[:, index].astype(np.float64)])
