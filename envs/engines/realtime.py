"""A simulated engine on the event loop's clock: requests go in, tokens come out when they would on the real one."""

from __future__ import annotations

import asyncio
from typing import Final

from envs.engines.base import EngineEvent, EngineRequest, EngineState, EventKind
from envs.engines.sim import SimEngine

_SHORTEST_NAP: Final = 0.001
_ENDS: Final = frozenset({EventKind.FINISHED, EventKind.ABORTED, EventKind.REJECTED})


class Stream:
    """One request's way through the engine, as the coroutine that serves it sees it. Times are engine seconds."""

    __slots__ = ("_every_token", "_waiter", "arrived_at", "ended", "ended_at", "first_token_at", "id", "produced")

    def __init__(self, request_id: str, arrived_at: float, *, every_token: bool) -> None:
        self.id = request_id
        self.arrived_at = arrived_at
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.ended: EventKind | None = None
        self.produced = 0
        self._every_token = every_token
        self._waiter: asyncio.Future[None] | None = None

    async def progress(self, seen: int) -> int:
        """Wait for more than ``seen`` tokens, or for the end; how many there are."""
        while self.ended is None and (self.produced <= seen or not self._every_token):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.produced

    def take(self, event: EngineEvent) -> bool:
        """Note an event; whether the reader should hear of it at once."""
        self.produced = max(self.produced, event.output_tokens)
        if event.kind is EventKind.FIRST_TOKEN:
            self.first_token_at = event.at
            return self._every_token
        if event.kind in _ENDS:
            self.ended, self.ended_at = event.kind, event.at
            return True
        return False

    def notify(self) -> None:
        """Wake the reader, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class RealTimeEngine:
    """Drives a :class:`SimEngine` with timers; to be used inside one running event loop.

    First tokens and ends reach their readers when they happen. The tokens in between reach them every ``stride``
    seconds, several at a time, which keeps the cost of streaming far below one wake-up a token.
    """

    def __init__(self, engine: SimEngine, *, stride: float = 0.01) -> None:
        self.engine = engine
        self.stride = stride
        self._loop = asyncio.get_running_loop()
        self._epoch = self._loop.time() - engine.now
        self._streams: dict[str, Stream] = {}
        self._behind: set[Stream] = set()
        self._next_stride = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0

    @property
    def now(self) -> float:
        """Engine seconds by the wall clock."""
        return self._loop.time() - self._epoch

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._streams)

    def state(self) -> EngineState:
        """The engine's gauges now."""
        self._pump()
        return self.engine.state()

    def submit(self, prompt_tokens: int, output_tokens: int, *, priority: int = 0, every_token: bool = True) -> Stream:
        """Start a request. Without ``every_token`` its reader is only woken by its end."""
        self._count += 1
        now = max(self.now, self.engine.now)
        stream = Stream(str(self._count), now, every_token=every_token)
        self._streams[stream.id] = stream
        self.engine.submit(EngineRequest(stream.id, prompt_tokens, output_tokens, priority, arrival=now))
        self._set_timer()
        return stream

    def cancel(self, stream: Stream) -> None:
        """Abort a request; nothing if it has ended."""
        if stream.ended is not None:
            return
        self._pump()
        self.engine.cancel(stream.id)
        self._pump()

    def warm(self) -> None:
        """Have everything compiled that the engine runs on: the first request shall not wait for that."""
        twin = SimEngine(self.engine.profile, policy=self.engine.policy, stream=True)
        twin.submit(EngineRequest("finished", 1, 2))
        twin.submit(EngineRequest("cancelled", 1, 2, arrival=60.0))
        twin.advance(60.0)
        twin.cancel("cancelled")
        twin.next_event_at()
        twin.state()

    def sleep(self, level: int = 1) -> None:
        """Abort everything and fall asleep; see :meth:`SimEngine.sleep`."""
        self._pump()
        self.engine.sleep(level)
        self._pump()

    def wake(self) -> None:
        """Begin to wake up; see :meth:`SimEngine.wake`."""
        self._pump()
        self.engine.wake()
        self._pump()

    def close(self) -> None:
        """Abort everything and stop the timer."""
        for stream in list(self._streams.values()):
            self.cancel(stream)
        if self._timer is not None:
            self._timer.cancel()

    def _pump(self) -> None:
        """Bring the engine up to the wall clock and hand out what happened."""
        now = max(self.now, self.engine.now)
        for event in self.engine.advance(now):
            stream = self._streams.get(event.id)
            if stream is None:
                continue
            if stream.take(event):
                stream.notify()
                self._behind.discard(stream)
            else:
                self._behind.add(stream)
            if stream.ended is not None:
                del self._streams[stream.id]
        if now >= self._next_stride:
            self._next_stride = now + self.stride
            for stream in self._behind:
                stream.notify()
            self._behind.clear()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.engine.next_event_at()
        if due is None:
            return
        now = self.now
        due = min(max(due, now + _SHORTEST_NAP), max(self._next_stride, now + _SHORTEST_NAP))
        self._timer = self._loop.call_at(self._epoch + due, self._pump)
