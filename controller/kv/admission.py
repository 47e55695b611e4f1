"""Admission against the workers' KV budgets: a request is sent only where its predicted KV fits (S³, NeurIPS'23).

An engine with paged KV takes requests as long as their prompts fit, and when their answers no longer do, it preempts
the youngest and computes it again. Here a request waits instead, until what it will hold fits beside what those that
run will. Requests behind it may pass it, the first that fits first, but only so often and for so long
(:attr:`KvLimits.passes`, :attr:`KvLimits.hold_s`). From then on one worker of its pool is *kept* for it: that one is
given nothing else until the request fits there, and a worker that holds nothing takes any request, however large it is.
The pool's other workers go on (backfilling behind one reservation: EASY, Lifka, 1995). One worker a pool is kept at a
time, for the request that has waited longest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from controller.kv.account import KvLimits
from controller.members import PoolState, WorkerState
from controller.tickets import Stand, TicketState
from controller.types import PoolName, WorkerName

__all__ = ["KvAdmission"]

_QUEUED = Stand.QUEUED


class _Kept(NamedTuple):
    """A worker that is given nothing but this ticket."""

    state: TicketState
    worker: WorkerState


class KvAdmission:
    """Keeps, of one pool at one moment, the tickets that do not fit and may be passed; and which workers are kept."""

    def __init__(self, limits: KvLimits) -> None:
        self.limits = limits
        self._short: list[TicketState] = []
        self._looked: Counter[WorkerName | None] = Counter()
        """Worker → tickets found short in its turn; ``None`` where tickets wait for any worker."""
        self._kept: dict[PoolName, _Kept] = {}
        self.held_back = 0
        """Tickets that had to wait for KV although a worker had a seat free."""

    def begin(self, pool: PoolState) -> _Kept | None:
        """The next pool, or another moment. The ticket for which a worker was kept, and the worker, if it fits now."""
        self._short.clear()
        self._looked.clear()
        kept = self._kept.get(pool.name)
        if kept is None:
            return None
        state, worker = kept
        if state.stand is not _QUEUED or state.pool is not pool or not _keepable(worker):
            del self._kept[pool.name]
            return None
        if worker.accepts and len(worker.running) < worker.seats and self.fitting(state, [worker]):
            del self._kept[pool.name]
            return kept
        return None

    def open(self, pool: PoolState, free: Sequence[WorkerState]) -> Sequence[WorkerState]:
        """Those of the workers that may be given the next ticket: none that is kept, or whose turns found nothing that
        fits as often as is looked past (``lookahead``)."""
        kept, looked, most = self._kept.get(pool.name), self._looked, self.limits.lookahead
        if looked[None] >= most:
            return ()
        if kept is None and not looked:
            return free
        shut = None if kept is None else kept.worker
        return [worker for worker in free if worker is not shut and looked[worker.name] < most]

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

    def fitting(self, state: TicketState, free: Sequence[WorkerState]) -> Sequence[WorkerState]:
        """Those of the workers into whose budget the ticket fits."""
        need, share = self.need(state), self.limits.share
        return [worker for worker in free if worker.tokens.has_room(need, share)]

    def short(self, state: TicketState, pool: PoolState, turn: WorkerState | None, now: float) -> None:
        """The ticket fits nowhere. It was ``turn``'s, or any worker's; others may pass it, or a worker is kept for it
        from now on."""
        self._short.append(state)
        self._looked[None if turn is None else turn.name] += 1
        if state.short_since is None:
            state.short_since = now
            self.held_back += 1
        if now - state.short_since >= self.limits.hold_s or state.passed >= self.limits.passes:
            self._keep(state, pool)

    def sent(self, pool: PoolState) -> None:
        """A ticket goes; it passes all that are short."""
        for state in self._short:
            state.passed += 1
            if state.passed >= self.limits.passes:
                self._keep(state, pool)

    def _keep(self, state: TicketState, pool: PoolState) -> None:
        """Keep the worker for it that will have room soonest, unless one is kept for another."""
        if pool.name in self._kept:
            return
        workers = [worker for worker in pool.workers.values() if _keepable(worker)]
        if workers:
            need, share, avoid = self.need(state), self.limits.share, state.avoid
            soonest = min(workers, key=lambda one: (one.name in avoid, one.tokens.lacking(need, share), one.name))
            self._kept[pool.name] = _Kept(state, soonest)


def _keepable(worker: WorkerState) -> bool:
    return worker.serves and worker.seats > 0
