from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.pipeline import ControlPlane
from controller.protocols import MakesRoom, Resources
from controller.rebalance import Migrate, MigrateOptions, NoRebalance
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import Move, Requeued, Result, Usage, WorkerPhase, WorkerReport
from controller.view import Breaker, FleetView, PoolView, TicketView, WorkerView
from tests.controller.planes import SMALL, plane, record_of, sent, submit

FAST, SLOW = 0.01, 0.05
"""Seconds a token."""


def worker(name: str, inflight: int = 1, limit: int = 8, **fields: Any) -> WorkerView:
    phase = fields.pop("phase", WorkerPhase.READY)
    load = 10_000.0 if name == "slow" else 0.0
    made = WorkerView(name, "small", phase, limit, inflight, 0, 0, load, 0, False, None)
    return replace(made, **fields)


def stream(name: str, on: str, output: int, expected: int = 1000, **fields: Any) -> TicketView:
    made = TicketView(name, "t", "small", "running", 0.0, "small", on, 0.0, 1, output, 100, expected, 0, 0.0, 0)
    return replace(made, **fields)


def view(workers: Sequence[WorkerView], queued: int = 0, rate: float = 1000.0) -> FleetView:
    ready = sum(one.serves for one in workers)
    pool = PoolView(SMALL, tuple(workers), ready, 0, 0, 0, queued, 0, 0, rate * ready, 256.0, 0.0)
    return FleetView(0.0, (pool,), {"small": 0}, 0, 0.0, 0.0)


def stage(**options: Any) -> Migrate:
    return Migrate(MigrateOptions(**{"moves_per_plan": 64, "moves_per_s": 1000.0, **options}))


def measured(
    migrate: Migrate, workers: Sequence[WorkerView], running: Sequence[TicketView], pace: Callable[[str], float]
) -> tuple[tuple[Move, ...], Sequence[TicketView]]:
    """The plan after ten seconds in which each stream went on at its worker's pace, and the streams by then."""
    before = [replace(one, output_tokens=one.output_tokens - round(10.0 / pace(one.worker or ""))) for one in running]
    assert not migrate.plan(
        view([replace(one, phase=WorkerPhase.READY, removed=False) for one in workers]), before, 0.0
    )
    return migrate.plan(view(workers), running, 10.0), running


def two_speeds(name: str) -> float:
    return SLOW if name == "slow" else FAST


def test_the_plainest_stage_never_plans() -> None:
    assert NoRebalance().interval_s is None
    assert NoRebalance().plan(view([worker("a")]), [stream("x", "a", 5)], 0.0) == ()


def test_it_is_built_by_name_and_makes_room() -> None:
    built = build({"rebalance": ("migrate", {"interval_s": 2.0})}, Resources()).rebalance
    assert (built.name, built.interval_s) == ("migrate", 2.0)
    assert isinstance(built, MakesRoom)


def test_streams_of_a_slow_worker_move_to_a_fast_one_the_longest_first() -> None:
    workers = [worker("slow", 2), worker("fast", 1)]
    running = [stream("a", "slow", 1300, 1800), stream("b", "slow", 1300, 3000), stream("c", "fast", 1300, 1800)]
    moves, _ = measured(stage(moves_per_plan=1), workers, running, two_speeds)
    assert [(move.ticket, move.worker) for move in moves] == [("b", "fast")]
    assert "saves" in moves[0].reason


def test_a_slow_worker_with_little_in_front_of_it_keeps_what_it_has() -> None:
    running = [stream("a", "slow", 1300, 3000), stream("b", "fast", 1300, 1310)]
    workers = [worker("slow", load=2000 / 8), worker("fast", load=400 / 8)]
    assert measured(stage(), workers, running, two_speeds)[0] == (), "placed by load, as much would come at once"
    workers = [worker("slow", load=2200 / 8), worker("fast", load=400 / 8)]
    assert measured(stage(), workers, running, two_speeds)[0]


def test_workers_that_are_alike_keep_what_they_have() -> None:
    workers = [worker("a", 4), worker("b", 3)]
    running = [stream(f"t{i}", "a", 1300, 9000) for i in range(4)] + [
        stream(f"u{i}", "b", 1300, 9000) for i in range(3)
    ]
    assert measured(stage(), workers, running, lambda name: FAST)[0] == ()


