from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from upstream.kv_events_order import Forget, Order

Said = list[Forget | bytes]


@dataclass
class Publisher:
    """What vLLM's publisher does: number, send, keep the last few; and what its replay socket does: drop."""

    life: int = 0
    keeps: int = 4
    sent: list[bytes] = field(default_factory=list)

    def publish(self) -> tuple[int, bytes]:
        self.sent.append(f"{self.life}/{len(self.sent)}".encode())
        return len(self.sent) - 1, self.sent[-1]

    def restart(self) -> None:
        self.life += 1
        self.sent = []

    def replay(self, start: int) -> list[tuple[int, bytes]]:
        first = max(start, len(self.sent) - self.keeps)
        return list(enumerate(self.sent))[first:]


@dataclass
class Subscriber:
    """Does as the real one does, over a connection that a test decides about."""

    publisher: Publisher
    replays: bool = True
    takes: int = 1000
    """Messages of a replay that get through; the rest, and its end, are lost."""
    order: Order = field(default_factory=Order)
    said: Said = field(default_factory=list)

    def connect(self) -> None:
        self.order.connected()
        self.settle()

    def hear(self, message: tuple[int, bytes]) -> None:
        self.said += self.order.live(*message)
        self.settle()

    def settle(self) -> None:
        for _ in range(100):
            if self.order.missing is None:
                return
            if not self.replays:
                self.said += self.order.replay_failed()
                continue
            messages = self.publisher.replay(self.order.missing)
            for message in messages[: self.takes]:
                self.said += self.order.replayed(*message)
            self.said += self.order.replay_ended(cut=len(messages) > self.takes)
        raise AssertionError("never done with replays")

    @property
    def known(self) -> list[bytes]:
        """What was applied since the last reason to forget."""
        last = max((i for i, each in enumerate(self.said) if isinstance(each, Forget)), default=-1)
        return [each for each in self.said[last + 1 :] if isinstance(each, bytes)]

    @property
    def whole(self) -> bool:
        return next((each.whole for each in reversed(self.said) if isinstance(each, Forget)), False)


def payloads(said: Sequence[Forget | bytes]) -> list[bytes]:
    return [each for each in said if isinstance(each, bytes)]


def test_messages_in_order_are_passed_on() -> None:
    publisher = Publisher()
    subscriber = Subscriber(publisher)
    subscriber.connect()
    assert subscriber.said == [Forget(whole=True)], "nothing was published, so nothing is cached"
    for _ in range(3):
        subscriber.hear(publisher.publish())
    assert subscriber.said == [Forget(True), b"0/0", b"0/1", b"0/2"]
    assert (subscriber.order.counts.messages, subscriber.order.counts.gaps) == (3, 0)


def test_who_comes_late_is_told_what_was_said() -> None:
    publisher = Publisher(keeps=10)
    for _ in range(3):
        publisher.publish()
    subscriber = Subscriber(publisher)
    subscriber.connect()
    assert subscriber.said == [Forget(True), b"0/0", b"0/1", b"0/2"]


def test_who_comes_too_late_begins_where_memory_does_and_knows_it() -> None:
    publisher = Publisher(keeps=2)
    for _ in range(5):
        publisher.publish()
    subscriber = Subscriber(publisher)
    subscriber.connect()
    assert subscriber.said == [Forget(False), b"0/3", b"0/4"]


def test_a_gap_is_filled_by_a_replay() -> None:
    publisher = Publisher()
    subscriber = Subscriber(publisher)
    subscriber.connect()
    subscriber.hear(publisher.publish())
    publisher.publish()
    publisher.publish()
    subscriber.hear(publisher.publish())
    assert payloads(subscriber.said) == [b"0/0", b"0/1", b"0/2", b"0/3"]
    assert subscriber.said.count(Forget(False)) == 0
    assert (subscriber.order.counts.gaps, subscriber.order.counts.resets) == (1, 0)


def test_a_gap_that_cannot_be_filled_costs_what_is_known() -> None:
    publisher = Publisher(keeps=1)
    subscriber = Subscriber(publisher)
    subscriber.connect()
    subscriber.hear(publisher.publish())
    publisher.publish()
    publisher.publish()
    subscriber.hear(publisher.publish())
    assert subscriber.said == [Forget(True), b"0/0", Forget(False), b"0/3"]
    assert subscriber.order.counts.resets == 1


