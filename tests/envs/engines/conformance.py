"""What every engine does, whoever it is: simulated, stepped for reference, or a server behind HTTP.

A test class inherits :class:`EngineConformance` and gives the fixture ``subject``. Nothing here depends on how long
things take, only on their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from envs.engines.base import Engine, EngineEvent, EnginePhase, EngineRequest, EngineState, EventKind

ENDS = frozenset({EventKind.FINISHED, EventKind.ABORTED, EventKind.REJECTED})
_LIMIT_S = 60.0
"""Seconds of the engine's clock that anything may take."""
_LOOKS = 100_000
_LOOK_S = 0.02


@dataclass
class Subject:
    """An engine under test, and what has to be known of it."""

    engine: Engine
    seats: int
    """Requests that run at once."""
    context: int
    """Tokens of prompt and answer together."""
    long: int
    """Output tokens that take long enough to look at a request while it runs."""
    real_time: bool = False
    by_priority: bool = True
    """Whether it schedules by priority."""
    seen: list[EngineEvent] = field(default_factory=list)
    """Every event so far."""

    def submit(self, name: str, prompt: int, output: int, *, priority: int = 0, after: float = 0.0) -> None:
        """A request that arrives ``after`` seconds from now."""
        arrival = self.engine.now + after
        self.engine.submit(EngineRequest(name, prompt, output, priority, arrival))

    def look(self) -> bool:
        """Go on to what is due next; false if nothing is."""
        at = self.engine.next_event_at()
        if at is None:
            return False
        self.seen += self.engine.advance(max(at, self.engine.now))
        return True

    def until(self, holds: Callable[[], bool]) -> None:
        """Go on until something holds."""
        limit = self.engine.now + _LIMIT_S
        for _ in range(_LOOKS):
            if holds():
                return
            assert self.look(), "nothing is due any more"
            assert self.engine.now < limit, f"not after {_LIMIT_S:g} s"
        raise AssertionError("next_event_at makes no progress")

    def to_the_end(self) -> None:
        """Go on until nothing is due."""
        limit = self.engine.now + _LIMIT_S
        for _ in range(_LOOKS):
            if not self.look():
                return
            assert self.engine.now < limit, f"not after {_LIMIT_S:g} s"
        raise AssertionError("next_event_at makes no progress")

    def settles(self, holds: Callable[[EngineState], bool]) -> EngineState:
        """Let time pass until the gauges show something; a server's follow with a delay."""
        limit = self.engine.now + _LIMIT_S
        while not holds(state := self.engine.state()):
            assert self.engine.now < limit, state
            self.seen += self.engine.advance(self.engine.now + _LOOK_S)
        return state

    def of(self, name: str) -> list[EngineEvent]:
        """A request's events."""
        return [event for event in self.seen if event.id == name]

    def kinds(self, name: str) -> list[EventKind]:
        """And their kinds, progress left out."""
        return [event.kind for event in self.of(name) if event.kind is not EventKind.TOKENS]

    def has(self, name: str, kind: EventKind) -> bool:
        """Whether a request has had this event."""
        return kind in self.kinds(name)


def _idle(state: EngineState) -> bool:
    return (state.running, state.waiting, state.kv_usage) == (0, 0, 0.0)


