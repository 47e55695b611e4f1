"""Multilevel feedback by what a session was given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.order import Fcfs, FcfsOptions, LearnsFromEnds, Mlfq, MlfqOptions
from controller.protocols import OrderContext
from controller.types import Usage
from tests.controller.planes import plane, serve_all, submit, ticket


def mlfq(**options: float) -> Mlfq:
    return Mlfq(MlfqOptions.model_validate(options), 0.1, 4.0)


def context(at: float, session: str | None, tenant: str = "default") -> OrderContext:
    return OrderContext(ticket("t", session=session, tenant=tenant), at, None)


def test_it_wants_to_hear_of_ends_and_the_others_do_not() -> None:
    assert isinstance(mlfq(), LearnsFromEnds)
    assert not isinstance(Fcfs(FcfsOptions()), LearnsFromEnds)


def test_who_was_given_much_goes_after_who_was_given_little_until_it_has_waited_for_it() -> None:
    order = mlfq(quantum=100, promotion_s_per_token=0.1)
    order.ended(ticket("x", session="greedy"), 450)
    order.ended(ticket("x", session="modest"), 50)
    greedy, modest, new = (order.key(context(0.0, session)) for session in ("greedy", "modest", "new"))
    assert modest == new == 0.0, "both on the first level, in order of arrival"
    assert greedy == 40.0, "the third level begins at 400 tokens"
    assert order.key(context(41.0, "new")) > greedy, "promoted"


def test_levels_begin_at_quanta_that_grow() -> None:
    order = mlfq(quantum=100, growth=3, promotion_s_per_token=0.1, patience_s=1e9)
    begins = []
    for _ in range(30):
        order.ended(ticket("x", session="s"), 100)
        begins.append(round(order.key(context(0.0, "s")) / 0.1))
    assert sorted(set(begins)) == [100, 300, 900, 2700]
    assert begins == sorted(begins)


def test_prompts_are_service_too_and_estimated_where_nobody_counted() -> None:
    counted, estimated = (mlfq(quantum=100, promotion_s_per_token=1.0) for _ in range(2))
    counted.ended(ticket("x", session="s", prompt_tokens=1500), 0)
    estimated.ended(ticket("x", session="s", prompt_tokens=None, prompt_chars=6000), 0)
    assert counted.key(context(0.0, "s")) == estimated.key(context(0.0, "s")) > 0.0


def test_a_session_is_its_tenants() -> None:
    order = mlfq(quantum=100)
    order.ended(ticket("x", session="s", tenant="a"), 1000)
    assert order.key(context(0.0, "s", "a")) > order.key(context(0.0, "s", "b"))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 500)), max_size=80))
def test_no_more_sessions_are_remembered_than_it_was_told(ends: list[tuple[int, int]]) -> None:
    order = mlfq(sessions=8)
    for session, tokens in ends:
        order.ended(ticket("x", session=f"{session}"), tokens)
    assert len(order._service) == min(8, len({session for session, _ in ends}))


@given(st.floats(0, 1e6), st.integers(-2, 2), st.integers(0, 5000))
def test_without_sessions_it_is_first_come_first_served(at: float, priority: int, tokens: int) -> None:
    order, plain = mlfq(), Fcfs(FcfsOptions())
    order.ended(ticket("x"), tokens)
    asked = OrderContext(ticket("t", priority=priority), at, None)
    assert order.key(asked) == plain.key(asked)


def test_the_control_plane_tells_it_what_each_session_was_given() -> None:
    control = plane({"order": ("mlfq", {"quantum": 100})}, max_inflight=1)
    submit(control, "first", 0.0, session="greedy")
    control.dispatch(0.0)
    control.on_finish("first", Usage(100, 5000), 1.0)
    submit(control, "running", 1.0)
    control.dispatch(1.0)
    submit(control, "second", 1.1, session="greedy")
    submit(control, "other", 1.2, session="modest")
    submit(control, "single", 1.3)
    control.on_finish("running", None, 2.0)
    assert serve_all(control, 2.0) == ["other", "single", "second"]
