from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.ladder.judging import (
    Bootstrap,
    Figure,
    JudgingError,
    cells,
    kept_for_test,
    length_ceiling,
    median_interval,
    models_in,
    oracle,
    overall,
    separation,
    slices,
    step_times,
    step_up,
    tabulate,
)
from envs.ladder.step_time import Round
from envs.tasks import generate
from predictors.types import Interval
from tests.envs.ladder.collected import failure, row, rows_of

TASKS = generate(0, 120, "test")
MODELS = ("small", "large")
HOW = Bootstrap(seed=0, resamples=100)


def interval(found: Interval | float | None) -> Interval:
    assert isinstance(found, Interval)
    assert found.lo <= found.value <= found.hi
    return found


def number(found: Interval | float | None) -> float:
    assert isinstance(found, float)
    return found


def by(figures: Iterable[Figure], **labels: object) -> Figure:
    (found,) = (f for f in figures if all(f.labels.get(name) == value for name, value in labels.items()))
    return found


marks = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=len(TASKS), max_size=len(TASKS))


@settings(max_examples=20, deadline=None)
@given(marks)
def test_shares_differences_and_the_oracle_agree_with_each_other(pairs: list[tuple[bool, bool]]) -> None:
    small, large = [a for a, _ in pairs], [b for _, b in pairs]
    answers = tabulate(rows_of(TASKS, {"large": large, "small": small}), MODELS)
    figures = list(overall(answers, HOW))
    accuracy = {name: interval(by(figures, model=name).metrics["accuracy"]).value for name in MODELS}
    assert accuracy == pytest.approx({"small": sum(small) / 120, "large": sum(large) / 120})
    (step,) = step_up(answers, HOW)
    assert step.labels == {"setting": "step_up", "model": "large", "over": "small"}
    assert interval(step.metrics["accuracy_gain"]).value == pytest.approx(accuracy["large"] - accuracy["small"])
    found = oracle(answers, HOW)
    assert interval(found.metrics["oracle"]).value == pytest.approx(sum(a or b for a, b in pairs) / 120)
    assert interval(found.metrics["best_single"]).value == pytest.approx(max(accuracy.values()))
    assert interval(found.metrics["oracle_minus_best"]).lo >= 0
    assert interval(found.metrics["oracle_minus_top"]).value >= interval(found.metrics["oracle_minus_best"]).value


@settings(max_examples=20, deadline=None)
@given(marks)
def test_every_slice_adds_up_to_the_whole(pairs: list[tuple[bool, bool]]) -> None:
    answers = tabulate(rows_of(TASKS, {"small": [a for a, _ in pairs], "large": [b for _, b in pairs]}), MODELS)
    figures = [*slices(answers, Bootstrap(resamples=2)), *cells(answers)]
    for setting in ("family", "level", "wording", "style", "cell"):
        own = [f for f in figures if f.labels["setting"] == setting and f.labels["model"] == "small"]
        assert sum(number(f.metrics["prompts"]) for f in own) == len(TASKS)
        right = sum(interval(f.metrics["accuracy"]).value * number(f.metrics["prompts"]) for f in own)
        assert right == pytest.approx(sum(a for a, _ in pairs))


def test_lengths_cuts_and_failures_are_counted() -> None:
    rows = [row(task, "m", correct=True, tokens=10 * place, cut=place == 9) for place, task in enumerate(TASKS[:10])]
    rows = [*rows, failure(TASKS[10], "m")]
    (figure,) = overall(tabulate(rows, ["m"]), HOW)
    assert interval(figure.metrics["accuracy"]).value == pytest.approx(10 / 11)
    assert figure.metrics["failed"] == 1.0
    assert interval(figure.metrics["cut"]).value == pytest.approx(1 / 11)
    assert interval(figure.metrics["output_tokens_p50"]).value == 45.0
    assert interval(figure.metrics["p95_over_p50"]).value == pytest.approx(85.5 / 45)


def test_a_model_that_never_answered_has_accuracy_0_and_no_lengths() -> None:
    (figure,) = overall(tabulate([failure(task, "m") for task in TASKS[:5]], ["m"]), HOW)
    assert interval(figure.metrics["accuracy"]).value == 0.0
    assert figure.metrics["output_tokens_p50"] is None
    assert figure.metrics["p95_over_p50"] is None
    assert figure.metrics["latency_p50_s"] is None


def test_only_prompts_that_every_model_was_asked_are_compared() -> None:
    rows = rows_of(TASKS[:10], {"small": [True] * 10}) + rows_of(TASKS[:4], {"large": [False] * 4})
    assert len(tabulate(rows, MODELS)) == 4
    with pytest.raises(JudgingError, match="no prompt was asked of every one of small, medium"):
        tabulate(rows, ["small", "medium"])


