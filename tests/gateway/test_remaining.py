from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.store import ArtifactStore
from controller.store.artifacts import shipped_models
from gateway.remaining import EVERY, OUTCOMES, Listener, RemainingDesk
from tests.gateway.harness import HELLO, USAGE, Worker, configured, event, pool, serving, until
from tests.upstream.servers import Exchange


@dataclass(frozen=True)
class Said:
    tokens: int
    expected: float


class Track:
    """Says that as many tokens are left as there are characters; fails on ``fail``; waits for ``go`` first."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.text = ""

    def feed(self, text: str, total_tokens: int) -> Said | None:
        self.model.threads.add(threading.get_ident())
        self.model.go.wait(5)
        self.text += text
        self.model.read[id(self)] = self.text
        if "fail" in self.text:
            raise RuntimeError("as asked")
        return Said(total_tokens, float(len(self.text)))


class Model:
    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.threads: set[int] = set()
        self.begun: list[tuple[object, ...]] = []
        self.read: dict[int, str] = {}

    def begin(self, prompt_rank: float | None, expected: float | None, most: int | None, every: int) -> Track:
        self.begun.append((prompt_rank, expected, most, every))
        return Track(self)


class Desk:
    """A desk, and what it said."""

    def __init__(self) -> None:
        self.model = Model()
        self.told: list[tuple[str, int, float]] = []
        self.counts: Counter[str] = Counter()
        count = {outcome: partial(self._count, outcome) for outcome in OUTCOMES}
        self.desk = RemainingDesk(self.model, tell=lambda *said: self.told.append(said), count=count)

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1

    def listen(self, name: str) -> Listener:
        listener = self.desk.listen(name, 0.25, 300.0, 900)
        assert listener is not None
        return listener


def drive(scenario: Callable[[Desk], Awaitable[None]]) -> None:
    async def main() -> None:
        running = Desk()
        try:
            await scenario(running)
        finally:
            running.model.go.set()
            running.desk.close()

    asyncio.run(main())


def test_a_stream_is_read_on_a_thread_at_every_look() -> None:
    async def scenario(desk: Desk) -> None:
        ear = desk.listen("a")
        ear.hear(event("abc"), EVERY - 1)
        await asyncio.sleep(0.01)
        assert desk.model.begun == [], "not before it is time"
        ear.hear(event("de"), EVERY)
        await until(lambda: len(desk.told) == 1)
        ear.hear(event("f"), EVERY + 1)
        ear.hear(event("g"), 2 * EVERY)
        await until(lambda: len(desk.told) == 2)
        assert desk.told == [("a", EVERY, 5.0), ("a", 2 * EVERY, 7.0)]
        assert desk.model.begun == [(0.25, 300.0, 900, EVERY)]
        assert desk.model.threads.isdisjoint({threading.get_ident()})
        assert desk.counts == {"told": 2}

    drive(scenario)


def test_a_look_for_which_there_is_no_time_is_left_out_and_its_text_is_not() -> None:
    async def scenario(desk: Desk) -> None:
        desk.model.go.clear()
        ear = desk.listen("a")
        for i in range(1, 4):
            ear.hear(event("abc"), i * EVERY)
            await asyncio.sleep(0.01)
        assert desk.counts == {"behind": 2}
        desk.model.go.set()
        await until(lambda: desk.counts["told"] == 1)
        ear.hear(event("abc"), 4 * EVERY)
        await until(lambda: desk.counts["told"] == 2)
        assert desk.told == [("a", EVERY, 3.0), ("a", 4 * EVERY, 12.0)]

    drive(scenario)


def test_of_very_many_streams_most_looks_are_left_out() -> None:
    async def scenario(desk: Desk) -> None:
        desk.model.go.clear()
        for i in range(500):
            desk.listen(str(i)).hear(event("x"), EVERY)
        assert desk.counts["behind"] > 400
        desk.model.go.set()
        await until(lambda: desk.counts.total() == 500)
        assert desk.counts["told"] == len(desk.told) == 500 - desk.counts["behind"]

    drive(scenario)


def test_a_stream_that_cannot_be_read_is_left_alone_and_the_others_are_not() -> None:
    async def scenario(desk: Desk) -> None:
        bad, good, silent = desk.listen("bad"), desk.listen("good"), desk.listen("silent")
        for i in range(1, 4):
            bad.hear(event("fail"), i * EVERY)
            good.hear(event("x"), i * EVERY)
            silent.hear(b"", i * EVERY)
            await until(partial(lambda told: desk.counts["told"] == told, i))
        assert desk.counts == {"told": 3, "failed": 1, "unread": 1}
        assert bad.over
        assert silent.over

    drive(scenario)


def test_what_is_kept_of_a_stream_is_bounded() -> None:
    async def scenario(desk: Desk) -> None:
        ear = desk.listen("a")
        for _ in range(100):
            ear.hear(event("x" * 10_000), 1)
        assert desk.counts == {"unread": 1}
        assert (desk.desk.held, desk.desk.streams) == (0, 0)
        ear.hear(event("x"), EVERY)
        await asyncio.sleep(0.01)
        assert desk.told == []

    drive(scenario)


def test_what_is_kept_of_all_streams_is_bounded() -> None:
    async def scenario(desk: Desk) -> None:
        ears = [desk.listen(str(i)) for i in range(2048)]
        assert desk.desk.listen("more", None, 300.0, None) is None
        for ear in ears:
            ear.hear(b"x" * 60_000, 1)
        assert desk.desk.held <= 1 << 26
        assert desk.counts["unread"] == sum(ear.over for ear in ears) > 900
        for ear in ears:
            ear.close()
            ear.close()
        assert (desk.desk.held, desk.desk.streams) == (0, 0)
        assert desk.desk.listen("more", None, 300.0, None) is not None

    drive(scenario)


def test_nothing_is_kept_or_read_of_a_stream_that_is_over() -> None:
    async def scenario(desk: Desk) -> None:
        ear = desk.listen("a")
        ear.hear(event("x"), EVERY)
        ear.close()
        ear.hear(event("x"), 2 * EVERY)
        await asyncio.sleep(0.05)
        assert (desk.told, desk.counts, desk.model.begun) == ([], Counter(), [])

    drive(scenario)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text("abc", max_size=5), st.integers(1, 3 * EVERY)), min_size=1, max_size=30))
def test_every_text_is_read_once_and_in_order(pieces: list[tuple[str, int]]) -> None:
    async def scenario(desk: Desk) -> None:
        ear, total, whole = desk.listen("a"), 0, ""
        for text, tokens in [("a", 1), *pieces, ("z", EVERY)]:
            total, whole = total + tokens, whole + text
            ear.hear(event(text), total)
            await asyncio.sleep(0)
        await until(lambda: not ear.busy)
        ear.hear(event("!"), total + EVERY)
        await until(lambda: not ear.busy)
        assert desk.counts["unread"] == desk.counts["failed"] == 0
        assert list(desk.model.read.values()) == [whole + "!"]

    drive(scenario)


async def long(exchange: Exchange) -> None:
    """A streamed answer of 200 events, and then what it cost."""
    await exchange.head(200, "content-type: text/event-stream")
    for i in range(200):
        if i % 50 == 0:
            await asyncio.sleep(0.05)
        await exchange.chunk(event("one more word of it. "))
    usage = {**USAGE, "completion_tokens": 200}
    await exchange.chunk(b"data: %b\n\n" % json.dumps({"choices": [], "usage": usage}).encode())
    await exchange.chunk(b"data: [DONE]\n\n")
    await exchange.end()


async def looks(remaining: str | None) -> dict[str, float]:
    """Outcomes of one streamed request through a whole gateway."""
    async with Worker(long) as worker:
        configuration = configured(pool("small", worker), scoring={"remaining": remaining})
        async with serving(configuration, store=ArtifactStore(shipped_models(), None)) as gateway:
            status, body = await gateway.ask({**HELLO, "stream": True})
            assert (status, body.count(b"one more word")) == (200, 200)
            await gateway.quiet()
            page = await gateway.page()
    lines = [line for line in page.splitlines() if line.startswith("headway_remaining_looks_total{")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_a_gateway_reads_streams_where_it_is_told_to() -> None:
    found = asyncio.run(looks("length/remaining"))
    assert found["told"] >= 1
    assert found["failed"] == found["unread"] == 0
    assert asyncio.run(looks(None)) == dict.fromkeys(OUTCOMES, 0.0)


def test_without_the_artifact_streams_pass_unread() -> None:
    assert asyncio.run(looks("length/not-there")) == dict.fromkeys(OUTCOMES, 0.0)
