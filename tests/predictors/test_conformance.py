"""What every predictor keeps to: the constructor stores, ``fit`` learns, ``predict`` is pure, export loses nothing.

A predictor joins by a :class:`Case` in ``CASES``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from predictors.length.baselines import EmbeddingRidge, MaxTokens, PromptLength
from predictors.length.lexical_train import LexicalRanker
from predictors.length.model import FastLength, LengthScores
from predictors.length.train import FastRanker
from predictors.quality.knn import KnnEstimator
from predictors.quality.model import KnnQuality, QualityScores, decode, encode
from predictors.quality.neighbours import KnnSettings
from predictors.quality.train import PriorQuality, RidgeQuality
from predictors.quality.tuning import Grid, TunedKnn
from tests.predictors.length import samples
from tests.predictors.quality.labels import MODELS, PRICES, clusters


@dataclass(frozen=True)
class Case:
    """``predict`` takes the estimator, or what ``reload`` gives, and the rows to predict; it returns arrays whose first
    axis are those rows. ``reload`` exports the fitted estimator and loads what serves, if it is served at all."""

    name: str
    make: Callable[[], Any]
    fit: Callable[[Any], Any]
    predict: Callable[[Any, NDArray[np.intp]], tuple[NDArray[Any], ...]]
    rows: int
    reload: Callable[[Any], Any] | None = None
    learns: bool = True


def _length_scores(model: Any, rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
    prompts, embeddings = samples.probes()
    scores: LengthScores = model.predict([prompts[i] for i in rows], embeddings[rows])
    return scores.rank, scores.tokens, scores.in_distribution


def _ranks(model: Any, rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
    prompts, embeddings = samples.probes()
    return (model.rank([prompts[i] for i in rows], embeddings[rows]),)


def _fit_length(estimator: Any) -> Any:
    return estimator.fit(samples.data(), samples.embeddings())


def _fit_quality(estimator: Any) -> Any:
    return estimator.fit(clusters(120))


def _qualities(model: Any, rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
    predicted = model.predict(clusters(25, seed=1).embeddings[rows])
    return (predicted.quality if isinstance(predicted, QualityScores) else predicted,)


def _reload_quality(estimator: KnnEstimator) -> KnnQuality:
    return KnnQuality(decode(encode(estimator.bank(MODELS, PRICES))))


WHITENED = KnnSettings(k=20, whiten=0.5)
SMALL = Grid(k=(5, 20), kappa=(1.0,))
CASES = [
    Case(
        "length/fast",
        lambda: FastRanker(samples.SMALL),
        _fit_length,
        _length_scores,
        samples.PROBES,
        reload=lambda estimator: FastLength.from_files(estimator.export()),
    ),
    Case("length/lexical", LexicalRanker, _fit_length, _ranks, samples.PROBES),
    Case("length/wordllama", EmbeddingRidge, _fit_length, _ranks, samples.PROBES),
    Case("length/prompt_length", PromptLength, _fit_length, _ranks, samples.PROBES, learns=False),
    Case("length/max_tokens", MaxTokens, _fit_length, _ranks, samples.PROBES, learns=False),
    Case("quality/knn", lambda: KnnEstimator(WHITENED), _fit_quality, _qualities, 25, reload=_reload_quality),
    Case("quality/tuned", lambda: TunedKnn(SMALL), _fit_quality, _qualities, 25),
    Case("quality/ridge", RidgeQuality, _fit_quality, _qualities, 25),
    Case("quality/prior", PriorQuality, _fit_quality, _qualities, 25),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def fitted(case: Case) -> Any:
    return case.fit(case.make())


def _same(left: tuple[NDArray[Any], ...], right: tuple[NDArray[Any], ...]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def _all(case: Case) -> NDArray[np.intp]:
    return np.arange(case.rows)


def test_the_constructor_only_stores(case: Case) -> None:
    estimator = case.make()
    parameters = inspect.signature(type(estimator)).parameters
    assert set(vars(estimator)) <= set(parameters)
    assert not [name for name in vars(estimator) if name.endswith("_")]


def test_fit_learns_what_ends_in_an_underscore_and_returns_itself(case: Case) -> None:
    estimator = case.make()
    before = dict(vars(estimator))
    assert case.fit(estimator) is estimator
    learned = set(vars(estimator)) - set(before)
    assert all(name.endswith("_") for name in learned)
    assert bool(learned) is case.learns
    assert {name: vars(estimator)[name] for name in before} == before


def test_predict_is_pure(case: Case, fitted: Any) -> None:
    names = set(vars(fitted))
    first = case.predict(fitted, _all(case))
    assert _same(first, case.predict(fitted, _all(case)))
    assert set(vars(fitted)) == names


def test_a_row_does_not_depend_on_its_neighbours(case: Case, fitted: Any) -> None:
    together = case.predict(fitted, _all(case))
    for row in _all(case):
        assert _same(case.predict(fitted, np.array([row])), tuple(array[row : row + 1] for array in together))


def test_predictions_are_finite(case: Case, fitted: Any) -> None:
    assert all(np.isfinite(array).all() for array in case.predict(fitted, _all(case)))


def test_no_rows_give_no_predictions(case: Case, fitted: Any) -> None:
    assert all(len(array) == 0 for array in case.predict(fitted, np.arange(0)))


def test_the_same_data_and_seed_learn_the_same(case: Case, fitted: Any) -> None:
    again = case.fit(case.make())
    assert _same(case.predict(again, _all(case)), case.predict(fitted, _all(case)))


@pytest.mark.parametrize("served", [case for case in CASES if case.reload is not None], ids=lambda case: case.name)
def test_what_is_exported_and_loaded_predicts_the_same_bits(served: Case) -> None:
    estimator = served.fit(served.make())
    assert served.reload is not None
    assert _same(served.predict(served.reload(estimator), _all(served)), served.predict(estimator, _all(served)))
