from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.driver import Turn
from gateway.turns import Turns
from tests.gateway.harness import HELLO, Worker, chat, configured, pool, serving


def served(count: int, seconds: float, limit: float, gone: frozenset[int] = frozenset()) -> tuple[list[int], list[int]]:
    """Requests that come at once and say that they took so long: the order in which they were served, and how many by
    each turn of the loop."""
    order: list[int] = []
    turns: list[int] = []

    async def main() -> None:
        shared = Turns(limit)

        async def one(number: int) -> None:
            if shared.over:
                await shared.next()
            order.append(number)
            shared.spend(seconds)

        def turn() -> None:
            turns.append(len(order))
            if not all(task.done() for task in tasks):
                asyncio.get_running_loop().call_soon(turn)

        tasks = [asyncio.create_task(one(number)) for number in range(count)]
        asyncio.get_running_loop().call_soon(turn)
        await asyncio.sleep(0)
        for number in gone:
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    return order, turns


def test_a_few_requests_are_served_in_each_turn_and_in_the_order_in_which_they_came() -> None:
    order, turns = served(200, 0.5, 2.0)
    assert order == list(range(200))
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= 20
    assert sum(step > 0 for step in steps) > 20


def test_one_that_takes_longer_than_a_turn_has_one_of_its_own() -> None:
    order, turns = served(10, 100.0, 2.0)
    assert order == list(range(10))
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.floats(0.0, 5.0), st.floats(0.001, 5.0), st.frozensets(st.integers(0, 59), max_size=20))
def test_nobody_waits_for_ever_even_if_others_leave(
    count: int, seconds: float, limit: float, gone: frozenset[int]
) -> None:
    gone &= frozenset(range(count))
    order, _ = served(count, seconds, limit, gone)
    assert order == sorted(set(order)), "in order, and once"
    assert set(range(count)) - gone <= set(order)


def test_nobody_waits_while_requests_come_one_by_one() -> None:
    async def main() -> None:
        shared = Turns(1.0)
        for _ in range(100):
            assert not shared.over
            shared.spend(0.9)
            await asyncio.sleep(0)

    asyncio.run(main())


def test_of_a_burst_the_gateway_takes_a_few_requests_in_each_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request is made to take a millisecond of the loop."""

    async def main() -> None:
        worker = Worker(chat)
        async with worker, serving(configured(pool("small", worker, max_inflight=100))) as gateway:
            driver = gateway.app.runtime.driver
            submit, seen, steps = driver.submit, 0, [0]

            def slow(*about: Any) -> Turn:
                nonlocal seen
                seen += 1
                until = time.monotonic() + 0.001
                while time.monotonic() < until:
                    pass
                return submit(*about)

            async def beat() -> None:
                while True:
                    before = seen
                    await asyncio.sleep(0)
                    steps.append(seen - before)

            monkeypatch.setattr(driver, "submit", slow)
            beating = asyncio.create_task(beat())
            answers = await asyncio.gather(*(gateway.ask(HELLO) for _ in range(60)))
            beating.cancel()
            assert {status for status, _ in answers} == {200}
            assert seen == 60
            assert max(steps) <= 8, "first those of a turn, and then as many as it has time for"

    asyncio.run(main())
