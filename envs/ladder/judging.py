"""From collected answers to figures: how good, how long and how different the members of a ladder are.

Pure functions. A failed request is a wrong answer without a length. Shares have Wilson's interval; quantiles,
differences and Kendall's tau a bootstrap over prompts, all models of a prompt together; timings the order statistics of
their rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, kendalltau

from envs.collection import Row
from envs.ladder.step_time import Round
from predictors.intervals import bootstrap, bootstrap_mean, wilson
from predictors.types import Interval

_HALF: Final = 0.5
"""A model fails where its accuracy is surely below this, and succeeds where it is surely above."""
_COVERAGE: Final = 0.95


class JudgingError(ValueError):
    """The rows cannot be judged. Says why."""


Labels = Mapping[str, str | int | float | bool | None]
Metrics = Mapping[str, Interval | float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a report: what it is about, and what was found."""

    labels: Labels
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are resampled."""

    seed: int = 0
    resamples: int = 1000


@dataclass(frozen=True, slots=True)
class Answers:
    """First answers of several models to the same prompts. Two-dimensional arrays are (prompts, models)."""

    models: tuple[str, ...]
    """From the smallest to the largest."""
    families: NDArray[np.str_]
    levels: NDArray[np.int64]
    wordings: NDArray[np.str_]
    """``usual``, or ``test`` where the phrasing or the instruction is kept for test."""
    styles: NDArray[np.str_]
    correct: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    """Whether the answer ended at the limit of tokens."""
    tokens: NDArray[np.float64]
    """Of the answer; NaN where it failed."""
    latency: NDArray[np.float64]
    """Seconds from sending to the end; NaN where it failed."""

    def __len__(self) -> int:
        return len(self.families)


def models_in(rows: Iterable[Row], known: Sequence[str] = ()) -> tuple[str, ...]:
    """The models of these rows: those of ``known`` in its order, then the others as they come."""
    found = tuple(dict.fromkeys(row.model for row in rows))
    return (*(name for name in known if name in found), *(name for name in found if name not in known))


def tabulate(rows: Iterable[Row], models: Sequence[str]) -> Answers:
    """The first answers to all prompts that every model was asked.

    Raises:
        JudgingError: there is no such prompt, or one is not of the task suite.
    """
    first = {(row.prompt_id, row.model): row for row in rows if row.sample == 0}
    prompts = sorted({prompt for prompt, _ in first})
    asked = [[first[prompt, model] for model in models] for prompt in prompts if _complete(first, prompt, models)]
    if not asked or not models:
        raise JudgingError(f"no prompt was asked of every one of {', '.join(models) or 'no model'}")
    heads = [row for row, *_ in asked]
    stray = next((row for row in heads if row.family is None or row.level is None or row.wording is None), None)
    if stray is not None:
        raise JudgingError(f"prompt {stray.prompt_id} is not of the task suite: its answer cannot be checked")
    whole = [[row.error is None for row in line] for line in asked]
    return Answers(
        models=tuple(models),
        families=np.array([row.family for row in heads]),
        levels=np.array([row.level for row in heads], dtype=np.int64),
        wordings=np.array(["test" if kept_for_test(str(row.wording)) else "usual" for row in heads]),
        styles=np.array([str(row.wording).rsplit("/", 1)[-1] for row in heads]),
        correct=np.array([[row.error is None and bool(row.correct) for row in line] for line in asked]),
        failed=~np.array(whole),
        cut=np.array([[row.error is None and row.finish_reason == "length" for row in line] for line in asked]),
        tokens=np.array([[_length(row) for row in line] for line in asked]),
        latency=np.array([[row.e2e_s if row.error is None else np.nan for row in line] for line in asked]),
    )


def kept_for_test(wording: str) -> bool:
    """Whether a wording like ``0/t2/steps`` occurs in the test split only."""
    return any(part.startswith("t") for part in wording.split("/")[:-1])


def _complete(first: Mapping[tuple[str, str], Row], prompt: str, models: Sequence[str]) -> bool:
    return all((prompt, model) in first for model in models)


def _length(row: Row) -> float:
    return np.nan if row.error is not None or row.output_tokens is None else float(row.output_tokens)


def overall(answers: Answers, how: Bootstrap) -> Iterator[Figure]:
    """For each model: accuracy, lengths (tokens), latency (seconds), share of answers cut off, requests that failed."""
    for place, model in enumerate(answers.models):
        tokens = _finite(answers.tokens[:, place])
        latency = _finite(answers.latency[:, place])
        metrics: Metrics = {
            "accuracy": _share(answers.correct[:, place]),
            "prompts": float(len(answers)),
            "failed": float(answers.failed[:, place].sum()),
            "cut": _share(answers.cut[:, place]),
            "output_tokens_mean": bootstrap_mean(tokens, how.seed, how.resamples) if tokens.size else None,
            "output_tokens_p50": _quantile(tokens, 0.5, how),
            "output_tokens_p95": _quantile(tokens, 0.95, how),
            "p95_over_p50": _spread(tokens, how),
            "latency_p50_s": _quantile(latency, 0.5, how),
            "latency_p95_s": _quantile(latency, 0.95, how),
        }
        yield Figure({"setting": "overall", "model": model}, metrics)


def slices(answers: Answers, how: Bootstrap) -> Iterator[Figure]:
    """For each model, by family, level, wording and style: accuracy and lengths."""
    keys: dict[str, NDArray[Any]] = {
        "family": answers.families,
        "level": answers.levels,
        "wording": answers.wordings,
        "style": answers.styles,
    }
    for name, values in keys.items():
        for value in np.unique(values):
            mask = values == value
            for place, model in enumerate(answers.models):
                tokens = _finite(answers.tokens[mask, place])
                metrics: Metrics = {
                    "accuracy": _share(answers.correct[mask, place]),
                    "prompts": float(mask.sum()),
                    "output_tokens_p50": _quantile(tokens, 0.5, how),
                    "output_tokens_p95": _quantile(tokens, 0.95, how),
                }
                yield Figure({"setting": name, "model": model, name: value.item()}, metrics)


def cells(answers: Answers) -> Iterator[Figure]:
    """Accuracy of each model in each family at each level."""
    for family, level, mask in _cells(answers):
        for place, model in enumerate(answers.models):
            metrics: Metrics = {"accuracy": _share(answers.correct[mask, place]), "prompts": float(mask.sum())}
            yield Figure({"setting": "cell", "model": model, "family": family, "level": level}, metrics)


def separation(answers: Answers) -> Iterator[Figure]:
    """For each family and level: whether the smallest model surely fails there and the largest surely succeeds."""
    for family, level, mask in _cells(answers):
        smallest, largest = _share(answers.correct[mask, 0]), _share(answers.correct[mask, -1])
        apart = smallest.hi < _HALF < largest.lo
        labels: Labels = {"setting": "separation", "family": family, "level": level, "separates": apart}
        yield Figure(labels, {"smallest": smallest, "largest": largest, "prompts": float(mask.sum())})


def step_up(answers: Answers, how: Bootstrap) -> Iterator[Figure]:
    """What each model has over the next smaller one, on the same prompts."""
    for lower, upper in pairwise(range(len(answers.models))):
        gain = answers.correct[:, upper].astype(float) - answers.correct[:, lower]
        labels: Labels = {"setting": "step_up", "model": answers.models[upper], "over": answers.models[lower]}
        yield Figure(labels, {"accuracy_gain": bootstrap_mean(gain, how.seed, how.resamples)})


def oracle(answers: Answers, how: Bootstrap) -> Figure:
    """What a router could win: the best answer of any model, the best single model, and the one less the other."""
    best, top = int(answers.correct.mean(axis=0).argmax()), len(answers.models) - 1
    any_right: NDArray[np.bool_] = np.logical_or.reduce(answers.correct, axis=1)
    metrics = {
        "oracle": _share(any_right),
        "best_single": _share(answers.correct[:, best]),
        "oracle_minus_best": _difference(any_right, answers.correct[:, best], how),
        "oracle_minus_top": _difference(any_right, answers.correct[:, top], how),
    }
    return Figure({"setting": "oracle", "best": answers.models[best], "top": answers.models[top]}, metrics)


def length_ceiling(rows: Iterable[Row], models: Sequence[str], how: Bootstrap) -> Iterator[Figure]:
    """Kendall's tau-b between the lengths of two answers of the same model to the same prompt.

    How far the prompt decides the length. A ranker that knew each prompt's typical length would agree with a single
    answer at least as well, since only one of the two is then drawn.
    """
    lengths = {row.key: row.output_tokens for row in rows if row.error is None and row.output_tokens is not None}
    for model in models:
        prompts = sorted(prompt for prompt, name, sample in lengths if name == model and sample == 0)
        twice = [prompt for prompt in prompts if (prompt, model, 1) in lengths]
        both = [(lengths[prompt, model, 0], lengths[prompt, model, 1]) for prompt in twice]
        tau = bootstrap(_tau_b, np.array(both), seed=how.seed, resamples=how.resamples) if len(both) > 1 else None
        defined = tau if tau is not None and not np.isnan(tau.value) else None
        yield Figure({"setting": "length_ceiling", "model": model}, {"tau_b": defined, "prompts": float(len(both))})


def step_times(rounds: Sequence[Round], models: Sequence[str]) -> Iterator[Figure]:
    """Seconds a decoding step and tokens a second of each model, and its step beside that of the next smaller one."""
    for in_flight in sorted({one.in_flight for one in rounds}):
        by = {(one.model, one.repeat): one for one in rounds if one.in_flight == in_flight}
        for smaller, model in pairwise((None, *(name for name in models if any(name == m for m, _ in by)))):
            own = [one for (name, _), one in by.items() if name == model]
            below = {one.repeat: by[smaller, one.repeat] for one in own if smaller and (smaller, one.repeat) in by}
            ratios = [one.step_s / below[one.repeat].step_s for one in own if one.repeat in below]
            metrics: Metrics = {
                "step_s": median_interval([one.step_s for one in own]),
                "tokens_per_s": median_interval([one.tokens_per_s for one in own]),
                "step_ratio": median_interval(ratios) if ratios else None,
                "repeats": float(len(own)),
            }
            yield Figure({"setting": "step_time", "model": model, "over": smaller, "in_flight": in_flight}, metrics)


def median_interval(values: Sequence[float]) -> Interval:
    """Median with the order statistics that cover it with at least 95 %; the extremes where there are fewer than six.

    It asks nothing of the distribution, so that a disturbed round moves it little.
    """
    if not values:
        raise ValueError("a median needs at least one value")
    ordered = sorted(values)
    n = len(ordered)
    inside = [place for place in range(n // 2) if 1 - 2 * binom.cdf(place, n, 0.5) >= _COVERAGE]
    place = max(inside, default=0)
    return Interval(float(np.median(ordered)), ordered[place], ordered[n - 1 - place])


def _cells(answers: Answers) -> Iterator[tuple[str, int, NDArray[np.bool_]]]:
    for family in np.unique(answers.families):
        for level in np.unique(answers.levels):
            mask = (answers.families == family) & (answers.levels == level)
            if mask.any():
                yield str(family), int(level), mask


def _share(hits: NDArray[np.bool_]) -> Interval:
    return wilson(int(hits.sum()), hits.size)


def _difference(mine: NDArray[np.bool_], other: NDArray[np.bool_], how: Bootstrap) -> Interval:
    return bootstrap_mean(mine.astype(float) - other, how.seed, how.resamples)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite: NDArray[np.float64] = values[~np.isnan(values)]
    return finite


def _quantile(values: NDArray[np.float64], q: float, how: Bootstrap) -> Interval | None:
    if not values.size:
        return None
    return bootstrap(lambda v: float(np.quantile(v, q)), values, seed=how.seed, resamples=how.resamples)


def _spread(values: NDArray[np.float64], how: Bootstrap) -> Interval | None:
    """95th percentile of the lengths over their median; an answer has at least one token (the end)."""
    if not values.size or np.median(values) <= 0:
        return None

    def ratio(sample: NDArray[np.float64]) -> float:
        half, most = np.quantile(sample, (0.5, 0.95))
        return float(most / half) if half > 0 else float("nan")

    return bootstrap(ratio, values, seed=how.seed, resamples=how.resamples)


def _tau_b(pairs: NDArray[np.int64]) -> float:
    return float(kendalltau(pairs[:, 0], pairs[:, 1]).statistic)
