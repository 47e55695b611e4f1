"""γ-boost: between arrival and size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.order import Boost, BoostOptions
from controller.protocols import OrderContext, Signal
from controller.types import Scores
from tests.controller.planes import plane, serve_all, submit, ticket

PROMPT_WORK = 0.1


def boost(**options: float | str) -> Boost:
    return Boost(BoostOptions.model_validate(options), PROMPT_WORK)


@given(st.floats(1e-6, 1e3), st.floats(0.01, 10))
def test_the_boost_solves_its_definition(size_s: float, gamma: float) -> None:
    """e^(−γ·b) + e^(−γ·s) = 1."""
    found = boost(gamma=gamma, patience_s=1e9).boost_s(size_s)
    assert math.exp(-gamma * found) + math.exp(-gamma * size_s) == pytest.approx(1.0, abs=1e-9)


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0.01, 10))
def test_smaller_is_never_later_and_no_boost_exceeds_the_patience(one: float, other: float, gamma: float) -> None:
    order = boost(gamma=gamma, patience_s=40.0)
    small, large = sorted((one, other))
    assert 40.0 >= order.boost_s(small) >= order.boost_s(large) >= 0.0


def test_it_goes_from_first_come_to_shortest_first() -> None:
    early_long = OrderContext(ticket("l"), 0.0, None, prompt_tokens=8000)
    late_short = OrderContext(ticket("s"), 5.0, None, prompt_tokens=80)
    sized, arrival = boost(gamma=0.1), boost(gamma=10.0)
    assert sized.key(late_short) < sized.key(early_long)
    assert arrival.key(late_short) > arrival.key(early_long)


def test_sizes_are_of_prompt_and_limit_or_predicted() -> None:
    free = OrderContext(ticket("t"), 0.0, Scores(output_tokens=900.0), 100, 900)
    cut = OrderContext(ticket("t", max_tokens=400), 0.0, Scores(output_tokens=900.0), 100, 400)
    prompt, predicted = boost(), boost(size="predicted")
    assert prompt.key(free) < prompt.key(cut), "without a limit nothing is known of the answer"
    assert predicted.key(cut) < predicted.key(free)
    assert (prompt.needs, predicted.needs) == (frozenset(), frozenset({Signal.LENGTH}))


def test_short_prompts_leave_the_queue_first() -> None:
    control = plane({"order": "boost"}, max_inflight=1)
    control.submit(ticket("running"), 0.0)
    control.dispatch(0.0)
    for name, tokens in (("long", 4000), ("short", 10), ("middle", 400)):
        submit(control, name, 0.1, prompt_tokens=tokens)
    control.on_finish("running", None, 1.0)
    assert serve_all(control, 1.0) == ["short", "middle", "long"]
