from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.pipeline import ControlPlane
from controller.place import PredictedLatency, PredictedLatencyOptions
from controller.place.regression import Recursive
from controller.place.timing import Pace, Situation, Steps, first_row, token_row
from controller.protocols import Stages
from controller.types import Usage, WorkerReport
from tests.controller.planes import SMALL, plane, stages, submit

STEPS = Steps(0.01, 1e-5, 1e-4, 1e-7, 0.002, 8192, True)


def by_latency(**options: object) -> tuple[Stages, PredictedLatency]:
    stage = PredictedLatency(PredictedLatencyOptions.model_validate(options), {SMALL.name: STEPS})
    made = stages({})
    return Stages(made.admit, made.tier, made.order, made.fairness, stage, made.rebalance, made.scale), stage


def serve(control: ControlPlane, name: str, at: float, first_s: float, token_s: float, tokens: int) -> str:
    """One request alone from arrival to end; where it went."""
    submit(control, name, at, max_tokens=tokens)
    (dispatch,) = control.dispatch(at)
    control.on_first_token(name, at + first_s)
    control.on_finish(name, Usage(100, tokens), at + first_s + (tokens - 1) * token_s)
    return dispatch.worker


def test_regression_finds_the_weights_of_clean_rows() -> None:
    random = np.random.default_rng(0)
    regression = Recursive([1.0, 1.0, 1.0], [10.0] * 3, 1.0)
    for row in random.random((200, 3)).tolist():
        regression.learn(row, 2.0 * row[0] + 0.5 * row[1] - row[2])
    assert regression.weights == pytest.approx([2.0, 0.5, -1.0], abs=0.02)


def test_regression_equals_ridge_around_its_prior() -> None:
    """Without forgetting, it is the posterior mean of the batch problem."""
    random = np.random.default_rng(1)
    x, y = random.normal(size=(30, 4)), random.normal(size=30)
    start, doubt = np.array([1.0, -1.0, 0.5, 0.0]), np.array([0.5, 1.0, 2.0, 0.1])
    regression = Recursive(start.tolist(), doubt.tolist(), 1.0)
    for row, target in zip(x.tolist(), y.tolist(), strict=True):
        regression.learn(row, target)
    precision = np.diag(1.0 / doubt**2)
    wanted = start + np.linalg.solve(x.T @ x + precision, x.T @ (y - x @ start))
    assert regression.weights == pytest.approx(wanted.tolist(), abs=1e-9)


def test_regression_follows_a_change() -> None:
    regression = Recursive([1.0], [1.0], 0.95)
    for target in [1.0] * 200 + [3.0] * 200:
        regression.learn([1.0], target)
    assert regression.weights[0] == pytest.approx(3.0, abs=0.01)


@given(st.lists(st.lists(st.floats(0.0, 10.0), min_size=3, max_size=3), min_size=1, max_size=60), st.floats(0.6, 1.0))
@settings(deadline=None, max_examples=50)
def test_regressions_doubt_stays_positive_and_within_the_prior(rows: list[list[float]], forget: float) -> None:
    regression = Recursive([1.0] * 3, [1.0, 2.0, 0.5], forget)
    for row in rows:
        regression.learn(row, sum(row))
    spread = np.array(regression.spread)
    assert np.allclose(spread, spread.T, atol=1e-9)
    assert np.linalg.eigvalsh(spread).min() > -1e-9
    assert (spread.diagonal() <= np.array([1.0, 4.0, 0.25]) + 1e-9).all()


@pytest.mark.parametrize(("start", "doubt", "forget"), [([], [], 1.0), ([1.0], [1.0, 2.0], 1.0), ([1.0], [1.0], 0.0)])
def test_regression_refuses_nonsense(start: list[float], doubt: list[float], forget: float) -> None:
    with pytest.raises(ValueError, match=r"doubts|forget"):
        Recursive(start, doubt, forget)


def test_the_profile_is_right_from_the_first_request() -> None:
    at = Situation(500.0, 1500, 4, 3000, 400, 500, 100)
    pace = Pace(STEPS, 1.0, 0.998)
    said = pace.predict(at)
    assert said is not None
    first, token = said
    assert first == pytest.approx(1.5 * STEPS.a + STEPS.b * 2000 + STEPS.c * 4 + STEPS.d * 3000 + STEPS.overhead_s)
    context = 3000 + 200 + 500 + 50
    assert token == pytest.approx(STEPS.a + STEPS.c * 5 + STEPS.d * context)
    assert first_row(STEPS, Situation(20_000.0, 0, 0, 0, 0, 20_000, 1))[0] == pytest.approx(3.5 * STEPS.a)
    assert token_row(STEPS, at)[1] == pytest.approx(STEPS.c * (1.0 + 4.0))


