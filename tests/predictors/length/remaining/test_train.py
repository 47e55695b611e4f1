"""Learning what remains: it learns, it is deterministic, and prefixes of an answer are where its tokens are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from predictors.length.data import LengthDataError
from predictors.length.remaining.data import offsets, read_answers
from predictors.length.remaining.evaluation import VARIANTS, Knowledge, expected_of, judge, out_of_fold
from predictors.length.remaining.train import Priors, RemainingLearner, look_at
from predictors.length.train import grouped_folds
from tests.predictors.length.remaining import samples as samples


@given(st.text(max_size=300), st.integers(1, 200))
def test_prefixes_grow_from_nothing_to_everything(text: str, total: int) -> None:
    ends = offsets(text, total, range(total + 1))
    assert ends[0] == 0
    assert all(a <= b for a, b in pairwise(ends))
    assert ends[-1] <= len(text)


def test_prefixes_end_where_the_words_do() -> None:
    text = "one two three four five six seven eight"
    assert [text[:end] for end in offsets(text, 8, [1, 4, 8])] == ["one", "one two three four", text]


def test_looks_are_only_at_running_answers() -> None:
    looks = look_at(samples.answers(), 32)
    assert (looks.left > 0).all()
    assert (looks.tokens + looks.left == samples.answers().tokens[looks.answer]).all()
    assert set(np.unique(looks.tokens)) >= {0, 16, 32, 64}


def test_the_same_seed_gives_the_same_bytes() -> None:
    made = samples.answers()
    again = RemainingLearner(samples.SMALL).fit(made, *samples.blind(len(made)))
    assert again.export() == samples.learner().export()


def test_it_learns_to_count_down_what_was_announced() -> None:
    """The prompt says nothing here; the text says how many items there will be."""
    made = samples.answers(80, seed=1)
    looks = look_at(made, 32)
    model = samples.learner().model_
    said, left = [], []
    for i in np.flatnonzero(looks.tokens == 64):
        text = made.texts[looks.answer[i]]
        track = model.begin(0.5, 100.0, every=64)
        found = track.feed(text[: offsets(text, int(made.tokens[looks.answer[i]]), [64])[0]], 64)
        assert found is not None
        said.append(found.expected)
        left.append(looks.left[i])
    assert kendalltau(said, left).statistic > 0.6


def test_out_of_fold_variants_are_judged_on_what_they_never_saw() -> None:
    made = samples.answers()
    looks = look_at(made, 32)
    asked: list[set[str]] = []

    def priors(groups: set[str]) -> Priors:
        asked.append(groups)
        ranks, expected = samples.blind(len(made))
        return Priors(ranks, expected)

    folds = grouped_folds(made.groups, 3, 0)
    said = out_of_fold(made, looks, folds, priors, Knowledge(), samples.SMALL)
    assert set(said) == set(VARIANTS)
    groups = np.asarray(made.groups)
    assert [groups[folds != fold].tolist() for fold in range(3)] == [
        [g for g in made.groups if g in known] for known in asked
    ]
    taus = {name: judge(part, looks, made.groups, 64, seed=0, resamples=50) for name, part in said.items()}
    text, blind = taus["remaining"], taus["prompt_only"]
    assert text is not None
    assert blind is not None
    assert text.tau_b.lo <= text.tau_b.value <= text.tau_b.hi
    assert text.tau_b.value > blind.tau_b.value + 0.2
    assert text.mae.value < blind.mae.value
    assert 0.75 < text.coverage_90.value <= 1.0
    assert judge(said["trail"], looks, made.groups, 4096, seed=0, resamples=50) is None


def test_a_models_scale_comes_from_what_is_known_only() -> None:
    made = samples.answers()
    flat = Priors(np.linspace(0.0, 1.0, len(made)), np.full(len(made), 50.0))
    known = np.arange(len(made)) < 60
    _, expected = expected_of(flat, made, known, Knowledge())
    models = np.asarray(made.models)
    for model in "ab":
        mean = made.tokens[(models == model) & known].mean()
        assert expected[models == model] == pytest.approx(np.full(60, mean))
    assert expected_of(flat, made, known, Knowledge(model=False))[1] == pytest.approx(flat.typical)
    assert np.ptp(expected_of(flat, made, known, Knowledge(prompt=False))[0]) == 0.0


def test_few_prompts_are_refused() -> None:
    few = samples.answers().take(np.arange(20))
    with pytest.raises(LengthDataError, match="too few"):
        RemainingLearner(samples.SMALL).fit(few, *samples.blind(20))


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(LengthDataError, match="arena_prompts"):
        read_answers(tmp_path)
