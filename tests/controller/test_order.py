from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as searching
from hypothesis import strategies as st

from controller.order import (
    Ageing,
    Edf,
    EdfOptions,
    EnginePriority,
    Fcfs,
    FcfsOptions,
    LearnsFromEnds,
    LengthRank,
    LengthRankOptions,
)
from controller.order.ageing import Quantiles
from controller.protocols import OrderContext, Resources
from controller.settings import ControlSettings
from controller.stages import SIMULATION_ONLY, Catalogue
from controller.types import Scores
from tests.controller.planes import plane, sent, serve_all, stages, submit, ticket

PATIENT = ControlSettings(max_queue_s=1e9)


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


@pytest.mark.parametrize("ageing", ["relative", "quantile", "exponential"])
@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.floats(-1e6, 1e6), st.floats(0, 1e5), st.integers(1, 100_000))
def test_nothing_is_overtaken_for_longer_than_the_patience(
    ageing: Ageing, ranks: list[float], rank: float, at: float, typical: int
) -> None:
    """Ageing: the key of any ticket lies within ``patience_s`` after its arrival, so what comes later than that is
    behind it, whatever its rank."""
    order = LengthRank(LengthRankOptions(patience_s=30.0, window=16, ageing=ageing))
    for earlier in ranks:
        order.key(context(0.0, earlier))
    asked = replace(context(at, rank), expected_output=typical)
    assert at <= order.key(asked) <= at + 30.0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200))
def test_the_window_forgets_and_the_unit_of_ranks_does_not_matter(ranks: list[float]) -> None:
    one, other = LengthRank(LengthRankOptions(window=8)), LengthRank(LengthRankOptions(window=8))
    window = Quantiles(8)
    for rank in ranks:
        assert one.key(context(0.0, rank)) == other.key(context(0.0, rank * 1024.0))
        assert 0.0 < window.place(rank) < 1.0
    assert len(window) == min(len(ranks), 8)


def test_a_deadline_is_a_key_and_those_without_have_a_default() -> None:
    order = Edf(EdfOptions(default_deadline_s=10.0))
    plain, urgent, lenient = (
        OrderContext(ticket("t", deadline=deadline), 100.0, None) for deadline in (None, 101.0, 500.0)
    )
    assert order.key(urgent) < order.key(plain) < order.key(lenient)
    assert order.key(plain) == 110.0
    assert order.key(OrderContext(ticket("t", deadline=101.0, priority=-1), 100.0, None)) == 71.0


def test_deadlines_decide_who_leaves_the_queue_first() -> None:
    control = plane({"order": "edf"}, max_inflight=1)
    control.submit(ticket("running"), 0.0)
    control.dispatch(0.0)
    for name, deadline in (("late", 50.0), ("soon", 20.0), ("whenever", None)):
        control.submit(ticket(name, deadline=deadline), 0.1)
    control.on_finish("running", None, 1.0)
    assert serve_all(control, 1.0) == ["soon", "late", "whenever"]


def priced(at: float, tokens: float, **fields: Any) -> OrderContext:
    """As the pool has it whose answers are as the predictor says."""
    scores = Scores(length_rank=tokens, output_tokens=tokens, output_tail=fields.pop("tail", None))
    limit = fields.get("max_tokens")
    expected = round(tokens if limit is None else min(tokens, limit))
    return OrderContext(ticket("t", **fields), at, scores, 10, expected)


def test_what_is_longer_accepts_to_wait_longer() -> None:
    order = LengthRank(LengthRankOptions(ageing="relative", patience_s=60.0, ageing_s_per_token=0.1, tail_weight=0.0))
    waits = [order.key(priced(0.0, tokens)) for tokens in (1, 10, 100, 1000, 10_000)]
    assert waits[0] == pytest.approx(0.1, rel=0.01), "a token is worth so many seconds"
    assert waits == sorted(set(waits)), "also where the patience is nearly used up"
    assert waits[-1] <= 60.0
    assert order.key(priced(1.0, 100)) > waits[1], "one that came a second earlier and is shorter stays before it"
    assert order.key(priced(20.0, 10)) > waits[2], "but by then a longer one has aged past the same"


