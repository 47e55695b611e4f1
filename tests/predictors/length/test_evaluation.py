from __future__ import annotations

from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from predictors.length.data import Answer, LengthData, from_answers
from predictors.length.evaluation import (
    Table,
    against_noise,
    held_out_mask,
    judge,
    judged_columns,
    noise_ceiling,
    out_of_fold,
    weighted_tau_b,
)
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


def sampled(samples: np.ndarray) -> Table:
    """Prompts (n) with samples (n, k) of one model."""
    answers = [Answer(Prompt(f"prompt {i}"), "m", int(length)) for i, row in enumerate(samples) for length in row]
    data = from_answers(answers, "s", "MIT")
    return Table("s", data, np.zeros((len(data), 256), dtype=np.float32), judged_columns(data, 2))


def test_a_score_is_judged_by_single_samples_as_the_ceiling_is() -> None:
    rng = np.random.default_rng(0)
    expected = rng.uniform(50, 400, size=150)
    table = sampled(np.round(expected[:, None] * rng.uniform(0.6, 1.4, size=(150, 4))))
    ceiling, known = noise_ceiling(table, 0, 200, 100), against_noise(expected, table, 0, 200, 100)
    assert ceiling is not None
    assert known is not None
    assert known.tau_b.value == pytest.approx(known.share.value * ceiling.tau_b.value)
    taus = [kendalltau(expected, table.data.samples[:, 0, k]).statistic for k in range(4)]
    assert known.tau_b.value == pytest.approx(np.mean(taus), abs=1e-6)
    assert known.share.lo <= known.share.value <= known.share.hi
    assert known.share.value > 1.0, "three samples know less than the truth"
    useless = against_noise(rng.uniform(size=150), table, 0, 200, 100)
    assert useless is not None
    assert abs(useless.share.value) < 0.2


def test_the_share_is_of_the_same_resamples() -> None:
    rng = np.random.default_rng(1)
    table = sampled(rng.integers(1, 300, size=(120, 1)) + rng.integers(0, 200, size=(120, 3)))
    others = table.data.tokens[:, 0]
    judged = against_noise(others, table, 0, 200, 100)
    assert judged is not None
    assert judged.share.hi - judged.share.lo > 0
    assert against_noise(others, table, 0, 200, 100) == judged


def test_without_several_samples_there_is_nothing_to_hold_a_score_against() -> None:
    assert against_noise(np.arange(10.0), table(list(range(1, 11))), 0, 100, 2) is None
    few = sampled(np.arange(1, 21).reshape(10, 2))
    assert against_noise(np.arange(10.0), few, 0, 100, 11) is None
    assert against_noise(np.full(10, np.nan), few, 0, 100, 2) is None


def test_a_share_of_no_ceiling_is_not_defined() -> None:
    opposed = sampled(np.column_stack([np.arange(1, 31), np.arange(31, 1, -1)]))
    ceiling = noise_ceiling(opposed, 0, 100, 2)
    assert ceiling is not None
    assert ceiling.tau_b.value == pytest.approx(-1.0)
    assert against_noise(np.arange(30.0), opposed, 0, 100, 2) is None
