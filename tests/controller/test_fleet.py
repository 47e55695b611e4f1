from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import DuplicateWorker, UnknownPool, UnknownWorker
from controller.fleet import Fleet
from controller.pipeline import BUSY, ControlPlane
from controller.settings import ControlSettings
from controller.types import Rejected, Requeued, WorkerPhase, WorkerReport, WorkerSpec
from controller.view import WorkerView
from tests.controller.planes import LADDER, SMALL, finish, plane, record_of, refused, sent, submit

BREAKER = ControlSettings(breaker_errors=3, breaker_s=5.0, retry_backoff_s=0.1, max_attempts=9, no_worker_s=100.0)


def worker(control: ControlPlane, name: str, now: float) -> WorkerView:
    return next(w for pool in control.view(now).pools for w in pool.workers if w.name == name)


def test_what_contradicts_the_fleet_is_an_error() -> None:
    fleet = Fleet(LADDER, ControlSettings())
    spec = WorkerSpec("w", "small", "http://w")
    fleet.add(spec, WorkerPhase.READY, 0.0)
    with pytest.raises(DuplicateWorker, match="w"):
        fleet.add(spec, WorkerPhase.READY, 0.0)
    with pytest.raises(UnknownPool, match="nowhere"):
        fleet.add(WorkerSpec("x", "nowhere", "http://x"), WorkerPhase.READY, 0.0)
    with pytest.raises(UnknownWorker, match="ghost"):
        fleet.remove("ghost", 0.0)
    with pytest.raises(ValueError, match="max_inflight"):
        fleet.add(WorkerSpec("y", "small", "http://y", max_inflight=0), WorkerPhase.READY, 0.0)
    with pytest.raises(ValueError, match="same name"):
        Fleet([SMALL, SMALL], ControlSettings())


def test_a_view_does_not_change_afterwards() -> None:
    control = plane()
    before = control.view(0.0)
    submit(control, "a", 0.0)
    control.dispatch(0.0)
    assert before.pool("small").inflight == 0
    assert control.view(0.0).pool("small").inflight == 1


def test_load_is_counted_at_dispatch_and_melts_with_the_tokens() -> None:
    control = plane()
    submit(control, "a", 0.0, prompt_tokens=1000, max_tokens=50)
    assert control.view(0.0).pool("small").queued_work == 150
    control.dispatch(0.0)
    assert worker(control, "small-0", 0.0).work == 150
    control.on_first_token("a", 1.0)
    assert worker(control, "small-0", 1.0).work == 50
    control.on_tokens("a", 20, 2.0)
    assert worker(control, "small-0", 2.0).work == 30
    control.on_finish("a", None, 3.0)
    assert worker(control, "small-0", 3.0).work == 0


def test_a_report_counts_only_what_others_sent() -> None:
    control = plane(max_inflight=8)
    for name in ("a", "b"):
        submit(control, name, 0.0)
    control.dispatch(1.0)
    control.on_worker_report("small-0", WorkerReport(2.0, running=2, waiting=0, kv_usage=0.2), 2.1)
    assert worker(control, "small-0", 2.1).external == 0
    control.on_worker_report("small-0", WorkerReport(3.0, running=4, waiting=1, kv_usage=0.2), 3.1)
    assert worker(control, "small-0", 3.1).external == 3


def test_a_report_that_predates_a_dispatch_is_reconciled() -> None:
    control = plane(max_inflight=8)
    submit(control, "a", 0.0)
    control.dispatch(1.0)
    control.on_worker_report("small-0", WorkerReport(0.5, running=1, waiting=0, kv_usage=0.0), 1.1)
    assert worker(control, "small-0", 1.1).external == 1, "it cannot have been ours"
    finish(control, "a", 2.0)
    control.on_worker_report("small-0", WorkerReport(1.9, running=1, waiting=0, kv_usage=0.0), 2.1)
    assert worker(control, "small-0", 2.1).external == 0, "ours was still running when it was read"
    control.on_worker_report("small-0", WorkerReport(1.0, running=9, waiting=0, kv_usage=0.0), 2.2)
    assert worker(control, "small-0", 2.2).external == 0, "an older reading says nothing"


def test_old_reports_are_forgotten() -> None:
    control = plane(settings=ControlSettings(report_stale_s=5.0))
    control.on_worker_report("small-0", WorkerReport(0.0, running=9, waiting=0, kv_usage=0.5), 0.0)
    control.tick(4.0)
    assert worker(control, "small-0", 4.0).external == 9
    control.tick(6.0)
    assert worker(control, "small-0", 6.0).external == 0
    assert worker(control, "small-0", 6.0).report is None


def test_draining_workers_get_nothing_new_and_finish_what_they_have() -> None:
    control = plane(workers=2, max_inflight=1)
    submit(control, "a", 0.0)
    (first,) = control.dispatch(0.0)
    control.set_phase(first.worker, WorkerPhase.DRAINING, 1.0)
    for name in ("b", "c"):
        submit(control, name, 1.0)
    assert [d.worker for d in control.dispatch(1.0)] == ["small-1"]
    finish(control, "a", 2.0)
    assert record_of(control, "a").result == "completed"
    assert control.dispatch(2.0) == (), "the drained worker has room, but is not used"


