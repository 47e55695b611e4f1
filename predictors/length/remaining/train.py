"""Training ``remaining``: looks at running answers into LightGBM's regression, and a table of what was left.

Seeded and single-threaded: the same answers, priors and settings give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray

from predictors.length.data import LengthData, LengthDataError
from predictors.length.remaining.data import Answers, offsets
from predictors.length.remaining.filter import BINS, bin_of
from predictors.length.remaining.model import SCHEMA, Outlook, RemainingLength
from predictors.length.remaining.reader import FEATURES, StreamReader
from predictors.length.train import FastRanker, grouped_folds, splits

__all__ = ["Looks", "Priors", "RemainingLearner", "RemainingSettings", "columns_of", "look_at", "prompt_priors"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
_FIRST: Final = 16
_LEAST_PROMPTS: Final = 20


@dataclass(frozen=True, slots=True)
class RemainingSettings:
    """Hyper-parameters of :class:`RemainingLearner`."""

    every: int = 32
    """Tokens between the looks that are trained on."""
    offset: float = 8.0
    """The trees' target is the logarithm of the tokens left and so many more."""
    inner_folds: int = 4
    trees: int = 500
    learning_rate: float = 0.04
    leaves: int = 7
    least_in_leaf: int = 80
    feature_share: float = 0.4
    row_share: float = 0.6
    l2: float = 10.0
    levels: int = 33
    """Scores at which the table has a row."""
    width: float = 0.04
    """Of the kernel, in ranks of the score, under which looks count for a row."""
    blur: float = 0.7
    """Standard deviation, in bins, by which what was left is smeared."""
    unseen: float = 0.01
    """Share of each row that is spread over all bins: what no answer did may happen."""
    keep: float = 0.2
    weight: float = 0.8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Looks:
    """Looks (m,) at answers: ``features`` (m, F), ``answer`` (m,) is each one's row, ``tokens`` told and ``left``."""

    features: Floats
    answer: Rows
    tokens: NDArray[np.int64]
    left: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Priors:
    """What a length ranker says of the prompts of answers (n,): ``rank``, and ``typical``, the tokens that a typical
    model answers with."""

    rank: Floats
    typical: Floats

    def take(self, rows: Rows | NDArray[np.bool_]) -> Priors:
        """The given rows, by position or by mask."""
        return Priors(self.rank[rows], self.typical[rows])


class RemainingLearner:
    """Learns ``remaining``. After ``fit``: ``model_`` (what serves)."""

    def __init__(self, settings: RemainingSettings | None = None) -> None:
        self.settings = settings

    def fit(self, answers: Answers, ranks: Floats, expected: Floats, looks: Looks | None = None) -> Self:
        """Learn from answers (n) and what was expected of each: ``ranks`` (n,) of prompts, ``expected`` (n,) tokens.
        ``looks`` are :func:`look_at` of the answers, if there are any already.

        Raises:
            LengthDataError: there are too few prompts.
        """
        settings = self.settings or RemainingSettings()
        if len(set(answers.groups)) < _LEAST_PROMPTS:
            raise LengthDataError(f"{len(set(answers.groups))} prompts are too few; {_LEAST_PROMPTS} are the least")
        looks = look_at(answers, settings.every) if looks is None else looks
        columns = columns_of(looks, ranks, expected)
        target = np.log(looks.left + settings.offset)
        folds = grouped_folds(answers.groups, settings.inner_folds, settings.seed)[looks.answer]
        scores = np.empty(len(target))
        for train, test in splits(folds):
            part = _booster(columns[train], target[train], settings)
            scores[test] = np.asarray(part.predict(columns[test], num_threads=1))
        booster = _booster(columns, target, settings)
        self.model_ = RemainingLength(
            booster.model_to_string(num_iteration=-1), _outlook(scores, looks, ranks, expected, answers, settings)
        )
        return self

    def export(self) -> dict[str, bytes]:
        """The files of an artifact."""
        return self.model_.export()


