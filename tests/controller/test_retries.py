from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.pipeline import BUSY, LATE
from controller.retries import RetryBudget
from controller.settings import ControlSettings
from controller.types import Rejected, Requeued, WorkerPhase, WorkerSpec
from tests.controller.planes import plane, record_of, sent, submit

SAVED_S = 30.0
EVENTS = st.lists(st.tuples(st.sampled_from(["request", "retry"]), st.floats(0.0, 20.0)), max_size=200)


@settings(max_examples=300)
@given(EVENTS, st.floats(0.0, 1.0), st.floats(0.0, 3.0), st.integers(0, 199))
def test_never_more_than_a_share_and_what_is_free(
    events: list[tuple[str, float]], share: float, free: float, since: int
) -> None:
    budget = RetryBudget(share, free)
    now, began, saved, granted, requests = 0.0, 0.0, free * SAVED_S, 0, 0
    for index, (kind, passed) in enumerate(events):
        now += passed
        if index == since:
            began, saved, granted, requests = now, max(budget.balance, free * SAVED_S), 0, 0
        if kind == "request":
            budget.deposit(now)
            requests += 1
        else:
            granted += budget.take(now)
        assert granted <= saved + share * requests + free * (now - began) + 1e-6


@given(st.integers(1, 50))
def test_a_share_of_a_steady_stream_is_granted_in_the_long_run(rate: int) -> None:
    budget = RetryBudget(0.2, 0.0)
    granted = 0
    for index in range(2000):
        budget.deposit(index / rate)
        granted += budget.take(index / rate)
    assert 0.15 * 2000 <= granted <= 0.2 * 2000


def test_what_is_saved_fades() -> None:
    budget = RetryBudget(1.0, 0.0)
    for _ in range(100):
        budget.deposit(0.0)
    assert budget.balance == pytest.approx(100.0)
    budget.deposit(300.0)
    assert budget.balance < 2.0


def test_without_a_share_there_is_no_bound_and_refusals_are_counted() -> None:
    assert all(RetryBudget(None, 0.0).take(0.0) for _ in range(1000))
    budget = RetryBudget(0.0, 0.0)
    assert not budget.take(0.0)
    assert budget.refused == 1


@pytest.mark.parametrize("code, status", [("connect_error", 502), (BUSY, 503)])
def test_a_request_beyond_the_budget_is_given_up_at_its_first_failure(code: str, status: int) -> None:
    control = plane(settings=ControlSettings(retry_share=0.5, retry_free_per_s=0.0, retry_backoff_s=0.0))
    control.add_worker(WorkerSpec("small-1", "small", "http://other", 8), 0.0)
    verdicts = []
    for index in range(8):
        submit(control, f"t{index}", 0.0)
        (dispatch,) = control.dispatch(0.0)
        verdict = control.on_worker_error(dispatch.ticket, code, 0.0, retryable=True)
        verdicts.append(verdict)
        control.on_abort(dispatch.ticket, 0.0)
        for name in ("small-0", "small-1"):
            control.set_phase(name, WorkerPhase.UNHEALTHY, 0.0)
            control.set_phase(name, WorkerPhase.READY, 0.0)
    assert [type(verdict) for verdict in verdicts] == [Rejected, Requeued] * 4
    assert isinstance(verdicts[0], Rejected)
    assert verdicts[0].status == status
    assert record_of(control, "t0").attempts == 1
    assert control.retries.refused == 4


def test_an_answer_that_takes_too_long_is_not_tried_again_nor_held_against_the_worker() -> None:
    control = plane(settings=ControlSettings(breaker_errors=1))
    submit(control, "long", 0.0)
    control.dispatch(0.0)
    verdict = control.on_worker_error("long", LATE, 60.0, retryable=True)
    assert isinstance(verdict, Rejected)
    assert (verdict.status, verdict.code) == (504, LATE)
    submit(control, "next", 60.0)
    assert sent(control.dispatch(60.0)) == ["next"]


@pytest.mark.parametrize(
    "code, opens", [("first_byte_timeout", True), ("idle_timeout", True), ("connection_lost", False)]
)
def test_a_worker_that_is_silent_to_several_requests_at_once_is_out_and_one_that_died_once_is_not(
    code: str, opens: bool
) -> None:
    control = plane(max_inflight=4, settings=ControlSettings(breaker_errors=3, max_attempts=1))
    for name in ("a", "b", "c"):
        submit(control, name, 0.0)
    assert len(control.dispatch(0.0)) == 3
    for name in ("a", "b", "c"):
        control.on_worker_error(name, code, 600.0, retryable=False)
    (pool,) = [pool for pool in control.view(601.0).pools if pool.spec.name == "small"]
    assert (pool.workers[0].phase is WorkerPhase.UNHEALTHY) is opens


@given(st.integers(1, 8), st.lists(st.sampled_from(["fails", "leaves"]), max_size=6))
def test_a_breaker_that_is_half_open_lets_one_request_through_at_a_time(room: int, ends: list[str]) -> None:
    settings_ = ControlSettings(breaker_errors=1, breaker_s=1.0, breaker_max_s=1.0, max_attempts=1, no_worker_s=1e6)
    control = plane(max_inflight=room, settings=settings_)
    submit(control, "first", 0.0)
    control.dispatch(0.0)
    control.on_worker_error("first", "connect_error", 0.0, retryable=False)
    for index in range(room + 8):
        submit(control, f"t{index}", 0.0)
    now = 0.0
    for end in ends:
        now += 2.0
        (probe,) = control.dispatch(now)
        assert control.dispatch(now) == ()
        if end == "fails":
            control.on_worker_error(probe.ticket, "connect_error", now, retryable=False)
            assert control.dispatch(now) == ()
        else:
            control.on_abort(probe.ticket, now)
    now += 2.0
    (probe,) = control.dispatch(now)
    control.on_first_token(probe.ticket, now)
    assert len(control.dispatch(now)) == min(room - 1, room + 7 - len(ends))
