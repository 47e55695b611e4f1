"""The engine on the event loop's clock."""

from __future__ import annotations

import asyncio

from envs.engines.base import EventKind
from envs.engines.realtime import RealTimeEngine
from envs.engines.sim import SimEngine
from tests.envs.engines.profiles import profile


def test_tokens_come_in_time_and_all_of_them() -> None:
    async def watch() -> tuple[list[int], list[float], EventKind | None]:
        engine = RealTimeEngine(SimEngine(profile(), stream=True))
        stream = engine.submit(10, 30)
        seen, at = [0], [engine.now]
        while stream.ended is None:
            seen.append(await stream.progress(seen[-1]))
            at.append(engine.now)
        return seen, at, stream.ended

    seen, at, ended = asyncio.run(watch())
    assert seen == sorted(seen)
    assert (seen[-1], ended) == (30, EventKind.FINISHED)
    steps = [4e-3 + 5e-3 * count for count in seen[1:]]
    assert all(moment - at[0] >= least for moment, least in zip(at[1:], steps, strict=True))


def test_a_quiet_reader_is_woken_once() -> None:
    async def watch() -> int:
        engine = RealTimeEngine(SimEngine(profile(), stream=True))
        stream = engine.submit(10, 20, every_token=False)
        return await stream.progress(0)

    assert asyncio.run(watch()) == 20


def test_cancel_wakes_the_reader_at_once() -> None:
    async def leave() -> tuple[EventKind | None, int, int]:
        engine = RealTimeEngine(SimEngine(profile(), stream=True))
        stream = engine.submit(10, 1000)
        reader = asyncio.create_task(stream.progress(1000))
        await asyncio.sleep(0.03)
        engine.cancel(stream)
        produced = await asyncio.wait_for(reader, 1.0)
        engine.cancel(stream)
        return stream.ended, produced, engine.in_flight

    ended, produced, in_flight = asyncio.run(leave())
    assert (ended, in_flight) == (EventKind.ABORTED, 0)
    assert 0 < produced < 1000


def test_what_can_never_fit_ends_at_once() -> None:
    async def ask() -> EventKind | None:
        engine = RealTimeEngine(SimEngine(profile(), stream=True))
        stream = engine.submit(5000, 10)
        await asyncio.wait_for(stream.progress(0), 1.0)
        return stream.ended

    assert asyncio.run(ask()) is EventKind.REJECTED


def test_closing_ends_everything() -> None:
    async def close() -> tuple[list[EventKind | None], int]:
        engine = RealTimeEngine(SimEngine(profile(), stream=True))
        streams = [engine.submit(10, 1000) for _ in range(3)]
        await asyncio.sleep(0.01)
        engine.close()
        return [stream.ended for stream in streams], engine.state().running

    ended, running = asyncio.run(close())
    assert ended == [EventKind.ABORTED] * 3
    assert running <= 3
