"""Orders that know nothing of lengths: by arrival, and by deadline."""

from __future__ import annotations

from pydantic import Field

from controller.order.base import EnginePriority, OrderOptions, counted_from
from controller.protocols import OrderContext, Resources, Signal


class FcfsOptions(OrderOptions):
    """Options of ``fcfs``."""


class Fcfs(EnginePriority):
    """First come, first served, after the client's own priority."""

    name = "fcfs"
    needs: frozenset[Signal] = frozenset()

    def __init__(self, options: FcfsOptions) -> None:
        super().__init__()
        self._step_s = options.priority_step_s

    @classmethod
    def create(cls, options: FcfsOptions, resources: Resources) -> Fcfs:
        return cls(options)

    def key(self, context: OrderContext) -> float:
        return counted_from(context, self._step_s)


class EdfOptions(OrderOptions):
    """Options of ``edf``."""

    default_deadline_s: float = Field(60.0, gt=0)
    """Seconds after its arrival that a request without a deadline is treated as due."""


class Edf(EnginePriority):
    """Earliest deadline first (Liu and Layland, JACM'73), after the client's own priority.

    A request can be overtaken by those that come before its deadline, and by no later ones. Best where every deadline
    can be met; beyond that it spends its workers on requests that are about to be late.
    """

    name = "edf"
    needs: frozenset[Signal] = frozenset()

    def __init__(self, options: EdfOptions) -> None:
        super().__init__()
        self._step_s, self._default_s = options.priority_step_s, options.default_deadline_s

    @classmethod
    def create(cls, options: EdfOptions, resources: Resources) -> Edf:
        return cls(options)

    def key(self, context: OrderContext) -> float:
        deadline, step = context.ticket.deadline, context.ticket.priority * self._step_s
        return step + (context.submitted_at + self._default_s if deadline is None else deadline)
