"""A ticket's life inside the control plane."""

from __future__ import annotations

import math
from enum import StrEnum

from controller.kv.account import Booking
from controller.members import PoolState, WorkerState
from controller.protocols import Signal
from controller.types import Choice, DecisionRecord, PoolName, Result, Scores, Task, Ticket, Usage, WorkerName
from controller.view import TicketView


class Stand(StrEnum):
    """Where a ticket stands."""

    OPEN = "open"
    """Its tier is not chosen yet."""
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


_OPEN, _COMPLETED, _GENERATE = Stand.OPEN, Result.COMPLETED, Task.GENERATE
"""Bound once: a look at an enum class takes long."""
_NOBODY: frozenset[WorkerName] = frozenset()
NO_SIGNALS: frozenset[Signal] = frozenset()


class TicketState:
    """One ticket, mutable; belongs to the control plane. Compared and hashed by identity."""

    __slots__ = (
        "attempts",
        "avoid",
        "booking",
        "bound",
        "cached",
        "candidates",
        "choices",
        "continued",
        "dispatched_at",
        "expected_output",
        "expires_at",
        "first_token_at",
        "generates",
        "group",
        "home",
        "key",
        "ladder",
        "moved",
        "output_tokens",
        "passed",
        "pool",
        "prepaid",
        "prompt_charged",
        "prompt_tokens",
        "recorded",
        "requeued_at",
        "resuming",
        "scores",
        "serial",
        "short_since",
        "stand",
        "submitted_at",
        "ticket",
        "unranked",
        "wanted",
        "work",
        "worker",
        "yielded",
    )

    def __init__(
        self,
        ticket: Ticket,
        serial: int,
        now: float,
        ladder: tuple[PoolName, ...],
        candidates: tuple[PoolState, ...],
        prompt_tokens: int,
        *,
        recorded: bool = True,
    ) -> None:
        self.ticket = ticket
        self.generates = ticket.needs.task is _GENERATE
        """As its needs say."""
        self.serial = serial
        """Order of submission; breaks ties."""
        self.submitted_at = now
        self.ladder = ladder
        """What the requested model stands for, lowest tier first."""
        self.candidates = candidates
        """Pools that can serve it, in the alias's order."""
        self.stand = _OPEN
        self.scores: Scores | None = None
        self.wanted: frozenset[Signal] = NO_SIGNALS
        """Signals that were asked for and have neither come nor been given up."""
        self.unranked: str | None = None
        """Why it has no length rank, if one was asked for."""
        self.recorded = recorded
        """Whether its choices are noted, for a record of it."""
        self.choices: list[Choice] = []
        self.expires_at = math.inf
        self.pool: PoolState | None = None
        self.prompt_tokens = prompt_tokens
        self.key = 0.0
        self.group = ""
        self.expected_output = 1
        self.output_tokens = 0
        self.work = 0
        """Token-work outstanding, as accounted to the pool's queue or to the worker."""
        self.worker: WorkerState | None = None
        self.avoid: frozenset[WorkerName] = _NOBODY
        """Workers that failed it."""
        self.attempts = 0
        self.continued = 0
        """Times it was queued again in the middle of its answer."""
        self.moved = 0
        """How many of those were moves, not failures."""
        self.yielded = False
        """Its seat was given to a more urgent one: it waits by its key, not in front of all."""
        self.requeued_at: float | None = None
        """When that was last."""
        self.resuming = False
        """Since then no worker has begun to answer."""
        self.bound: WorkerName | None = None
        """Where a move wants it to go on."""
        self.home = ""
        """The worker that it waits for in particular, for what that one has cached of it."""
        self.cached = 0.0
        """Share of its prompt, in [0, 1], that is believed to be cached there."""
        self.booking: Booking | None = None
        """Its part of the account of the worker that it is on."""
        self.short_since: float | None = None
        """When it was first kept waiting for KV cache, though a worker had a seat free."""
        self.passed = 0
        """Tickets that were sent past it since then."""
        self.prepaid = 0
        """Output tokens that its group was charged for in advance."""
        self.prompt_charged = 0
        """Prompt tokens that its group was charged for."""
        self.dispatched_at: float | None = None
        self.first_token_at: float | None = None

    def is_open(self) -> bool:
        """Whether there is more than one pool to choose from."""
        return len(self.candidates) > 1

    def view(self) -> TicketView:
        """The ticket as it stands."""
        return TicketView(
            self.ticket.id,
            self.ticket.tenant,
            self.ticket.model,
            self.stand.value,
            self.submitted_at,
            None if self.pool is None else self.pool.name,
            None if self.worker is None else self.worker.name,
            None if self.stand is Stand.OPEN else self.key,
            self.attempts,
            self.output_tokens,
            self.prompt_tokens,
            self.expected_output,
            self.ticket.priority,
            self.first_token_at,
            self.moved,
        )

    def spent(self, result: Result, usage: Usage | None) -> int | None:
        """Tokens to charge to its tenant; ``None`` if nothing at all came of it, through no fault of the client."""
        if usage is not None:
            return usage.prompt_tokens + usage.output_tokens
        if result is _COMPLETED:
            unseen = self.expected_output if self.generates else 0
            return self.prompt_tokens + (self.output_tokens or unseen)
        if self.first_token_at is not None:
            return self.prompt_tokens + self.output_tokens
        if result is Result.REJECTED or result is Result.FAILED:
            return None
        return 0 if self.dispatched_at is None else self.prompt_tokens

    def record(self, now: float, result: Result, code: str | None, usage: Usage | None) -> DecisionRecord:
        """What was decided for it, and how it ended."""
        ticket, pool, worker = self.ticket, self.pool, self.worker
        return DecisionRecord(
            ticket.id,
            ticket.tenant,
            ticket.model,
            self.submitted_at,
            self.prompt_tokens,
            ticket.max_tokens,
            self.scores,
            tuple(self.choices),
            None if pool is None else pool.name,
            None if worker is None else worker.name,
            self.attempts,
            self.dispatched_at,
            self.first_token_at,
            now,
            result,
            code,
            usage,
            self.continued,
        )


def worker_of(state: TicketState) -> WorkerState:
    """The worker that serves a running ticket."""
    if state.worker is None:
        raise RuntimeError(f"ticket {state.ticket.id!r} is on no worker")
    return state.worker


def pool_of(state: TicketState) -> PoolState:
    """The pool of a ticket that has one."""
    if state.pool is None:
        raise RuntimeError(f"ticket {state.ticket.id!r} is in no pool")
    return state.pool
