from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.length.data import Answer, LengthData, from_answers, merge
from predictors.length.target import consensus, within_model_ranks
from predictors.types import Prompt


def data(lengths: dict[str, list[int | None]], source: str = "s") -> LengthData:
    answers = [
        Answer(Prompt(f"{source} {i}"), model, length)
        for model, column in lengths.items()
        for i, length in enumerate(column)
        if length is not None
    ]
    return from_answers(answers, source, "MIT")


def test_a_verbose_model_does_not_outweigh_the_others() -> None:
    labels = consensus(data({"a": [1, 2, 3], "b": [1, 2, 3], "verbose": [90_000, 40_000, 20_000]}))
    assert list(np.argsort(labels.place)) == [0, 1, 2]


def test_a_prompt_answered_once_weighs_less() -> None:
    labels = consensus(data({"a": [5, 6, 7], "b": [5, 6, None]}))
    assert labels.weight[2] < labels.weight[0] == labels.weight[1]
    assert labels.weight.mean() == pytest.approx(1.0)


def test_expected_tokens_lie_between_the_models() -> None:
    labels = consensus(data({"a": [10, 20, 40, 80], "b": [40, 80, 160, 320]}))
    tokens = np.exp(labels.log_tokens)
    assert ((tokens > [10, 20, 40, 40]) & (tokens < [40, 80, 160, 320])).all()


def test_sources_are_ranked_by_length_not_by_place() -> None:
    short, long = data({"a": [1, 2, 3, 4]}, "short"), data({"a": [1000, 2000, 3000, 4000]}, "long")
    labels = consensus(merge([long, short]))
    assert labels.place[:4] == pytest.approx(labels.place[4:])
    assert labels.level[:4].min() > labels.level[4:].max()
    assert len(set(labels.source)) == 2


@given(st.lists(st.integers(1, 50), min_size=2, max_size=30))
def test_labels_keep_a_lone_model_s_order(lengths: list[int]) -> None:
    labels = consensus(data({"a": list(lengths)}))
    order = np.argsort(lengths, kind="stable")
    for label in (labels.place, labels.level, labels.log_tokens):
        assert (np.diff(label[order]) >= -1e-12).all()


def test_ranks_are_within_a_model_and_ties_share() -> None:
    ranks = within_model_ranks(np.array([[1.0, 100.0], [1.0, np.nan], [9.0, 50.0]]))
    assert np.allclose(ranks, [[1 / 3, 0.75], [1 / 3, np.nan], [5 / 6, 0.25]], equal_nan=True)
