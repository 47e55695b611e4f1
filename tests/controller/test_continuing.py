from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from controller.fairness import Vtc
from controller.pipeline import ControlPlane
from controller.settings import ControlSettings
from controller.types import Move, Rejected, Requeued, Result, Usage
from controller.view import FleetView, TicketView
from tests.controller.planes import LARGE, SMALL, plane, record_of, sent, submit


def _begun(control: ControlPlane, name: str = "a", tokens: int = 40, now: float = 0.0, **fields: Any) -> str:
    """A ticket in the middle of its answer; the name of its worker."""
    submit(control, name, now, **fields)
    (dispatch,) = control.dispatch(now)
    control.on_first_token(name, now)
    control.on_tokens(name, tokens, now)
    return dispatch.worker


def _fails(control: ControlPlane, name: str, now: float) -> Requeued | Rejected | None:
    return control.on_worker_error(name, "connection_lost", now, retryable=False, continues=True)


def test_a_stream_goes_on_with_another_worker_of_its_pool_and_the_record_says_so() -> None:
    control = plane(pools=(SMALL, LARGE), workers=2)
    first = _begun(control, model="small")
    assert _fails(control, "a", 1.0) == Requeued("a", 2)
    (dispatch,) = control.dispatch(1.0)
    assert (dispatch.pool, dispatch.attempt) == ("small", 2)
    assert dispatch.worker != first
    control.on_first_token("a", 1.1)
    control.on_finish("a", Usage(100, 60), 2.0)
    record = record_of(control, "a")
    assert (record.result, record.continued, record.attempts) == (Result.COMPLETED, 1, 2)
    assert (record.worker, record.first_token_at, record.usage) == (dispatch.worker, 0.0, Usage(100, 60))


def test_it_waits_in_front_of_everybody_else() -> None:
    control = plane(workers=2, max_inflight=1)
    _begun(control, now=5.0)
    submit(control, "running", 5.0)
    assert sent(control.dispatch(5.0)) == ["running"]
    for name in ("b", "c"):
        submit(control, name, 5.1, priority=-10)
    _fails(control, "a", 6.0)
    control.on_finish("running", None, 6.5)
    assert sent(control.dispatch(6.5))[0] == "a"


def test_without_another_worker_it_waits_for_its_own() -> None:
    control = plane(settings=ControlSettings(retry_backoff_s=0.5))
    worker = _begun(control)
    _fails(control, "a", 1.0)
    assert not control.dispatch(1.2)
    assert [dispatch.worker for dispatch in control.dispatch(1.6)] == [worker]


def test_the_prompt_is_charged_once_and_the_answer_as_it_grows() -> None:
    control = plane({"fairness": ("vtc", {"predict": False})}, workers=2)
    fairness = control.stages.fairness
    assert isinstance(fairness, Vtc)
    _begun(control, tokens=40)
    assert fairness.service("small", "default") == 100 + 2 * 40
    _fails(control, "a", 1.0)
    control.dispatch(1.0)
    control.on_first_token("a", 1.1)
    assert fairness.service("small", "default") == 100 + 2 * 40
    control.on_tokens("a", 50, 1.2)
    assert fairness.service("small", "default") == 100 + 2 * 50


def test_the_next_worker_carries_what_is_left_and_has_all_to_read() -> None:
    settings = ControlSettings(prompt_work=0.1)
    control = plane(workers=2, settings=settings)
    first = _begun(control, tokens=40, max_tokens=200)

    def work() -> dict[str, int]:
        return {worker.name: worker.work for worker in control.view(2.0).pools[0].workers}

    before = work()[first]
    _fails(control, "a", 1.0)
    assert sum(work().values()) == 0
    assert control.view(2.0).pools[0].queued_work == before + round(0.1 * 140)
    (dispatch,) = control.dispatch(1.0)
    assert work() == {first: 0, dispatch.worker: before + round(0.1 * 140)}
    control.on_first_token("a", 1.1)
    assert work()[dispatch.worker] == before
    control.on_finish("a", Usage(100, 200), 2.0)
    assert sum(work().values()) == 0


def test_it_goes_on_so_many_times_and_no_more() -> None:
    control = plane(workers=2, settings=ControlSettings(max_continuations=2, breaker_errors=100, retry_backoff_s=0.0))
    _begun(control)
    for attempt in (2, 3):
        assert _fails(control, "a", float(attempt)) == Requeued("a", attempt)
        assert sent(control.dispatch(attempt + 0.5)) == ["a"]
    answer = _fails(control, "a", 9.0)
    assert isinstance(answer, Rejected)
    assert (answer.status, record_of(control, "a").result) == (502, Result.FAILED)


