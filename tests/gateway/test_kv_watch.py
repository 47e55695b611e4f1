from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("zmq", reason="KV-cache events need the extra kv-events")
pytest.importorskip("msgspec", reason="KV-cache events need the extra kv-events")

from controller.caches.map import CacheMap
from gateway.kv_watch import CacheFeed, KvWatch
from tests.controller.caches.engine import Cleared, Engine, Removed, Stored
from tests.upstream.kv_publisher import CLEARED, Publisher, packed, removed, run, stored, until
from upstream.kv_events import decode
from upstream.kv_events_order import Forget, Order
from upstream.kv_events_types import Batch, KvEndpoints


def encoded(events: list[Any], form: str) -> bytes:
    """An engine step, as servers of three generations send it."""
    sent: list[Any] = []
    for event in events:
        if isinstance(event, Cleared):
            sent.append(CLEARED if form == "maps" else ["AllBlocksCleared"])
            continue
        hashes = [h.to_bytes(32, "big") for h in event.hashes] if form == "maps" else [_signed(h) for h in event.hashes]
        if isinstance(event, Removed):
            sent.append(removed(*hashes) if form == "maps" else ["BlockRemoved", hashes, "GPU"])
            continue
        assert isinstance(event, Stored)
        if form == "maps":
            above = None if event.parent is None else event.parent.to_bytes(32, "big")
            sent.append(stored(hashes, above, event.tokens, extra_keys=event.extra_keys))
        else:
            parent = None if event.parent is None else _signed(event.parent)
            sent.append(["BlockStored", hashes, parent, event.tokens, event.block_size, None, "GPU"])
    return packed(*sent)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


TOKENS = st.lists(st.integers(0, 1), max_size=9)
STEPS = st.one_of(
    st.tuples(st.just("start"), TOKENS),
    st.tuples(st.just("start"), TOKENS),
    st.tuples(st.just("finish"), st.none()),
    st.tuples(st.just("clear"), st.none()),
    st.tuples(st.just("restart"), st.none()),
)


class Line:
    """An engine, and a map that hears it over a line that loses messages."""

    def __init__(self, keeps: int, form: str) -> None:
        self.engine, self.cached, self.order = Engine(total=7), CacheMap(), Order()
        self.behind = False
        """The last message was lost, and nobody can know of it yet."""
        self._keeps, self._form = keeps, form
        self._feed = CacheFeed(self.cached, "w")
        self.messages: list[bytes] = []
        self.connect()

    def connect(self) -> None:
        self.order.connected()
        self._settle()
        self.behind = False

    def do(self, step: str, tokens: Any, lost: bool) -> None:
        if step == "restart":
            self.engine.restart()
            self.messages.clear()
            self.connect()
        elif step == "start":
            self.engine.start(tokens)
        else:
            getattr(self.engine, step)()
        if events := self.engine.take():
            self.messages.append(encoded(events, self._form))
            self.behind = lost
            if not lost:
                self._apply(self.order.live(len(self.messages) - 1, self.messages[-1]))
                self._settle()

    def check(self, prompts: list[list[int]]) -> None:
        for prompt in prompts:
            truth, found = self.engine.lookup(prompt), self.cached.matches(prompt).get("w", 0)
            assert found == truth if self.cached.whole("w") else found <= truth

    def _settle(self) -> None:
        while self.order.missing is not None:
            for number in range(max(self.order.missing, len(self.messages) - self._keeps), len(self.messages)):
                self._apply(self.order.replayed(number, self.messages[number]))
            self._apply(self.order.replay_ended())

    def _apply(self, todo: list[Forget | bytes]) -> None:
        for each in todo:
            if isinstance(each, Forget):
                self._feed.on_forget(whole=each.whole)
            else:
                self._feed.on_batch(decode(each))


