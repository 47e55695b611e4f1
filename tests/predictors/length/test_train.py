from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from predictors.length.basis import centres
from predictors.length.data import Answer, from_answers, merge
from predictors.length.target import Consensus, consensus
from predictors.length.train import FastRanker, FastSettings, Growth, calibrate, deal_queries, grouped_folds, splits
from predictors.types import Prompt
from tests.predictors.length import samples


def labels_of(log_tokens: np.ndarray) -> Consensus:
    n = len(log_tokens)
    level = np.argsort(np.argsort(log_tokens)) / n
    return Consensus(log_tokens, level, level, np.ones(n), np.zeros(n, dtype=np.intp))


def test_it_ranks_prompts_it_never_saw() -> None:
    held_out = samples.data(120, seed=9)
    scores = samples.fast().predict(held_out.prompts, samples.embeddings(120, seed=9))
    assert kendalltau(scores.rank, held_out.tokens[:, 0]).statistic > 0.45
    assert scores.in_distribution.mean() > 0.9


def test_training_twice_gives_the_same_bytes() -> None:
    again = FastRanker(samples.SMALL).fit(samples.data(), samples.embeddings())
    assert again.export() == samples.fast().export()


def test_another_seed_gives_another_ranker() -> None:
    other = FastRanker(replace(samples.SMALL, seed=1)).fit(samples.data(), samples.embeddings())
    assert other.export() != samples.fast().export()


def test_it_learns_limits_where_clients_set_them() -> None:
    free = samples.data()
    answers = [
        Answer(Prompt(prompt.text, limit), "m", min(int(length), limit))
        for prompt, length, limit in zip(free.prompts, free.tokens[:, 0], [4, 16, 64, 256] * 40, strict=True)
    ]
    data = from_answers(answers, "rows", "MIT")
    blind = from_answers([replace(answer, prompt=Prompt(answer.prompt.text)) for answer in answers], "rows", "MIT")
    taus = [
        kendalltau(FastRanker(samples.SMALL).fit(rows, samples.embeddings()).out_of_fold_, data.tokens[:, 0]).statistic
        for rows in (blind, data)
    ]
    assert taus[1] > taus[0] + 0.02


def test_large_trees_are_grown_where_they_order_better() -> None:
    growth = Growth(trees=60, leaves=15, least_in_leaf=3)
    settings = replace(samples.SMALL, kernels=(), growths=(growth,))
    decided = FastRanker(settings).fit(samples.data(400), samples.embeddings(400))
    assert decided.chosen_["growth"]["objective"] == "regression"
    small = FastRanker(replace(settings, growths=())).fit(samples.data(400), samples.embeddings(400))
    assert small.chosen_["growth"]["objective"] == "lambdarank"
    truth = consensus(samples.data(400)).level
    taus = [kendalltau(one.out_of_fold_, truth).statistic for one in (small, decided)]
    assert taus[1] > taus[0] + settings.least_gain
    cautious = FastRanker(replace(settings, least_gain=1.0)).fit(samples.data(400), samples.embeddings(400))
    assert cautious.export() == small.export()


def test_out_of_fold_scores_are_worse_than_fitted_ones() -> None:
    data = samples.data()
    ranker = samples.fast()
    fitted = ranker.rank(data.prompts, samples.embeddings())
    truth = consensus(data).level
    assert kendalltau(ranker.out_of_fold_, truth).statistic < kendalltau(fitted, truth).statistic


def test_sources_of_different_length_stay_apart() -> None:
    tasks = samples.data()
    essays = [
        Answer(Prompt(f"Write a long essay about {t} in the {a} century, with many examples."), "m", 900 + 7 * i)
        for i, (t, a) in enumerate((t, a) for t in ("rail", "tea", "law", "war", "jazz") for a in range(10, 20))
    ]
    both = merge([tasks, from_answers(essays, "essays", "MIT")])
    embeddings = samples.embedder().embed([prompt.text for prompt in both.prompts])
    ranker = FastRanker(replace(samples.SMALL, trees=60)).fit(both, embeddings)
    rank = ranker.rank(both.prompts, embeddings)
    assert np.median(rank[len(tasks) :]) > np.quantile(rank[: len(tasks)], 0.9)
    tokens = ranker.predict(both.prompts, embeddings).tokens
    assert np.median(tokens[len(tasks) :]) > 500 > 100 > np.median(tokens[: len(tasks)])


def test_prompts_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="told apart"):
        calibrate(np.zeros(40), labels_of(np.zeros(40)), 8)


@given(st.lists(st.floats(-5, 5), min_size=12, max_size=80, unique=True), st.integers(2, 16), st.integers(0, 9))
def test_calibration_rises_strictly(scores: list[float], bins: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).normal(5.0, 1.0, len(scores))
    calibration = calibrate(np.array(scores), labels_of(lengths), bins)
    for knots in (calibration.score, calibration.rank, calibration.log_tokens):
        assert (np.diff(knots) > 0).all()
    assert 0.0 < calibration.rank[1] < calibration.rank[-2] < 1.0


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60), st.integers(2, 6), st.integers(0, 99))
def test_a_group_never_straddles_folds(groups: list[str], folds: int, seed: int) -> None:
    fold_of = grouped_folds(groups, folds, seed)
    assert all(len({int(f) for f, g in zip(fold_of, groups, strict=True) if g == group}) == 1 for group in groups)
    seen = [row for _, test in splits(fold_of) for row in test]
    assert sorted(seen) == list(range(len(groups)))
    for train, test in splits(fold_of):
        assert not {groups[i] for i in train} & {groups[i] for i in test}


def test_queries_hold_every_prompt_as_often_and_mix_sources_last() -> None:
    sources = np.array([0] * 37 + [1] * 20)
    settings = FastSettings(query=8, repeats=3)
    queries = deal_queries(sources, settings)
    counts = np.bincount(np.concatenate(queries), minlength=57)
    assert (counts == 4).all()
    assert sum(len(set(sources[query])) > 1 for query in queries) <= 57 // 8
    assert len(deal_queries(sources[:37], settings)) == 3 * 4


def test_centres_are_of_unit_length_and_no_more_than_there_are() -> None:
    rows = samples.embeddings()
    found = centres(rows, 10, seed=0)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(10), abs=1e-5)
    few = centres(np.vstack([rows[:3], rows[:3], np.zeros((1, 256), np.float32)]), 10, seed=0)
    assert len(few) == 3
