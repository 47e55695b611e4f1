"""Judging length rankers on prompts they never saw: their order by Kendall's tau-b with each model's own lengths, and
the lengths and quantiles that a model's own map makes of their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.length.data import LengthData, content_hash
from predictors.length.estimator import LengthEstimator
from predictors.length.per_model import PerModelMap
from predictors.length.train import grouped_folds, splits
from predictors.types import Interval

Matrix = NDArray[np.float64]
LEAST_PROMPTS = 300
"""Models with fewer prompts than this are not judged one by one."""
SHORT = 0.3
"""Share of a model's answers that are its short ones."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One ranker on one table, each figure the median over ``models`` models; intervals resample ``prompts`` prompts.

    ``tau_b`` is with a model's lengths, ``tau_b_short`` that among the prompts whose lengths are at most the model's
    own 0.3 quantile. ``mae`` is the mean absolute error in tokens, and ``coverage_90`` the share of lengths that are at
    most the predicted 0.9 quantile, of :func:`mapped` lengths; ``None`` where none were given.
    """

    tau_b: Interval
    models: int
    prompts: int
    tau_b_short: Interval | None = None
    mae: Interval | None = None
    coverage_90: Interval | None = None


@dataclass(frozen=True, slots=True)
class Predictable:
    """One ranker beside the noise of a model's own answers: ``tau_b`` with the length of a single sample, averaged over
    the samples, and ``share`` of what :func:`noise_ceiling` says of the same rows; medians over models."""

    tau_b: Interval
    share: Interval


@dataclass(frozen=True, slots=True)
class Mapped:
    """Expected tokens and their 0.9 quantile (n, M), NaN for models that are not judged or have no answer."""

    tokens: Matrix
    high: Matrix


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


def out_of_fold(make: Callable[[], LengthEstimator], table: Table, folds: int, seed: int) -> Matrix:
    """Score (n,) of every prompt by a ranker that was fitted without its fold."""
    scores = np.empty(len(table.data))
    for train, test in splits(grouped_folds(table.data.groups, folds, seed)):
        ranker = make().fit(table.data.take(train), table.embeddings[train])
        scores[test] = ranker.rank([table.data.prompts[i] for i in test], table.embeddings[test])
    return scores


def mapped(scores: Matrix, table: Table, folds: int, seed: int) -> Mapped:
    """What each judged model's own map makes of scores (n,) or (n, M), each prompt by a map that was fitted without its
    fold: cross-conformal (Vovk 2015), if the scores are themselves out of fold by the same folds and seed."""
    tokens, high = np.full_like(table.data.tokens, np.nan), np.full_like(table.data.tokens, np.nan)
    fold = grouped_folds(table.data.groups, folds, seed)
    for column in table.judged:
        score = scores if scores.ndim == 1 else scores[:, column]
        lengths = table.data.tokens[:, column]
        known = ~np.isnan(lengths) & ~np.isnan(score)
        for train, test in splits(fold):
            learn, judged = train[known[train]], test[known[test]]
            if len(learn) and len(judged):
                own = PerModelMap(memory=len(learn)).fit(score[learn], lengths[learn])
                found = own.predict(score[judged])
                if found is not None:
                    tokens[judged, column], high[judged, column] = found[0], found[1]
    return Mapped(tokens, high)


def judge(
    scores: Matrix, table: Table, seed: int, resamples: int = 1000, lengths: Mapped | None = None
) -> Judged | None:
    """Judge scores (n,), or (n, M) if they differ by model, and what the models' maps made of them.

    ``None`` where tau-b is defined for no model.
    """
    tokens = table.data.tokens
    draws = _draws(table.data.groups, seed, resamples)
    taus: list[Matrix] = []
    short: list[Matrix] = []
    errors: list[Matrix] = []
    covered: list[Matrix] = []
    judged = np.zeros(len(tokens), dtype=bool)
    for column in table.judged:
        score = scores if scores.ndim == 1 else scores[:, column]
        rows = ~np.isnan(tokens[:, column]) & ~np.isnan(score)
        if rows.sum() > 1:
            judged |= rows
            truth = tokens[:, column]
            shortest = rows & (truth <= np.quantile(truth[rows], SHORT))
            taus.append(weighted_tau_b(score[rows], truth[rows], draws[:, rows]))
            short.append(weighted_tau_b(score[shortest], truth[shortest], draws[:, shortest]))
            if lengths is not None:
                errors.append(_mean(np.abs(lengths.tokens[:, column] - truth), draws))
                covered.append(_mean(np.where(np.isnan(lengths.high[:, column]), np.nan,
                                              truth <= lengths.high[:, column]), draws))  # fmt: skip
    tau = _median(taus)
    if tau is None:
        return None
    models = sum(not np.isnan(one[0]) for one in taus)
    return Judged(tau, models, int(judged.sum()), _median(short), _median(errors), _median(covered))


def noise_ceiling(table: Table, seed: int, resamples: int = 1000, least: int = LEAST_PROMPTS) -> Judged | None:
    """Tau-b of one sample's length with the mean of the others to the same prompt, averaged over the samples: what a
    model's own chance leaves to predict. Over models with several samples of ``least`` prompts; ``None`` if there is
    none."""
    drawn = _draws(table.data.groups, seed, resamples)
    samples = _samples_of(table, least)
    tau = _median([_mean_tau([(one.others, one) for one in each], drawn) for each in samples])
    judged = np.zeros(len(table.data), dtype=bool)
    for one in (one for each in samples for one in each):
        judged |= one.rows
    return None if tau is None else Judged(tau, len(samples), int(judged.sum()))


def against_noise(
    scores: Matrix, table: Table, seed: int, resamples: int = 1000, least: int = LEAST_PROMPTS
) -> Predictable | None:
    """Judge scores (n,), or (n, M) if they differ by model, by single samples, which is what :func:`noise_ceiling` is
    about. ``None`` where no model has several samples of ``least`` prompts, or tau-b is not defined."""
    drawn = _draws(table.data.groups, seed, resamples)
    taus: list[Matrix] = []
    shares: list[Matrix] = []
    for each in _samples_of(table, least):
        own = [(scores if scores.ndim == 1 else scores[:, one.column], one) for one in each]
        if any(np.isnan(score[one.rows]).any() for score, one in own):
            continue
        taus.append(_mean_tau([(score[one.rows], one) for score, one in own], drawn))
        ceiling = _mean_tau([(one.others, one) for one in each], drawn)
        shares.append(np.divide(taus[-1], ceiling, out=np.full_like(ceiling, np.nan), where=ceiling > 0))
    tau, share = _median(taus), _median(shares)
    return None if tau is None or share is None else Predictable(tau, share)


@dataclass(frozen=True, slots=True)
class _Sample:
    """One sample of each prompt under a mask (n,), with the mean of that prompt's others (k,)."""

    column: int
    rows: NDArray[np.bool_]
    own: Matrix
    others: Matrix


