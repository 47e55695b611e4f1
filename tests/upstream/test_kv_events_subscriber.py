from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

pytest.importorskip("zmq", reason="KV-cache events need the extra kv-events")
pytest.importorskip("msgspec", reason="KV-cache events need the extra kv-events")

import zmq.asyncio

from tests.upstream.kv_publisher import CLEARED, Publisher, packed, removed, run, stored, until
from upstream.kv_events import KvEventsError
from upstream.kv_events_subscriber import KvSubscriber
from upstream.kv_events_types import Batch, BlocksRemoved, BlocksStored, KvEndpoints


@dataclass
class Heard:
    """What a consumer was told: ``True`` and ``False`` for what to forget, else the hashes of each batch."""

    said: list[bool | list[int]] = field(default_factory=list)

    def on_batch(self, batch: Batch) -> None:
        hashes: list[int] = []
        for event in batch.events:
            if isinstance(event, BlocksStored | BlocksRemoved):
                hashes += event.hashes
        self.said.append(hashes)

    def on_forget(self, *, whole: bool) -> None:
        self.said.append(whole)


class Listening:
    """A subscriber at work."""

    def __init__(self, publisher: Publisher, *, replay: bool = True, topic: str = "", timeout_s: float = 5.0) -> None:
        self.heard = Heard()
        endpoints = KvEndpoints(publisher.events, publisher.replay if replay else None, topic)
        self.subscriber = KvSubscriber(endpoints, self.heard, replay_timeout_s=timeout_s)
        self._context = zmq.asyncio.Context()

    async def __aenter__(self) -> Listening:
        self._task = asyncio.get_running_loop().create_task(self.subscriber.run(self._context))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._context.destroy(linger=0)

    async def connected(self, times: int = 1) -> None:
        await until(lambda: self.subscriber.connections >= times)
        await asyncio.sleep(0.1)  # the publisher hears of the subscription a moment later

    async def said(self, *expected: bool | list[int]) -> None:
        wanted = list(expected)
        try:
            await until(lambda: self.heard.said == wanted)
        except TimeoutError:
            assert self.heard.said == wanted


def test_what_is_published_is_heard_in_order() -> None:
    async def main() -> None:
        publisher = Publisher()
        async with Listening(publisher) as listening:
            await listening.said(True)
            await listening.connected()
            for number in range(3):
                await publisher.publish(packed(stored([number], None, [1, 2])))
            await publisher.publish(packed(removed(0, 1), CLEARED, ["Other"]))
            await listening.said(True, [0], [1], [2], [0, 1])
            subscriber = listening.subscriber
            assert (subscriber.events, subscriber.unknown, subscriber.malformed) == (5, 1, 0)
            assert (subscriber.counts.messages, subscriber.counts.gaps) == (4, 0)
        await publisher.close()

    run(main)


@pytest.mark.parametrize("old_replies", [False, True])
def test_what_was_missed_is_replayed(old_replies: bool) -> None:
    async def main() -> None:
        publisher = Publisher()
        publisher.old_replies = old_replies
        await publisher.publish(packed(stored([1], None, [1, 2])))
        await publisher.publish(packed(stored([2], None, [1, 2])))
        async with Listening(publisher, topic="kv") as listening:
            await listening.said(True, [1], [2])
            await listening.connected()
            await publisher.publish(packed(stored([3], None, [1, 2])), lost=True)
            await publisher.publish(packed(stored([4], None, [1, 2])))
            await listening.said(True, [1], [2], [3], [4])
            assert listening.subscriber.counts.gaps == 1
            assert listening.subscriber.counts.resets == 0
        await publisher.close()

    run(main)


def test_what_cannot_be_replayed_costs_what_is_known() -> None:
    async def main() -> None:
        publisher = Publisher(keeps=1)
        async with Listening(publisher) as listening:
            await listening.said(True)
            await listening.connected()
            await publisher.publish(packed(stored([1], None, [1, 2])))
            await publisher.publish(packed(stored([2], None, [1, 2])), lost=True)
            await publisher.publish(packed(stored([3], None, [1, 2])), lost=True)
            await publisher.publish(packed(stored([4], None, [1, 2])))
            await listening.said(True, [1], False, [4])
        await publisher.close()

    run(main)


