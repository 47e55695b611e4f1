from __future__ import annotations

from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from predictors.length.data import Answer, LengthData, from_answers
from predictors.length.evaluation import Table, held_out_mask, judge, judged_columns, out_of_fold, weighted_tau_b
from predictors.types import Prompt

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40)


def table(lengths: list[int], texts: list[str] | None = None) -> Table:
    names = texts or [f"prompt {i}" for i in range(len(lengths))]
    answers = [
        Answer(Prompt(text, i), "m", length) for i, (text, length) in enumerate(zip(names, lengths, strict=True))
    ]
    data = from_answers(answers, "s", "MIT")
    return Table("s", data, np.zeros((len(data), 256), dtype=np.float32), judged_columns(data, 2))


class Memory:
    """Knows the lengths it was fitted on, by prompt text."""

    def fit(self, data: LengthData, embeddings: np.ndarray) -> Self:
        self.known_ = {p.text: float(n) for p, n in zip(data.prompts, data.tokens[:, 0], strict=True)}
        return self

    def rank(self, prompts: list[Prompt], embeddings: np.ndarray) -> np.ndarray:
        return np.array([self.known_.get(prompt.text, 0.0) for prompt in prompts])


@given(PAIRS)
def test_weighted_tau_is_tau_of_the_repeated_sample(pairs: list[tuple[int, int, int]]) -> None:
    x, y, w = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    expected = kendalltau(np.repeat(x, w.astype(int)), np.repeat(y, w.astype(int))).statistic if w.sum() > 1 else np.nan
    assert weighted_tau_b(x, y, w[None, :])[0] == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_the_median_over_models_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    tokens = np.column_stack([truth, truth + rng.normal(size=200), rng.normal(size=200)])
    data = table([1] * 200).data
    many = LengthData(data.prompts, data.groups, data.sources, ("a", "b", "c"), tokens, ())
    judged = judge(truth, Table("s", many, np.zeros((200, 256), np.float32), np.arange(3)), seed=0, resamples=200)
    assert judged is not None
    assert judged.tau_b.value == pytest.approx(kendalltau(truth, tokens[:, 1]).statistic, abs=1e-6)
    assert judged.tau_b.lo < judged.tau_b.value < judged.tau_b.hi < 1.0
    assert (judged.models, judged.prompts) == (3, 200)


def test_the_same_seed_gives_the_same_interval() -> None:
    one = table([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    scores = np.arange(10.0)
    assert judge(scores, one, seed=1, resamples=100) == judge(scores, one, seed=1, resamples=100)


def test_a_constant_score_has_no_tau() -> None:
    assert judge(np.zeros(3), table([1, 2, 3]), seed=0, resamples=100) is None


def test_nothing_leaks_between_folds_even_by_repeated_text() -> None:
    texts = [f"prompt {i // 2}" for i in range(40)]
    scores = out_of_fold(Memory, table(list(range(1, 41)), texts), folds=5, seed=0)
    assert not scores.any(), "a ranker that remembers knows nothing of a held-out prompt"


def test_what_is_held_out_depends_on_the_text_alone() -> None:
    one, other = table([1] * 400).data, table([2] * 200).data
    mask = held_out_mask(one, 0.15, ["s"])
    assert 0.08 < mask.mean() < 0.22
    assert np.array_equal(held_out_mask(other, 0.15, ["s"]), mask[:200])
    assert not held_out_mask(one, 0.15, ["another"]).any()


def test_only_models_with_enough_prompts_are_judged() -> None:
    answers = [Answer(Prompt(str(i)), model, i + 1) for i in range(10) for model in ("a", "b") if model == "a" or i < 4]
    assert judged_columns(from_answers(answers, "s", "MIT"), 5).tolist() == [0]
