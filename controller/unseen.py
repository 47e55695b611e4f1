"""Answers that come whole: nothing is heard of them until they end, so what is left is counted down by their age."""

from __future__ import annotations

import math

from controller.fleet import Fleet
from controller.tickets import Stand, TicketState, worker_of
from controller.types import PoolName, TicketId, Usage

__all__ = ["Unseen"]

_INTERVAL_S = 1.0
_MEMORY = 0.98
"""Weight of the answers before, for each further one."""


class Unseen:
    """How long answers of each pool take a token, from dispatch to end, and how far those that run are by that."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._open: dict[TicketId, TicketState] = {}
        self._paces: dict[PoolName, tuple[float, float]] = {}
        """Seconds and tokens of the answers that have ended, the later ones counting more."""
        self._next = -math.inf

    def add(self, state: TicketState) -> None:
        """A ticket came whose answer will come whole."""
        self._open[state.ticket.id] = state

    def learn(self, state: TicketState, usage: Usage | None, now: float) -> None:
        """An answer is complete."""
        if usage is None or usage.output_tokens < 1 or state.dispatched_at is None or state.continued:
            return
        pool = worker_of(state).pool.name
        seconds, tokens = self._paces.get(pool, (0.0, 0.0))
        self._paces[pool] = seconds * _MEMORY + now - state.dispatched_at, tokens * _MEMORY + usage.output_tokens

    def next_at(self) -> float:
        """When to count down again; infinite where nothing is to be."""
        return self._next if self._open else math.inf

    def count_down(self, now: float) -> None:
        """Believe of every answer that runs that it has as many tokens as others of its age; one that outgrows its
        expectation is expected to double."""
        if now < self._next or not self._open:
            return
        self._next = now + _INTERVAL_S
        for ticket in [ticket for ticket, state in self._open.items() if state.stand is Stand.ENDED]:
            del self._open[ticket]
        for state in self._open.values():
            if state.stand is Stand.RUNNING and state.first_token_at is None and state.dispatched_at is not None:
                self._age(state, now - state.dispatched_at, now)

    def _age(self, state: TicketState, age: float, now: float) -> None:
        worker = worker_of(state)
        seconds, tokens = self._paces.get(worker.pool.name, (0.0, 0.0))
        if seconds <= 0.0:
            return
        had, limit = age * tokens / seconds, state.ticket.max_tokens
        expected = float(state.expected_output)
        if expected <= had:
            expected *= 2.0 ** math.ceil(math.log2((had + 1.0) / expected))
        if limit is not None and expected > limit:
            expected = float(limit)
        left = max(round(expected - had), 1)
        self._fleet.progress(worker, 0, left - state.work, now)
        state.work = left
