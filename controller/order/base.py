"""What the orders share: the moment a ticket counts from, keys as an engine's priorities, and hearing of ends."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pydantic import Field

from controller.protocols import Options, OrderContext
from controller.types import Ticket

_ENGINE_STEPS_PER_S = 10.0
_ENGINE_MAX = 2**53 - 1
"""What any JSON reader takes for an integer."""


class OrderOptions(Options):
    """What every order can be told."""

    priority_step_s: float = Field(30.0, ge=0)
    """Seconds of waiting that one step of the client's priority is worth."""


class PatientOptions(OrderOptions):
    """Of an order by which a request can be overtaken for a bounded time."""

    patience_s: float = Field(60.0, gt=0)
    """The bound on overtaking, in seconds: nothing that arrives later than this after a request is served before it,
    but for the clients' own priorities. The greater, the more length counts and the less arrival."""


class EnginePriority:
    """Keys as small integers, a tenth of a second a step, counted from the first key seen, or from a moment that all
    control planes of a fleet know.

    Absolute, not relative to the moment of dispatch: a worker compares requests that were sent at different times.
    """

    def __init__(self) -> None:
        self._epoch: float | None = None

    def count_from(self, moment: float) -> None:
        """As :meth:`~controller.protocols.OrderStage.count_from`."""
        self._epoch = moment

    def engine_priority(self, key: float) -> int:
        """As :meth:`~controller.protocols.OrderStage.engine_priority`."""
        if self._epoch is None:
            self._epoch = key
        steps = round((key - self._epoch) * _ENGINE_STEPS_PER_S)
        return steps if -_ENGINE_MAX <= steps <= _ENGINE_MAX else _ENGINE_MAX if steps > 0 else -_ENGINE_MAX


@runtime_checkable
class LearnsFromEnds(Protocol):
    """An order that goes by what requests were given before."""

    def ended(self, ticket: Ticket, output_tokens: int) -> None:
        """A request has left its worker for good, complete or not, with so many output tokens."""
        ...


def counted_from(context: OrderContext, priority_step_s: float) -> float:
    """When the ticket came, after the client's own priority: seconds on the caller's clock."""
    return context.submitted_at + context.ticket.priority * priority_step_s
