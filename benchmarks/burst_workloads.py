"""What ``benchmarks.burst`` asks for: requests with true lengths, and what rankers of several kinds say of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from controller.types import Scores

if TYPE_CHECKING:
    from predictors.length.data import LengthData
    from predictors.length.estimator import LengthEstimator

TRUTH: Final = "truth"
LONGEST: Final = 4096
"""Tokens of a prompt, and of an answer, at most: both fit the engine's context."""
_CHARS_PER_TOKEN: Final = 4.0
_LEAST_PROMPTS: Final = 300
_FOLDS: Final = 5
_BINS: Final = 16
_LEAST_RISE: Final = 0.5
"""Tokens, over the whole range of scores."""
LEARNED: Final = ("buckets", "lexical", "fast")
"""Rankers of :data:`predictors.length.baselines.RANKERS` that are fitted here; ``buckets`` is the classifier."""
_SPREAD: Final = 1.0
"""Of made lengths between prompts, in logarithms."""
_LEAST_DOUBT, _MOST_DOUBT = 0.2, 1.0
"""Of made lengths between answers to one prompt, in logarithms; each prompt has its own."""
_BEYOND: Final = 1.2815515655446004
"""The normal distribution's 0.9 quantile."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sized:
    """Requests: tokens (n,), and by ranker the expected tokens (n,), and the tail's where the ranker knows it."""

    prompt_tokens: Integers
    output_tokens: Integers
    expected: Mapping[str, Floats]
    tail: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def scores(self, ranker: str | None) -> list[Scores | None]:
        """What a ranker says of each request; ``None`` for nobody."""
        if ranker is None:
            return [None] * len(self)
        expected = self.output_tokens.astype(float) if ranker == TRUTH else self.expected[ranker]
        if (tail := self.tail.get(ranker)) is None:
            return [Scores(one, one) for one in expected.tolist()]
        pairs = zip(expected.tolist(), tail.tolist(), strict=True)
        return [Scores(one, one, output_tail=beyond) for one, beyond in pairs]


class Workload(Protocol):
    """A source of requests."""

    @property
    def name(self) -> str: ...

    @property
    def rankers(self) -> tuple[str, ...]:
        """Who says something of its requests, besides the truth."""
        ...

    def draw(self, count: int, seed: int) -> Sized:
        """So many requests."""
        ...


class Made:
    """Log-normal lengths with given means: a prompt has a typical length, and doubt about it of its own.

    ``doubt`` knows both, as well as can be known. ``tau=…`` is the truth, with so much noise on its logarithm that
    Kendall's tau between the two is as it says.
    """

    def __init__(self, name: str, prompt_mean: float, output_mean: float, taus: tuple[float, ...]) -> None:
        self.name = name
        self._means = prompt_mean, output_mean
        self._noise = {f"tau={tau:.2f}": _noise_of(tau) for tau in taus}
        self.rankers = (*self._noise, "doubt")

    def draw(self, count: int, seed: int) -> Sized:
        """See :class:`Workload`."""
        rng = np.random.default_rng([seed, 17])
        doubt = rng.uniform(_LEAST_DOUBT, _MOST_DOUBT, count)
        typical = rng.normal(0.0, _SPREAD, count)
        middle = np.log(self._means[1]) - np.log(np.mean(np.exp(typical + doubt**2 / 2.0)))
        logs = middle + typical + doubt * rng.normal(size=count)
        prompts = _cut(rng.lognormal(np.log(self._means[0]) - 0.5, 1.0, count))
        expected = {
            name: np.exp(logs + np.std(logs) * noise * rng.normal(size=count)) for name, noise in self._noise.items()
        }
        expected["doubt"] = np.exp(middle + typical + doubt**2 / 2.0)
        tail = expected["doubt"] * _upper(doubt)
        return Sized(prompts, _cut(np.exp(logs)), expected, {"doubt": tail})


def _upper(sigma: Floats) -> Floats:
    """CVaR₀.₉ over the mean of log-normals."""
    from scipy.special import ndtr

    return np.asarray(ndtr(sigma - _BEYOND) / 0.1)


def _noise_of(tau: float) -> float:
    """Noise over signal, both normal, at which Kendall's tau is that: tau = 2/π·asin(correlation)."""
    correlation = np.sin(np.pi / 2.0 * tau)
    return float(np.sqrt(1.0 / correlation**2 - 1.0))


