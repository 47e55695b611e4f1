"""What every engine does, whoever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from envs.engines.base import Engine, EngineEvent, EngineRequest, EventKind
from envs.engines.reference import ReferenceEngine
from envs.engines.sim import SimEngine
from tests.envs.engines.profiles import profile

ENGINES: dict[str, Callable[[], Engine]] = {
    "sim": lambda: SimEngine(profile()),
    "reference": lambda: ReferenceEngine(profile()),
}


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


def to_the_end(engine: Engine) -> list[EngineEvent]:
    events: list[EngineEvent] = []
    for _ in range(10_000):
        at = engine.next_event_at()
        if at is None:
            return events
        events += engine.advance(at)
    raise AssertionError("next_event_at makes no progress")


def test_is_an_engine(engine: Engine) -> None:
    assert isinstance(engine, Engine)


def test_a_request_gets_its_first_token_then_all_of_them(engine: Engine) -> None:
    engine.submit(EngineRequest("a", 100, 7, arrival=2.0))
    events = to_the_end(engine)
    assert [(e.kind, e.id, e.output_tokens) for e in events] == [
        (EventKind.FIRST_TOKEN, "a", 1),
        (EventKind.FINISHED, "a", 7),
    ]
    assert 2.0 < events[0].at < events[1].at == engine.now


def test_events_come_in_order_and_never_early(engine: Engine) -> None:
    for i in range(20):
        engine.submit(EngineRequest(f"r{i}", 50 + 17 * i, 5 + i, arrival=0.01 * i))
    seen: list[EngineEvent] = []
    while (at := engine.next_event_at()) is not None:
        before = engine.now
        fresh = engine.advance(at)
        assert all(before < e.at <= engine.now for e in fresh)
        seen += fresh
    assert [e.at for e in seen] == sorted(e.at for e in seen)
    assert sum(e.kind is EventKind.FINISHED for e in seen) == 20


def test_a_cancelled_request_says_so_and_frees_everything(engine: Engine) -> None:
    engine.submit(EngineRequest("a", 100, 500, arrival=0.0))
    engine.advance(0.5)
    assert engine.state().running == 1
    assert engine.cancel("a")
    (event,) = engine.advance(1.0)
    assert (event.kind, event.id, event.at) == (EventKind.ABORTED, "a", 0.5)
    assert event.output_tokens > 1
    state = engine.state()
    assert (state.running, state.waiting, state.kv_usage) == (0, 0, 0.0)
    assert not engine.cancel("a")


def test_what_can_never_fit_is_rejected_when_it_arrives(engine: Engine) -> None:
    engine.submit(EngineRequest("long", 2000, 49, arrival=1.0))
    assert engine.advance(0.5) == []
    (event,) = engine.advance(1.5)
    assert (event.kind, event.at) == (EventKind.REJECTED, 1.0)


def test_the_gauges_show_running_and_waiting(engine: Engine) -> None:
    for i in range(11):
        engine.submit(EngineRequest(f"r{i}", 20, 400, arrival=0.0))
    engine.advance(0.5)
    state = engine.state()
    assert (state.running, state.waiting) == (8, 3)
    assert 0.0 < state.kv_usage <= 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        EngineRequest("b", 0, 5, arrival=5.0),
        EngineRequest("b", 5, 0, arrival=5.0),
        EngineRequest("b", 5, 5, arrival=0.5),
        EngineRequest("a", 5, 5, arrival=5.0),
    ],
)
def test_wrong_requests_raise(engine: Engine, wrong: EngineRequest) -> None:
    engine.submit(EngineRequest("a", 5, 5, arrival=2.0))
    engine.advance(1.0)
    with pytest.raises(ValueError):
        engine.submit(wrong)


def test_an_idle_engine_has_nothing_due(engine: Engine) -> None:
    assert engine.next_event_at() is None
    assert engine.advance(100.0) == []
    assert engine.now == 100.0
