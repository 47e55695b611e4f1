from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from gateway.passage import Passage
from gateway.stream import StreamMeter
from tests.gateway.harness import event


class Client:
    """Takes what is written."""

    def __init__(self) -> None:
        self.started = False
        self.got = b""

    def write(self, data: bytes) -> None:
        self.got += data

    def end(self, data: bytes = b"") -> None:
        self.got += data


class Turn:
    """Hears nothing that matters here."""

    def first_token(self) -> None: ...

    def tokens(self, total: int) -> None: ...

    def finish(self, usage: object) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def passage(clock: Clock, spends: float = 0.0) -> tuple[Passage, Client]:
    client = Client()

    def begin() -> None:
        client.started = True
        clock.now += spends

    meter = StreamMeter(drop_usage=False)
    return Passage(cast("Any", client), cast("Any", Turn()), meter, begin, None, clock), client


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=20))
def test_the_longest_gap_is_the_longest_time_between_two_pieces(gaps: list[float]) -> None:
    clock = Clock()
    one, client = passage(clock)
    clock.now += 1000.0  # what comes before the first piece is no gap
    one(event("a"), False)
    longest, before = 0.0, clock.now
    for i, gap in enumerate(gaps):
        clock.now += gap
        longest, before = max(longest, clock.now - before), clock.now
        one(event("b"), i == len(gaps) - 1)
    assert one.longest_gap == longest
    assert client.got.count(b"data: ") == len(gaps) + 1


def test_a_piece_without_a_whole_event_begins_nothing() -> None:
    clock = Clock()
    one, client = passage(clock)
    one(b"data: {", False)
    clock.now += 50.0
    one(b"}\n\n", True)
    assert (one.longest_gap, client.started) == (0.0, True)


def test_what_the_gateway_adds_is_taken_of_the_first_event_only() -> None:
    clock = Clock()
    one, _ = passage(clock, spends=2.0)
    assert one.spent is None
    one(event("a"), False)
    clock.now += 7.0
    one(event("b"), True)
    assert one.spent == 2.0