def test_a_replay_that_does_not_come_is_not_waited_for_forever() -> None:
    async def main() -> None:
        publisher = Publisher()
        publisher.silent = True
        async with Listening(publisher, timeout_s=0.2) as listening:
            await listening.connected()
            await publisher.publish(packed(stored([1], None, [1, 2])))
            await publisher.publish(packed(), lost=True)
            await publisher.publish(packed(stored([2], None, [1, 2])))
            await listening.said(True, [1], False, [2])
        await publisher.close()

    run(main)


@pytest.mark.parametrize("passed", [0, 1, 5], ids=["empty", "behind", "ahead"])
def test_an_engine_that_was_restarted_is_known_by_its_own_words_only(passed: int) -> None:
    async def main() -> None:
        publisher = Publisher()
        async with Listening(publisher) as listening:
            await listening.said(True)
            await listening.connected()
            for number in (1, 2):
                await publisher.publish(packed(stored([number], None, [1, 2])))
            await listening.said(True, [1], [2])
            await publisher.close()
            publisher = Publisher(ports=(publisher.ports[0], publisher.ports[1]))
            for number in range(passed):
                await publisher.publish(packed(stored([10 + number], None, [1, 2])), lost=True)
            await listening.said(True, [1], [2], False, True, *([10 + number] for number in range(passed)))
            assert listening.subscriber.counts.resets == 1
            await listening.connected(2)
            await publisher.publish(packed(stored([20], None, [1, 2])))
            await until(lambda: listening.heard.said[-1] == [20])
        await publisher.close()

    run(main)


def test_without_replays_a_lost_connection_costs_what_is_known() -> None:
    async def main() -> None:
        publisher = Publisher()
        async with Listening(publisher, replay=False) as listening:
            await listening.connected()
            await publisher.publish(packed(stored([1], None, [1, 2])))
            await listening.said(True, [1])
            await publisher.close()
            publisher = Publisher(ports=(publisher.ports[0], publisher.ports[1]))
            await listening.said(True, [1], False)
            await listening.connected(2)
            await publisher.publish(packed(stored([2], None, [1, 2])))
            await listening.said(True, [1], False, True, [2])
        await publisher.close()

    run(main)


def test_garbage_costs_what_is_known_and_nothing_else() -> None:
    async def main() -> None:
        publisher = Publisher()
        async with Listening(publisher) as listening:
            await listening.said(True)
            await listening.connected()
            await publisher.garbage(b"no number", b"")
            await publisher.garbage(b"")
            await publisher.publish(b"\xc1")
            await publisher.publish(packed(stored([1], None, [1, 2])))
            await listening.said(True, False, [1])
            assert listening.subscriber.malformed == 3
        await publisher.close()

    run(main)


def test_a_long_replay_does_not_hold_the_loop_up() -> None:
    async def main() -> None:
        publisher = Publisher(keeps=3000)
        blocks = packed(stored(list(range(64)), None, [7] * 1024))
        for _ in range(3000):
            await publisher.publish(blocks, lost=True)
        longest = 0.0

        async def ticking() -> None:
            nonlocal longest
            loop = asyncio.get_running_loop()
            while True:
                before = loop.time()
                await asyncio.sleep(0.001)
                longest = max(longest, loop.time() - before)

        async with Listening(publisher) as listening:
            ticks = asyncio.get_running_loop().create_task(ticking())
            await until(lambda: listening.subscriber.counts.messages == 3000, 30)
            ticks.cancel()
            assert listening.heard.said[0] is True
            assert listening.subscriber.counts.resets == 0
        await publisher.close()
        assert longest < 0.25  # the publisher runs in this loop too

    run(main)


def test_an_endpoint_that_is_none_is_refused() -> None:
    async def main() -> None:
        context = zmq.asyncio.Context()
        with pytest.raises(KvEventsError, match="write it like tcp://"):
            await KvSubscriber(KvEndpoints("http://here:1"), Heard()).run(context)
        context.destroy(linger=0)

    run(main)
