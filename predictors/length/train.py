"""Training ``fast``: out-of-fold trend scores and lexical features into LightGBM's trees, blended with the trend.

Which kernel the trend has, how the trees are grown, and how much of the trend the blend has, is chosen on the inner
folds, by tau-b with each model's lengths.

Everything is seeded and single-threaded where order matters: the same data, settings and seed give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.optimize import isotonic_regression
from scipy.stats import kendalltau

from predictors.length.basis import Basis
from predictors.length.calibration import Calibration
from predictors.length.data import LengthData, LengthDataError
from predictors.length.features import Readings, read
from predictors.length.model import FastLength, Guard, LengthScores
from predictors.length.quantiles import fit_curves
from predictors.length.target import Consensus, consensus, typical_answers
from predictors.length.trend import Places, Trend
from predictors.types import Prompt

Matrix = NDArray[np.float64]
Rows = NDArray[np.intp]
_LEVELS = 64
"""Relevance levels of lambdarank; a difference of one level gains the same anywhere (linear gains)."""
_LEAST_PROMPTS = 20
_ENOUGH = 50
_LEAST_RISE = 1e-3
"""Of the logarithm of expected tokens, from one bin of the calibration to the next."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How the trees are grown. ``lambdarank`` learns pairs, ``regression`` the labels themselves."""

    objective: Literal["lambdarank", "regression"] = "regression"
    trees: int = 400
    leaves: int = 31
    least_in_leaf: int = 5
    feature_share: float = 1.0
    l2: float = 1.0


@dataclass(frozen=True, slots=True)
class FastSettings:
    """Hyper-parameters of :class:`FastRanker`."""

    landmarks: int = 192
    gamma: float = 1.5
    lexical_share: float = 0.0025
    """Weight of the lexical features' linear kernel beside the words' and the landmarks'."""
    kernels: tuple[tuple[float, float], ...] = ((1.5, 0.0025), (1.0, 0.005), (1.0, 0.01))
    """Pairs of ``gamma`` and ``lexical_share`` to choose from; none to keep the two above."""
    blends: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Shares of the trend in the raw score to choose from, in standard deviations of the trees' scores."""
    ridge: float = 2.0
    least_documents: int = 2
    """Words in fewer prompts are left out."""
    inner_folds: int = 5
    query: int = 8
    """Prompts a lambdarank query; drawn at random within a source, and every ``mixed``-th time across all."""
    repeats: int = 4
    """How many times the prompts are dealt into queries."""
    trees: int = 200
    learning_rate: float = 0.05
    leaves: int = 7
    least_in_leaf: int = 30
    feature_share: float = 0.3
    row_share: float = 0.7
    l2: float = 10.0
    growths: tuple[Growth, ...] = (Growth(),)
    """Trees to choose from beside lambdarank's of the sizes above, which suit answers that the prompt explains little
    of; the larger ones suit answers that it decides, …"""
    least_gain: float = 0.01
    """… and are taken where they order the inner folds better by more than this tau-b."""
    bins: int = 16
    """Pieces of the map from score to expected tokens."""
    seed: int = 0

    @property
    def smallest(self) -> Growth:
        """Lambdarank's trees of the sizes above."""
        return Growth("lambdarank", self.trees, self.leaves, self.least_in_leaf, self.feature_share, self.l2)


class FastRanker:
    """Learns ``fast``. After ``fit``: ``model_`` (what serves), ``out_of_fold_`` (n,), the inner folds' scores, and
    ``chosen_``, the settings that won there: gamma, lexical_share, the trees' growth and the blend."""

    embeds: ClassVar[bool] = True

    def __init__(self, settings: FastSettings | None = None) -> None:
        self.settings = settings

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Learn from prompts and their embeddings (n, 256).

        Raises:
            LengthDataError: there are too few prompts, or nothing tells them apart.
        """
        settings = self.settings or FastSettings()
        if len(set(data.groups)) < _LEAST_PROMPTS:
            raise LengthDataError(
                f"{len(set(data.groups))} distinct prompts are too few; {_LEAST_PROMPTS} are the least"
            )
        readings, labels = read(data.prompts), consensus(data)
        folds = grouped_folds(data.groups, settings.inner_folds, settings.seed)
        settings, trend_scores = _best_trend(data, readings, embeddings, labels, folds, settings)
        trend = fit_trend(readings, embeddings, labels, np.arange(len(data)), settings)
        columns = np.column_stack([trend_scores, readings.lexical])
        grown, self.out_of_fold_ = _best_trees(columns, data, labels, folds, settings)
        self.chosen_ = {"gamma": settings.gamma, "lexical_share": settings.lexical_share, **asdict(grown)}
        booster = _booster(columns, labels, np.arange(len(data)), settings, grown.growth)
        text = booster.model_to_string(num_iteration=-1)
        calibration = calibrate(self.out_of_fold_, labels, settings.bins, typical_answers(data))
        self.model_ = FastLength(trend, text, calibration, _guard(trend.place(readings, embeddings)), grown.weights)
        return self

    def predict(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> LengthScores:
        """What :class:`FastLength` predicts."""
        return self.model_.predict(prompts, embeddings)

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Only the ranks (n,) of :meth:`predict`."""
        return self.predict(prompts, embeddings).rank

    def export(self) -> dict[str, bytes]:
        """The files of an artifact."""
        return self.model_.export()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """A fitted ranker from :meth:`export`; of what ``fit`` learns it has ``model_`` only."""
        loaded = cls()
        loaded.model_ = FastLength.from_files(files)
        return loaded


