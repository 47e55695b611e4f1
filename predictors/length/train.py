"""Training ``fast``: out-of-fold trend scores and lexical features into LightGBM's lambdarank.

Everything is seeded and single-threaded where order matters: the same data, settings and seed give the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.optimize import isotonic_regression
from scipy.sparse import csr_array

from predictors.length.calibration import Calibration
from predictors.length.data import LengthData, LengthDataError
from predictors.length.features import Readings, read
from predictors.length.model import FastLength, Guard, LengthScores
from predictors.length.target import Consensus, consensus
from predictors.length.trend import Places, Trend, cosines, standardise
from predictors.types import Prompt

Matrix = NDArray[np.float64]
Rows = NDArray[np.intp]
_LEVELS = 64
"""Relevance levels of lambdarank; a difference of one level gains the same anywhere (linear gains)."""
_LEAST_PROMPTS = 20
_LEAST_RISE = 1e-3
"""Of the logarithm of expected tokens, from one bin of the calibration to the next."""


@dataclass(frozen=True, slots=True)
class FastSettings:
    """Hyper-parameters of :class:`FastRanker`."""

    landmarks: int = 192
    gamma: float = 1.5
    lexical_share: float = 0.0025
    """Weight of the lexical features' linear kernel beside the words' and the landmarks'."""
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
    bins: int = 16
    """Pieces of the map from score to expected tokens."""
    seed: int = 0


class FastRanker:
    """Learns ``fast``. After ``fit``: ``model_`` (what serves) and ``out_of_fold_`` (n,), the inner folds' scores."""

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
        trend_scores = np.empty((len(data), 2))
        for train, test in splits(folds):
            smooth = fit_trend(take(readings, train), embeddings[train], labels, train, settings)
            held_out = take(readings, test)
            trend_scores[test] = smooth.predict(held_out, smooth.place(held_out, embeddings[test]))
        trend = fit_trend(readings, embeddings, labels, np.arange(len(data)), settings)
        columns = np.column_stack([trend_scores, readings.lexical])
        self.out_of_fold_ = np.empty(len(data))
        for train, test in splits(folds):
            part = _booster(columns, labels, train, settings)
            self.out_of_fold_[test] = np.asarray(part.predict(columns[test], num_threads=1))
        booster = _booster(columns, labels, np.arange(len(data)), settings)
        text = booster.model_to_string(num_iteration=-1)
        calibration = calibrate(self.out_of_fold_, labels, settings.bins)
        self.model_ = FastLength(trend, text, calibration, _guard(trend.place(readings, embeddings)))
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
    mean = readings.lexical.mean(axis=0, dtype=np.float64)
    scale = readings.lexical.std(axis=0, dtype=np.float64)
    scale[scale < 1e-9] = 0.0
    standard = standardise(readings.lexical, mean, scale) * math.sqrt(settings.lexical_share)
    idf = _idf(readings.words, settings.least_documents)
    counts = _tfidf(readings.words, idf)
    landmarks = centres(embeddings, settings.landmarks, settings.seed)
    squares = (embeddings.astype(np.float64) ** 2).sum(axis=1)
    likeness = np.exp(-settings.gamma * Places(standard, cosines(embeddings, landmarks), squares).distances)
    whiten = _whitening(landmarks, settings.gamma)
    near = likeness @ whiten
    kernel = near @ near.T + standard @ standard.T + (counts @ counts.T).toarray()
    bias = np.average(target, axis=0, weights=weight)
    dual = solve(kernel + settings.ridge * np.diag(1.0 / weight), target - bias, assume_a="pos")
    by_word = _rounded(counts.T @ dual)
    return Trend(
        bias=bias,
        words={
            word: (value, float(by_word[i, 0]), float(by_word[i, 1])) for i, (word, value) in enumerate(idf.items())
        },
        mean=mean,
        scale=scale,
        lexical=(dual.T @ standard) * math.sqrt(settings.lexical_share),
        landmarks=landmarks,
        likeness=(whiten @ (near.T @ dual)).T.copy(),
        gamma=settings.gamma,
    )