def test_before_anything_was_measured_nothing_is_evened_out() -> None:
    running = [stream("a", "slow", 5000, 9000)]
    assert stage().plan(view([worker("slow", 8), worker("fast", 0)]), running, 0.0) == ()


@pytest.mark.parametrize(
    "closed",
    [
        worker("fast", 8),
        worker("fast", 6, external=2),
        worker("fast", phase=WorkerPhase.DRAINING),
        worker("fast", phase=WorkerPhase.UNHEALTHY),
        worker("fast", 0, breaker=Breaker.HALF_OPEN),
        worker("fast", report=WorkerReport(0.0, 1, 0, 0.95)),
        worker("fast", removed=True),
    ],
    ids=["full", "full of others'", "draining", "unhealthy", "on probation", "no memory", "gone"],
)
def test_a_worker_that_cannot_take_it_is_given_none(closed: WorkerView) -> None:
    running = [stream("a", "slow", 1300, 9000), stream("b", "fast", 1300, 1310)]
    assert measured(stage(), [worker("slow"), closed], running, two_speeds)[0] == ()


def test_where_tickets_wait_only_leaving_workers_are_emptied() -> None:
    running = [stream("a", "slow", 1300, 9000), stream("b", "fast", 1300, 1310)]
    migrate, workers = stage(), [worker("slow"), worker("fast")]
    measured(migrate, workers, [replace(one, worker="fast") for one in running], two_speeds)
    assert migrate.plan(view(workers, queued=3), running, 20.0) == ()
    leaving = [replace(workers[0], phase=WorkerPhase.DRAINING), workers[1]]
    assert [move.ticket for move in migrate.plan(view(leaving, queued=3), running, 21.0)] == ["a"]


def test_a_worker_that_leaves_is_emptied_but_for_what_ends_sooner_than_it_could_move() -> None:
    workers = [worker("leaves", 3, phase=WorkerPhase.DRAINING), worker("b", 1), worker("c", 7)]
    running = [
        stream("long", "leaves", 1300, 9000),
        stream("middle", "leaves", 1300, 1400),
        stream("ending", "leaves", 1300, 1305),
        stream("x", "b", 1300, 1310),
    ]
    moves, _ = measured(stage(), workers, running, lambda name: FAST)
    assert [(move.ticket, move.worker) for move in moves] == [("long", "b"), ("middle", "b")]
    assert {move.reason for move in moves} == {"leaves leaves"}


def test_a_worker_that_leaves_keeps_what_nobody_has_room_for() -> None:
    workers = [worker("leaves", 3, phase=WorkerPhase.DRAINING), worker("b", 7)]
    running = [stream(f"t{i}", "leaves", 1300, 9000) for i in range(3)]
    moves, _ = measured(stage(), workers, running, lambda name: FAST)
    assert len(moves) == 1


def test_what_has_shown_nothing_yet_stays() -> None:
    workers = [worker("leaves", phase=WorkerPhase.DRAINING), worker("b", 0)]
    assert stage().plan(view(workers), [stream("a", "leaves", 0, first_token_at=None)], 0.0) == ()


def test_a_request_moves_so_often_and_no_more() -> None:
    workers = [worker("leaves", phase=WorkerPhase.DRAINING), worker("b", 0)]
    migrate = stage(max_moves=2)
    assert migrate.plan(view(workers), [stream("a", "leaves", 9, moved=1)], 0.0)
    assert not stage(max_moves=2).plan(view(workers), [stream("a", "leaves", 9, moved=2)], 0.0)


def test_so_many_move_at_once_and_so_many_a_second() -> None:
    workers = [worker("leaves", 40, 64, phase=WorkerPhase.DRAINING), worker("b", 0, 64)]
    running = [stream(f"t{i:02}", "leaves", 9) for i in range(40)]
    migrate = stage(moves_per_plan=4, moves_per_s=2.0)
    counts = [len(migrate.plan(view(workers), running, at)) for at in (0.0, 0.1, 1.0, 2.0, 60.0)]
    assert counts == [4, 0, 2, 2, 4]