class EngineConformance:
    """The suite."""

    @pytest.fixture
    def subject(self) -> Subject:
        """An engine on which nothing has been done."""
        raise NotImplementedError

    def test_it_is_an_engine_and_ready(self, subject: Subject) -> None:
        assert isinstance(subject.engine, Engine)
        assert subject.engine.next_event_at() is None
        state = subject.engine.state()
        assert state.phase is EnginePhase.READY
        assert _idle(state)

    def test_a_request_gets_its_first_token_then_all_of_them(self, subject: Subject) -> None:
        arrival = subject.engine.now
        subject.submit("a", 40, 12)
        subject.to_the_end()
        assert subject.kinds("a") == [EventKind.FIRST_TOKEN, EventKind.FINISHED]
        first, *_, last = subject.of("a")
        assert 1 <= first.output_tokens <= last.output_tokens == 12
        assert arrival < first.at <= last.at <= subject.engine.now

    def test_one_token_is_the_first_and_the_last(self, subject: Subject) -> None:
        subject.submit("a", 5, 1)
        subject.to_the_end()
        assert [(event.kind, event.output_tokens) for event in subject.of("a")] == [
            (EventKind.FIRST_TOKEN, 1),
            (EventKind.FINISHED, 1),
        ]

    def test_concurrent_requests_end_once_each_and_in_order_of_time(self, subject: Subject) -> None:
        count = 3 * subject.seats
        for i in range(count):
            subject.submit(f"r{i}", 5 + 7 * i, 3 + i, after=0.005 * i)
        subject.to_the_end()
        times = [event.at for event in subject.seen]
        assert times == sorted(times)
        for i in range(count):
            assert subject.kinds(f"r{i}") == [EventKind.FIRST_TOKEN, EventKind.FINISHED]
            produced = [event.output_tokens for event in subject.of(f"r{i}")]
            assert produced == sorted(produced)
            assert produced[-1] == 3 + i
        assert {event.id for event in subject.seen} == {f"r{i}" for i in range(count)}

    def test_nothing_happens_before_it_arrives(self, subject: Subject) -> None:
        arrival = subject.engine.now + 0.15
        subject.submit("a", 5, 2, after=0.15)
        subject.seen += subject.engine.advance(subject.engine.now + 0.05)
        assert not subject.seen
        subject.to_the_end()
        assert subject.of("a")[0].at > arrival

    def test_the_clock_never_goes_back(self, subject: Subject) -> None:
        engine = subject.engine
        subject.submit("a", 5, 20)
        shown = [engine.now]
        for step in (0.0, 0.01, 0.0, 0.05):
            until = engine.now + step
            subject.seen += engine.advance(until)
            assert engine.now >= until - 1e-9  # a simulated clock counts whole picoseconds
            shown.append(engine.now)
        subject.to_the_end()
        shown.append(engine.now)
        assert shown == sorted(shown)
        assert all(event.at <= engine.now for event in subject.seen)

    def test_a_running_request_that_is_cancelled_says_so_and_frees_everything(self, subject: Subject) -> None:
        subject.submit("a", 40, subject.long)
        subject.until(lambda: subject.has("a", EventKind.FIRST_TOKEN))
        subject.settles(lambda state: state.running == 1 and state.kv_usage > 0.0)
        assert subject.engine.cancel("a")
        assert not subject.engine.cancel("a")
        subject.to_the_end()
        subject.settles(_idle)
        assert subject.kinds("a") == [EventKind.FIRST_TOKEN, EventKind.ABORTED]
        assert 1 <= subject.of("a")[-1].output_tokens < subject.long

    def test_a_waiting_request_that_is_cancelled_never_starts(self, subject: Subject) -> None:
        for i in range(subject.seats):
            subject.submit(f"seated{i}", 5, subject.long)
        subject.submit("waiting", 5, 5, after=0.02)
        subject.settles(lambda state: (state.running, state.waiting) == (subject.seats, 1))
        assert subject.engine.cancel("waiting")
        for i in range(subject.seats):
            assert subject.engine.cancel(f"seated{i}")
        subject.to_the_end()
        assert [(event.kind, event.output_tokens) for event in subject.of("waiting")] == [(EventKind.ABORTED, 0)]
        subject.settles(_idle)

    def test_a_request_can_be_cancelled_before_it_arrives(self, subject: Subject) -> None:
        subject.submit("a", 5, 5, after=0.2)
        assert subject.engine.cancel("a")
        subject.to_the_end()
        assert subject.kinds("a") == [EventKind.ABORTED]
        assert subject.engine.next_event_at() is None

    def test_what_is_not_there_cannot_be_cancelled(self, subject: Subject) -> None:
        assert not subject.engine.cancel("nobody")
        subject.submit("a", 5, 2)
        subject.to_the_end()
        assert not subject.engine.cancel("a")
        subject.seen += subject.engine.advance(subject.engine.now + 0.02)
        assert subject.kinds("a") == [EventKind.FIRST_TOKEN, EventKind.FINISHED]

    def test_what_can_never_fit_is_rejected_when_it_arrives(self, subject: Subject) -> None:
        arrival = subject.engine.now + 0.05
        subject.submit("too-long", subject.context - 10, 11, after=0.05)
        subject.submit("fits", subject.context - 10, 10, after=0.05)
        subject.to_the_end()
        assert subject.kinds("too-long") == [EventKind.REJECTED]
        (event,) = subject.of("too-long")
        assert event.at >= arrival
        assert event.output_tokens == 0
        assert subject.kinds("fits") == [EventKind.FIRST_TOKEN, EventKind.FINISHED]

    def test_an_id_is_in_use_until_its_end(self, subject: Subject) -> None:
        subject.submit("a", 5, subject.long)
        with pytest.raises(ValueError, match="'a' is in use"):
            subject.submit("a", 5, 5)
        assert subject.engine.cancel("a")
        subject.to_the_end()
        subject.submit("a", 5, 2)
        subject.to_the_end()
        assert subject.kinds("a")[-2:] == [EventKind.FIRST_TOKEN, EventKind.FINISHED]

    @pytest.mark.parametrize(("prompt", "output"), [(0, 5), (5, 0), (-1, 5)])
    def test_sizes_are_positive(self, subject: Subject, prompt: int, output: int) -> None:
        with pytest.raises(ValueError, match="must be at least 1"):
            subject.submit("a", prompt, output)
        assert subject.engine.next_event_at() is None

    def test_a_request_does_not_arrive_in_the_past(self, subject: Subject) -> None:
        """Where time stands still between two calls; real time does not wait for who submits."""
        subject.engine.advance(subject.engine.now + 0.05)
        if subject.real_time:
            subject.submit("a", 5, 2, after=-0.04)
            subject.to_the_end()
            assert subject.has("a", EventKind.FINISHED)
        else:
            with pytest.raises(ValueError, match="before the clock"):
                subject.submit("a", 5, 2, after=-0.04)

    def test_the_gauges_show_who_runs_and_who_waits(self, subject: Subject) -> None:
        for i in range(subject.seats + 3):
            subject.submit(f"r{i}", 20, subject.long)
        state = subject.settles(lambda state: (state.running, state.waiting) == (subject.seats, 3))
        assert 0.0 < state.kv_usage <= 1.0
        assert state.at <= subject.engine.now
        for i in range(subject.seats + 3):
            assert subject.engine.cancel(f"r{i}")
        subject.to_the_end()
        subject.settles(_idle)

    def test_after_the_last_end_nothing_is_left(self, subject: Subject) -> None:
        for i in range(subject.seats + 2):
            subject.submit(f"r{i}", 10, 6)
        subject.to_the_end()
        subject.settles(_idle)
        assert subject.engine.next_event_at() is None
        assert subject.engine.advance(subject.engine.now + 0.05) == []

    def test_the_urgent_start_first(self, subject: Subject) -> None:
        for i in range(subject.seats):
            subject.submit(f"seated{i}", 5, subject.long)
        subject.submit("patient", 5, 3, priority=5, after=0.02)
        subject.submit("urgent", 5, 3, priority=-5, after=0.04)
        subject.settles(lambda state: (state.running, state.waiting) == (subject.seats, 2))
        assert subject.engine.cancel("seated0")
        subject.until(lambda: all(subject.has(name, EventKind.FINISHED) for name in ("patient", "urgent")))
        started = [event.id for event in subject.seen if event.kind is EventKind.FIRST_TOKEN]
        order = [name for name in started if name in ("patient", "urgent")]
        assert order == (["urgent", "patient"] if subject.by_priority else ["patient", "urgent"])
        for i in range(1, subject.seats):
            subject.engine.cancel(f"seated{i}")
        subject.to_the_end()
