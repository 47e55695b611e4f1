from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.pipeline import ControlPlane
from controller.types import Usage
from tests.controller.planes import plane, submit


def load(control: ControlPlane, now: float) -> int:
    (worker,) = control.view(now).pool("small").workers
    return worker.work


def taught(seconds_per_token: float = 0.1) -> ControlPlane:
    """A plane with a worker whose answers take that long."""
    control = plane(max_inflight=8)
    for i in range(20):
        submit(control, f"before-{i}", 0.0, prompt_tokens=0, max_tokens=100, streams=False)
        control.dispatch(0.0)
        control.on_finish(f"before-{i}", Usage(0, 50), 50 * seconds_per_token)
    assert load(control, 5.0) == 0
    return control


def test_an_answer_that_comes_whole_is_counted_down_by_its_age() -> None:
    control = taught()
    submit(control, "a", 10.0, prompt_tokens=0, max_tokens=60, streams=False)
    control.dispatch(10.0)
    whole = load(control, 10.0)
    control.tick(11.0)
    assert load(control, 11.0) == whole - 10, "ten tokens a second"
    control.tick(12.0)
    assert load(control, 12.0) == whole - 20
    control.on_finish("a", Usage(0, 30), 12.5)
    assert load(control, 12.5) == 0


def test_one_that_outgrows_what_was_expected_is_expected_to_double_up_to_the_limit() -> None:
    control = taught()
    submit(control, "a", 10.0, prompt_tokens=0, streams=False)
    control.dispatch(10.0)
    expected = control.expectation("a")
    assert expected is not None
    beyond = expected[1] + 30
    control.tick(10.0 + beyond / 10)
    assert load(control, 99.0) == 2 * expected[1] - beyond
    submit(control, "b", 200.0, prompt_tokens=0, max_tokens=20, streams=False)
    control.dispatch(200.0)
    before = load(control, 200.0) - 20
    control.on_finish("a", None, 200.5)
    control.tick(210.0)
    assert (before > 0, load(control, 210.0)) == (True, 1), "at the limit, and running still"


def test_streams_and_answers_of_unknown_pace_are_left_as_they_are() -> None:
    control = taught()
    submit(control, "a", 10.0, prompt_tokens=0, max_tokens=60)
    control.dispatch(10.0)
    control.tick(12.0)
    assert load(control, 12.0) == 60
    fresh = plane()
    submit(fresh, "a", 0.0, prompt_tokens=0, max_tokens=60, streams=False)
    fresh.dispatch(0.0)
    fresh.tick(5.0)
    assert load(fresh, 5.0) == 60


def test_time_is_only_asked_for_while_something_can_be_counted_down() -> None:
    control = taught()
    control.tick(10.0)
    assert control.tick(12.0).next_at is None
    submit(control, "a", 13.0, prompt_tokens=0, max_tokens=60, streams=False)
    control.dispatch(13.0)
    at = control.tick(13.0).next_at
    assert at is not None
    assert 13.0 < at <= 14.0


@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(0.01, 30.0), st.booleans()), min_size=1, max_size=20),
    st.lists(st.floats(0.0, 40.0), max_size=10),
)
def test_the_account_is_even_when_all_have_ended(answers: list[tuple[int, float, bool]], ticks: list[float]) -> None:
    control = plane(max_inflight=100)
    for i, (tokens, _, streams) in enumerate(answers):
        submit(control, str(i), 0.0, prompt_tokens=30, max_tokens=tokens, streams=streams)
    control.dispatch(0.0)
    events = [(at, -1) for at in ticks] + [(seconds, i) for i, (_, seconds, _) in enumerate(answers)]
    for at, i in sorted(events):
        if i < 0:
            control.tick(at)
        else:
            control.on_finish(str(i), Usage(30, answers[i][0]), at)
        assert load(control, at) >= 0
    assert (load(control, 50.0), control.running()) == (0, ())
