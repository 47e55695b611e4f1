"""The control plane over live servers, in real time, inside one event loop.

This is what :class:`envs.live_fleet.LiveFleet` does behind its synchronous face, and what the gateway's driver does for
clients: events go to the control plane when their bytes arrive, its decisions go to the servers. Nothing here chooses
anything. First tokens and ends are told at once; how far answers have come is told when the servers' gauges are read.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from controller.pipeline import SILENT, ControlPlane
from controller.types import Dispatch, PoolName, Rejected, Requeued, Result, TicketId, Usage, WorkerName
from envs.engines.base import EventKind
from envs.engines.live_call import LiveCall, Outcome, Size
from envs.engines.live_prompts import compose
from envs.fleet import Ended, FleetClock, FleetRequest
from envs.live_types import OVER, Bodies, Bounds, LiveEnded
from envs.live_watch import LiveWatch

__all__ = ["LiveDriver", "unhurried"]

_EARLY_S: Final = 0.05
"""A request may come so long before its time."""


@dataclass(slots=True)
class _Open:
    request: FleetRequest
    late_by: float
    pool: PoolName | None = None
    worker: WorkerName | None = None
    call: LiveCall | None = None
    told: int = 0
    """Tokens that the control plane has heard of."""
    why: str = ""


class LiveDriver:
    """All of it, methods included, happens in one event loop. Implements :class:`envs.engines.live_call.Hears`."""

    def __init__(
        self,
        control: ControlPlane,
        now: Callable[[], float],
        clock: FleetClock,
        bounds: Bounds,
        bodies: Bodies | None,
    ) -> None:
        self.control = control
        self.now = now
        self.open: dict[TicketId, _Open] = {}
        self.over = False
        """Whether the episode has reached its bounds."""
        self.watch = LiveWatch(control, now, self._dispatch_soon)
        self._clock = clock
        self._bounds = bounds
        self._bodies = bodies
        self._ended: list[Ended] = []
        self._taken = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._dispatching = False
        self._tick_at = math.inf
        self._ticker: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._bell: asyncio.TimerHandle | None = None

    # Beginning and ending

    def start(self) -> None:
        """Begin to keep time."""
        self._read()
        self._tick()
        if math.isfinite(self._bounds.max_seconds):
            left = max(0.0, self._bounds.max_seconds - self.now())
            self._bell = asyncio.get_running_loop().call_later(left, self._finish)

    async def close(self, patience: float | None) -> None:
        """Abort what is open, and wait until every server's gauges are zero. Raises NotIdle."""
        self._finish()
        for timer in (self._ticker, self._reader, self._bell):
            if timer is not None:
                timer.cancel()
        await self.watch.close()
        if patience is not None:
            await self.watch.idle(patience)

    def _finish(self) -> None:
        self.over = True
        for ticket in list(self.open):
            self.abort(ticket, OVER)

    # What the fleet's owner asks

    def submit(self, request: FleetRequest) -> bool:
        """See :meth:`envs.fleet.Fleet.submit`."""
        now, ticket = self.now(), request.ticket
        if request.at > now + _EARLY_S:
            early = f"request {ticket.id!r} arrives at {request.at}, but the clock shows {now:.3f}"
            raise ValueError(f"{early}: advance first")
        if ticket.id in self.open:
            raise ValueError(f"request {ticket.id!r} is still open")
        self.open[ticket.id] = _Open(request, now - request.at)
        self._idle.clear()
        if self.over:
            self._end(ticket.id, now, Result.REJECTED, OVER)
            return False
        self._taken += 1
        self.over = self._taken >= self._bounds.max_requests
        answer = self.control.submit(ticket, now)
        if isinstance(answer, Rejected):
            self._reject(answer)
            return False
        if answer.wants_scores:
            self._tick_by(now + self.control.settings.scoring_budget_s)
        else:
            self._dispatch()
        self._tick_by(now + self._clock.tick_interval)
        return answer.wants_scores

    def score(self, ticket: TicketId) -> None:
        """See :meth:`envs.fleet.Fleet.score`."""
        state = self.open.get(ticket)
        if state is not None:
            self.control.on_scores(ticket, state.request.scores, self.now())
            self._dispatch()

    def abort(self, ticket: TicketId, code: str = "client_left") -> None:
        """See :meth:`envs.fleet.Fleet.abort`."""
        state = self.open.get(ticket)
        if state is None:
            return
        now = self.now()
        self.control.on_abort(ticket, now, code)
        self._end(ticket, now, Result.ABORTED, code)
        if state.call is not None and state.worker is not None:
            self.watch.server(state.worker).cancel(state.call)
        self._dispatch_soon()

    async def idle(self, limit: float) -> None:
        """Wait until nothing is open or the clock shows ``limit``."""
        left = None if math.isinf(limit) else max(0.0, limit - self.now())
        try:
            async with asyncio.timeout(left):
                await self._idle.wait()
        except TimeoutError:
            return

    async def replay(self, requests: Sequence[FleetRequest]) -> None:
        """Submit each request at its time and score it at once; wait for the last to end."""
        for request in requests:
            await asyncio.sleep(max(0.0, request.at - self.now()))  # even if it is late: what was sent shall leave
            if self.submit(request):
                self.score(request.ticket.id)
        await self._idle.wait()

    def take_ended(self) -> list[Ended]:
        """See :meth:`envs.fleet.Fleet.take_ended`."""
        ended, self._ended = self._ended, []
        return ended

    # What servers say

    def first_token(self, call: LiveCall) -> None:
        """An answer has begun."""
        state = self.open.get(call.id)
        if state is not None and state.call is call:
            self.control.on_first_token(call.id, self.now())

    def ended(self, call: LiveCall) -> None:
        """A call is over."""
        state, outcome = self.open.get(call.id), call.outcome
        if state is None or state.call is not call or outcome is None:
            return
        if outcome.kind is EventKind.FINISHED:
            answer = call.answer
            prompt = state.request.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens
            self.control.on_finish(call.id, Usage(prompt, answer.produced, answer.cached_tokens), self.now())
            self._end(call.id, outcome.at, Result.COMPLETED)
        else:
            self._failed(state, outcome)
        self._dispatch_soon()

    def _failed(self, state: _Open, outcome: Outcome) -> None:
        ticket, code, now = state.request.ticket.id, outcome.code or outcome.kind.value, self.now()
        state.why = outcome.message
        if code in SILENT and state.worker is not None:
            self.watch.look(state.worker)
        answer = self.control.on_worker_error(ticket, code, now, retryable=outcome.retryable)
        if isinstance(answer, Requeued):
            state.call, state.worker, state.told = None, None, 0
            self._tick_by(now + self._clock.tick_interval)
        elif answer is not None:
            self._end(ticket, outcome.at, Result.FAILED, answer.code)

    # Time

    def _read(self) -> None:
        """Have every server's gauges read; tell how far the answers have come."""
        now = self.now()
        for ticket, state in self.open.items():
            if state.call is not None and state.call.answer.produced > state.told:
                state.told = state.call.answer.produced
                self.control.on_tokens(ticket, state.told, now)
        self.watch.look()
        self._reader = asyncio.get_running_loop().call_later(self._clock.report_interval, self._read)

    def _tick(self) -> None:
        self._tick_at = math.inf
        now = self.now()
        tick = self.control.tick(now)
        for rejected in tick.rejected:
            self._reject(rejected)
        if tick.next_at is not None:
            self._tick_by(tick.next_at)
        if self.open:
            self._tick_by(now + self._clock.tick_interval)
        self._dispatch()

    def _tick_by(self, at: float) -> None:
        if at >= self._tick_at:
            return
        if self._ticker is not None:
            self._ticker.cancel()
        self._tick_at = at
        self._ticker = asyncio.get_running_loop().call_later(max(0.001, at - self.now()), self._tick)

    # To the servers

    def _dispatch_soon(self) -> None:
        """Once for all that happens in this turn of the loop."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        for dispatch in self.control.dispatch(self.now()):
            self._start(dispatch)

    def _start(self, dispatch: Dispatch) -> None:
        state, server = self.open[dispatch.ticket], self.watch.server(dispatch.worker)
        state.pool, state.worker = dispatch.pool, dispatch.worker
        request, priority = state.request, dispatch.priority
        body = self._body_of(request, dispatch.pool)
        if body is not None:
            path, payload = compose(body, dispatch.model, priority)
            state.call = server.start(dispatch.ticket, path, payload, self, keep_text=True)
        else:
            size = Size(request.prompt_tokens, request.output_tokens[dispatch.pool], request.ticket.prefix)
            state.call = server.start_synthetic(dispatch.ticket, size, priority, self)

    def _body_of(self, request: FleetRequest, pool: PoolName) -> Mapping[str, Any] | None:
        """The body to send; ``None`` if only its sizes are given."""
        if self._bodies is not None:
            return self._bodies(request, pool)
        if request.prompt is None:
            return None
        most = request.ticket.max_tokens
        message = {"role": "user", "content": request.prompt}
        return {"messages": [message], "temperature": 0, **({} if most is None else {"max_tokens": most})}

    # Endings

    def _reject(self, rejected: Rejected) -> None:
        self._end(rejected.ticket, self.now(), Result.REJECTED, rejected.code)

    def _end(self, ticket: TicketId, at: float, result: Result, code: str | None = None) -> None:
        state = self.open.pop(ticket)
        answer = None if state.call is None else state.call.answer
        self._ended.append(
            LiveEnded(
                state.request,
                at,
                result,
                pool=state.pool,
                worker=state.worker,
                first_token_at=None if answer is None else answer.first_token_at,
                output_tokens=0 if answer is None else answer.produced,
                code=code,
                text=None if answer is None else answer.text,
                late_by=state.late_by,
                prompt_tokens=None if answer is None else answer.prompt_tokens,
                why=state.why,
            )
        )
        if not self.open:
            self._idle.set()


def unhurried(control: ControlPlane, now: float) -> None:
    """Let tickets wait for their scores for as long as it takes, whatever the control plane's settings say."""
    settings = replace(control.settings, scoring_budget_s=math.inf)
    adapters = {adapter for pool in control.view(now).pools for adapter in pool.spec.adapters}
    aliases = {name: pools for name, pools in control.models().items() if name not in adapters}
    control.reconfigure(settings, aliases, now)
