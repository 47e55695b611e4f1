from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.quality.splits import Split, by_content, by_task, split
from tests.predictors.quality.labels import clusters


@given(st.integers(2, 12))
def test_equal_prompts_never_straddle_folds(folds: int) -> None:
    data = clusters(200)
    doubled = replace(data, keys=np.repeat(data.keys[:100], 2))
    dealt = by_content(doubled, folds)
    assert np.array_equal(dealt[::2], dealt[1::2])
    assert set(dealt.tolist()) <= set(range(folds))


def test_content_folds_are_of_about_the_same_size() -> None:
    assert np.bincount(by_content(clusters(5000), 5)).min() > 850


def test_an_inner_split_of_an_outer_fold_is_not_lopsided() -> None:
    data = clusters(10_000)
    inner = by_content(data.take(by_content(data, 5) != 0), 5, salt=1)
    assert np.bincount(inner, minlength=5).min() > 1400


def test_no_task_is_on_both_sides() -> None:
    data = clusters(90)
    names = np.array([f"t{i % 9}" for i in range(90)])
    for folds in (3, 20):
        dealt = by_task(replace(data, tasks=names), folds)
        assert all(len(set(dealt[names == name].tolist())) == 1 for name in set(names.tolist()))
        assert len(set(dealt.tolist())) == min(folds, 9)


def test_tasks_are_dealt_evenly() -> None:
    names = np.array(["large"] * 50 + ["a"] * 20 + ["b"] * 20 + ["c"] * 10)
    assert sorted(np.bincount(by_task(replace(clusters(100), tasks=names), 2)).tolist()) == [50, 50]


def test_a_transfer_is_not_dealt() -> None:
    with pytest.raises(ValueError, match="training rows"):
        split(clusters(), Split.TRANSFER, 5)