def _best_trend(
    data: LengthData,
    readings: Readings,
    embeddings: NDArray[np.float32],
    labels: Consensus,
    folds: Rows,
    settings: FastSettings,
) -> tuple[FastSettings, Matrix]:
    """The settings whose trend orders the inner folds best, and its out-of-fold scores (n, 2)."""
    tried = [replace(settings, gamma=g, lexical_share=s) for g, s in settings.kernels] or [settings]
    scores = [np.empty((len(data), 2)) for _ in tried]
    for train, test in splits(folds):
        inside, held_out = take(readings, train), take(readings, test)
        for one, found in zip(tried, scores, strict=True):
            smooth = fit_trend(inside, embeddings[train], labels, train, one)
            found[test] = smooth.predict(held_out, smooth.place(held_out, embeddings[test]))
    best = max(range(len(tried)), key=lambda i: mean_tau(scores[i][:, 1], data.tokens)) if len(tried) > 1 else 0
    return tried[best], scores[best]


@dataclass(frozen=True, slots=True)
class _Grown:
    """Trees and blend: ``blend`` is the share of the trend, ``weights`` are those of its two outputs that make it."""

    growth: Growth
    blend: float
    weights: tuple[float, float]


def _best_trees(
    columns: Matrix, data: LengthData, labels: Consensus, folds: Rows, settings: FastSettings
) -> tuple[_Grown, Matrix]:
    """The trees and the blend that order the inner folds best, and their out-of-fold scores (n,). The first columns
    (n, 2 + F) are the trend's."""
    best, gain = -math.inf, 0.0
    for growth in (settings.smallest, *settings.growths):
        trees = np.empty(len(data))
        for train, test in splits(folds):
            part = _booster(columns, labels, train, settings, growth)
            trees[test] = np.asarray(part.predict(columns[test], num_threads=1))
        blended = [_blended(trees, share, columns[:, 1]) for share in settings.blends]
        taus = [mean_tau(trees + weight * columns[:, 1], data.tokens) for weight in blended]
        top = int(np.argmax(taus))
        if taus[top] > best + gain:
            best, weight = taus[top], blended[top]
            found = _Grown(growth, settings.blends[top], (0.0, weight)), trees + weight * columns[:, 1]
        gain = settings.least_gain
    return found


def _blended(trees: Matrix, share: float, level: Matrix) -> float:
    """The weight of the trend's level (n,) with which it makes up a share of the trees' scores (n,)."""
    spread = float(level.std())
    return share * float(trees.std()) / spread if spread > 0 else 0.0


