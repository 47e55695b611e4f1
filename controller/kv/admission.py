"""Admission against the workers' KV budgets: a request is sent only where its predicted KV fits (S³, NeurIPS'23).

An engine with paged KV takes requests as long as their prompts fit, and when their answers no longer do, it preempts
the youngest and computes it again. Here a request waits instead, until what it will hold fits beside what those that
run will. Requests behind it may pass it, the first that fits first, but only so often and for so long
(:attr:`KvLimits.passes`, :attr:`KvLimits.hold_s`): from then on nothing passes, and it is sent when there is room. It
is also sent to any worker that holds nothing, however large it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.kv.account import KvLimits
from controller.members import WorkerState
from controller.tickets import TicketState

__all__ = ["KvAdmission"]


class KvAdmission:
    """Keeps, of one pool at one moment, the tickets that do not fit and may be passed."""

    def __init__(self, limits: KvLimits) -> None:
        self.limits = limits
        self._short: list[TicketState] = []
        self.held_back = 0
        """Tickets that had to wait for KV although a worker had a seat free."""

    def begin(self) -> None:
        """The next pool, or another moment."""
        self._short.clear()

    def reserve(self, state: TicketState) -> int:
        """Output tokens to reserve for a ticket, over those it has."""
        expected, scores = state.expected_output, state.scores
        if self.limits.high and scores is not None and scores.output_high is not None and not state.continued:
            high = math.ceil(scores.output_high)
            limit = state.ticket.max_tokens
            expected = max(expected, high if limit is None else min(high, limit))
        return max(expected - state.output_tokens, 0)

    def need(self, state: TicketState) -> int:
        """Tokens of KV cache that a ticket will need at its end, as predicted."""
        return state.prompt_tokens + state.output_tokens + self.reserve(state)

    def fitting(self, state: TicketState, free: Sequence[WorkerState], now: float) -> Sequence[WorkerState]:
        """Those of the workers into whose budget the ticket fits. Where there are none it is remembered as short."""
        need, share = self.need(state), self.limits.share
        fits = [worker for worker in free if worker.tokens.has_room(need, share)]
        if not fits:
            self._short.append(state)
            if state.short_since is None:
                state.short_since = now
                self.held_back += 1
        return fits

    def sent(self) -> None:
        """A ticket goes; it passes all that are short."""
        for state in self._short:
            state.passed += 1

    def closed(self, now: float) -> bool:
        """Whether nothing more may pass those that are short."""
        limits, short = self.limits, self._short
        if len(short) >= limits.lookahead:
            return True
        return any(state.passed >= limits.passes or _waited(state, now) >= limits.hold_s for state in short)


def _waited(state: TicketState, now: float) -> float:
    return 0.0 if state.short_since is None else now - state.short_since
