"""One vLLM server, asked from inside an event loop: what it is, what it is given, how each request goes, how it stands.

:class:`~envs.engines.live.LiveEngine` and :class:`~envs.live_fleet.LiveFleet` are built on it. Whoever gives it a
request hears of the first token and of the end, at once, in the event loop; how far the answer has come in between can
be read at any time, so that a token costs no call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from controller.pipeline import BUSY
from envs.engines.base import EnginePhase, EngineState, EventKind
from envs.engines.live_call import Hears, LiveCall, Outcome, Size
from envs.engines.live_errors import NotIdle, ServerUnusable
from envs.engines.live_loop import report_failure
from envs.engines.live_prompts import SAMPLE, SyntheticPrompts, compose
from upstream.client import Client
from upstream.errors import ConnectError, ConnectionLost, UnexpectedStatus, UpstreamError
from upstream.types import Header, Timeouts
from upstream.vllm import VllmClient

__all__ = ["LiveServer"]

_BUSY_STATUS: Final = frozenset({429, 503})
_LOOK: Final = Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=10.0)
_SLEEP: Final = Timeouts(connect=2.0, first_byte=300.0, idle=60.0, total=600.0)
_JSON: Final = ((b"content-type", b"application/json"),)
_ERROR_LIMIT: Final = 1 << 20
_POLL_S: Final = 0.02
_NO_MODELS: Final = "does not list its models; is a vLLM server running there?"
_NO_TOKENS: Final = "does not tokenize, so no prompts can be made of its tokens; give the bodies of requests yourself"
T = TypeVar("T")


class LiveServer:
    """The server at ``url`` (its root, without ``/v1``). Use inside the event loop that ``client`` belongs to.

    ``clock`` gives the seconds that events are stamped with.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        model: str | None,
        clock: Callable[[], float],
        *,
        timeouts: Timeouts | None = None,
        headers: Sequence[Header] = (),
    ) -> None:
        self.url = url.rstrip("/")
        self.context_length: int | None = None
        """Tokens of prompt and answer together, where the server says so."""
        self.phase = EnginePhase.STARTING
        self._client = client
        self._model = model
        self._prompts: SyntheticPrompts | None = None
        self._clock = clock
        self._timeouts = timeouts or Timeouts()
        self._headers = (*_JSON, *headers)
        self._vllm = VllmClient(client, self.url, timeouts=_LOOK, headers=headers)
        self._sleeper = VllmClient(client, self.url, timeouts=_SLEEP, headers=headers)

    @property
    def model(self) -> str:
        """The name to ask for; known after :meth:`connect`."""
        assert self._model is not None
        return self._model

    async def connect(self, *, sample: bool) -> None:
        """Find out what it serves; ``sample`` has some of its tokens looked up, for :meth:`start_synthetic`.

        Raises:
            ServerUnusable: it does not answer, or does not serve this model.
        """
        cards = {card.id: card for card in await self._ask(self._vllm.models(), _NO_MODELS)}
        await self._ask(self._vllm.metrics(), "does not show its load as vLLM does")
        if self._model is None and len(cards) != 1:
            raise ServerUnusable(f"{self.url} serves {', '.join(cards) or 'no model'}; say which model to ask for")
        name = next(iter(cards)) if self._model is None else self._model
        if name not in cards:
            raise ServerUnusable(f"{self.url} serves {', '.join(cards) or 'no model'}, not {name}")
        self._model, self.context_length = name, cards[name].context_length
        if sample:
            self._prompts = await self._ask(self._sampled(name), _NO_TOKENS)
        self.phase = EnginePhase.SLEEPING if await self._asleep() else EnginePhase.READY

    async def _ask(self, question: Awaitable[T], lack: str) -> T:
        try:
            return await question
        except (UpstreamError, ValueError) as error:
            raise ServerUnusable(f"{self.url} {lack}: {error}") from error

    async def _sampled(self, model: str) -> SyntheticPrompts:
        return SyntheticPrompts((await self._vllm.tokenize(model, prompt=SAMPLE)).tokens)

    async def _asleep(self) -> bool:
        try:
            return await self._vllm.asleep()
        except UpstreamError:
            return False  # most servers are started without that endpoint, and cannot sleep

    # Requests

    def start(
        self, call_id: str, path: str, body: bytes, hears: Hears, *, at: float | None = None, keep_text: bool = True
    ) -> LiveCall:
        """Send a request, now or at the clock's time ``at``."""
        return _begin(LiveCall(call_id, hears, keep_text=keep_text), lambda call: self._serve(call, path, body, at))

    def start_synthetic(
        self, call_id: str, size: Size, priority: int | None, hears: Hears, *, at: float | None = None
    ) -> LiveCall:
        """Send a completion of exactly this size. One that cannot fit into the context ends without being sent: vLLM
        would cut its answer. Its text means nothing and is not kept.

        Where the context is not known, the server itself is made to refuse (``min_tokens``); it would cost vLLM work at
        each step to have it always.
        """
        most, whole = self.context_length, size.prompt_tokens + size.output_tokens
        if most is not None and whole > most:
            why = f"{whole} tokens do not fit into a context of {most}"
            return _begin(LiveCall(call_id, hears, keep_text=False), lambda call: self._refuse(call, why, at))
        if self._prompts is None:
            raise ServerUnusable(f"{self.url} was connected to without a sample of its tokens")
        body = self._prompts.completion(call_id, size.prompt_tokens, size.output_tokens, size.prefix)
        least = {"min_tokens": size.output_tokens} if most is None else {}
        path, payload = compose({**body, **least}, self.model, priority)
        return self.start(call_id, path, payload, hears, at=at, keep_text=False)

    def cancel(self, call: LiveCall) -> None:
        """Break a request off: it ends now, and its connection is closed. Does nothing to one that has ended."""
        self._end(call, EventKind.ABORTED, "cancelled")
        if call.task is not None:
            call.task.cancel()

    async def _serve(self, call: LiveCall, path: str, body: bytes, at: float | None) -> None:
        await self._until(at)
        try:
            await self._exchange(call, path, body)
        except ConnectError as error:
            self._end(call, EventKind.REJECTED, error.code, str(error), retryable=True)
        except UpstreamError as error:
            self._end(call, EventKind.ABORTED, error.code, str(error), retryable=not call.answer.produced)

    async def _exchange(self, call: LiveCall, path: str, body: bytes) -> None:
        request = self._client.stream(
            b"POST", self.url + path, headers=self._headers, body=body, timeouts=self._timeouts
        )
        async with request as response:
            if response.status != 200:
                self._refused(call, response.status, await response.body(_ERROR_LIMIT))
                return
            await response.pump(lambda data, last: self._take(call, data))
        if call.outcome is None:
            raise ConnectionLost(f"the stream of {self.url} ended without [DONE]")

    def _refused(self, call: LiveCall, status: int, body: bytes) -> None:
        code = BUSY if status in _BUSY_STATUS else f"status_{status}"
        message = str(UnexpectedStatus(self.url, status, body))
        retryable = status >= 500 or code == BUSY
        self._end(call, EventKind.REJECTED, code, message, retryable=retryable)

    async def _refuse(self, call: LiveCall, why: str, at: float | None) -> None:
        await self._until(at)
        self._end(call, EventKind.REJECTED, "too_long", why)

    async def _until(self, at: float | None) -> None:
        while at is not None and (left := at - self._clock()) > 0:
            await asyncio.sleep(left)

    def _take(self, call: LiveCall, data: bytes) -> None:
        if call.outcome is not None:
            return
        answer = call.answer
        begun = answer.first_token_at is not None
        answer.take(data, self._clock())
        if not begun and answer.first_token_at is not None:
            call.hears.first_token(call)
        if answer.error is not None:
            self._end(call, EventKind.ABORTED, "error_event", answer.error, retryable=not answer.produced)
        elif answer.done and answer.finish_reason == "abort":
            self._end(call, EventKind.ABORTED, "aborted_by_server", "the server broke the answer off", retryable=True)
        elif answer.done:
            self._end(call, EventKind.FINISHED)

    def _end(
        self, call: LiveCall, kind: EventKind, code: str | None = None, message: str = "", *, retryable: bool = False
    ) -> None:
        if call.outcome is None:
            call.outcome = Outcome(kind, self._clock(), code, message, retryable)
            call.hears.ended(call)

    # How it stands

    async def state(self) -> EngineState:
        """Its gauges and its phase now. One that cannot be asked has failed, and shows zeros."""
        try:
            alive, load = await asyncio.gather(self._vllm.health(), self._vllm.metrics())
        except UpstreamError:
            alive, load = False, None
        if alive and self.phase in (EnginePhase.STARTING, EnginePhase.FAILED):
            self.phase = EnginePhase.READY
        elif not alive and self.phase is EnginePhase.READY:
            self.phase = EnginePhase.FAILED
        if load is None:
            return EngineState(self._clock(), 0, 0, 0.0, phase=self.phase)
        return EngineState(
            self._clock(),
            load.running,
            load.waiting,
            load.kv_usage,
            load.preemptions or 0,
            self.phase,
            load.prefix_queries or 0,
            load.prefix_hits or 0,
        )

    async def sleep(self, level: int = 1) -> None:
        """Have it abort what runs and fall asleep. Raises ServerUnusable if it cannot."""
        before, self.phase = self.phase, EnginePhase.SLEEPING
        try:
            await self._sleeper.sleep(level)
        except UpstreamError as error:
            self.phase = before
            raise self._sleepless(error) from error

    async def wake(self) -> None:
        """Have it wake up, and wait until it has. Raises ServerUnusable if it cannot."""
        before, self.phase = self.phase, EnginePhase.WAKING
        try:
            await self._sleeper.wake()
        except UpstreamError as error:
            self.phase = before
            raise self._sleepless(error) from error
        self.phase = EnginePhase.READY

    def _sleepless(self, error: UpstreamError) -> ServerUnusable:
        if isinstance(error, UnexpectedStatus) and error.status in (404, 405):
            what = "start it with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1"
            return ServerUnusable(f"{self.url} has no sleep mode: {what}")
        return ServerUnusable(f"{self.url} neither slept nor woke: {error}")

    async def idle(self, patience: float) -> None:
        """Wait until nothing runs or waits there. A server that refuses connections is gone, and idle.

        Raises:
            NotIdle: something is left after ``patience`` seconds.
        """
        limit = self._clock() + patience
        while True:
            try:
                load = await self._vllm.metrics()
                left = f"{load.running} running and {load.waiting} waiting"
                if not load.running and not load.waiting:
                    return
            except ConnectError:
                return
            except UpstreamError as error:
                left = f"no metrics ({error})"
            if self._clock() >= limit:
                hint = "does something else send requests there?"
                raise NotIdle(f"{self.url} shows {left} {patience:g} s after everything was aborted; {hint}")
            await asyncio.sleep(_POLL_S)


def _begin(call: LiveCall, work: Callable[[LiveCall], Coroutine[Any, Any, None]]) -> LiveCall:
    call.task = asyncio.get_running_loop().create_task(work(call))
    call.task.add_done_callback(report_failure)
    return call
