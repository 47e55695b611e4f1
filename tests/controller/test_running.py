from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.types import Move, Scores, Usage
from tests.controller.planes import finish, plane, submit


def work(control: object, now: float) -> int:
    from controller.pipeline import ControlPlane

    assert isinstance(control, ControlPlane)
    return control.view(now).pool("small").inflight_work


def test_an_answer_that_outgrows_its_expectation_is_expected_to_double() -> None:
    control = plane({"order": "length_rank"}, max_inflight=2)
    submit(control, "a", 0.0, prompt_tokens=0, max_tokens=100)
    control.dispatch(0.0)
    assert work(control, 0.0) == 100
    submit(control, "b", 0.0, prompt_tokens=0)
    control.on_finish("a", Usage(0, 100), 1.0)
    control.dispatch(1.0)
    expected = work(control, 1.0)
    control.on_tokens("b", expected + 10, 2.0)
    assert work(control, 2.0) == expected + 10


def test_but_never_beyond_the_clients_limit() -> None:
    control = plane({"order": "length_rank"}, max_inflight=1)
    submit(control, "first", 0.0)
    control.dispatch(0.0)
    submit(control, "a", 0.0, Scores(output_tokens=10.0), prompt_tokens=0, max_tokens=15)
    finish(control, "first", 0.5)
    control.dispatch(0.5)
    assert work(control, 0.5) <= 15
    control.on_tokens("a", 12, 1.0)
    assert work(control, 1.0) == 3
    control.on_tokens("a", 15, 2.0)
    assert work(control, 2.0) == 0


def test_reports_out_of_order_do_not_count_twice() -> None:
    control = plane()
    submit(control, "a", 0.0, prompt_tokens=0, max_tokens=50)
    control.dispatch(0.0)
    control.on_tokens("a", 20, 1.0)
    control.on_tokens("a", 10, 1.5)
    assert work(control, 1.5) == 30
    control.on_finish("a", Usage(0, 20), 2.0)
    assert work(control, 2.0) == 0


def test_what_is_said_to_be_left_is_what_is_outstanding() -> None:
    control = plane({"order": "length_rank"}, max_inflight=1)
    submit(control, "a", 0.0, prompt_tokens=0, max_tokens=400)
    control.dispatch(0.0)
    control.on_remaining("a", 48, 5.0, 0.5)
    assert control.expectation("a") == (None, work(control, 0.5)), "not before its first token"
    control.on_tokens("a", 48, 1.0)
    control.on_remaining("a", 48, 20.0, 1.0)
    assert (work(control, 1.0), control.expectation("a")) == (20, (None, 68))
    control.on_tokens("a", 60, 1.5)
    assert work(control, 1.5) == 8, "it counts down from there"
    control.on_remaining("a", 48, 3.0, 1.5)
    assert work(control, 1.5) == 8, "it has outgrown that meanwhile"
    control.on_remaining("a", 60, 5000.0, 2.0)
    assert work(control, 2.0) == 340, "never beyond the client's limit"
    control.on_finish("a", Usage(0, 61), 3.0)
    control.on_remaining("a", 61, 100.0, 3.0)
    assert (work(control, 3.0), control.expectation("a")) == (0, None)


def test_what_is_left_of_a_ticket_that_moves_is_not_what_its_old_worker_was_said_to_have() -> None:
    control = plane({"order": "length_rank"}, workers=2, max_inflight=1)
    submit(control, "a", 0.0, prompt_tokens=0, max_tokens=400)
    (sent,) = control.dispatch(0.0)
    control.on_tokens("a", 48, 1.0)
    other = next(name for name in ("small-0", "small-1") if name != sent.worker)
    control.on_moved(Move("a", other, "test"), 1.5)
    control.on_remaining("a", 48, 7.0, 1.6)
    (again,) = control.dispatch(2.0)
    control.on_remaining("a", 48, 7.0, 2.0)
    assert again.worker == other
    assert control.expectation("a") == (None, 256), "it still reads there"
    control.on_tokens("a", 49, 2.5)
    control.on_remaining("a", 48, 7.0, 2.5)
    loads = {worker.name: worker.work for worker in control.view(2.5).pool("small").workers}
    assert loads == {other: 6, sent.worker: 0}


@given(st.lists(st.tuples(st.integers(1, 900), st.floats(0.0, 5000.0)), max_size=30), st.integers(1, 1000))
def test_a_workers_load_is_what_its_answers_are_expected_to_have_still(
    said: list[tuple[int, float]], limit: int
) -> None:
    control = plane({"place": "freeness"}, max_inflight=1)
    submit(control, "a", 0.0, prompt_tokens=10, max_tokens=limit)
    control.dispatch(0.0)
    had = 0
    for total, left in said:
        had = max(had, total)
        control.on_tokens("a", total, 1.0)
        control.on_remaining("a", total, left, 1.0)
        (worker,) = control.view(1.0).pool("small").workers
        known = control.expectation("a")
        assert known is not None
        assert worker.work == known[1] - had >= 0
        assert worker.kv_tokens == 10 + had
        assert worker.kv_expected == 10 + known[1]
        assert known[1] <= max(limit, had)
    control.on_finish("a", None, 2.0)
    (worker,) = control.view(2.0).pool("small").workers
    assert (worker.work, worker.kv_tokens, worker.kv_expected) == (0, 0, 0)


def test_outcomes_teach_the_pool_its_ratio_and_its_typical_answer() -> None:
    control = plane()
    for index in range(300):
        submit(control, f"{index}", float(index), prompt_tokens=None, prompt_chars=300)
        control.dispatch(float(index))
        control.on_finish(f"{index}", Usage(prompt_tokens=150, output_tokens=40), index + 0.5)
    assert control.view(300.0).pool("small").typical_output == pytest.approx(40, rel=0.05)
    submit(control, "next", 301.0, prompt_tokens=None, prompt_chars=300)
    control.dispatch(301.0)
    finish(control, "next", 302.0)
    assert control.drain_records()[-1].prompt_tokens == pytest.approx(150, abs=10)


def test_a_busy_pools_service_rate_is_measured() -> None:
    control = plane(max_inflight=1)
    for index in range(60):
        submit(control, f"{index}", 0.0, prompt_tokens=0, max_tokens=200)
    now = 0.0
    while batch := control.dispatch(now):
        for step in range(1, 11):
            now += 0.1
            control.on_tokens(batch[0].ticket, 20 * step, now)
        control.on_finish(batch[0].ticket, Usage(0, 200), now)
    assert control.view(now).pool("small").service_rate == pytest.approx(200.0, rel=0.1), "not the assumed 1000"
