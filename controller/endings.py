"""The ends of tickets: what is settled then, what is written down, and which ids have been in use."""

from __future__ import annotations

from collections import deque
from typing import Final

from controller.limits import Limits
from controller.order import LearnsFromEnds
from controller.protocols import Stages
from controller.records import RecordLog
from controller.running import Running
from controller.tickets import Stand, TicketState
from controller.types import Choice, DecisionRecord, Result, Ticket, TicketId, Usage

__all__ = ["Endings"]

_REMEMBERED: Final = 16_384
_ENDED = Stand.ENDED


class Endings:
    """Every submitted ticket ends here, once."""

    def __init__(
        self, tickets: dict[TicketId, TicketState], running: Running, limits: Limits, records: RecordLog, stages: Stages
    ) -> None:
        self._tickets = tickets
        """Those that have not ended; the control plane's own."""
        self._running = running
        self._limits = limits
        self._records = records
        self._admit = stages.admit.name
        self._settles = stages.fairness.prepays or stages.fairness.spares_cached
        """Whether what a group was charged for has to be corrected at the end."""
        self._taught = stages.order if isinstance(stages.order, LearnsFromEnds) else None
        self.ids: set[TicketId] = set()
        """Of the tickets that ended last."""
        self._line: deque[TicketId] = deque()
        """The same, the oldest first."""

    def end(self, state: TicketState, result: Result, code: str | None, usage: Usage | None, now: float) -> None:
        """A ticket that was taken in has ended; it has left its queue or its worker."""
        ticket = state.ticket.id
        state.stand = _ENDED
        if state.attempts:
            if self._settles:
                self._running.close(state, usage)
            if self._taught is not None and state.generates:
                self._taught.ended(state.ticket, state.output_tokens)
        del self._tickets[ticket]
        if self._limits.pledged(ticket):
            self._limits.end(ticket, state.spent(result, usage), now)
        if state.recorded:
            self._records.add(state.record(now, result, code, usage))
        else:
            self._records.spared += 1
        self._remember(ticket)

    def refused(self, ticket: Ticket, code: str, now: float) -> None:
        """A ticket was not taken in."""
        self._remember(ticket.id)
        if not self._records.wants(ticket.id):
            self._records.spared += 1
            return
        choice = Choice("admit", self._admit, "rejected")
        self._records.add(
            DecisionRecord(
                ticket.id, ticket.tenant, ticket.model, now, ticket.prompt_tokens or 0, ticket.max_tokens, None,
                (choice,), None, None, 0, None, None, now, Result.REJECTED, code, None,
            )
        )  # fmt: skip

    def _remember(self, ticket: TicketId) -> None:
        self.ids.add(ticket)
        self._line.append(ticket)
        if len(self._line) > _REMEMBERED:
            self.ids.discard(self._line.popleft())
