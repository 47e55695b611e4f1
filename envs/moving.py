"""A simulated fleet in which running requests move from worker to worker, as ``rebalance`` says.

The new engine reads the prompt and the answer so far again (token replay), and answers with the rest. What it costs to
break off and to ask again, but for that, is ``pause_s``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from controller.pipeline import ControlPlane
from controller.types import Dispatch, Move, Requeued, TicketId
from envs.engines.base import EngineEvent, EngineRequest, EventKind, RequestId
from envs.fleet import FleetClock, SimFleet

__all__ = ["MovingFleet"]


class MovingFleet(SimFleet):
    """As :class:`~envs.fleet.SimFleet`, and a ticket's tokens, first token and latency are those of all its parts."""

    def __init__(
        self, control: ControlPlane, clock: FleetClock | None = None, start: float = 0.0, *, pause_s: float = 0.05
    ) -> None:
        super().__init__(control, clock, start)
        self.pause_s = pause_s
        self.moves: list[tuple[float, Move]] = []
        """Those that were made, with their times."""
        self._produced: dict[TicketId, int] = {}
        """By earlier workers, of tickets that have moved."""
        self._part: dict[TicketId, RequestId] = {}
        """What the engine calls the ticket's present part, where that is not its own name."""
        self._ticket: dict[RequestId, TicketId] = {}
        """And the other way round."""
        self._left: set[RequestId] = set()
        """Parts that were broken off, whose engines have yet to say so."""
        self._latest: dict[TicketId, int] = {}

    def _tick(self) -> None:
        tick = self.control.tick(self.now)
        for rejected in tick.rejected:
            self._reject(rejected)
        for move in tick.moves:
            self._move(move)
        due = self.now + self._clock.tick_interval if self._open else math.inf
        soonest = math.nextafter(self.now, math.inf)
        self._tick_at = due if tick.next_at is None else max(soonest, min(due, tick.next_at))

    def _move(self, move: Move) -> None:
        state = self._open.get(move.ticket)
        if state is None or state.worker is None:
            return
        worker = self._workers[state.worker]
        if worker.streams is not None:
            worker.streams.stream = True
        self._run(worker)  # which may bring the end
        if worker.streams is not None:
            worker.streams.stream = False
        part = self._part.get(move.ticket, move.ticket)
        if move.ticket not in self._open or not isinstance(self.control.on_moved(move, self.now), Requeued):
            return
        self.moves.append((self.now, move))
        self._left.add(part)
        worker.engine.cancel(part)
        self._touch(worker)
        self._produced[move.ticket] = self._latest.get(move.ticket, 0)
        state.worker = None

    def _start(self, dispatch: Dispatch) -> None:
        produced = self._produced.get(dispatch.ticket)
        if produced is None:
            super()._start(dispatch)
            return
        state = self._open[dispatch.ticket]
        state.pool, state.worker = dispatch.pool, dispatch.worker
        request, worker = state.request, self._workers[dispatch.worker]
        part = f"{dispatch.ticket}~{dispatch.attempt}"
        self._part[dispatch.ticket], self._ticket[part] = part, dispatch.ticket
        sizes = request.prompt_tokens + produced, request.output_tokens[dispatch.pool] - produced
        worker.engine.submit(EngineRequest(part, *sizes, dispatch.priority or 0, self.now + self.pause_s))
        self._touch(worker)

    def _tell(self, events: Iterable[EngineEvent]) -> None:
        super()._tell([event for found in events if (event := self._whole(found)) is not None])

    def _whole(self, event: EngineEvent) -> EngineEvent | None:
        """A part's event as the ticket's; ``None`` for what is left of a part that was broken off."""
        if event.id in self._left:
            if event.kind in (EventKind.ABORTED, EventKind.FINISHED, EventKind.REJECTED):
                self._left.discard(event.id)
                self._ticket.pop(event.id, None)
            return None
        ticket = self._ticket.get(event.id, event.id)
        total = event.output_tokens + self._produced.get(ticket, 0)
        self._latest[ticket] = total
        if event.kind is EventKind.FIRST_TOKEN and ticket in self._produced:
            self.control.on_first_token(ticket, self.now)
            return replace(event, kind=EventKind.TOKENS, id=ticket, output_tokens=total)
        if event.kind in (EventKind.FINISHED, EventKind.REJECTED):
            self._ticket.pop(event.id, None)
            self._latest.pop(ticket, None)
            self._produced.pop(ticket, None)
            self._part.pop(ticket, None)
        return replace(event, id=ticket, output_tokens=total)