def centres(embeddings: NDArray[np.float32], count: int, seed: int, rounds: int = 12) -> NDArray[np.float32]:
    """Unit cluster centres (count, 256) by spherical k-means; all distinct rows when there are no more than that."""
    points = np.unique(embeddings[np.linalg.norm(embeddings, axis=1) > 0.5], axis=0).astype(np.float64)
    if len(points) <= count:
        return points.astype(np.float32)
    found = points[np.sort(np.random.default_rng(seed).choice(len(points), count, replace=False))]
    for _ in range(rounds):
        nearest = np.argmax(points @ found.T, axis=1)
        sums = np.zeros_like(found)
        np.add.at(sums, nearest, points)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        found = np.where(norms > 1e-9, sums / np.maximum(norms, 1e-9), found)
    return found.astype(np.float32)


def _whitening(landmarks: NDArray[np.float32], gamma: float) -> Matrix:
    """The matrix (K, K) that takes likenesses to features whose products approximate the RBF kernel."""
    among = np.exp(-2.0 * gamma * (1.0 - cosines(landmarks, landmarks)))
    values, vectors = np.linalg.eigh(among + 1e-6 * np.eye(len(landmarks)))
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-6)), dtype=np.float64)


def _idf(documents: Sequence[Sequence[str]], least: int) -> dict[str, float]:
    """Smoothed inverse document frequency of words in at least ``least`` documents, in alphabetical order."""
    found = Counter(word for words in documents for word in set(words))
    return {
        word: float(f"{math.log((1 + len(documents)) / (1 + n)) + 1:.6g}")
        for word, n in sorted(found.items())
        if n >= least
    }


def _tfidf(documents: Sequence[Sequence[str]], idf: dict[str, float]) -> csr_array:
    position = {word: i for i, word in enumerate(idf)}
    values: list[float] = []
    columns: list[int] = []
    ends = [0]
    for words in documents:
        row = {position[w]: (1.0 + math.log(n)) * idf[w] for w, n in Counter(words).items() if w in position}
        norm = math.sqrt(sum(value * value for value in row.values()))
        columns += row
        values += (value / norm for value in row.values())
        ends.append(len(columns))
    return csr_array((values, columns, ends), shape=(len(documents), len(idf)))


def _rounded(values: Matrix) -> Matrix:
    """To seven decimals: short in JSON, and far below what could change an order."""
    return np.round(values, 7)


def _booster(columns: Matrix, labels: Consensus, rows: Rows, settings: FastSettings) -> lightgbm.Booster:
    queries = deal_queries(labels.source[rows], settings)
    dealt = rows[np.concatenate(queries)]
    levels = np.minimum((labels.level[dealt] * _LEVELS).astype(int), _LEVELS - 1)
    dataset = lightgbm.Dataset(
        columns[dealt], levels, weight=labels.weight[dealt], group=[len(query) for query in queries]
    )
    return lightgbm.train(_parameters(settings, len(rows)), dataset, settings.trees)


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


def _parameters(settings: FastSettings, prompts: int) -> dict[str, object]:
    least_in_leaf = max(1, min(settings.least_in_leaf, prompts // 20))
    return {
        "objective": "lambdarank",
        "label_gain": list(range(_LEVELS)),
        "lambdarank_truncation_level": 2 * settings.query,
        "lambdarank_norm": False,
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": least_in_leaf * settings.repeats,
        "feature_fraction": settings.feature_share,
        "bagging_fraction": settings.row_share,
        "bagging_freq": 1,
        "lambda_l2": settings.l2,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }


def calibrate(scores: Matrix, labels: Consensus, bins: int) -> Calibration:
    """The monotone map from score to rank and to expected tokens, from held-out scores (n,) in bins of equal size:
    isotonic regression of the bins' mean lengths, with a least rise so that the map can be inverted."""
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, max(2, min(bins, len(order) // 4)))
    at = np.array([np.average(scores[part]) for part in parts])
    at, first = np.unique(at, return_index=True)
    if len(at) < 2:
        raise LengthDataError("these prompts cannot be told apart: every one has the same score")
    rank = (np.cumsum([len(part) for part in parts]) - 0.5 * len(parts[0]))[first] / len(order)
    lengths = np.array([np.average(np.exp(labels.log_tokens[p]), weights=labels.weight[p]) for p in parts])[first]
    tokens = isotonic_regression(lengths).x
    return Calibration.through(at, rank, np.log(np.maximum(tokens, 1.0)) + _LEAST_RISE * np.arange(len(at)))


def _guard(places: Places) -> Guard:
    """Accepts what is at most a little stranger than the strangest of a thousand training prompts."""
    least, most = np.quantile(places.likeness, 0.001), np.quantile(places.strangeness, 0.999)
    return Guard(float(least - 0.03), float(most * 1.15))
