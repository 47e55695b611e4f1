from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import pytest

from predictors.quality.evaluation import Judgement, Study, judge
from predictors.quality.splits import NEVER, Split, by_content
from predictors.quality.table import Labelled, join
from predictors.types import Interval
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


def value(metric: Interval | None) -> float:
    assert metric is not None
    return metric.value


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
    assert value(judged["perfect"]["accuracy"]) == 1.0
    assert value(judged["perfect"]["gap_closed"]) == pytest.approx(1.0)
    assert value(judged["perfect"]["brier"]) == 0.0
    assert value(judged["perfect"]["ece"]) == 0.0
    assert value(judged["oracle"]["aiq"]) == pytest.approx(value(judged["perfect"]["aiq"]))


def test_figures_by_hand() -> None:
    """Cheap is right on one half, dear on the other: any single model scores 0.5, and the hull is flat."""
    one = study()
    data = replace(one.judged, quality=clusters(200).quality)
    constant = np.tile(np.array([0.5, 0.4, 0.0], np.float32), (200, 1))
    judged = judge({"constant": constant}, one.references(), data, QUICK)
    assert value(judged["zero"]["aiq"]) == pytest.approx(0.5)
    assert value(judged["constant"]["accuracy"]) == pytest.approx(0.5)
    assert value(judged["constant"]["cost"]) == pytest.approx(1e-5)
    assert value(judged["constant"]["aiq_vs_zero"]) == pytest.approx(0.0)
    assert value(judged["constant"]["brier"]) == pytest.approx((0.25 + (0.16 + 0.36) / 2) / 3)
    assert value(judged["constant"]["ece"]) == pytest.approx((0.0 + 0.1 + 0.0) / 3)


def test_intervals_hold_their_value_and_shrink_with_more_prompts() -> None:
    widths = []
    for n in (60, 960):
        one = study(clusters(n))
        prediction = np.random.default_rng(0).random((n, 3)).astype(np.float32)
        judged = judge({"chance": prediction}, one.references(), one.judged, QUICK)
        for metric in judged["chance"].values():
            assert metric is not None
            assert metric.lo - 0.05 <= metric.value <= metric.hi + 0.05
        accuracy = judged["chance"]["accuracy"]
        assert accuracy is not None
        widths.append(accuracy.hi - accuracy.lo)
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
    assert value(judged["perfect"]["apgr"]) == pytest.approx(0.75)
    assert value(judged["perfect"]["cpt50"]) == pytest.approx(0.25)


def test_where_every_model_is_as_good_there_is_no_gap_to_close() -> None:
    data = clusters(50)
    same = replace(data, quality=np.ones((50, 3), np.float32), costs=np.ones((50, 3)))
    judged = judge({"any": same.quality}, study(same).references(), same, QUICK)
    assert judged["any"]["aiq"] is None
    assert judged["any"]["gap_closed"] is None
    assert value(judged["any"]["accuracy"]) == 1.0