def look_at(answers: Answers, every: int) -> Looks:
    """Look at every answer before its first token, after 16, and after each ``every`` tokens while it runs."""
    features: list[Floats] = []
    places: list[tuple[int, int, int]] = []
    for row, (text, total) in enumerate(zip(answers.texts, answers.tokens.tolist(), strict=True)):
        counts = [k for k in sorted({0, _FIRST, *range(every, total, every)}) if k < total]
        reader, read = StreamReader(), 0
        for tokens, end in zip(counts, offsets(text, total, counts), strict=True):
            reader.feed(text[read:end])
            read = end
            features.append(reader.look(tokens))
            places.append((row, tokens, total - tokens))
    answer, tokens, left = np.array(places, dtype=np.int64).reshape(-1, 3).T
    return Looks(np.array(features).reshape(-1, len(FEATURES)), answer.astype(np.intp), tokens, left)


def columns_of(looks: Looks, ranks: Floats, expected: Floats) -> Floats:
    """The trees' columns (m, len(SCHEMA) - 1) of looks, given priors (n,) of their answers."""
    wanted = expected[looks.answer]
    return np.column_stack([ranks[looks.answer], wanted, wanted - looks.tokens, looks.features])


def prompt_priors(answers: Answers, lengths: LengthData, embeddings: NDArray[np.float32], known: set[str]) -> Priors:
    """What ``fast``, fitted on the prompts of ``lengths`` whose groups are ``known``, says of the answers' prompts: by
    inner folds of those that it was fitted on."""
    mask = np.array([group in known for group in lengths.groups], dtype=np.bool_)
    ranker = FastRanker().fit(lengths.take(mask), embeddings[mask])
    calibration = ranker.model_.calibration
    rank = np.empty(len(lengths))
    rank[mask] = calibration.ranks(ranker.out_of_fold_)
    if not mask.all():
        others = [prompt for prompt, inside in zip(lengths.prompts, mask, strict=True) if not inside]
        rank[~mask] = ranker.rank(others, embeddings[~mask])
    place = {group: i for i, group in enumerate(lengths.groups)}
    rows = np.array([place[group] for group in answers.groups], dtype=np.intp)
    return Priors(rank[rows], calibration.tokens(rank[rows]))


def _booster(columns: Floats, target: Floats, settings: RemainingSettings) -> lightgbm.Booster:
    parameters = {
        "objective": "regression",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": max(1, min(settings.least_in_leaf, len(target) // 20)),
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
    dataset = lightgbm.Dataset(columns, target, feature_name=list(SCHEMA[1:]))
    return lightgbm.train(parameters, dataset, settings.trees)


def _outlook(
    scores: Floats, looks: Looks, ranks: Floats, expected: Floats, answers: Answers, settings: RemainingSettings
) -> Outlook:
    """The table from held-out scores (m,): at each level, what was left of looks with scores near it."""
    places = (np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 0.5) / len(scores)
    at = np.linspace(0.0, 1.0, settings.levels)
    levels, first = np.unique(np.quantile(scores, at), return_index=True)
    smeared = _blurred(bin_of(looks.left.astype(np.float64)), settings.blur)
    share = np.empty((len(levels), BINS))
    for row, level in enumerate(at[first]):
        near = np.exp(-0.5 * ((places - level) / settings.width) ** 2)
        share[row] = near @ smeared / near.sum()
    share = (1.0 - settings.unseen) * share + settings.unseen / BINS
    middle = np.linspace(0.0, 1.0, 65)
    known_ranks, one = np.unique(np.quantile(ranks, middle), return_index=True)
    tokens = np.maximum.accumulate(np.quantile(expected, middle))[one] + 1e-6 * np.arange(len(one))
    seen = float(np.quantile(answers.tokens, 0.99))
    return Outlook(levels, np.log(share), known_ranks, tokens, seen, settings.keep, settings.weight)


def _blurred(bins: Rows, blur: float) -> Floats:
    """Indicators (m, BINS) of bins, smeared over their neighbours."""
    steps = np.arange(BINS)
    kernel = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / blur) ** 2)
    return np.asarray((kernel / kernel.sum(axis=1, keepdims=True))[bins], dtype=np.float64)