def mean_tau(scores: Matrix, tokens: Matrix) -> float:
    """Kendall's tau-b of scores (n,) with each model's tokens (n, M), averaged over models that answered ``_ENOUGH``
    prompts or a tenth of them; -1 where it is defined for none."""
    known = ~np.isnan(tokens)
    enough = np.flatnonzero(known.sum(axis=0) >= max(2, min(_ENOUGH, len(tokens) // 10)))
    taus = [kendalltau(scores[known[:, m]], tokens[known[:, m], m]).statistic for m in enough]
    defined = [tau for tau in taus if not math.isnan(tau)]
    return float(np.mean(defined)) if defined else -1.0


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> Rows:
    """A fold number (n,) for each row; rows of one group share it, and folds have about as many groups each."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    deal = np.arange(len(names)) % folds
    np.random.default_rng(seed).shuffle(deal)
    return deal[index].astype(np.intp)


def splits(folds: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Rows to train on and rows to test on, for each fold."""
    for fold in np.unique(folds):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def take(readings: Readings, rows: Rows) -> Readings:
    """Some of the readings."""
    return Readings(readings.lexical[rows], tuple(readings.words[i] for i in rows))


def fit_trend(
    readings: Readings, embeddings: NDArray[np.float32], labels: Consensus, rows: Rows, settings: FastSettings
) -> Trend:
    """Weighted ridge in the trend's features, solved in the dual; ``rows`` are the places of the readings in labels."""
    weight = labels.weight[rows]
    target = np.column_stack([labels.place[rows], labels.level[rows]])
    basis = Basis.of(readings, embeddings, settings)
    bias = np.average(target, axis=0, weights=weight)
    dual = solve(basis.kernel() + settings.ridge * np.diag(1.0 / weight), target - bias, assume_a="pos")
    primal = [basis.near.T @ dual, basis.standard.T @ dual, basis.counts.T @ dual]
    return basis.trend(bias, np.vstack(primal))


def _booster(
    columns: Matrix, labels: Consensus, rows: Rows, settings: FastSettings, growth: Growth
) -> lightgbm.Booster:
    if growth.objective == "regression":
        dataset = lightgbm.Dataset(columns[rows], labels.level[rows], weight=labels.weight[rows])
        return lightgbm.train(_parameters(settings, growth, len(rows)), dataset, growth.trees)
    queries = deal_queries(labels.source[rows], settings)
    dealt = rows[np.concatenate(queries)]
    levels = np.minimum((labels.level[dealt] * _LEVELS).astype(int), _LEVELS - 1)
    dataset = lightgbm.Dataset(
        columns[dealt], levels, weight=labels.weight[dealt], group=[len(query) for query in queries]
    )
    return lightgbm.train(_parameters(settings, growth, len(rows)), dataset, growth.trees)


def deal_queries(sources: Rows, settings: FastSettings) -> list[Rows]:
    """Random queries of about ``query`` rows. lambdarank weighs pairs by their places in a query's order, which a long
    query would spend on its top; small ones weigh all pairs about alike, which is what Kendall's tau asks for."""
    rng = np.random.default_rng(settings.seed)
    queries: list[Rows] = []
    decks = [np.flatnonzero(sources == source) for source in np.unique(sources)]
    for _ in range(settings.repeats):
        for deck in decks:
            queries += np.array_split(rng.permutation(deck), max(1, len(deck) // settings.query))
    if len(decks) > 1:
        queries += np.array_split(rng.permutation(len(sources)), max(1, len(sources) // settings.query))
    return queries


def _parameters(settings: FastSettings, growth: Growth, prompts: int) -> dict[str, object]:
    least_in_leaf = max(1, min(growth.least_in_leaf, prompts // 20))
    ranks = growth.objective == "lambdarank"
    ranking = {
        "label_gain": list(range(_LEVELS)),
        "lambdarank_truncation_level": 2 * settings.query,
        "lambdarank_norm": False,
    }
    return {
        "objective": growth.objective,
        **(ranking if ranks else {}),
        "learning_rate": settings.learning_rate,
        "num_leaves": growth.leaves,
        "min_data_in_leaf": least_in_leaf * (settings.repeats if ranks else 1),
        "feature_fraction": growth.feature_share,
        "bagging_fraction": settings.row_share,
        "bagging_freq": 1,
        "lambda_l2": growth.l2,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }


def calibrate(scores: Matrix, labels: Consensus, bins: int, answers: Matrix | None = None) -> Calibration:
    """The monotone map from score to rank and to expected tokens, from held-out scores (n,) in bins of equal size:
    isotonic regression of the bins' mean lengths, with a least rise so that the map can be inverted.

    With ``answers`` (n, M) in tokens, NaN for none, also to their quantile and tail, each prompt's answers weighing as
    much together as its label."""
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, max(2, min(bins, len(order) // 4)))
    at = np.array([np.average(scores[part]) for part in parts])
    at, first = np.unique(at, return_index=True)
    if len(at) < 2:
        raise LengthDataError("these prompts cannot be told apart: every one has the same score")
    rank = (np.cumsum([len(part) for part in parts]) - 0.5 * len(parts[0]))[first] / len(order)
    lengths = np.array([np.average(np.exp(labels.log_tokens[p]), weights=labels.weight[p]) for p in parts])[first]
    tokens = isotonic_regression(lengths).x
    log_tokens = np.log(np.maximum(tokens, 1.0)) + _LEAST_RISE * np.arange(len(at))
    if answers is None:
        return Calibration.through(at, rank, log_tokens)
    row, column = np.nonzero(~np.isnan(answers))
    weights = (labels.weight / (~np.isnan(answers)).sum(axis=1))[row]
    curves = fit_curves(np.interp(scores, at, rank)[row], answers[row, column], row, bins, weights)
    high = np.maximum(np.interp(rank, curves.rank, curves.log_high), log_tokens)
    tail = np.maximum(np.interp(rank, curves.rank, curves.log_tail), high)
    return Calibration.through(at, rank, log_tokens, high, tail)


def _guard(places: Places) -> Guard:
    """Accepts what is at most a little stranger than the strangest of a thousand training prompts."""
    least, most = np.quantile(places.likeness, 0.001), np.quantile(places.strangeness, 0.999)
    return Guard(float(least - 0.03), float(most * 1.15))