def _samples_of(table: Table, least: int) -> list[list[_Sample]]:
    """By model with several samples of ``least`` prompts, each of the samples."""
    samples = table.data.samples
    if samples is None:
        return []
    several = (~np.isnan(samples)).sum(axis=2) > 1
    found = []
    for column in np.flatnonzero(several.sum(axis=0) >= least):
        lengths = samples[:, column]
        each = []
        for index in range(lengths.shape[1]):
            rows = several[:, column] & ~np.isnan(lengths[:, index])
            if rows.sum() > 1:
                others = np.nanmean(np.delete(lengths[rows], index, axis=1), axis=1)
                each.append(_Sample(int(column), rows, lengths[rows, index], others))
        found.append(each)
    return found


def _mean_tau(pairs: Sequence[tuple[Matrix, _Sample]], draws: Matrix) -> Matrix:
    """Tau-b (R,) of scores (k,) with a sample's lengths, averaged over the samples."""
    return np.asarray(np.mean([weighted_tau_b(score, one.own, draws[:, one.rows]) for score, one in pairs], axis=0))


def _mean(values: Matrix, draws: Matrix) -> Matrix:
    """Mean (R,) of values (n,) that are known, under row multiplicities (R, n)."""
    known = ~np.isnan(values)
    weights = draws[:, known]
    total = weights.sum(axis=1)
    mean: Matrix = np.divide(weights @ values[known], total, out=np.full(len(draws), np.nan), where=total > 0)
    return mean


def _median(figures: Sequence[Matrix]) -> Interval | None:
    """Median over models of figures (R,), of which the first is the sample's own and the others resamples'."""
    defined = [figure for figure in figures if not np.isnan(figure[0])]
    if not defined:
        return None
    stacked = np.stack(defined)
    medians = np.nanmedian(stacked[:, ~np.isnan(stacked).all(axis=0)], axis=0)
    lo, hi = np.quantile(medians[1:], (0.025, 0.975)) if len(medians) > 1 else (medians[0], medians[0])
    return Interval(float(medians[0]), float(lo), float(hi))


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
