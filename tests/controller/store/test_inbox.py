from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.store.inbox import Inbox


@given(st.integers(1, 6), st.lists(st.one_of(st.none(), st.integers(1, 9))))
def test_what_goes_in_comes_out_once_in_order_and_never_more_than_the_bound(
    bound: int, steps: Sequence[int | None]
) -> None:
    """``None`` puts one more item, a number takes so many."""
    inbox, put, refused, taken = Inbox[int](bound), list[int](), 0, list[int]()
    for number, wanted in enumerate(steps):
        waiting = len(put) - len(taken)
        if wanted is None:
            accepted = inbox.put(number)
            assert accepted == (waiting < bound)
            put += [number] if accepted else []
            refused += not accepted
        else:
            got = inbox.take(wanted, 0.0)
            assert len(got) == min(wanted, waiting)
            taken += got
    inbox.close()
    assert not inbox.put(-1)
    assert inbox.ended == (len(put) == len(taken))
    assert taken + inbox.take(len(steps) + 1, float("inf")) == put
    assert len(put) + refused == steps.count(None)
    assert inbox.ended


def test_the_reader_sleeps_until_there_is_enough() -> None:
    inbox, taken = Inbox[int](100), list[list[int]]()
    reader = threading.Thread(target=lambda: taken.append(inbox.take(10, float("inf"))))
    reader.start()
    for number in range(9):
        inbox.put(number)
    reader.join(0.02)
    assert reader.is_alive()
    inbox.put(9)
    reader.join()
    assert taken == [list(range(10))]


@pytest.mark.parametrize("wanted", [5, 10**6])
def test_a_reader_that_wants_more_than_fits_is_woken_when_it_is_full(wanted: int) -> None:
    inbox = Inbox[int](4)
    reader = threading.Thread(target=inbox.wait, args=(wanted,))
    reader.start()
    for number in range(4):
        assert inbox.put(number)
    reader.join()
    assert not inbox.put(4)


def test_the_end_wakes_the_reader() -> None:
    inbox = Inbox[int](4)
    inbox.put(1)
    ended = list[list[int]]()
    reader = threading.Thread(target=lambda: ended.append(inbox.take(3, float("inf"))))
    reader.start()
    inbox.close()
    reader.join()
    assert ended == [[1]]
    assert inbox.take(3, float("inf")) == []


def test_nothing_is_lost_between_two_threads() -> None:
    inbox, taken = Inbox[int](10**6), list[int]()

    def read() -> None:
        while not inbox.ended:
            taken.extend(inbox.take(7, time.monotonic() + 0.001))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20_000):
        assert inbox.put(number)
    inbox.close()
    reader.join()
    assert taken == list(range(20_000))