def test_before_the_first_token_there_is_nothing_to_continue() -> None:
    control = plane(workers=2)
    submit(control, "a", 0.0)
    control.dispatch(0.0)
    assert isinstance(_fails(control, "a", 1.0), Rejected)


def test_a_stream_older_than_the_queues_limit_may_wait_as_long_as_a_new_one() -> None:
    control = plane(settings=ControlSettings(max_queue_s=10.0, retry_backoff_s=15.0))
    _begun(control)
    assert isinstance(_fails(control, "a", 300.0), Requeued)
    assert not control.tick(309.0).rejected
    (late,) = control.tick(310.0).rejected
    assert "after 10.0 s" in late.message
    assert record_of(control, "a").result is Result.FAILED, "the client has seen half of it"


@pytest.mark.parametrize(("drop_late", "kind"), [(True, Rejected), (False, Requeued)])
def test_after_its_deadline_it_is_given_up_if_late_tickets_are(drop_late: bool, kind: type) -> None:
    control = plane(workers=2, settings=ControlSettings(drop_late=drop_late))
    _begun(control, deadline=5.0)
    assert isinstance(_fails(control, "a", 6.0), kind)


class _Scripted:
    name = "scripted"
    interval_s: float | None = 1.0

    def __init__(self, *moves: Move) -> None:
        self.moves = moves
        self.seen: list[list[str]] = []

    def plan(self, view: FleetView, running: Sequence[TicketView], now: float) -> Sequence[Move]:
        self.seen.append([ticket.ticket for ticket in running])
        return self.moves


def _with(control: ControlPlane, stage: _Scripted) -> ControlPlane:
    control.stages = replace(control.stages, rebalance=stage)
    return control


def test_a_plan_is_made_at_its_interval_and_impossible_moves_are_left_out() -> None:
    control = plane(workers=3, pools=(SMALL, LARGE))
    here = _begun(control, model="small")
    there = next(name for name in ("small-0", "small-1", "small-2") if name != here)
    submit(control, "unseen", 0.0, model="small")
    control.dispatch(0.0)
    good = Move("a", there, "why not")
    moves = [Move("a", here, ""), Move("a", "large-0", ""), Move("a", "nobody", ""), Move("gone", there, "")]
    stage = _Scripted(*moves, Move("unseen", there, ""), good)
    _with(control, stage)
    tick = control.tick(0.0)
    assert (tick.moves, tick.next_at) == ((good,), 1.0)
    assert control.tick(0.5).moves == ()
    assert control.tick(1.0).moves == (good,)
    assert stage.seen == [["a", "unseen"]] * 2


def test_a_move_leads_to_the_named_worker_and_is_no_failure() -> None:
    control = plane(workers=3, settings=ControlSettings(max_continuations=0))
    here = _begun(control)
    there = next(name for name in ("small-2", "small-1") if name != here)
    assert control.on_moved(Move("a", there, ""), 1.0) == Requeued("a", 2)
    assert [dispatch.worker for dispatch in control.dispatch(1.0)] == [there]
    control.on_first_token("a", 1.0)
    assert control.on_moved(Move("a", here, ""), 2.0) == Requeued("a", 3)
    assert [dispatch.worker for dispatch in control.dispatch(2.0)] == [here], "it may come back: nothing failed there"
    control.on_finish("a", None, 3.0)
    assert record_of(control, "a").continued == 2


def test_a_move_to_a_worker_without_room_leads_elsewhere() -> None:
    control = plane(workers=2, max_inflight=1)
    here = _begun(control)
    submit(control, "b", 0.0)
    (other,) = control.dispatch(0.0)
    control.on_moved(Move("a", other.worker, ""), 1.0)
    assert [dispatch.worker for dispatch in control.dispatch(1.0)] == [here]


def test_one_that_gives_its_seat_up_waits_by_its_key_and_goes_on_later() -> None:
    control = plane(workers=1, max_inflight=1)
    _begun(control, now=5.0)
    submit(control, "urgent", 5.1, priority=-1)
    submit(control, "later", 5.2)
    assert control.on_moved(Move("a", None, ""), 6.0) == Requeued("a", 2)
    for name in ("urgent", "a"):
        assert sent(control.dispatch(6.0)) == [name]
        control.on_finish(name, None, 7.0)
    assert record_of(control, "a").continued == 1


def test_only_a_running_stream_that_has_begun_can_give_its_seat_up() -> None:
    control = plane(workers=1, max_inflight=3)
    _begun(control)
    submit(control, "unseen", 0.0)
    control.dispatch(0.0)
    moves = [Move(name, None, "") for name in ("a", "unseen", "gone")]
    _with(control, _Scripted(*moves))
    assert control.tick(0.0).moves == (moves[0],)
