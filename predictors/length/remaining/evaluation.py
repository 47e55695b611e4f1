"""Judging ``remaining`` on answers to prompts that it never saw, at fixed numbers of visible tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from predictors.intervals import bootstrap
from predictors.length.remaining.data import Answers
from predictors.length.remaining.filter import expectation, pooled, quantile, shifted
from predictors.length.remaining.model import RemainingLength
from predictors.length.remaining.train import Looks, Priors, RemainingLearner, RemainingSettings, columns_of
from predictors.types import Interval

__all__ = [
    "VARIANTS",
    "Judged",
    "Knowledge",
    "Sayings",
    "expected_of",
    "judge",
    "out_of_fold",
    "priors_of_others",
    "sayings",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known before the first token: of the ``prompt`` its rank, of the ``model`` how long it usually writes."""

    prompt: bool = True
    model: bool = True


@dataclass(frozen=True, slots=True)
class Countdown:
    """How looks are joined; ``None`` for what was trained. Without ``text`` the first belief only counts down."""

    keep: float | None = None
    weight: float | None = None
    text: bool = True


VARIANTS: Final[Mapping[str, Countdown]] = MappingProxyType(
    {
        "remaining": Countdown(),
        "no_memory": Countdown(0.0, 1.0),
        "trail": Countdown(1.0, 1.0),
        "prompt_only": Countdown(text=False),
    }
)
"""Rows of the report: what ships, each look by itself, TRAIL's product of all looks, and no look at all."""


@dataclass(frozen=True, slots=True)
class Sayings:
    """What was said at each look (m,), in tokens."""

    expected: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Judged:
    """One variant at one number of tokens, over ``answers`` answers that still ran. ``coverage_90``: the share of them
    that ended by the 0.9 quantile; ``inside_80``: between the 0.1 and the 0.9 quantile. ``tau_b`` is NaN
    where all had as much left."""

    tau_b: Interval
    mae: Interval
    coverage_90: Interval
    inside_80: Interval
    answers: int


def priors_of_others(answers: Answers) -> Priors:
    """For each answer (n,) what the *other* models' answers to its prompt say. It knows true lengths, so it is no
    predictor: it says how far a perfect ranker of prompts would bring one."""
    log_tokens = np.log(answers.tokens)
    _, prompt = np.unique(np.asarray(answers.groups), return_inverse=True)
    total, count = np.bincount(prompt, log_tokens), np.bincount(prompt)
    mean = (total[prompt] - log_tokens) / np.maximum(count[prompt] - 1, 1)
    return Priors((rankdata(mean) - 0.5) / len(mean), np.exp(mean))


def expected_of(
    priors: Priors, answers: Answers, known: NDArray[np.bool_], knowledge: Knowledge
) -> tuple[Floats, Floats]:
    """Rank and expected tokens (n,) of each answer. A model's scale is its mean length over the ``known`` answers,
    over what a typical model was expected to write there."""
    count = len(answers)
    if not knowledge.prompt:
        middle = np.full(count, float(np.median(priors.typical[known])))
        priors = Priors(np.full(count, 0.5), middle)
    expected = priors.typical.copy()
    if knowledge.model:
        models = np.asarray(answers.models)
        for model in sorted(set(answers.models)):
            rows = (models == model) & known
            if rows.any():
                expected[models == model] *= answers.tokens[rows].mean() / priors.typical[rows].mean()
    return priors.rank, expected


def out_of_fold(
    answers: Answers,
    looks: Looks,
    folds: Rows,
    priors: Callable[[set[str]], Priors],
    knowledge: Knowledge,
    settings: RemainingSettings,
) -> dict[str, Sayings]:
    """What each of :data:`VARIANTS` says at every look, by a model fitted without the answer's fold (n,), whose priors
    ``priors(groups)`` come from a ranker fitted on these groups alone."""
    groups = np.asarray(answers.groups)
    said = {name: Sayings(*(np.empty(len(looks.left)) for _ in range(3))) for name in VARIANTS}
    for fold in np.unique(folds):
        known = folds != fold
        rank, expected = expected_of(priors(set(groups[known])), answers, known, knowledge)
        learner = RemainingLearner(settings).fit(answers.take(known), rank[known], expected[known], _of(looks, known))
        rows = ~known[looks.answer]
        for name, part in sayings(learner.model_, _of(looks, ~known), rank[~known], expected[~known]).items():
            for whole, piece in zip(_columns(said[name]), _columns(part), strict=True):
                whole[rows] = piece
    return said


def sayings(model: RemainingLength, looks: Looks, ranks: Floats, expected: Floats) -> dict[str, Sayings]:
    """What each variant of a model says at looks, which are in order, answer by answer."""
    columns = columns_of(looks, ranks, expected)
    log_shares = [model.outlook.at(model.score(row[3:], (row[0], row[1]))) for row in columns]
    return {name: _walk(model, looks, log_shares, way) for name, way in VARIANTS.items()}


def judge(said: Sayings, looks: Looks, groups: Sequence[str], tokens: int, seed: int, resamples: int) -> Judged | None:
    """Judge what was said after so many ``tokens``; intervals resample whole prompts. ``None`` where no answer ran."""
    rows = np.flatnonzero(looks.tokens == tokens)
    if len(rows) < 2:
        return None
    _, prompt = np.unique(np.asarray(groups)[looks.answer[rows]], return_inverse=True)
    members = [rows[prompt == i] for i in range(int(prompt.max()) + 1)]
    left = looks.left.astype(np.float64)

    def over(statistic: Callable[[Rows], float]) -> Interval:
        def drawn(prompts: Rows) -> float:
            return statistic(np.concatenate([members[i] for i in prompts]))

        return bootstrap(drawn, np.arange(len(members)), seed=seed, resamples=resamples)

    return Judged(
        over(lambda at: float(kendalltau(said.expected[at], left[at]).statistic)),
        over(lambda at: float(np.abs(said.expected[at] - left[at]).mean())),
        over(lambda at: float((left[at] <= said.high[at]).mean())),
        over(lambda at: float(((said.low[at] <= left[at]) & (left[at] <= said.high[at])).mean())),
        len(rows),
    )


def _walk(model: RemainingLength, looks: Looks, log_shares: Sequence[Floats], way: Countdown) -> Sayings:
    outlook = replace(
        model.outlook,
        keep=model.outlook.keep if way.keep is None else way.keep,
        weight=model.outlook.weight if way.weight is None else way.weight,
    )
    said = Sayings(*(np.empty(len(log_shares)) for _ in range(3)))
    belief, before = np.exp(log_shares[0]), 0
    for i, (tokens, log_share) in enumerate(zip(looks.tokens.tolist(), log_shares, strict=True)):
        if tokens == 0:
            belief = np.exp(log_share) / np.exp(log_share).sum()
        else:
            belief = shifted(belief, tokens - before)
            if way.text:
                belief = pooled(belief, log_share, outlook.keep, outlook.weight)
        before = tokens
        said.expected[i], said.low[i], said.high[i] = expectation(belief), quantile(belief, 0.1), quantile(belief, 0.9)
    return said


def _of(looks: Looks, kept: NDArray[np.bool_]) -> Looks:
    """Looks at the kept answers (n,), whose rows are numbered anew."""
    rows, place = kept[looks.answer], np.cumsum(kept) - 1
    return Looks(looks.features[rows], place[looks.answer[rows]], looks.tokens[rows], looks.left[rows])


def _columns(said: Sayings) -> tuple[Floats, Floats, Floats]:
    return said.expected, said.low, said.high
