from __future__ import annotations

from typing import Any

from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings, ReplicaRange
from controller.types import Scale, WorkerPhase, WorkerReport, WorkerSpec
from tests.controller.planes import finish, plane, sent, stages, submit

LASTING = ControlSettings(max_queue_s=1e6, report_stale_s=1e6)


def scaled(low: int = 1, high: int = 4, workers: int = 1, **options: Any) -> ControlPlane:
    resources = Resources(replicas={"small": ReplicaRange(low, high)})
    made = stages({"scale": ("target_tracking", {"target": 4.0, "interval_s": 1.0, **options})}, resources)
    return plane(made, workers=workers, max_inflight=4, settings=LASTING)


def report(control: ControlPlane, now: float) -> None:
    for worker in control.view(now).pool("small").workers:
        control.on_worker_report(worker.name, WorkerReport(now, 0, 0, 0.0), now)


def plan(control: ControlPlane, now: float) -> list[int]:
    report(control, now)
    return [scale.replicas for scale in control.tick(now).scale]


def load(control: ControlPlane, requests: int, now: float) -> None:
    for index in range(requests):
        submit(control, f"{now}-{index}", now)
    control.dispatch(now)


def test_load_above_the_target_asks_for_one_replica_at_a_time() -> None:
    control = scaled()
    load(control, 14, 0.0)
    assert plan(control, 0.0) == [2]
    control.add_worker(WorkerSpec("w2", "small", "http://w2", 4), 0.5, WorkerPhase.STARTING)
    assert plan(control, 1.0) == [3], "the one that is starting counts"


def test_plans_come_once_an_interval() -> None:
    control = scaled(interval_s=5.0)
    load(control, 14, 0.0)
    assert plan(control, 0.0) == [2]
    assert control.tick(0.0).next_at == 5.0
    assert plan(control, 4.9) == []
    assert plan(control, 5.0) == [2]


def test_bounds_are_kept() -> None:
    control = scaled(high=1)
    load(control, 14, 0.0)
    assert plan(control, 0.0) == []
    assert plan(scaled(low=2), 0.0) == [2], "below the minimum, whatever the load"
    assert plan(scaled(low=0, high=1, workers=2), 0.0) == [1], "above the maximum, at once"


def test_a_small_deviation_is_let_be() -> None:
    control = scaled(tolerance=0.3, high=9)
    load(control, 5, 0.0)
    assert plan(control, 0.0) == []
    load(control, 1, 0.5)
    assert plan(control, 1.0) == [2]


def test_a_replica_is_given_up_only_after_a_calm_while() -> None:
    control = scaled(workers=3, scale_down_stabilisation_s=10.0)
    load(control, 2, 0.0)
    decisions = {now: plan(control, float(now)) for now in range(12)}
    assert all(decisions[now] == [] for now in range(9))
    assert decisions[11] == [2], "one step at a time"


def test_a_burst_inside_the_while_keeps_the_replicas() -> None:
    control = scaled(workers=2, scale_down_stabilisation_s=10.0)
    for now in range(20):
        if now == 8:
            load(control, 8, 8.0)
        if now == 9:
            for ticket in control.running():
                finish(control, ticket.ticket, 9.0)
        assert plan(control, float(now)) == [] or now >= 18


def test_nothing_is_done_on_stale_reports() -> None:
    control = scaled(stale_s=3.0)
    load(control, 14, 0.0)
    assert control.tick(0.0).scale == (), "no report at all yet"
    report(control, 1.0)
    assert control.tick(5.0).scale == (), "the last one is 4 s old"
    assert plan(control, 6.0) == [2]


def test_a_broken_worker_is_no_capacity() -> None:
    control = scaled(workers=2)
    load(control, 8, 0.0)
    assert plan(control, 0.0) == []
    control.set_phase("small-1", WorkerPhase.UNHEALTHY, 0.5)
    load(control, 4, 0.6)
    assert plan(control, 1.0) == [3]


def test_a_pool_without_workers_is_worth_waiting_for_and_gets_one() -> None:
    control = scaled(low=0, workers=0)
    load(control, 3, 0.0)
    assert control.tick(0.0).scale == (Scale("small", 1, "3 requests on 0 replicas, 1 wanted"),)
    assert control.tick(1.0).rejected == ()
    control.add_worker(WorkerSpec("w", "small", "http://w", 4), 2.0)
    assert len(sent(control.dispatch(2.0))) == 3


def test_the_default_target_is_a_share_of_the_in_flight_limit() -> None:
    control = scaled(target=None)
    load(control, 2, 0.0)
    assert plan(control, 0.0) == []
    load(control, 2, 0.5)
    assert plan(control, 1.0) == [2], "4 in flight, 2.8 wanted"


def test_pools_without_bounds_are_left_alone() -> None:
    control = plane({"scale": "target_tracking"}, max_inflight=1, settings=LASTING)
    load(control, 14, 0.0)
    report(control, 0.0)
    assert control.tick(0.0).scale == ()


def test_none_never_scales() -> None:
    control = plane({"scale": "none"}, max_inflight=1, settings=LASTING)
    load(control, 14, 0.0)
    tick = control.tick(0.0)
    assert tick.scale == ()
