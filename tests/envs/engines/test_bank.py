"""Engines side by side tell what each of them would tell alone, whatever the steps in which time passes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from envs.engines.bank import EngineBank
from envs.engines.base import EngineEvent, EngineRequest
from envs.engines.sim import SimEngine
from tests.envs.engines.profiles import profile

Sizes = tuple[int, int, int]


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 300), st.integers(1, 40)), max_size=12), st.floats(0.001, 1)
)
@settings(max_examples=25, deadline=None)
def test_a_bank_tells_what_its_engines_would(requests: list[Sizes], step: float) -> None:
    alone, banked = _engines(requests), _engines(requests)
    bank = EngineBank(banked)
    told: list[EngineEvent] = []
    for turn in range(1, 13):
        while (found := bank.advance(turn * step)) is not None:
            told += found[1]
        assert bank.advance(turn * step) is None, "nothing happens twice"
    expected = [event for engine in alone for event in engine.advance(12 * step)]
    assert sorted(told, key=_by_time) == sorted(expected, key=_by_time)


def test_what_is_submitted_later_is_told_too() -> None:
    engine = SimEngine(profile())
    bank = EngineBank([engine])
    assert bank.advance(1.0) is None
    assert bank.advance(2.0) is None
    engine.submit(EngineRequest("a", 100, 1, arrival=2.0))
    bank.touch(0)
    found = bank.advance(3.0)
    assert found is not None
    assert [event.id for event in found[1]] == ["a"] * len(found[1])


def test_a_bank_without_engines_has_nothing_to_tell() -> None:
    bank = EngineBank([])
    assert bank.advance(1.0) is None
    assert bank.advance(2.0) is None


def _engines(requests: list[Sizes]) -> list[SimEngine]:
    engines = [SimEngine(profile()) for _ in range(2)]
    for number, (place, prompt, output) in enumerate(requests):
        engines[place].submit(EngineRequest(str(number), prompt, output, arrival=number * 0.01))
    return engines


def _by_time(event: EngineEvent) -> tuple[float, str, str]:
    return event.at, event.id, event.kind.value
