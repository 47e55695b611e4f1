"""Tickets that go on with another worker in the middle of their answer: after a failure, or because they are moved.

They keep their pool, their key and what was counted of them so far; they wait in front of all others of their group
(by their key if they gave their seat up), and for as long as a new ticket would. The prompt is charged to the tenant
once, though another worker reads it again.
"""

from __future__ import annotations

from controller.fleet import Fleet
from controller.settings import ControlSettings
from controller.tickets import Stand, TicketState, pool_of, worker_of
from controller.types import Requeued, WorkerName
from controller.waiting import WaitingRoom

__all__ = ["ANOTHER", "Continuing"]

ANOTHER: WorkerName = ""
"""Where a ticket goes on that its worker has failed: with whichever has room."""


class Continuing:
    """Queues running tickets again."""

    def __init__(self, fleet: Fleet, waiting: WaitingRoom, settings: ControlSettings) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._settings = settings

    def reconfigure(self, settings: ControlSettings) -> None:
        """Go by these settings from now on."""
        self._settings = settings

    def may(self, state: TicketState, now: float) -> bool:
        """Whether a ticket whose worker has failed may go on elsewhere."""
        if state.first_token_at is None or state.continued - state.moved >= self._settings.max_continuations:
            return False
        return self._expiry(state, now) > now

    def movable(self, state: TicketState | None, worker: WorkerName | None, now: float) -> bool:
        """Whether a running ticket may be moved to this worker, or give its seat up (``None``); never one whose time to
        wait would be over."""
        if state is None or state.stand is not Stand.RUNNING or state.first_token_at is None:
            return False
        if worker is not None:
            target = pool_of(state).workers.get(worker)
            if target is None or not target.serves or target is worker_of(state):
                return False
        return self._expiry(state, now) > now

    def requeue(self, state: TicketState, now: float, to: WorkerName | None = ANOTHER) -> Requeued:
        """Wait for another worker: for ``to`` if it has room; for any and like any other ticket if it is ``None``, so
        that more urgent ones go first. The ticket has left the worker it was on."""
        pool = pool_of(state)
        state.worker = None
        state.bound = to or None
        state.yielded = to is None
        state.moved += to != ANOTHER
        state.continued += 1
        state.requeued_at = now
        state.resuming = True
        state.candidates = (pool,)
        state.expires_at = self._expiry(state, now)
        self._waiting.enqueue(state, pool, now, keep_key=True)
        return Requeued(state.ticket.id, state.attempts + 1)

    def _expiry(self, state: TicketState, now: float) -> float:
        limit, deadline = now + self._settings.max_queue_s, state.ticket.deadline
        return limit if deadline is None or not self._settings.drop_late else min(limit, deadline)