def test_one_that_cannot_go_is_asked_again_ever_more_rarely_and_does_not_hold_up_the_others() -> None:
    workers = [worker("leaves", 2, phase=WorkerPhase.DRAINING), worker("b", 0)]
    running = [stream("stuck", "leaves", 9, 9000), stream("other", "leaves", 9, 500)]
    migrate = stage(moves_per_plan=1, settle_s=1.0)
    asked: list[tuple[float, str]] = []
    for tick in range(40):
        now = tick * 0.5
        asked += [(now, move.ticket) for move in migrate.plan(view(workers), running, now)]
        running = [one for one in running if one.ticket == "stuck" or ("other" not in {name for _, name in asked})]
    assert [at for at, name in asked if name == "other"] == [0.5]
    times = [at for at, name in asked if name == "stuck"]
    assert times == [0.0, 1.0, 3.0, 7.0, 15.0]


LOADS = st.lists(
    st.tuples(st.floats(0.002, 0.1), st.integers(1, 8), st.integers(0, 3), st.floats(0, 1), st.floats(0, 3000)),
    min_size=2,
    max_size=5,
)


@given(loads=LOADS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_move_costs_more_than_it_saves_overfills_a_worker_or_would_be_taken_back(loads: Any, data: Any) -> None:
    options = MigrateOptions(moves_per_plan=64, stretch=1.5)
    paces = {f"w{i}": pace for i, (pace, *_) in enumerate(loads)}
    workers = [
        worker(f"w{i}", inflight, 8, external=external, load=load, report=WorkerReport(0.0, inflight, 0, kv))
        for i, (_, inflight, external, kv, load) in enumerate(loads)
    ]
    running = [
        stream(f"{one.name}-{n}", one.name, 6000, 6000 + data.draw(st.integers(1, 4000)))
        for one in workers
        for n in range(one.inflight)
    ]
    migrate = Migrate(options)
    moves, _ = measured(migrate, workers, running, paces.__getitem__)
    assert len({move.ticket for move in moves}) == len(moves)
    batch = {one.name: one.inflight + one.external for one in workers}
    first, load = dict(batch), {one.name: one.load for one in workers}

    def seconds(name: str, at: int) -> float:
        """As it was measured at the first batch, and by the stretch at others."""
        grown = [1 + 0.5 * max(count - 1, 0) / 7 for count in (at, first[name])]
        return paces[name] * grown[0] / grown[1]

    for move in moves:
        ticket = next(one for one in running if one.ticket == move.ticket)
        source, target = ticket.worker or "", move.worker or ""
        remaining = ticket.expected_output - ticket.output_tokens
        saved = remaining * (seconds(source, batch[source]) - seconds(target, batch[target] + 1))
        cost = options.pause_s + 0.1 / 1000.0 * (100 + 6000) * (1 + batch[target])
        assert saved >= cost * options.min_ratio * 0.95, "measured in whole tokens, hence a little off"
        load[source] -= remaining / 8
        assert load[source] >= load[target] - 1e-6
        load[target] += remaining / 8
        batch[source] -= 1
        batch[target] += 1
        assert batch[target] <= 8
        back = remaining * (seconds(target, batch[target]) - seconds(source, batch[source] + 1))
        assert back <= 0, "ping-pong"


# Making room


def full(**fields: Any) -> tuple[Migrate, list[WorkerView], list[TicketView]]:
    """One worker with two seats, both taken by streams with ten seconds to go."""
    running = [stream("a", "w", 1300, 2300, key=5.0, **fields), stream("b", "w", 1300, 2900, key=6.0, **fields)]
    workers = [worker("w", 2, 2)]
    migrate = stage()
    measured(migrate, workers, running, lambda name: FAST)
    return migrate, workers, running


def urgent(**fields: Any) -> TicketView:
    made = stream("urgent", "", 0, 100, priority=-1, key=1.0, stand="queued", worker=None, first_token_at=None)
    return replace(made, **fields)


def test_the_longest_of_the_least_urgent_gives_its_seat_up() -> None:
    migrate, workers, running = full()
    running[0] = replace(running[0], priority=3)
    assert [(m.ticket, m.worker) for m in migrate.make_room(view(workers, 1), running, [urgent()], 10.5)] == [
        ("a", None)
    ]
    migrate, workers, running = full()
    (move,) = migrate.make_room(view(workers, 1), running, [urgent()], 10.5)
    assert move == Move("b", None, "makes room for urgent")


def test_two_that_wait_get_two_seats() -> None:
    migrate, workers, running = full()
    waiting = [urgent(), urgent(ticket="second", key=2.0)]
    assert {move.ticket for move in migrate.make_room(view(workers, 2), running, waiting, 10.5)} == {"a", "b"}


@pytest.mark.parametrize(
    "waiting", [urgent(priority=0), urgent(key=9.0), urgent(pool="other")], ids=["as urgent", "behind", "elsewhere"]
)
def test_nobody_gives_up_a_seat_for_one_that_would_not_get_it(waiting: TicketView) -> None:
    migrate, workers, running = full()
    assert migrate.make_room(view(workers, 1), running, [waiting], 10.5) == ()


def test_nobody_gives_up_a_seat_while_one_is_free_or_soon_will_be() -> None:
    migrate, workers, running = full()
    assert migrate.make_room(view([*workers, worker("free", 0)], 1), running, [urgent()], 10.5) == ()
    running[0] = replace(running[0], output_tokens=2290)
    assert migrate.make_room(view(workers, 1), running, [urgent()], 10.5) == ()


def two_streams(control: ControlPlane) -> None:
    """Two streams of which half is there, at a hundred tokens a second each."""
    for name in ("a", "b"):
        submit(control, name, 0.0, max_tokens=1000)
    assert sent(control.dispatch(0.0)) == ["a", "b"]
    for tick in range(10):
        now = tick * 0.5
        for name in ("a", "b"):
            control.on_tokens(name, 1 + tick * 50, now)
        assert not control.tick(now).moves


def test_a_stream_that_gave_its_seat_up_goes_on_after_the_urgent_ticket() -> None:
    control = plane({"rebalance": "migrate"}, max_inflight=2, settings=ControlSettings(default_output_tokens=2000))
    two_streams(control)
    submit(control, "urgent", 4.6, priority=-1)
    assert not control.dispatch(4.6)
    (move,) = control.tick(5.0).moves
    assert move.worker is None
    assert isinstance(control.on_moved(move, 5.0), Requeued)
    assert sent(control.dispatch(5.0)) == ["urgent"]
    control.on_finish("urgent", Usage(100, 5), 6.0)
    assert sent(control.dispatch(6.0)) == [move.ticket]
    control.on_tokens(move.ticket, 600, 6.5)
    for name in ("a", "b"):
        control.on_finish(name, Usage(100, 1000), 20.0)
        assert record_of(control, name).result is Result.COMPLETED
    assert record_of(control, move.ticket).continued == 1
    assert control.view(20.0).pools[0].workers[0].work == 0


def test_a_stream_that_gave_its_seat_up_and_then_loses_its_worker_waits_in_front_again() -> None:
    control = plane({"rebalance": "migrate"}, max_inflight=2, settings=ControlSettings(default_output_tokens=2000))
    two_streams(control)
    submit(control, "urgent", 4.6, priority=-1)
    (move,) = control.tick(5.0).moves
    control.on_moved(move, 5.0)
    control.dispatch(5.0)
    control.on_finish("urgent", Usage(100, 5), 6.0)
    submit(control, "late", 6.0, priority=-10)
    assert sent(control.dispatch(6.0)) == ["late"], "it waits by its key"
    control.on_finish("late", Usage(100, 5), 7.0)
    assert sent(control.dispatch(7.0)) == [move.ticket]
    submit(control, "later", 7.0, priority=-10)
    control.on_worker_error(move.ticket, "reset", 7.5, retryable=False, continues=True)
    assert sent(control.dispatch(8.0)) == [move.ticket]


def test_a_draining_worker_is_empty_as_soon_as_its_streams_have_moved() -> None:
    control = plane({"rebalance": "migrate"}, workers=2, max_inflight=4)
    for name in ("a", "b"):
        submit(control, name, 0.0)
    control.dispatch(0.0)
    for name in ("a", "b"):
        control.on_tokens(name, 20, 0.0)
    gone = next(one.worker for one in control.running() if one.ticket == "a")
    assert gone is not None
    control.tick(0.0)
    control.set_phase(gone, WorkerPhase.DRAINING, 0.1)
    (move,) = control.tick(0.6).moves
    control.on_moved(move, 0.6)
    (dispatch,) = control.dispatch(0.6)
    assert (dispatch.ticket, dispatch.worker == gone) == ("a", False)
    assert {one.name: one.inflight for one in control.view(0.6).pools[0].workers}[gone] == 0