def test_prompts_from_elsewhere_are_refused() -> None:
    rows = [replace(row(TASKS[0], "m", correct=True), family=None, level=None, wording=None)]
    with pytest.raises(JudgingError, match="not of the task suite"):
        tabulate(rows, ["m"])


def test_models_come_from_the_smallest_to_the_largest() -> None:
    rows = rows_of(TASKS[:1], {"other": [True], "large": [True], "small": [True]})
    assert models_in(rows, ("small", "medium", "large")) == ("small", "large", "other")


@pytest.mark.parametrize(
    ("wording", "kept"), [("0/7/steps", False), ("t0/7/open", True), ("0/t2/steps", True), ("3/1/sentence", False)]
)
def test_a_t_marks_wording_kept_for_test(wording: str, kept: bool) -> None:
    assert kept_for_test(wording) is kept


def test_levels_separate_where_the_smallest_surely_fails_and_the_largest_surely_succeeds() -> None:
    tasks = generate(0, 60, "test", families=["arithmetic"], levels=[1, 4])
    easy = [task.level == 1 for task in tasks]
    answers = tabulate(rows_of(tasks, {"small": easy, "large": [True] * 60}), MODELS)
    apart = {f.labels["level"]: f.labels["separates"] for f in separation(answers)}
    assert apart == {1: False, 4: True}
    same = tabulate(rows_of(tasks, {"small": easy, "large": easy}), MODELS)
    assert not any(f.labels["separates"] for f in separation(same))


def test_tau_of_two_answers_is_1_where_lengths_repeat_and_near_0_where_they_are_noise() -> None:
    rng = random.Random(0)
    rows = []
    for place, task in enumerate(TASKS):
        rows += [row(task, "sure", correct=True, sample=sample, tokens=place) for sample in (0, 1)]
        rows += [row(task, "noise", correct=True, sample=sample, tokens=rng.randrange(500)) for sample in (0, 1)]
    rows += [failure(TASKS[0], "silent")]
    figures = list(length_ceiling(rows, ("sure", "noise", "silent"), HOW))
    assert interval(by(figures, model="sure").metrics["tau_b"]).value == pytest.approx(1.0)
    assert abs(interval(by(figures, model="noise").metrics["tau_b"]).value) < 0.2
    assert by(figures, model="sure").metrics["prompts"] == len(TASKS)
    assert by(figures, model="silent").metrics == {"tau_b": None, "prompts": 0.0}


def test_step_times_are_compared_within_a_round() -> None:
    pace = {"small": 0.002, "large": 0.006}
    rounds = [
        Round(model, in_flight, repeat, pace[model] * (1 + repeat), 100.0 / (1 + repeat))
        for model in MODELS
        for in_flight in (1, 16)
        for repeat in range(7)
    ]
    figures = list(step_times(rounds, MODELS))
    assert [(f.labels["in_flight"], f.labels["model"]) for f in figures] == [(k, m) for k in (1, 16) for m in MODELS]
    large = by(figures, model="large", in_flight=16)
    assert large.labels["over"] == "small"
    ratio = interval(large.metrics["step_ratio"])
    assert (ratio.lo, ratio.value, ratio.hi) == pytest.approx((3.0, 3.0, 3.0))
    assert interval(large.metrics["step_s"]).value == pytest.approx(0.024)
    assert by(figures, model="small", in_flight=1).metrics["step_ratio"] is None


def test_a_round_that_could_not_be_timed_is_compared_with_nothing() -> None:
    untimed = {("small", 2), ("large", 4)}
    rounds = [
        Round(model, 1, repeat, 0.002 if model == "small" else 0.008, 100.0)
        for model in MODELS
        for repeat in range(6)
        if (model, repeat) not in untimed
    ]
    large = by(list(step_times(rounds, MODELS)), model="large", in_flight=1)
    assert interval(large.metrics["step_ratio"]).value == pytest.approx(4.0)
    assert large.metrics["repeats"] == 5.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_a_median_lies_in_its_interval_and_the_interval_in_the_values(values: list[float]) -> None:
    found = interval(median_interval(values))
    assert found.value == pytest.approx(median(values))
    assert min(values) <= found.lo
    assert found.hi <= max(values)


def test_a_median_of_nine_leaves_one_value_out_at_either_end() -> None:
    assert median_interval([float(value) for value in range(9)]) == Interval(4.0, 1.0, 7.0)
    assert median_interval([1.0, 2.0, 30.0, 4.0, 5.0, 6.0]) == Interval(4.5, 1.0, 30.0)
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])