def test_without_a_replay_a_gap_costs_what_is_known_and_so_does_a_new_connection() -> None:
    publisher = Publisher()
    subscriber = Subscriber(publisher, replays=False)
    subscriber.connect()
    assert subscriber.said == []
    subscriber.hear(publisher.publish())
    publisher.publish()
    subscriber.hear(publisher.publish())
    assert subscriber.said == [Forget(True), b"0/0", Forget(False), b"0/2"]
    subscriber.connect()
    assert subscriber.said[-1] == Forget(False)
    subscriber.hear(publisher.publish())
    assert subscriber.said[-2:] == [Forget(False), b"0/3"]


def test_numbers_that_begin_anew_are_another_life() -> None:
    publisher = Publisher()
    subscriber = Subscriber(publisher, replays=False)
    for _ in range(2):
        subscriber.hear(publisher.publish())
    publisher.restart()
    subscriber.hear(publisher.publish())
    assert subscriber.said == [Forget(True), b"0/0", b"0/1", Forget(False), Forget(True), b"1/0"]


def test_a_restarted_engine_that_went_past_the_old_numbers_is_found_out() -> None:
    publisher = Publisher()
    subscriber = Subscriber(publisher)
    subscriber.connect()
    subscriber.hear(publisher.publish())
    publisher.restart()
    for _ in range(3):
        publisher.publish()
    subscriber.hear(publisher.publish())  # 3, after 0: looks like a gap
    assert subscriber.known == [b"1/0", b"1/1", b"1/2", b"1/3"]
    assert subscriber.whole


def test_a_replay_that_loses_messages_is_asked_for_again() -> None:
    publisher = Publisher(keeps=50)
    for _ in range(50):
        publisher.publish()
    subscriber = Subscriber(publisher, takes=8)
    subscriber.connect()
    assert subscriber.known == publisher.sent
    assert subscriber.whole
    assert subscriber.order.counts.resets == 0


def test_a_replay_with_holes_is_not_taken_beyond_them() -> None:
    order = Order()
    order.connected()
    said = order.replayed(0, b"0") + order.replayed(2, b"2") + order.replayed(3, b"3") + order.replay_ended()
    assert said == [Forget(True), b"0"]
    assert order.missing == 0, "from the last one that is known, to see that it is the same life"
    order.replayed(0, b"0")
    assert order.replayed(1, b"1") + order.replayed(2, b"2") == [b"1", b"2"]
    assert order.replay_ended() == []
    assert order.missing is None


STEPS = st.lists(st.sampled_from(["hear", "hear", "hear", "miss", "miss", "connect", "restart"]), max_size=40)


@given(STEPS, st.integers(1, 6), st.booleans(), st.integers(2, 6))
def test_whatever_happens_what_is_known_is_one_unbroken_piece_of_the_engines_life(
    steps: list[str], keeps: int, replays: bool, takes: int
) -> None:
    publisher = Publisher(keeps=keeps)
    subscriber = Subscriber(publisher, replays, takes)
    subscriber.connect()
    for step in steps:
        if step == "hear":
            subscriber.hear(publisher.publish())
        elif step == "miss":
            publisher.publish()
        elif step == "connect":
            subscriber.connect()
        else:
            publisher.restart()
            subscriber.connect()  # the old connection broke
        known: Any = subscriber.known
        assert len(set(known)) == len(known)
        if step == "hear":
            assert known == publisher.sent[len(publisher.sent) - len(known) :]
            assert known
            assert subscriber.whole == (known == publisher.sent)
        elif known:
            start = publisher.sent.index(known[0])
            assert known == publisher.sent[start : start + len(known)], "of this life, without a hole"
    assert subscriber.order.counts.messages == len(payloads(subscriber.said))


@given(st.integers(1, 30), st.integers(2, 6), st.integers(1, 10))
def test_nothing_is_lost_within_the_publishers_memory(missed: int, takes: int, rounds: int) -> None:
    publisher = Publisher(keeps=missed + 2)
    subscriber = Subscriber(publisher, takes=takes)
    subscriber.connect()
    for _ in range(rounds):
        for _ in range(missed):
            publisher.publish()
        subscriber.hear(publisher.publish())
    assert subscriber.known == publisher.sent
    assert subscriber.whole