def test_keys_do_not_depend_on_who_came_before() -> None:
    relative = LengthRankOptions(ageing="relative")
    fresh, busy = LengthRank(relative), LengthRank(relative)
    for tokens in range(1, 900):
        busy.key(priced(0.0, float(tokens)))
    assert fresh.key(priced(5.0, 300.0)) == busy.key(priced(5.0, 300.0))


def test_the_oracle_is_shortest_first_whatever_the_wait() -> None:
    oracle = Catalogue().order.create("oracle", None, Resources())
    assert oracle.key(priced(1e6, 10.0)) < oracle.key(priced(0.0, 11.0))
    patient = Catalogue().order.create("oracle", {"ageing": "relative", "patience_s": 20.0}, Resources())
    assert patient.key(priced(21.0, 1.0)) > patient.key(priced(0.0, 1e4))


def test_simulation_alone_has_an_oracle() -> None:
    assert {("order", "oracle")} == SIMULATION_ONLY


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


@pytest.mark.parametrize(
    "order",
    [("fcfs", {}), ("edf", {}), *[("length_rank", {"ageing": ageing.value}) for ageing in Ageing], ("boost", {})],
)
def test_control_planes_with_clocks_of_their_own_give_one_worker_the_same_priorities(order: tuple[str, Any]) -> None:
    def priority(clock: float, first: float) -> int:
        one = stages({"order": order}).order
        one.count_from(clock + 100.0)
        one.engine_priority(one.key(OrderContext(ticket("before"), clock + first, None)))
        return one.engine_priority(one.key(OrderContext(ticket("t"), clock + 200.0, None)))

    assert priority(0.0, 150.0) == priority(5_000.0, 199.0)


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


@dataclass(frozen=True)
class Coming:
    """A request as a search may have it come."""

    gap: float
    tokens: float
    tail: float
    limit: int | None


COMING = st.builds(
    Coming,
    st.floats(0.0, 20.0),
    st.floats(1.0, 20_000.0),
    st.floats(1.0, 10.0),
    st.none() | st.integers(1, 5_000),
)


@searching(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [
            ("length_rank", {"ageing": "relative"}),
            ("length_rank", {"ageing": "quantile"}),
            ("length_rank", {"ageing": "exponential"}),
            ("oracle", {"ageing": "relative"}),
            ("boost", {}),
            ("boost", {"size": "predicted"}),
            ("mlfq", {}),
        ]
    ),
    st.sampled_from([5.0, 30.0]),
    st.lists(COMING, min_size=2, max_size=40),
    st.randoms(use_true_random=False),
)
def test_no_request_is_overtaken_by_one_that_came_later_than_its_patience(
    order: tuple[str, dict[str, Any]], patience_s: float, coming: list[Coming], random: Random
) -> None:
    """The starvation bound, in the control plane: whatever is predicted and whenever a place becomes free, whoever is
    sent came at most ``patience_s`` after each of those that still wait."""
    name, options = order
    control = plane({"order": (name, {**options, "patience_s": patience_s})}, max_inflight=1, settings=PATIENT)
    learner = control.stages.order
    control.submit(ticket("running", session="other"), 0.0)
    control.dispatch(0.0)
    running, now = "running", 0.0
    came: dict[str, float] = {}
    for number, one in enumerate(coming):
        now += one.gap
        who = f"{number}"
        came[who] = now
        session = random.choice([None, "a", "b"])
        scores = Scores(one.tokens, one.tokens, output_tail=one.tail * one.tokens) if random.random() < 0.8 else None
        submit(
            control, who, now, scores, prompt_tokens=min(2000, int(one.tokens)), max_tokens=one.limit, session=session
        )
        if isinstance(learner, LearnsFromEnds):
            learner.ended(ticket("x", session=random.choice(["a", "b"])), int(one.tokens))
        if random.random() < 0.5:
            control.on_finish(running, None, now)
            (running,) = sent(control.dispatch(now))
            taken = came.pop(running)
            assert all(taken <= other + patience_s + 1e-6 for other in came.values())


def test_an_orders_priorities_are_small_and_never_against_its_keys() -> None:
    order = EnginePriority()
    keys = [1e6 + offset for offset in (0.0, 0.04, 0.06, 59.9, 60.0, -30.0)]
    priorities = {key: order.engine_priority(key) for key in keys}
    assert [priorities[key] for key in sorted(keys)] == sorted(priorities.values())
    assert priorities == {key: order.engine_priority(key) for key in keys}, "asked again, it says the same"
