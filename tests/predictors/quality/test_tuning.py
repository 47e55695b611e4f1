from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from predictors.quality.splits import Split
from predictors.quality.table import Labelled, join
from predictors.quality.tuning import Grid, Objective, TunedKnn
from tests.predictors.quality.labels import clusters

SMALL = Grid(k=(1, 20), kappa=(0.3,), whiten=(0.0,))


def noisy(data: Labelled, seed: int = 0) -> Labelled:
    """Labels of which a third are wrong: a single neighbour is then a bad guide, many are a good one."""
    wrong = np.random.default_rng(seed).random(len(data)) < 1 / 3
    return replace(data, quality=np.where(wrong[:, None], data.quality[:, [1, 0, 2]], data.quality))


@pytest.mark.parametrize("objective", list(Objective))
def test_noisy_labels_need_many_neighbours(objective: Objective) -> None:
    tuned = TunedKnn(SMALL, (Split.IN_DOMAIN,), objective).fit(noisy(clusters(300)))
    assert tuned.settings_.k == 20


def test_the_same_data_gives_the_same_choice_and_predictions() -> None:
    data, new = noisy(clusters(200)), clusters(20, seed=5).embeddings
    first, second = (TunedKnn(SMALL).fit(data) for _ in range(2))
    assert first.settings_ == second.settings_
    assert np.array_equal(first.predict(new), second.predict(new))


def test_it_never_looks_at_rows_it_is_not_given() -> None:
    """The choice depends on the training rows alone: labels outside them may be anything."""
    data = join(noisy(clusters(200)), clusters(50, task=1))
    turned = replace(data, quality=np.vstack([data.quality[:200], 1 - data.quality[200:]]))
    rows = np.arange(250) < 200
    assert TunedKnn(SMALL).fit(data.take(rows)).settings_ == TunedKnn(SMALL).fit(turned.take(rows)).settings_


def test_one_task_is_tuned_on_new_prompts_alone() -> None:
    data = clusters(100)
    single = replace(data, tasks=np.full(100, "only"))
    assert TunedKnn(SMALL).fit(single).settings_.k in (1, 20)


def test_a_grid_is_the_product_of_its_settings() -> None:
    assert len(tuple(Grid(k=(1, 2), kappa=(0.0, 1.0), power=(1.0,), guard=(0.0, 0.5), whiten=(0.0,)))) == 8
