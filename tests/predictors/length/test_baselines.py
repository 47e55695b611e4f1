from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from predictors.length.baselines import RANKERS, MaxTokens, PromptLength, mean_rank_of_others
from predictors.types import Prompt
from tests.predictors.length import samples


@pytest.mark.parametrize("name", ["lexical", "wordllama"])
def test_learned_baselines_rank_prompts_they_never_saw(name: str) -> None:
    held_out = samples.data(120, seed=9)
    ranker = RANKERS[name]().fit(samples.data(), samples.embeddings())
    ranks = ranker.rank(held_out.prompts, samples.embeddings(120, seed=9))
    assert kendalltau(ranks, held_out.tokens[:, 0]).statistic > 0.2


def test_plain_baselines() -> None:
    nowhere = np.zeros((3, 256), dtype=np.float32)
    prompts = [Prompt("abc", 9), Prompt("a"), Prompt("ab", 10)]
    assert np.argsort(PromptLength().rank(prompts, nowhere)).tolist() == [1, 2, 0]
    assert np.argsort(MaxTokens().rank(prompts, nowhere)).tolist() == [0, 2, 1]


def test_the_oracle_knows_the_others_and_never_the_model_itself() -> None:
    tokens = np.array([[1.0, 30.0, 7.0], [2.0, 20.0, np.nan], [3.0, 10.0, np.nan], [4.0, np.nan, np.nan]])
    oracle = mean_rank_of_others(tokens)
    changed = mean_rank_of_others(np.column_stack([tokens[::-1, 0], tokens[:, 1:]]))
    assert np.array_equal(oracle[:, 0], changed[:, 0], equal_nan=True)
    assert oracle[:3, 1] == pytest.approx([(1 / 8 + 1 / 2) / 2, 3 / 8, 5 / 8])
    assert np.isnan(oracle[3, 0]), "no other model answered"
    assert np.isnan(oracle[3, 1]), "nothing to judge"