@settings(deadline=None)
@given(
    st.lists(st.tuples(STEPS, st.booleans()), max_size=40),
    st.integers(1, 20),
    st.sampled_from(["maps", "arrays"]),
    st.lists(TOKENS, max_size=4),
)
def test_over_a_line_that_loses_messages_the_map_is_the_engines_truth(
    steps: list[tuple[tuple[str, Any], bool]], keeps: int, form: str, asked: list[list[int]]
) -> None:
    line = Line(keeps, form)
    for (step, tokens), lost in steps:
        line.do(step, tokens, lost)
        if step == "start":
            asked.append(tokens)
        if not line.behind:
            line.check(asked[-6:])
    line.connect()
    line.check(asked)
    assert line.cached.whole("w") or len(line.messages) > keeps, "what can be replayed costs nothing"


def test_each_worker_is_listened_to_and_failures_stay_with_it() -> None:
    async def main() -> None:
        one, two = Publisher(), Publisher()
        cached = CacheMap()
        watch = KvWatch(retry_s=0.05)
        feeds = {name: CacheFeed(cached, name) for name in ("one", "two", "wrong", "away")}
        watch.add("one", KvEndpoints(one.events, one.replay), feeds["one"])
        watch.add("two", KvEndpoints(two.events), feeds["two"])
        watch.add("wrong", KvEndpoints("tcp//typo"), feeds["wrong"])
        watch.add("away", KvEndpoints("tcp://127.0.0.1:1"), feeds["away"])
        await until(lambda: all(watch.stats()[name].connections for name in ("one", "two")))
        await asyncio.sleep(0.1)
        await one.publish(packed(stored([1, 2], None, [1, 2, 3, 4]), stored([8], None, [8, 8], medium="CPU")))
        await two.publish(packed(stored([7], None, [1, 2]), removed(7, medium="CPU")))
        await until(lambda: cached.matches([1, 2, 3, 4, 5]) == {"one": 4, "two": 2})
        assert cached.matches([8, 8, 0]) == {}
        assert (feeds["one"].ignored, feeds["two"].ignored) == (1, 1)
        await one.publish(packed(removed(1)))
        await until(lambda: cached.matches([1, 2, 3, 4, 5]) == {"two": 2})
        await two.publish(packed(CLEARED))
        await until(lambda: cached.matches([1, 2, 3, 4, 5]) == {})
        stats = watch.stats()
        assert (stats["one"].messages, stats["one"].events, stats["one"].failures) == (2, 3, 0)
        await until(lambda: watch.stats()["wrong"].failures >= 2)
        assert set(watch.errors()) == {"wrong"}
        assert "tcp//typo" in watch.errors()["wrong"]
        assert (stats["away"].connections, stats["away"].failures) == (0, 0)
        watch.remove("one")
        assert set(watch.stats()) == {"two", "wrong", "away"}
        await watch.close()
        await one.close()
        await two.close()

    run(main)


class Failing:
    """A consumer with a fault."""

    def __init__(self) -> None:
        self.forgotten = self.batches = 0

    def on_batch(self, batch: Batch) -> None:
        self.batches += 1
        if self.batches == 1:
            raise RuntimeError("a fault")

    def on_forget(self, *, whole: bool) -> None:
        self.forgotten += not whole


def test_a_fault_costs_what_is_known_and_listening_goes_on() -> None:
    async def main() -> None:
        publisher = Publisher()
        await publisher.publish(packed(stored([1], None, [1, 2])))
        watch, consumer = KvWatch(retry_s=0.01), Failing()
        watch.add("w", KvEndpoints(publisher.events, publisher.replay), consumer)
        await until(lambda: consumer.batches == 2)
        stats = watch.stats()["w"]
        assert (stats.failures, stats.messages, consumer.forgotten) == (1, 2, 1)
        assert watch.errors() == {}
        await watch.close()
        await publisher.close()

    run(main)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq.asyncio", None)

    async def main() -> None:
        watch = KvWatch()
        watch.add("w", KvEndpoints("tcp://127.0.0.1:1"), Failing())
        await until(lambda: bool(watch.errors()))
        assert "headway[kv-events]" in watch.errors()["w"]
        await watch.close()

    run(main)