def test_a_pace_learns_how_slow_its_worker_is() -> None:
    random = np.random.default_rng(2)
    pace = Pace(STEPS, 1.0, 0.998)
    for _ in range(200):
        others, output = int(random.integers(0, 30)), int(random.integers(2, 400))
        at = Situation(100.0, int(random.integers(0, 2000)), others, 500 * others, 100 * others, 100, output)
        first, token = 3.0 * sum(first_row(STEPS, at)), 3.0 * sum(token_row(STEPS, at))
        noise = float(np.exp(random.normal(0.0, 0.1)))
        pace.learn(at, first * noise, (first + (output - 1) * token) * noise)
    at = Situation(100.0, 0, 10, 5000, 1000, 100, 100)
    said = pace.predict(at)
    assert said is not None
    assert said[0] == pytest.approx(3.0 * sum(first_row(STEPS, at)), rel=0.1)
    assert said[1] == pytest.approx(3.0 * sum(token_row(STEPS, at)), rel=0.1)
    assert pace.error < 0.25


def test_an_answer_that_came_whole_says_nothing_of_its_first_token() -> None:
    streamed, whole = Pace(STEPS, 1.0, 0.998), Pace(STEPS, 1.0, 0.998)
    at = Situation(100.0, 0, 10, 5000, 1000, 100, 100)
    first, token = sum(first_row(STEPS, at)), 2.0 * sum(token_row(STEPS, at))
    for _ in range(100):
        streamed.learn(at, first, first + 99 * token)
        whole.learn(at, None, first + 99 * token)
    said = whole.predict(at)
    assert said == pytest.approx((first, token), rel=0.01)
    assert said == pytest.approx(streamed.predict(at), rel=0.01)


def test_whole_answers_do_not_make_a_worker_look_slow_to_begin() -> None:
    made, stage = by_latency()
    control = plane(made, max_inflight=8)
    for number in range(40):
        at = 10.0 * number
        submit(control, f"{number}", at, max_tokens=50, streams=False)
        control.dispatch(at)
        control.on_first_token(f"{number}", at + 0.5)
        control.on_finish(f"{number}", Usage(100, 50), at + 0.5)
    pace = stage.pace("small-0")
    said = pace.predict(Situation(100.0, 0, 0, 0, 0, 100, 50)) if pace is not None else None
    assert said is not None
    assert said[0] < 0.1


def test_it_sends_nothing_more_to_a_worker_that_turned_out_slow() -> None:
    made, stage = by_latency()
    control = plane(made, workers=2, max_inflight=8)
    for number in range(40):
        at = 10.0 * number
        submit(control, f"{number}", at, max_tokens=50)
        (dispatch,) = control.dispatch(at)
        slow = 4.0 if dispatch.worker == "small-0" else 1.0
        control.on_first_token(f"{number}", at + 0.02 * slow)
        control.on_finish(f"{number}", Usage(100, 50), at + (0.02 + 49 * 0.0101) * slow)
    went = [serve(control, f"late-{i}", 1000.0 + 10.0 * i, 0.02, 0.0101, 50) for i in range(5)]
    assert went == ["small-1"] * 5
    assert stage.under_way == 0


def test_it_returns_to_a_cached_prompt_where_reading_takes_longer_than_waiting() -> None:
    made, _ = by_latency()
    control = plane(made, workers=4, max_inflight=8)
    long = tuple(range(1, 101))
    submit(control, "first", 0.0, prefix=long, prompt_tokens=6400, max_tokens=10)
    (first,) = control.dispatch(0.0)
    control.on_first_token("first", 0.08)
    submit(control, "again", 0.1, prefix=long, prompt_tokens=6400, max_tokens=10)
    (again,) = control.dispatch(0.1)
    assert again.worker == first.worker


def test_the_others_delay_counts() -> None:
    """One worker serves many; alone the request would be as quick there, but it would hold up all of them."""
    crowd = Situation(4000.0, 0, 20, 2000, 4000, 4000, 20)
    selfish, social = by_latency(externality=0.0)[1], by_latency(externality=1.0)[1]
    control = plane(by_latency()[0], workers=1)
    view = control.view(0.0).pool("small").workers[0]
    alone, together = selfish._cost(view, crowd), social._cost(view, crowd)
    assert isinstance(alone, float)
    assert isinstance(together, float)
    assert together - alone > 20 * STEPS.b * 4000 * 0.5


