"""Putting loads on a live OpenAI-compatible server, and timing its streams.

While a load runs, the client only notes when which bytes came; streams are taken apart after the load's end, bodies are
made before its start, and the garbage collector waits, because the client shares its machine with the server.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.calibration.loads import ClosedLoad, Load, OpenLoad, Recorded, Sizes
from predictors.latency.campaign import Sample
from upstream.client import Client
from upstream.errors import UpstreamError
from upstream.sse import DONE, EventBuffer, data, split
from upstream.types import Header, Timeouts

_Send = Callable[[int], Coroutine[Any, Any, None]]

_TICK_S = 0.02
_VOCABULARY = (100, 5000)
"""Token ids that prompts are drawn from, unless the server knows fewer."""
_WORDS = ("one", "two", "three", "red", "green", "north", "south", "east", "river", "mountain", "cloud", "stone")


@dataclass(slots=True)
class _Trace:
    """What a request's client noted."""

    sizes: Sizes
    sent: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float = 0.0
    status: int = 0
    error: str = ""


class LiveWorker:
    """A server under ``url`` (without ``/v1``), asked for completions of random token ids of exact lengths.

    Where the server refuses token ids, prompts are words, about as many as tokens were asked for; what counts in the
    measurements is what the server says it counted. ``seed`` is of the prompts, which never share a prefix.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        headers: Sequence[Header] = (),
        seed: int = 0,
        timeout_s: float = 600.0,
        connections: int = 1024,
    ) -> None:
        self._url = url.rstrip("/") + "/v1/completions"
        self._model = model
        self._headers = ((b"content-type", b"application/json"), *headers)
        self._rng = np.random.default_rng(seed)
        self._timeouts = Timeouts(connect=30.0, first_byte=timeout_s, idle=timeout_s, total=timeout_s)
        self._connections = connections
        self._tokens: tuple[int, int] | None = _VOCABULARY

    def probe(self) -> str | None:
        """Ask for one token, to learn which prompts the server takes; why it answers none of them, if so."""
        said = ""
        for tokens in (_VOCABULARY, (10, 90), None):
            self._tokens = tokens
            (sample,) = self.run(ClosedLoad("probe", 1, Sizes(8, 1), 1, 60.0)).samples
            if not sample.error:
                return None
            said = sample.error
        return said

    def run(self, load: Load) -> Recorded:
        """See :meth:`Worker.run`."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(self._run(load))

    async def _run(self, load: Load) -> Recorded:
        sizes = [load.sizes] * load.requests if isinstance(load, ClosedLoad) else load.sizes
        bodies = [self._body(one) for one in sizes]
        traces = [_Trace(one) for one in sizes]
        lateness: list[float] = []
        async with Client(idle_per_origin=self._connections) as client, _undisturbed(lateness):
            start = time.perf_counter()

            async def send(i: int) -> None:
                await self._exchange(client, bodies[i], traces[i])

            if isinstance(load, ClosedLoad):
                await _closed(load, send, start)
            else:
                await _open(load, send, start, lateness)
            seconds = time.perf_counter() - start
        samples = [_sample(trace, start) for trace in traces if trace.sent]
        return Recorded(samples, lateness, seconds)

    def _body(self, sizes: Sizes) -> bytes:
        length = sizes.output_tokens
        prompt: list[int] | str
        if self._tokens is None:
            prompt = " ".join(self._rng.choice(_WORDS, size=sizes.prompt_tokens))
        else:
            prompt = self._rng.integers(*self._tokens, size=sizes.prompt_tokens).tolist()
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": length,
            "min_tokens": length,
            "ignore_eos": True,
            "temperature": 1.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(body).encode()

    async def _exchange(self, client: Client, body: bytes, trace: _Trace) -> None:
        now, pieces = time.perf_counter, trace.pieces

        def note(piece: bytes, last: bool) -> None:
            if piece:
                pieces.append((now(), piece))

        trace.sent = now()
        try:
            response = await client.send(b"POST", self._url, headers=self._headers, body=body, timeouts=self._timeouts)
            async with response:
                trace.status = response.status
                await response.pump(note)
        except UpstreamError as error:
            trace.error = f"{error.code}: {error}"
        trace.ended = now()


async def _closed(load: ClosedLoad, send: _Send, start: float) -> None:
    waiting = iter(range(load.requests))

    async def one_after_the_other() -> None:
        for i in waiting:
            await send(i)
            if time.perf_counter() - start > load.limit_s:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(load.concurrency):
            group.create_task(one_after_the_other())


async def _open(load: OpenLoad, send: _Send, start: float, lateness: list[float]) -> None:
    async with asyncio.TaskGroup() as group:
        for i, at in enumerate(load.at):
            wait = start + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            lateness.append(time.perf_counter() - start - at)
            group.create_task(send(i))


@asynccontextmanager
async def _undisturbed(lateness: list[float]) -> AsyncIterator[None]:
    """No garbage collection, and a timer that notes how late the event loop gets to it."""
    loop = asyncio.get_running_loop()

    async def tick() -> None:
        while True:
            due = loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            lateness.append(loop.time() - due)

    ticking = loop.create_task(tick())
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        ticking.cancel()
        if collecting:
            gc.enable()


def _sample(trace: _Trace, start: float) -> Sample:
    """Take a stream apart. A piece of output is an event with a choice; the last event has the server's own counts."""
    times, usage, finished, error = _events(trace)
    sizes = trace.sizes
    if not error and not (finished and times):
        error = "the stream ended early"
    gaps = np.diff(times) if len(times) > 1 else np.array([np.nan])
    p50, p99, longest = (float(q) for q in np.quantile(gaps, (0.5, 0.99, 1.0)))
    return Sample(
        arrival=trace.sent - start,
        prompt_tokens=int(usage.get("prompt_tokens", sizes.prompt_tokens)),
        output_tokens=int(usage.get("completion_tokens", len(times) or sizes.output_tokens)),
        chunks=len(times),
        ttft=times[0] - trace.sent if times else None,
        e2e=(times[-1] if times else trace.ended) - trace.sent,
        itl_p50=p50,
        itl_p99=p99,
        itl_max=longest,
        error=error,
    )


def _events(trace: _Trace) -> tuple[list[float], dict[str, int], bool, str]:
    """When each piece of output came; the usage; whether the end was announced; the error."""
    buffer, finished = EventBuffer(), False
    times: list[float] = []
    usage: dict[str, int] = {}
    if trace.error or trace.status != 200:
        said = b"".join(piece for _, piece in trace.pieces)[:300].decode(errors="replace")
        return [], {}, False, trace.error or f"{trace.status}: {said}"
    for at, piece in trace.pieces:
        for event in split(buffer.feed(piece)):
            payload = data(event)
            if payload is None:
                continue
            if payload == DONE:
                finished = True
                continue
            document = json.loads(payload)
            if "error" in document:
                return times, usage, False, str(document["error"])
            usage = document.get("usage") or usage
            times += [at] * bool(document.get("choices"))
    return times, usage, finished, ""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
