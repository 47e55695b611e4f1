"""Tickets that a worker is serving: what is left of each, and what its end teaches."""

from __future__ import annotations

from controller.fleet import Fleet
from controller.members import PoolState, WorkerState
from controller.protocols import FairnessStage, LearnsFromOutcomes, Outcome, PlaceStage
from controller.settings import ControlSettings
from controller.tickets import TicketState, pool_of, worker_of
from controller.types import Usage


class Running:
    """Keeps the account of work between dispatch and end."""

    def __init__(
        self, fleet: Fleet, fairness: FairnessStage, settings: ControlSettings, place: PlaceStage | None = None
    ) -> None:
        self._fleet = fleet
        self._taught = place if isinstance(place, LearnsFromOutcomes) else None
        self._fairness = fairness
        self._prompt_work = settings.prompt_work

    def first_token(self, state: TicketState, now: float) -> None:
        """The prompt has been read."""
        if state.first_token_at is None:
            state.first_token_at = now
        elif not state.resuming:
            return
        state.resuming = False
        worker, work = state.worker or worker_of(state), state.work
        read = round(self._prompt_work * (state.prompt_tokens + state.output_tokens))
        if read > work:
            read = work
        state.work = work - read
        if state.booking is not None:
            state.booking.read()
        self._fleet.progress(worker, read, -read, now)
        if worker.errors:
            self._fleet.succeeded(worker, now)

    def tokens(self, state: TicketState, total: int, now: float) -> None:
        """The answer has so many tokens by now."""
        new = total - state.output_tokens
        if new <= 0:
            return
        if state.first_token_at is None or state.resuming:
            self.first_token(state, now)
        state.output_tokens = total
        left = state.expected_output - total
        if left <= 0:
            # An answer that outgrows its expectation is expected to double (S³, Jin et al., NeurIPS'23).
            limit = state.ticket.max_tokens
            state.expected_output = 2 * total if limit is None else max(total, min(2 * total, limit))
            left = state.expected_output - total
        worker = state.worker or worker_of(state)
        if state.booking is not None:
            state.booking.produced(new, left)
        self._fleet.progress(worker, new, left - state.work, now)
        state.work = left
        owed = new if not state.prepaid else total - max(state.prepaid, total - new)
        if owed > 0:
            self._fairness.decoded(worker.pool.name, state.group, owed)

    def finish(self, state: TicketState, usage: Usage | None, now: float) -> None:
        """The answer is complete."""
        worker = state.worker or worker_of(state)
        if usage is not None:
            self.tokens(state, usage.output_tokens, now)
            if state.first_token_at is None or state.resuming:
                self.first_token(state, now)
            _learn(state, worker.pool, usage)
        if worker.errors:
            self._fleet.succeeded(worker, now)
        self._fleet.end(worker, state.ticket.id, state.work, now)
        self._left(state, worker, _outcome(state, usage, now))
        state.work = 0

    def close(self, state: TicketState, usage: Usage | None) -> None:
        """A ticket that a worker was sent has ended: its group is charged for what it had, and for no more."""
        fairness, pool = self._fairness, pool_of(state).name
        unused = state.prepaid - state.output_tokens
        if unused > 0:
            fairness.decoded(pool, state.group, -unused)
        state.prepaid = 0
        if usage is None or not fairness.spares_cached:
            return
        read = usage.prompt_tokens - usage.cached_tokens
        if usage.cached_tokens and read != state.prompt_charged:
            fairness.admitted(pool, state.group, read - state.prompt_charged)

    def leave(self, state: TicketState, now: float) -> None:
        """The ticket is no longer with its worker."""
        self._fleet.end(worker_of(state), state.ticket.id, state.work, now)
        self._left(state, worker_of(state), None)
        state.work = 0

    def _left(self, state: TicketState, worker: WorkerState, outcome: Outcome | None) -> None:
        if state.booking is not None:
            state.booking.release()
            state.booking = None
        if self._taught is not None:
            self._taught.left(state.ticket.id, worker.name, outcome)


def _outcome(state: TicketState, usage: Usage | None, now: float) -> Outcome | None:
    sent, first = state.dispatched_at, state.first_token_at
    whole = usage is not None and not state.continued
    return Outcome(sent, first, now, usage) if whole and usage and sent is not None and first is not None else None


def _learn(state: TicketState, pool: PoolState, usage: Usage) -> None:
    ticket = state.ticket
    if ticket.prompt_tokens is None:
        pool.prompt.observe(ticket.prompt_chars, usage.prompt_tokens)
    if not state.generates:
        return
    predicted = None if state.scores is None else state.scores.output_tokens
    if predicted is not None and ticket.max_tokens is not None:
        predicted = min(predicted, ticket.max_tokens)
    pool.learn_output(predicted, usage.output_tokens)
