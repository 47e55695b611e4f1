from __future__ import annotations

import pytest

from controller.errors import ControlError, UnknownPool, UnknownTicket
from controller.pipeline import BUSY, ControlPlane
from controller.settings import ControlSettings
from controller.types import Rejected, Requeued, Result, Scores, Usage, WorkerSpec
from tests.controller.planes import LADDER, SMALL, finish, plane, record_of, sent, serve_all, stages, submit, ticket

SCORES = Scores(length_rank=0.5, output_tokens=20.0, quality={"small": 0.5, "medium": 0.6, "large": 0.7})


def test_a_request_lives_and_leaves_one_record() -> None:
    control = plane({"order": "length_rank"})
    submit(control, "a", 10.0, max_tokens=64, tenant="acme")
    (dispatch,) = control.dispatch(10.5)
    assert (dispatch.pool, dispatch.worker, dispatch.url, dispatch.model, dispatch.attempt) == (
        "small",
        "small-0",
        "http://small-0",
        "org/small",
        1,
    )
    control.on_first_token("a", 11.0)
    control.on_tokens("a", 5, 11.5)
    control.on_finish("a", Usage(100, 9), 12.0)
    (record,) = control.drain_records()
    assert (record.ticket, record.tenant, record.pool, record.worker) == ("a", "acme", "small", "small-0")
    assert (record.submitted_at, record.dispatched_at, record.first_token_at, record.finished_at) == (
        10.0,
        10.5,
        11.0,
        12.0,
    )
    assert (record.result, record.code, record.attempts, record.usage) == (Result.COMPLETED, None, 1, Usage(100, 9))
    assert [choice.stage for choice in record.choices] == ["admit", "tier", "order", "place"]


def test_in_flight_limits_hold_and_the_rest_waits() -> None:
    control = plane(workers=2, max_inflight=3)
    for index in range(10):
        submit(control, f"{index}", 0.0)
    assert len(control.dispatch(0.0)) == 6
    assert control.dispatch(0.0) == ()
    finish(control, "0", 1.0)
    assert sent(control.dispatch(1.0)) == ["6"]
    assert len(control.queued()) == 3


ALWAYS = ControlSettings(score_always=True)


def test_where_every_request_is_scored_one_that_could_go_at_once_waits_for_its_scores() -> None:
    control = plane({"order": "length_rank"}, settings=ALWAYS, priority_scheduling=True)
    assert submit(control, "a", 0.0).wants_scores
    assert control.dispatch(0.0) == ()
    assert control.tier_context("a", SCORES, 0.001) is None
    control.on_scores("a", SCORES, 0.001)
    assert sent(control.dispatch(0.001)) == ["a"]
    finish(control, "a", 1.0)
    assert record_of(control, "a").scores == SCORES
    assert [choice.stage for choice in record_of(control, "a").choices] == ["admit", "tier", "order", "place"]
    assert control.counters()["score", "length", "scored"] == 1
    assert control.counters()["score", "length", "skipped"] == 0


def test_where_every_request_is_scored_none_waits_beyond_the_budget() -> None:
    control = plane({"order": "length_rank"}, settings=ALWAYS)
    submit(control, "a", 0.0)
    assert control.tick(0.001).next_at == pytest.approx(ALWAYS.scoring_budget_s)
    control.tick(ALWAYS.scoring_budget_s)
    assert sent(control.dispatch(ALWAYS.scoring_budget_s)) == ["a"]
    assert control.counters()["score", "length", "fallback"] == 1
    assert control.fallbacks()["score", "length", "timeout"] == 1
    control.on_scores("a", SCORES, 0.01)
    assert control.counters()["score", "length", "scored"] == 0


def test_a_tier_that_needs_no_scores_may_wait_for_them_all_the_same() -> None:
    control = plane({"tier": "threshold", "order": "length_rank"}, pools=LADDER, settings=ALWAYS)
    assert submit(control, "open", 0.0).wants_scores
    assert control.dispatch(0.0) == ()
    control.on_scores("open", SCORES, 0.001)
    (dispatch,) = control.dispatch(0.001)
    assert dispatch.pool == "large"


def test_where_no_stage_needs_scores_nobody_waits_for_them() -> None:
    control = plane({"tier": "static", "order": "fcfs"}, pools=LADDER, settings=ALWAYS)
    assert not submit(control, "a", 0.0).wants_scores
    assert sent(control.dispatch(0.0)) == ["a"]


