from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import pytest

from predictors.quality.evaluation import Judgement, Study, judge
from predictors.quality.splits import NEVER, Split, by_content
from predictors.quality.table import Labelled, join
from tests.predictors.quality.labels import clusters

QUICK = Judgement(seed=0, resamples=60)


class Remembers:
    """Predicts 1 for every model where it has seen this very prompt, else 0."""

    def fit(self, data: Labelled) -> Self:
        self.seen_ = {row.tobytes() for row in data.embeddings}
        return self

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        known = [[float(row.tobytes() in self.seen_)] * 3 for row in embeddings]
        return np.array(known, dtype=np.float32)


def study(data: Labelled | None = None) -> Study:
    data = data or clusters(200)
    return Study("made_up", Split.IN_DOMAIN, data, by_content(data, 4))


def test_no_prompt_is_predicted_by_an_estimator_that_saw_it() -> None:
    assert study().predict(Remembers).max() == 0.0


def test_rows_that_are_never_held_out_are_trained_on_and_not_judged() -> None:
    train, test = clusters(30), clusters(20, task=1)
    transfer = Study("t", Split.TRANSFER, join(train, test), np.repeat([NEVER, 0], [30, 20]))
    assert len(transfer.training) == 30
    assert np.array_equal(transfer.judged.embeddings, test.embeddings)
    assert transfer.predict(Remembers).shape == (20, 3)
    assert transfer.references()["best_single"].quality.shape == (20, 1)


def test_the_best_single_model_is_chosen_on_training_rows() -> None:
    train, test = clusters(30), clusters(20)
    train = replace(train, quality=np.tile(np.array([0, 0, 1], np.float32), (30, 1)))
    transfer = Study("t", Split.TRANSFER, join(train, test), np.repeat([NEVER, 0], [30, 20]))
    # "useless" was best in training and answers nothing in the test.
    assert transfer.references()["best_single"].quality.mean() == 0.0


def test_perfect_predictions_are_the_oracle() -> None:
    one = study()
    judged = judge({"perfect": one.judged.quality}, one.references(), one.judged, QUICK)
    assert judged["perfect"]["accuracy"].value == 1.0
    assert judged["perfect"]["gap_closed"].value == pytest.approx(1.0)
    assert judged["perfect"]["brier"].value == 0.0
    assert judged["perfect"]["ece"].value == 0.0
    assert judged["oracle"]["aiq"].value == pytest.approx(judged["perfect"]["aiq"].value)


def test_figures_by_hand() -> None:
    """Cheap is right on one half, dear on the other: any single model scores 0.5, and the hull is flat."""
    one = study()
    data = replace(one.judged, quality=clusters(200).quality)
    constant = np.tile(np.array([0.5, 0.4, 0.0], np.float32), (200, 1))
    judged = judge({"constant": constant}, one.references(), data, QUICK)
    assert judged["zero"]["aiq"].value == pytest.approx(0.5)
    assert judged["constant"]["accuracy"].value == pytest.approx(0.5)
    assert judged["constant"]["cost"].value == pytest.approx(1e-5)
    assert judged["constant"]["aiq_vs_zero"].value == pytest.approx(0.0)
    assert judged["constant"]["brier"].value == pytest.approx((0.25 + (0.16 + 0.36) / 2) / 3)
    assert judged["constant"]["ece"].value == pytest.approx((0.0 + 0.1 + 0.0) / 3)


def test_intervals_hold_their_value_and_shrink_with_more_prompts() -> None:
    widths = []
    for n in (60, 960):
        one = study(clusters(n))
        prediction = np.random.default_rng(0).random((n, 3)).astype(np.float32)
        judged = judge({"chance": prediction}, one.references(), one.judged, QUICK)
        for metric in judged["chance"].values():
            assert metric.lo - 0.05 <= metric.value <= metric.hi + 0.05
        widths.append(judged["chance"]["accuracy"].hi - judged["chance"]["accuracy"].lo)
    assert widths[1] < widths[0] / 2


def test_the_same_seed_gives_the_same_intervals() -> None:
    one = study()
    first, second = (judge({"a": one.judged.quality}, one.references(), one.judged, QUICK) for _ in range(2))
    assert first == second


def test_two_models_are_judged_by_the_share_of_strong_calls_too() -> None:
    data = clusters(100)
    pair = replace(data, quality=data.quality[:, :2], costs=np.tile([0.0, 1.0], (100, 1)))
    pair = replace(pair, quality=np.stack([pair.quality[:, 0], np.ones(100)], axis=1).astype(np.float32))
    one = study(pair)
    judged = judge({"perfect": pair.quality}, one.references(), pair, QUICK)
    # Half of the prompts need the strong model; ranked perfectly, half of the calls recover everything.
    assert judged["perfect"]["apgr"].value == pytest.approx(0.75)
    assert judged["perfect"]["cpt50"].value == pytest.approx(0.25)