def _cut(values: Floats) -> Integers:
    return np.clip(np.round(values), 1, LONGEST).astype(np.int64)


class Arena:
    """Real prompts, with the lengths of one model's answers to them at each seed; drawn with replacement.

    Every ranker was fitted without the prompt's fold. ``extra`` are scores (prompts,) of further rankers, from outside.
    """

    def __init__(self, data: LengthData, rankers: Mapping[str, Floats]) -> None:
        self.name = "arena"
        self._data, self._expected = data, rankers
        self.rankers = tuple(rankers)
        self.models = np.flatnonzero((~np.isnan(data.tokens)).sum(axis=0) >= _LEAST_PROMPTS)
        """Columns with enough prompts."""

    def draw(self, count: int, seed: int) -> Sized:
        """See :class:`Workload`."""
        rng = np.random.default_rng([seed, 23])
        column = self.models[seed % len(self.models)]
        known = np.flatnonzero(~np.isnan(self._data.tokens[:, column]))
        rows = rng.choice(known, count)
        chars = np.array([len(self._data.prompts[row].text) for row in rows], float)
        output = _cut(self._data.tokens[rows, column])
        return Sized(
            _cut(chars / _CHARS_PER_TOKEN), output, {name: all_[rows] for name, all_ in self._expected.items()}
        )


def read_arena(folder: Path, scores: Path | None, progress: Callable[[str], None]) -> Arena:
    """The real prompts, scored by every ranker; what the scores' file has is not fitted here.

    Raises:
        ValueError: the scores' file is not of these prompts.
    """
    from predictors.embedding import Embedder
    from predictors.length.baselines import RANKERS
    from predictors.length.data import read_arena as read

    found = read(folder)
    embeddings = Embedder().embed([prompt.text for prompt in found.prompts])
    given = {} if scores is None else _read_scores(scores, found)
    raw: dict[str, Floats] = {}
    for name in LEARNED:
        progress(name)
        raw[name] = given.pop(name) if name in given else _cross_fitted(found, embeddings, RANKERS[name])
    raw.update(given)
    rankers = {name: _in_tokens(found, values) for name, values in raw.items()}
    return Arena(found, rankers)


def _folds(found: LengthData) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    from predictors.length.train import grouped_folds, splits

    return list(splits(grouped_folds(found.groups, _FOLDS, 0)))


def _cross_fitted(
    found: LengthData, embeddings: npt.NDArray[np.float32], make: Callable[[], LengthEstimator]
) -> Floats:
    """Scores (n,) of every prompt by a ranker that was fitted without its fold."""
    scores = np.empty(len(found))
    for train, test in _folds(found):
        ranker = make().fit(found.take(train), embeddings[train])
        scores[test] = ranker.rank([found.prompts[i] for i in test], embeddings[test])
    return scores


def _in_tokens(found: LengthData, scores: Floats) -> Floats:
    """Scores (n,) of any unit as expected tokens of a typical model, by a monotone map fitted to the other folds:
    isotonic regression of the mean lengths of bins, with a least rise so that no two scores become one."""
    from scipy.optimize import isotonic_regression

    from predictors.length.target import consensus

    tokens = np.empty(len(found))
    for train, test in _folds(found):
        typical = np.exp(consensus(found.take(train)).log_tokens)
        order = np.argsort(scores[train], kind="stable")
        parts = np.array_split(order, _BINS)
        at, first = np.unique([scores[train][part].mean() for part in parts], return_index=True)
        means = isotonic_regression(np.array([typical[part].mean() for part in parts])[first]).x
        tokens[test] = np.interp(scores[test], at, means) + _LEAST_RISE * (1.0 + np.tanh(_standard(scores, test)))
    return tokens


def _standard(scores: Floats, rows: npt.NDArray[np.intp]) -> Floats:
    spread = float(scores.std())
    return np.asarray((scores[rows] - scores.mean()) / (spread if spread > 0 else 1.0))


def _read_scores(path: Path, found: LengthData) -> dict[str, Floats]:
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if "group" not in arrays:
        raise ValueError(f"{path} has no array 'group' of the prompts' content hashes")
    row = {str(group): i for i, group in enumerate(arrays.pop("group"))}
    if missing := sum(group not in row for group in found.groups):
        raise ValueError(f"{path} has no scores of {missing} of the {len(found)} prompts")
    rows = [row[group] for group in found.groups]
    return {name: np.asarray(values, float)[rows] for name, values in sorted(arrays.items())}
