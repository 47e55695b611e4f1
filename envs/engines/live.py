"""The live engine: a running vLLM server behind the same interface as the simulated ones.

Time is real: the clock goes on whether or not anybody advances it, and ``advance`` waits. Requests are served meanwhile
in a thread of their own (:class:`~envs.engines.live_loop.LoopThread`), and events carry the times at which their bytes
arrived. What can go wrong with a request is an event: refused, unreachable or too long is ``REJECTED``; broken off,
once the server had it, is ``ABORTED``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from envs.engines.base import EngineEvent, EngineRequest, EngineState, EventKind
from envs.engines.live_call import LiveCall, Size
from envs.engines.live_loop import LoopThread, WallClock
from envs.engines.live_prompts import compose
from envs.engines.live_server import LiveServer
from upstream.types import Header, Timeouts

__all__ = ["Bodies", "LiveEngine"]

Bodies = Callable[[EngineRequest], Mapping[str, Any]]
"""The body to send for a request: a chat if it has ``messages``, else a plain completion. ``model``, ``priority`` and
what concerns streaming are added."""


class LiveEngine:
    """One server; implements :class:`envs.engines.base.Engine`. Made by :meth:`connect`; to be closed.

    Without ``bodies`` a request is a completion of exactly its ``prompt_tokens`` tokens of the server's own vocabulary,
    with exactly its ``output_tokens`` in return; one that does not fit into the server's context is rejected unasked.
    ``stream`` makes each :meth:`advance` report progress as ``TOKENS`` events. ``look_every`` is how far ahead, in
    seconds, :meth:`next_event_at` sends its caller while requests are open.
    """

    def __init__(
        self,
        server: LiveServer,
        loop: LoopThread,
        clock: Callable[[], float],
        *,
        bodies: Bodies | None = None,
        stream: bool = False,
        look_every: float = 0.01,
        owns_loop: bool = True,
    ) -> None:
        self.server = server
        self.stream = stream
        self.look_every = look_every
        self._loop = loop
        self._owns_loop = owns_loop
        self._clock = clock
        self._bodies = bodies
        self._open: dict[str, LiveCall] = {}
        self._shown: dict[str, int] = {}
        self._outbox: list[EngineEvent] = []
        self._closed = False

    @classmethod
    def connect(
        cls,
        url: str,
        model: str | None = None,
        *,
        bodies: Bodies | None = None,
        stream: bool = False,
        look_every: float = 0.01,
        clock: Callable[[], float] | None = None,
        loop: LoopThread | None = None,
        timeouts: Timeouts | None = None,
        headers: Sequence[Header] = (),
    ) -> Self:
        """Look at the server at ``url`` and be ready. ``model`` may be left out where it serves one. Engines of one
        fleet share a ``clock``, and may share a ``loop``, which their owner closes after them.

        Raises:
            ServerUnusable: it cannot be reached, does not serve this model, or cannot tokenize (without ``bodies``).
        """
        thread = loop or LoopThread()
        clock = clock or WallClock()
        try:
            server = LiveServer(thread.client, url, model, clock, timeouts=timeouts, headers=headers)
            thread.run(server.connect(sample=bodies is None))
            return cls(
                server, thread, clock, bodies=bodies, stream=stream, look_every=look_every,
                owns_loop=loop is None,
            )  # fmt: skip
        except BaseException:
            if loop is None:
                thread.close()
            raise

    # ------------------------------------------------------------------ the Engine protocol

    @property
    def now(self) -> float:
        """The clock: real time, in seconds."""
        return self._clock()

    def submit(self, request: EngineRequest) -> None:
        """See :meth:`Engine.submit`. One whose arrival has passed already is sent at once."""
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"request {request.id!r}: prompt_tokens and output_tokens must be at least 1")
        self._loop.call(lambda: self._start(request))

    def cancel(self, request_id: str) -> bool:
        """See :meth:`Engine.cancel`."""
        return self._loop.call(lambda: self._cancel(request_id))

    def advance(self, until: float) -> list[EngineEvent]:
        """See :meth:`Engine.advance`: waits for that moment, or not at all if it has passed, and gives all that has
        happened by the time it looks, which may be a little later.

        Raises:
            ValueError: ``until`` is not finite.
            LoopFailed: something failed behind the scenes.
        """
        if not math.isfinite(until):
            raise ValueError(f"a live engine waits in real time, so it cannot advance to {until}")
        self._loop.wait(until - self._clock())
        return self._loop.call(self._collect)

    def next_event_at(self) -> float | None:
        """See :meth:`Engine.next_event_at`. While requests are open: when to look again."""
        if self._outbox:
            return self._outbox[0].at
        return self._clock() + self.look_every if self._open else None

    def state(self) -> EngineState:
        """See :meth:`Engine.state`; asks the server."""
        return self._loop.run(self.server.state())

    # ------------------------------------------------------------------ beyond the protocol

    def sleep(self, level: int = 1) -> None:
        """Have the server abort what runs and fall asleep. Raises ServerUnusable if it was not started for that."""
        self._loop.run(self.server.sleep(level))

    def wake(self) -> None:
        """Wake the server up, which takes its time."""
        self._loop.run(self.server.wake())

    def close(self) -> None:
        """Abort everything, without events, and let go of connections and thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            self._loop.run(self._leave())
        finally:
            if self._owns_loop:
                self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ in the event loop

    def first_token(self, call: LiveCall) -> None:
        """For the server: see :class:`~envs.engines.live_call.Hears`."""
        assert call.answer.first_token_at is not None
        self._show(call, EventKind.FIRST_TOKEN, call.answer.first_token_at)

    def ended(self, call: LiveCall) -> None:
        """For the server."""
        assert call.outcome is not None
        self._show(call, call.outcome.kind, call.outcome.at)
        del self._open[call.id], self._shown[call.id]

    def _show(self, call: LiveCall, kind: EventKind, at: float) -> None:
        produced = self._shown[call.id] = call.answer.produced
        self._outbox.append(EngineEvent(kind, call.id, at, produced, call.answer.cached_tokens or 0))

    def _start(self, request: EngineRequest) -> None:
        name, server = request.id, self.server
        if name in self._open:
            raise ValueError(f"request id {name!r} is in use")
        if self._bodies is None:
            size = Size(request.prompt_tokens, request.output_tokens, request.prefix)
            call = server.start_synthetic(name, size, request.priority, self, at=request.arrival)
        else:
            path, body = compose(self._bodies(request), server.model, request.priority)
            call = server.start(name, path, body, self, at=request.arrival, keep_text=False)
        self._open[name], self._shown[name] = call, 0

    def _cancel(self, request_id: str) -> bool:
        call = self._open.get(request_id)
        if call is None:
            return False
        self.server.cancel(call)
        return True

    def _collect(self) -> list[EngineEvent]:
        if self.stream:
            for call in self._open.values():
                if call.answer.last_token_at is not None and call.answer.produced > self._shown[call.id]:
                    self._show(call, EventKind.TOKENS, call.answer.last_token_at)
        events, self._outbox = self._outbox, []
        events.sort(key=lambda event: event.at)
        return events

    async def _leave(self) -> None:
        calls = list(self._open.values())
        for call in calls:
            self.server.cancel(call)
        await asyncio.gather(*(call.task for call in calls if call.task is not None), return_exceptions=True)