def test_a_ticket_whose_tier_is_open_waits_for_its_scores_and_a_pinned_one_does_not() -> None:
    control = plane({"tier": "router"}, pools=LADDER)
    assert submit(control, "open", 0.0).wants_scores
    assert not submit(control, "pinned", 0.0, model="small").wants_scores
    assert sent(control.dispatch(0.0)) == ["pinned"]
    control.on_scores("open", SCORES, 0.002)
    assert sent(control.dispatch(0.002)) == ["open"]
    assert control.view(0.002).open == 0


def test_scores_are_wanted_for_order_only_when_something_waits() -> None:
    control = plane({"order": "length_rank"}, max_inflight=1)
    assert not submit(control, "first", 0.0).wants_scores
    control.dispatch(0.0)
    assert submit(control, "second", 0.0).wants_scores
    assert control.counters()["score", "length", "skipped"] == 1
    control.on_scores("second", SCORES, 0.001)
    assert control.counters()["score", "length", "scored"] == 1
    submit(control, "third", 0.0)
    control.on_scores("third", None, 0.001, why="timeout")
    submit(control, "fourth", 0.0)
    control.on_scores("fourth", Scores(quality={"small": 0.5}), 0.001)
    assert control.counters()["score", "length", "fallback"] == 2
    assert control.fallbacks() == {("score", "length", "timeout"): 1, ("score", "length", "no_prediction"): 1}


def test_scores_that_come_after_dispatch_change_nothing_and_count_as_skipped() -> None:
    control = plane({"order": "length_rank"}, max_inflight=1)
    submit(control, "first", 0.0)
    submit(control, "second", 0.0)
    control.dispatch(0.0)
    finish(control, "first", 1.0)
    assert sent(control.dispatch(1.0)) == ["second"]
    control.on_scores("second", SCORES, 1.1)
    assert control.counters()["score", "length", "skipped"] == 2
    assert control.counters()["score", "length", "scored"] == 0
    finish(control, "second", 2.0)
    assert record_of(control, "second").scores is None, "the record holds what the decision knew"


def test_late_scores_still_reorder_the_queue_but_do_not_change_the_tier() -> None:
    control = plane({"tier": "router", "order": "length_rank"}, pools=LADDER, max_inflight=1, settings=None)
    for name in ("running", "long", "short"):
        submit(control, name, 0.0)
        control.on_scores(name, None, 0.005, why="timeout")
    pool = control.queued()[0].pool
    assert {view.pool for view in control.queued()} == {pool}
    control.dispatch(0.005)
    control.on_scores("short", Scores(length_rank=-1.0, quality={"small": 1.0}), 0.01)
    control.on_scores("long", Scores(length_rank=5.0), 0.01)
    assert {view.pool for view in control.queued()} == {pool}
    control.on_finish("running", None, 1.0)
    assert serve_all(control, 1.0) == ["short", "long"]
    orders = [choice for choice in record_of(control, "short").choices if choice.stage == "order"]
    assert [choice.fallback for choice in orders] == [None], "it was ranked after all"
    orders = [choice for choice in record_of(control, "running").choices if choice.stage == "order"]
    assert [choice.fallback for choice in orders] == ["timeout"]


def test_a_failure_before_the_first_token_is_tried_on_another_worker() -> None:
    control = plane(workers=3, max_inflight=1)
    submit(control, "a", 0.0)
    workers = []
    for attempt in (1, 2):
        (dispatch,) = control.dispatch(0.0)
        workers.append(dispatch.worker)
        assert dispatch.attempt == attempt
        assert control.on_worker_error("a", "reset", 0.0, retryable=True) == Requeued("a", attempt + 1)
    (dispatch,) = control.dispatch(0.0)
    workers.append(dispatch.worker)
    assert len(set(workers)) == 3
    last = control.on_worker_error("a", "reset", 0.0, retryable=True)
    assert isinstance(last, Rejected)
    assert (last.status, last.code) == (502, "worker_error")
    assert "3 attempts" in last.message
    record = record_of(control, "a")
    assert (record.result, record.code, record.attempts) == (Result.FAILED, "reset", 3)


