"""Tickets that a worker is serving: what is left of each, and what its end teaches."""

from __future__ import annotations

from controller.fairness import NoFairness
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
        self._charges = not isinstance(fairness, NoFairness)
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
        if self._charges:
            owed = new if not state.prepaid else total - max(state.prepaid, total - new)
            if owed > 0:
                self._fairness.decoded(worker.pool.name, state.group, owed)

    def remains(self, state: TicketState, total: int, left: float, now: float) -> None:
        """After ``total`` tokens of its answer ``left`` more were expected. That replaces what was expected of it
        before, unless it has more than that by now, or has gone on elsewhere and is still being read there."""
        if state.first_token_at is None or state.resuming:
            return
        limit, expected = state.ticket.max_tokens, total + max(round(left), 1)
        if limit is not None and expected > limit:
            expected = limit
        if expected <= state.output_tokens:
            return
        state.expected_output = expected
        due = expected - state.output_tokens
        if state.booking is not None:
            state.booking.produced(0, due)
        self._fleet.progress(state.worker or worker_of(state), 0, due - state.work, now)
        state.work = due

    def finish(self, state: TicketState, usage: Usage | None, now: float) -> None:
        """The answer is complete."""
        worker = state.worker or worker_of(state)
        if usage is not None:
            if usage.cached_tokens is not None:
                worker.tells_cached = True
            self.tokens(state, usage.output_tokens, now)
            if state.first_token_at is None or state.resuming:
                self.first_token(state, now)
            _learn(state, worker.pool, usage)
        if worker.errors:
            self._fleet.succeeded(worker, now)
        self._fleet.end(worker, state.ticket.id, state.work, now)
        state.work = 0
        if state.booking is not None:
            state.booking.release()
            state.booking = None
        if self._taught is not None:
            self._taught.left(state.ticket.id, worker.name, _outcome(state, worker, usage, now))

    def close(self, state: TicketState, usage: Usage | None) -> None:
        """A ticket that a worker was sent has ended: its group is charged for what it had, and for no more."""
        fairness, pool = self._fairness, pool_of(state).name
        unused = state.prepaid - state.output_tokens
        if unused > 0:
            fairness.decoded(pool, state.group, -unused)
        state.prepaid = 0
        if usage is None or not fairness.spares_cached:
            return
        cached = _cached(usage, worker_of(state))
        if cached is not None and (beyond := usage.prompt_tokens - cached - state.prompt_charged):
            fairness.admitted(pool, state.group, beyond)

    def leave(self, state: TicketState, now: float) -> None:
        """The ticket is no longer with its worker."""
        worker = worker_of(state)
        self._fleet.end(worker, state.ticket.id, state.work, now)
        state.work = 0
        if state.booking is not None:
            state.booking.release()
            state.booking = None
        if self._taught is not None:
            self._taught.left(state.ticket.id, worker.name, None)


def _cached(usage: Usage, worker: WorkerState) -> int | None:
    """Prompt tokens that the worker had cached, by its own count; ``None`` where it gives none."""
    return 0 if usage.cached_tokens is None and worker.tells_cached else usage.cached_tokens


def _outcome(state: TicketState, worker: WorkerState, usage: Usage | None, now: float) -> Outcome | None:
    sent, first = state.dispatched_at, state.first_token_at
    if usage is None or state.continued or sent is None or first is None:
        return None
    return Outcome(sent, first, now, usage, _cached(usage, worker))


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
