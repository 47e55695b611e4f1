"""What simulated engines promise beyond the conformance suite: their clock stands still, so times are exact."""

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


def test_events_come_when_they_are_due_and_never_early(engine: Engine) -> None:
    for i in range(20):
        engine.submit(EngineRequest(f"r{i}", 50 + 17 * i, 5 + i, arrival=0.01 * i))
    seen: list[EngineEvent] = []
    while (at := engine.next_event_at()) is not None:
        before = engine.now
        fresh = engine.advance(at)
        assert all(before < e.at <= engine.now for e in fresh)
        seen += fresh
    assert sum(e.kind is EventKind.FINISHED for e in seen) == 20
    assert seen[-1].at == engine.now


def test_a_cancelled_request_ends_where_the_clock_stands(engine: Engine) -> None:
    engine.submit(EngineRequest("a", 100, 500, arrival=0.0))
    engine.advance(0.5)
    assert engine.cancel("a")
    (event,) = engine.advance(1.0)
    assert (event.kind, event.id, event.at) == (EventKind.ABORTED, "a", 0.5)
    assert event.output_tokens > 1


def test_what_can_never_fit_ends_at_its_arrival(engine: Engine) -> None:
    engine.submit(EngineRequest("long", 2000, 49, arrival=1.0))
    assert engine.advance(0.5) == []
    (event,) = engine.advance(1.5)
    assert (event.kind, event.at) == (EventKind.REJECTED, 1.0)


def test_time_passes_only_when_it_is_told_to(engine: Engine) -> None:
    assert engine.advance(100.0) == []
    assert engine.now == 100.0