def test_a_retry_waits_for_the_healthy_worker_even_if_that_is_full() -> None:
    control = plane(workers=2, max_inflight=1)
    for name in ("a", "b"):
        submit(control, name, 0.0)
    first = {dispatch.ticket: dispatch.worker for dispatch in control.dispatch(0.0)}
    submit(control, "c", 0.5)
    assert control.on_worker_error("a", "reset", 1.0, retryable=True) == Requeued("a", 2)
    # The worker that failed has room again after its pause: others may try it, the ticket that it failed may not.
    sent_there = control.dispatch(1.1)
    assert [(dispatch.ticket, dispatch.worker) for dispatch in sent_there] == [("c", first["a"])]
    finish(control, "b", 2.0)
    (retried,) = control.dispatch(2.0)
    assert (retried.ticket, retried.worker, retried.attempt) == ("a", first["b"], 2)


def test_a_retry_is_not_counted_as_another_chance_to_score() -> None:
    control = plane({"order": "length_rank"}, workers=2, max_inflight=1)
    for name in ("a", "b", "c"):
        submit(control, name, 0.0)
    control.dispatch(0.0)
    finish(control, "a", 1.0)
    control.dispatch(1.0)
    control.on_worker_error("c", "reset", 1.0, retryable=True)
    control.dispatch(2.0)
    assert sum(control.counters()["score", "length", outcome] for outcome in ("scored", "skipped", "fallback")) == 3


def test_a_retry_keeps_its_place_in_the_queue() -> None:
    control = plane(workers=1, max_inflight=1)
    for index in range(3):
        submit(control, f"{index}", float(index))
    control.dispatch(3.0)
    control.on_worker_error("0", "reset", 3.0, retryable=True)
    assert sent(control.dispatch(4.0)) == ["0"]


@pytest.mark.parametrize(("code", "status", "expected"), [(BUSY, 503, "worker_busy"), ("connect", 502, "worker_error")])
def test_a_failure_that_cannot_be_retried_is_final(code: str, status: int, expected: str) -> None:
    control = plane(workers=2)
    submit(control, "a", 0.0)
    control.dispatch(0.0)
    answer = control.on_worker_error("a", code, 1.0, retryable=False)
    assert isinstance(answer, Rejected)
    assert (answer.status, answer.code) == (status, expected)


def test_nothing_is_retried_once_the_client_has_seen_a_token() -> None:
    control = plane(workers=2)
    submit(control, "a", 0.0)
    control.dispatch(0.0)
    control.on_first_token("a", 1.0)
    assert isinstance(control.on_worker_error("a", "reset", 2.0, retryable=True), Rejected)


def test_a_client_may_leave_at_any_time() -> None:
    control = plane({"tier": "router"}, pools=LADDER, max_inflight=1)
    submit(control, "open", 0.0)
    submit(control, "running", 0.0, model="small")
    submit(control, "queued", 0.0, model="small")
    control.dispatch(0.0)
    for name in ("open", "running", "queued"):
        control.on_abort(name, 1.0)
        assert record_of(control, name).result is Result.ABORTED
    assert control.view(1.0).queued == 0
    assert control.view(1.0).pool("small").queued_work == 0
    submit(control, "next", 2.0, model="small")
    assert sent(control.dispatch(2.0)) == ["next"], "its slot is free again"


def test_time_in_the_queue_is_limited() -> None:
    control = plane(max_inflight=1, settings=ControlSettings(max_queue_s=5.0))
    submit(control, "running", 0.0)
    control.dispatch(0.0)
    submit(control, "patient", 0.0)
    submit(control, "hasty", 0.0, deadline=2.0)
    tick = control.tick(0.0)
    assert (tick.rejected, tick.next_at) == ((), 2.0)
    (late,) = control.tick(2.0).rejected
    assert (late.ticket, late.status, late.code) == ("hasty", 504, "deadline_exceeded")
    (gone,) = control.tick(5.0).rejected
    assert (gone.ticket, gone.status, gone.code) == ("patient", 503, "queue_timeout")
    assert control.tick(100.0).rejected == (), "what runs is the driver's to abort"
    assert record_of(control, "hasty").result is Result.REJECTED


