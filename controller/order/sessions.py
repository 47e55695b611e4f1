"""Multilevel feedback: programs that have been given little go before those that have been given much."""

from __future__ import annotations

import math
from collections import OrderedDict

from pydantic import Field

from controller.order.base import EnginePriority, PatientOptions, counted_from
from controller.protocols import OrderContext, Resources, Signal
from controller.types import Tenant, Ticket


class MlfqOptions(PatientOptions):
    """Options of ``mlfq``."""

    quantum: float = Field(500.0, gt=0)
    """Service that the first level ends at: output tokens, and prompt tokens by their work."""
    growth: float = Field(2.0, gt=1)
    """How many times the service one level ends at is that of the one before."""
    promotion_s_per_token: float = Field(0.02, gt=0)
    """Seconds of waiting, for each token of service at which its session's level begins, that promote a request."""
    sessions: int = Field(10_000, ge=1)
    """Sessions remembered; the one that ended a request the longest time ago is forgotten first."""


class Mlfq(EnginePriority):
    """Program-level attained service (PLAS of Autellix, Luo et al., NSDI'26), without predictions.

    A request's level is that of its session: of the tokens that the session's finished requests were given, in quanta
    that grow. Lower levels go first, within a level the earlier request; one that has waited long for what its session
    was given is promoted. As static keys: the arrival plus ``promotion_s_per_token`` times the service at which the
    level begins, at most ``patience_s``. Requests without a session are on the first level, so that without any session
    this is ``fcfs``. Sessions of different tenants are different sessions.
    """

    name = "mlfq"
    needs: frozenset[Signal] = frozenset()

    def __init__(self, options: MlfqOptions, prompt_work: float, chars_per_token: float) -> None:
        super().__init__()
        self._options, self._step_s = options, options.priority_step_s
        self._prompt_work, self._chars_per_token = prompt_work, chars_per_token
        self._service: OrderedDict[tuple[Tenant, str], float] = OrderedDict()

    @classmethod
    def create(cls, options: MlfqOptions, resources: Resources) -> Mlfq:
        return cls(options, resources.settings.prompt_work, resources.settings.chars_per_token)

    def __len__(self) -> int:
        """Sessions that are remembered."""
        return len(self._service)

    def key(self, context: OrderContext) -> float:
        options, ticket = self._options, context.ticket
        arrival = counted_from(context, self._step_s)
        if ticket.session is None:
            return arrival
        service = self._service.get((ticket.tenant, ticket.session), 0.0)
        if service < options.quantum:
            return arrival
        begins = options.quantum * options.growth ** math.floor(math.log(service / options.quantum, options.growth))
        return arrival + min(options.patience_s, options.promotion_s_per_token * begins)

    def ended(self, ticket: Ticket, output_tokens: int) -> None:
        """See :class:`~controller.order.LearnsFromEnds`."""
        if ticket.session is None:
            return
        counted = ticket.prompt_tokens
        prompt = ticket.prompt_chars / self._chars_per_token if counted is None else counted
        whose = ticket.tenant, ticket.session
        self._service[whose] = self._service.pop(whose, 0.0) + output_tokens + self._prompt_work * prompt
        if len(self._service) > self._options.sessions:
            self._service.popitem(last=False)