def test_of_many_workers_those_with_the_prompt_cached_are_weighed() -> None:
    made, _ = by_latency(most_workers=4)
    control = plane(made, workers=12, max_inflight=8)
    long = tuple(range(1, 101))
    submit(control, "first", 0.0, prefix=long, prompt_tokens=6400, max_tokens=200)
    (first,) = control.dispatch(0.0)
    control.on_first_token("first", 0.08)
    submit(control, "again", 0.1, prefix=long, prompt_tokens=6400, max_tokens=10)
    submit(control, "other", 0.1, prompt_tokens=10, max_tokens=10)
    again, other = control.dispatch(0.1)
    assert again.worker == first.worker
    assert other.worker != first.worker


def test_without_a_profile_least_load_decides_until_each_worker_is_known() -> None:
    stage = PredictedLatency(PredictedLatencyOptions(least_answers=3))
    made = stages({})
    control = plane(
        Stages(made.admit, made.tier, made.order, made.fairness, stage, made.rebalance, made.scale),
        workers=2, max_inflight=8,
    )  # fmt: skip
    by = []
    for number in range(12):
        serve(control, f"{number}", 10.0 * number, 0.05, 0.02, 20)
        record = control.records.find(f"{number}")
        assert record is not None
        choice = next(choice for choice in record.choices if choice.stage == "place")
        by.append((choice.by, choice.fallback))
    assert by[:6] == [("least_load", "unknown_worker")] * 6
    assert by[6:] == [("predicted_latency", None)] * 6


def test_a_worker_that_is_far_from_its_profile_is_not_believed_at_first() -> None:
    """A hundred times slower than said: beyond what a profile may be off, so that load decides."""
    made, stage = by_latency(forget=0.9)
    control = plane(made, workers=2, max_inflight=8)
    for number in range(60):
        serve(control, f"{number}", 1000.0 * number, 2.0, 1.0, 20)
    pace = stage.pace("small-0")
    assert pace is not None
    record = control.records.find("59")
    assert record is not None
    choice = next(choice for choice in record.choices if choice.stage == "place")
    assert (choice.by, choice.fallback) == ("least_load", "out_of_distribution")


@given(
    st.sampled_from(["predicted_latency", "freeness", "power_of_two", "least_load"]),
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4000), st.integers(1, 800)), min_size=1, max_size=60),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=40)
def test_every_place_keeps_to_the_room_there_is_and_its_account(
    name: str, events: list[tuple[int, int, int]], limit: int
) -> None:
    """Work-conserving, within the limits, alike when run twice, and all accounts at zero in the end."""

    def run() -> list[tuple[str, str]]:
        if name == "predicted_latency":
            made, stage = by_latency()
        else:
            made, stage = stages({"place": name}), None
        control = plane(made, workers=3, max_inflight=limit, seed=3)
        for index in range(3):
            control.on_worker_report(f"small-{index}", WorkerReport(0.0, 0, 0, 0.0), 0.0)
        went: list[tuple[str, str]] = []
        now = 0.0
        running: list[str] = []
        for number, (what, prompt, output) in enumerate(events):
            now += 0.5
            if what <= 3 or not running:
                submit(control, f"{number}", now, prompt_tokens=prompt, max_tokens=output, prefix=(1, 2, what))
            elif what == 4:
                control.on_abort(running.pop(0), now)
            else:
                ended = running.pop(0)
                control.on_first_token(ended, now)
                control.on_tokens(ended, max(output // 2, 1), now)
                control.on_finish(ended, Usage(prompt, output), now)
            for dispatch in control.dispatch(now):
                went.append((dispatch.ticket, dispatch.worker))
                running.append(dispatch.ticket)
            view = control.view(now).pool("small")
            assert all(worker.inflight <= limit for worker in view.workers)
            assert not view.queued or all(worker.inflight == limit for worker in view.workers)
        while running:
            ended = running.pop(0)
            control.on_finish(ended, Usage(10, 5), now)
            running.extend(dispatch.ticket for dispatch in control.dispatch(now))
        for worker in control.view(now).pool("small").workers:
            account = (worker.kv_tokens, worker.kv_expected, worker.unread, worker.reading, worker.work)
            assert account == (0, 0, 0, 0, 0)
        if stage is not None:
            assert stage.under_way == 0
        return went

    assert run() == run()


def test_an_answer_without_a_token_gives_its_seat_back() -> None:
    made, _ = by_latency()
    control = plane(made, workers=1, max_inflight=1)
    for number in range(4):
        submit(control, f"{number}", float(number))
        assert len(control.dispatch(float(number))) == 1
        control.on_finish(f"{number}", Usage(100, 0), number + 0.004)