def test_a_ticket_past_its_time_is_not_sent_even_if_no_tick_came_between() -> None:
    control = plane(max_inflight=1)
    submit(control, "running", 0.0)
    control.dispatch(0.0)
    submit(control, "late", 0.0, deadline=1.0)
    finish(control, "running", 2.0)
    assert control.dispatch(2.0) == ()
    assert [rejected.ticket for rejected in control.tick(2.0).rejected] == ["late"]


def test_late_answers_can_be_wanted() -> None:
    control = plane(max_inflight=1, settings=ControlSettings(drop_late=False))
    submit(control, "a", 0.0, deadline=1.0)
    control.tick(2.0)
    assert sent(control.dispatch(2.0)) == ["a"]


def test_events_of_ended_tickets_are_ignored_and_of_unknown_ones_are_errors() -> None:
    control = plane()
    submit(control, "a", 0.0)
    control.dispatch(0.0)
    finish(control, "a", 1.0)
    control.on_first_token("a", 2.0)
    control.on_tokens("a", 99, 2.0)
    control.on_finish("a", None, 2.0)
    control.on_abort("a", 2.0)
    control.on_scores("a", SCORES, 2.0)
    assert control.on_worker_error("a", "reset", 2.0, retryable=True) is None
    assert len(control.drain_records()) == 1
    with pytest.raises(UnknownTicket, match="ghost"):
        control.on_finish("ghost", None, 3.0)
    with pytest.raises(ControlError, match="'a' was submitted before"):
        control.submit(ticket("a"), 3.0)
    submit(control, "b", 3.0)
    with pytest.raises(ControlError, match="queued, not running"):
        control.on_first_token("b", 3.0)


def test_names_stand_for_pools() -> None:
    twin = SMALL.__class__("twin", SMALL.model, 0)
    control = plane({"tier": "pinned"}, pools=(SMALL, twin), aliases={"auto": ["twin", "small"]})
    assert control.models() == {
        "org/small": ("small", "twin"),
        "small": ("small",),
        "twin": ("twin",),
        "auto": ("twin", "small"),
    }
    for name, model in (("a", "auto"), ("b", "org/small"), ("c", "small")):
        submit(control, name, 0.0, model=model)
    assert {dispatch.ticket: dispatch.pool for dispatch in control.dispatch(0.0)} == {
        "a": "twin",
        "b": "small",
        "c": "small",
    }
    for aliases in ({"auto": ["smal"]}, {"auto": []}):
        with pytest.raises(UnknownPool, match="auto"):
            ControlPlane([SMALL], stages({}), aliases=aliases)


def test_what_waits_and_what_runs_can_be_seen() -> None:
    control = plane({"tier": "router"}, pools=LADDER, max_inflight=1)
    submit(control, "open", 0.0)
    submit(control, "running", 0.0, model="small")
    submit(control, "queued", 0.0, model="small")
    control.dispatch(0.0)
    control.on_tokens("running", 7, 1.0)
    assert [(view.ticket, view.stand, view.pool) for view in control.queued()] == [
        ("open", "open", None),
        ("queued", "queued", "small"),
    ]
    (running,) = control.running()
    assert (running.ticket, running.worker, running.output_tokens, running.attempts) == ("running", "small-0", 7, 1)


def test_nothing_to_do_means_no_next_tick() -> None:
    control = plane()
    assert control.tick(0.0).next_at is None
    submit(control, "a", 0.0)
    control.dispatch(0.0)
    assert control.tick(0.0).next_at is None


def test_many_tickets_do_not_pile_up_in_memory() -> None:
    control = plane(max_inflight=4, settings=ControlSettings(pending_records=10, recent_records=10))
    for index in range(20_000):
        submit(control, f"{index}", float(index))
        control.dispatch(float(index))
        control.on_finish(f"{index}", None, float(index))
    assert len(control._ended) <= 16_384
    assert not control._tickets
    assert len(control.drain_records()) == 10
    assert control.records.dropped == 20_000 - 10


def test_a_worker_that_joins_is_used_at_once() -> None:
    control = plane(max_inflight=1)
    for index in range(2):
        submit(control, f"{index}", 0.0)
    assert len(control.dispatch(0.0)) == 1
    control.add_worker(WorkerSpec("more", "small", "http://more", 1), 1.0)
    assert [dispatch.worker for dispatch in control.dispatch(1.0)] == ["more"]


def test_rebalance_moves_nothing_with_none() -> None:
    assert list(plane().rebalance(0.0)) == []