def test_a_removed_worker_finishes_what_it_has_and_then_vanishes() -> None:
    control = plane(workers=2)
    submit(control, "a", 0.0)
    (first,) = control.dispatch(0.0)
    control.remove_worker(first.worker, 1.0)
    assert worker(control, first.worker, 1.0).removed
    assert control.view(1.0).pool("small").limit == 2
    finish(control, "a", 2.0)
    assert [w.name for w in control.view(2.0).pool("small").workers] == ["small-1"]
    assert record_of(control, "a").worker == first.worker


def test_a_name_can_be_used_again_while_the_old_worker_lingers() -> None:
    control = plane(max_inflight=1)
    submit(control, "old", 0.0)
    control.dispatch(0.0)
    control.remove_worker("small-0", 1.0)
    control.add_worker(WorkerSpec("small-0", "small", "http://new", 1), 1.0)
    submit(control, "new", 1.0)
    (dispatch,) = control.dispatch(1.0)
    assert dispatch.url == "http://new"
    finish(control, "old", 2.0)
    assert worker(control, "small-0", 2.0).inflight == 1


def test_repeated_errors_take_a_worker_out_for_a_while_then_it_is_tried_gently() -> None:
    control = plane(max_inflight=4, settings=BREAKER)
    now = 0.0
    for name in ("a1", "a2", "a3"):
        submit(control, name, now)
        assert sent(control.dispatch(now)) == [name]
        assert isinstance(control.on_worker_error(name, "connect", now, retryable=True), Requeued)
        assert control.dispatch(now) == (), "it is left alone for a moment"
        control.on_abort(name, now)
        now = control.tick(now).next_at or now
    assert now == pytest.approx(0.3 + 5.0)
    assert worker(control, "small-0", now - 1.0).phase is WorkerPhase.UNHEALTHY
    for name in ("b", "c", "d"):
        submit(control, name, now)
    assert len(control.dispatch(now)) == 1, "one request on probation"
    (running,) = control.running()
    control.on_first_token(running.ticket, now + 1)
    assert len(control.dispatch(now + 1)) == 2, "an answer ends the probation"


def test_a_broken_worker_shows_as_unhealthy_until_the_driver_says_it_is_ready() -> None:
    control = plane(settings=BREAKER)
    now = 0.0
    for name in ("a", "b", "c"):
        submit(control, name, now)
        control.dispatch(now)
        control.on_worker_error(name, "connect", now, retryable=True)
        control.on_abort(name, now)
        now += 1.0
    submit(control, "d", now)
    assert worker(control, "small-0", now).phase is WorkerPhase.UNHEALTHY
    control.set_phase("small-0", WorkerPhase.UNHEALTHY, now)
    control.set_phase("small-0", WorkerPhase.READY, now)
    assert worker(control, "small-0", now).phase is WorkerPhase.READY
    assert sent(control.dispatch(now)) == ["d"]


def test_one_bad_request_makes_no_worker_unhealthy_however_often_it_is_tried() -> None:
    control = plane(settings=BREAKER)
    submit(control, "bad", 0.0)
    now = 0.0
    for _ in range(6):
        assert sent(control.dispatch(now)) == ["bad"]
        control.on_worker_error("bad", "status_500", now, retryable=True)
        now += 1.0
        control.tick(now)
    assert worker(control, "small-0", now).phase is WorkerPhase.READY


def test_one_crash_counts_once_however_many_requests_it_takes_along() -> None:
    control = plane(max_inflight=8, settings=BREAKER)
    for index in range(8):
        submit(control, f"{index}", 0.0)
    control.dispatch(0.0)
    for index in range(8):
        control.on_worker_error(f"{index}", "reset", 1.0, retryable=True)
    assert worker(control, "small-0", 1.0).phase is WorkerPhase.READY
    assert len(control.dispatch(1.1)) == 8


def test_a_busy_worker_is_left_alone_but_is_not_at_fault() -> None:
    control = plane(workers=2, settings=BREAKER)
    submit(control, "a", 0.0)
    for index in range(6):
        assert sent(control.dispatch(index * 0.05)) == ["a"]
        control.on_worker_error("a", BUSY, index * 0.05, retryable=True)
    assert {w.phase for w in control.view(1.0).pool("small").workers} == {WorkerPhase.READY}


def test_without_any_worker_requests_are_refused_at_once_and_later_when_the_last_one_is_lost() -> None:
    control = plane(workers=0)
    assert (refused(control, "a", 0.0).status, record_of(control, "a").code) == (503, "no_worker")

    control = plane(max_inflight=1, settings=ControlSettings(no_worker_s=2.0))
    for name in ("running", "waiting"):
        submit(control, name, 0.0)
    control.dispatch(0.0)
    control.set_phase("small-0", WorkerPhase.UNHEALTHY, 1.0)
    assert control.tick(1.0).next_at == 3.0
    submit(control, "hopeful", 2.0)
    rejected = control.tick(3.0).rejected
    assert {(r.ticket, r.status, r.code) for r in rejected} == {
        ("waiting", 503, "no_worker"),
        ("hopeful", 503, "no_worker"),
    }
    assert refused(control, "late", 3.0).retry_after is not None
    finish(control, "running", 4.0)
    assert record_of(control, "running").result == "completed"


