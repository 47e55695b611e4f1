from __future__ import annotations

import pytest

from controller.types import Scores, Usage
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
