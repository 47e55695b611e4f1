from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.order import Fcfs, FcfsOptions, LengthRank, LengthRankOptions
from controller.protocols import OrderContext
from controller.types import Scores
from tests.controller.planes import plane, sent, serve_all, submit, ticket


def context(at: float, rank: float | None = None, priority: int = 0) -> OrderContext:
    scores = None if rank is None else Scores(length_rank=rank)
    return OrderContext(ticket("t", priority=priority), at, scores)


def test_fcfs_is_the_order_of_arrival() -> None:
    order = Fcfs(FcfsOptions())
    assert order.key(context(1.0)) < order.key(context(2.0))


def test_a_clients_priority_is_worth_some_waiting_and_no_more() -> None:
    order = Fcfs(FcfsOptions(priority_step_s=10.0))
    assert order.key(context(5.0, priority=-1)) < order.key(context(0.0))
    assert order.key(context(11.0, priority=-1)) > order.key(context(0.0))


def test_shorter_answers_go_first() -> None:
    order = LengthRank(LengthRankOptions())
    for rank in (0.1, 0.5, 0.9):
        order.key(context(0.0, rank))
    short, middle, long = (order.key(context(0.0, rank)) for rank in (0.1, 0.5, 0.9))
    assert short < middle < long
    assert short < order.key(context(0.0)) < long, "an unscored ticket stands in the middle"


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.floats(-1e6, 1e6), st.floats(0, 1e5))
def test_nothing_is_overtaken_for_longer_than_the_patience(ranks: list[float], rank: float, at: float) -> None:
    """Ageing: the key of any ticket lies within ``patience_s`` after its arrival, so what comes later than that is
    behind it, whatever its rank."""
    order = LengthRank(LengthRankOptions(patience_s=30.0, window=16))
    for earlier in ranks:
        order.key(context(0.0, earlier))
    assert at <= order.key(context(at, rank)) <= at + 30.0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200))
def test_the_window_forgets_and_the_unit_of_ranks_does_not_matter(ranks: list[float]) -> None:
    one, other = LengthRank(LengthRankOptions(window=8)), LengthRank(LengthRankOptions(window=8))
    for rank in ranks:
        assert one.key(context(0.0, rank)) == other.key(context(0.0, rank * 1024.0))
    assert len(one._sorted) == min(len(ranks), 8)


def test_a_stream_of_short_requests_does_not_starve_a_long_one() -> None:
    control = plane({"order": ("length_rank", {"patience_s": 20.0})}, max_inflight=1)
    control.submit(ticket("running"), 0.0)
    control.dispatch(0.0)
    submit(control, "long", 0.0, Scores(length_rank=1e9))
    served: list[str] = []
    now = 0.0
    previous = "running"
    while "long" not in served:
        now += 1.0
        submit(control, f"short-{now}", now, Scores(length_rank=-now))
        control.on_finish(previous, None, now)
        (previous,) = sent(control.dispatch(now))
        served.append(previous)
        assert now < 30.0, "the long request starves"
    assert len(served) > 5, "short requests did go first for a while"


def test_short_requests_leave_the_queue_first() -> None:
    control = plane({"order": "length_rank"}, max_inflight=1)
    control.submit(ticket("running"), 0.0)
    control.dispatch(0.0)
    for name, rank in (("long", 9.0), ("short", 1.0), ("middle", 5.0)):
        submit(control, name, 0.1, Scores(length_rank=rank))
    control.on_scores("long", Scores(length_rank=9.0), 0.2)
    control.on_finish("running", None, 1.0)
    assert serve_all(control, 1.0) == ["short", "middle", "long"]


def test_the_engine_gets_the_same_order_as_small_integers() -> None:
    order = LengthRank(LengthRankOptions())
    start = 5e6
    keys = [order.key(context(start + at, rank)) for at, rank in ((0, 1.0), (1, 0.1), (2, 3.0), (100, 0.0))]
    priorities = [order.engine_priority(key) for key in keys]
    assert sorted(range(4), key=lambda i: keys[i]) == sorted(range(4), key=lambda i: priorities[i])
    assert all(abs(priority) < 10_000 for priority in priorities)


def test_priority_is_passed_only_to_workers_that_schedule_by_it() -> None:
    for scheduling in (False, True):
        control = plane({}, priority_scheduling=scheduling)
        control.submit(ticket("one"), 0.0)
        control.submit(ticket("two"), 1.0)
        first, second = control.dispatch(1.0)
        if scheduling:
            assert first.priority is not None
            assert second.priority is not None
            assert first.priority < second.priority
        else:
            assert first.priority is second.priority is None