def test_a_starting_worker_is_worth_waiting_for() -> None:
    control = plane(workers=0, settings=ControlSettings(no_worker_s=0.5))
    control.add_worker(WorkerSpec("w", "small", "http://w"), 0.0, WorkerPhase.STARTING)
    submit(control, "a", 0.0)
    assert control.tick(10.0).rejected == ()
    control.set_phase("w", WorkerPhase.READY, 11.0)
    assert sent(control.dispatch(11.0)) == ["a"]


def test_rejections_name_the_request_they_are_for() -> None:
    control = plane(workers=0)
    answer = refused(control, "x", 0.0)
    assert isinstance(answer, Rejected)
    assert answer.ticket == "x"
    assert "small" in answer.message


def test_a_worker_may_take_more_or_less_and_what_runs_there_goes_on() -> None:
    control = plane(max_inflight=2)
    for name in ("a", "b", "c", "d"):
        submit(control, name, 0.0, model="small")
    assert len(control.dispatch(0.0)) == 2
    control.resize_worker("small-0", 3, True, 1.0)
    (third,) = control.dispatch(1.0)
    assert third.priority is not None
    control.resize_worker("small-0", 1, False, 2.0)
    finish(control, "a", 2.0)
    finish(control, "b", 2.0)
    assert control.dispatch(2.0) == ()
    finish(control, "c", 3.0)
    assert sent(control.dispatch(3.0)) == ["d"]
    with pytest.raises(ValueError, match="max_inflight"):
        control.resize_worker("small-0", 0, False, 4.0)
    with pytest.raises(UnknownWorker):
        control.resize_worker("ghost", 1, False, 4.0)


def test_a_broken_worker_stays_out_when_it_is_given_another_limit() -> None:
    control = plane(settings=ControlSettings(breaker_errors=1, breaker_s=5.0, max_attempts=1), max_inflight=4)
    submit(control, "a", 0.0, model="small")
    control.dispatch(0.0)
    control.on_first_token("a", 0.1)
    control.on_worker_error("a", "connection_lost", 0.1, retryable=False)
    control.resize_worker("small-0", 9, False, 0.2)
    assert worker(control, "small-0", 0.2).phase is WorkerPhase.UNHEALTHY
    control.tick(6.0)
    submit(control, "b", 6.0, model="small")
    control.dispatch(6.0)
    control.on_first_token("b", 6.1)
    finish(control, "b", 6.2)
    assert worker(control, "small-0", 6.2).limit == 9


def test_settings_and_aliases_change_for_what_comes_and_not_for_what_waits() -> None:
    control = plane(max_inflight=1, settings=ControlSettings(max_queue=1, max_queue_s=60.0))
    submit(control, "runs", 0.0, model="small")
    control.dispatch(0.0)
    submit(control, "waits", 0.0, model="small")
    assert refused(control, "one too many", 0.0, model="small").status == 429
    assert refused(control, "unknown", 0.0, model="quick").status == 404
    control.reconfigure(ControlSettings(max_queue=2, max_queue_s=1.0), {"quick": ["small"]}, 1.0)
    submit(control, "quick", 1.0, model="quick")
    assert refused(control, "gone", 1.0, model="auto").status == 404
    late = control.tick(2.5).rejected
    assert [rejected.ticket for rejected in late] == ["quick"]
    finish(control, "runs", 3.0)
    assert sent(control.dispatch(3.0)) == ["waits"]


def test_an_alias_of_no_pool_changes_nothing() -> None:
    control = plane()
    with pytest.raises(UnknownPool, match="'nowhere', which is no pool"):
        control.reconfigure(ControlSettings(max_queue=1), {"quick": ["nowhere"]}, 0.0)
    assert control.settings.max_queue == ControlSettings().max_queue
    assert "auto" in control.models()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=40), st.integers(-1, 60))
def test_what_was_under_way_at_a_moment_is_counted_as_by_looking_at_all(steps: list[tuple[int, int]], at: int) -> None:
    fleet = Fleet(LADDER, ControlSettings())
    fleet.add(WorkerSpec("w", "small", "http://w"), WorkerPhase.READY, 0.0)
    here, now = fleet.worker("w"), 0.0
    for number, (step, wait) in enumerate(steps):
        now += wait
        if step or not here.running:
            fleet.start(here, f"{number}", 1, now)
        else:
            names = list(here.running)
            fleet.end(here, names[number % len(names)], 1, now)
    begun = sum(dispatched <= at for dispatched in here.running.values())
    assert here.under_way(at) == begun + sum(dispatched <= at < ended for dispatched, ended in here.ends)
