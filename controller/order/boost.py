"""γ-boost: between first come, first served and shortest first, by sizes that are known without a prediction."""

from __future__ import annotations

import math
from enum import StrEnum

from pydantic import Field

from controller.order.base import EnginePriority, PatientOptions, counted_from
from controller.protocols import OrderContext, Resources, Signal

_LENGTH = frozenset({Signal.LENGTH})


class Size(StrEnum):
    """What a request's size is read from."""

    PROMPT = "prompt"
    """Its prompt, and its ``max_tokens`` where it has any: no prediction."""
    PREDICTED = "predicted"
    """Its prompt, and the answer's expected length."""


class BoostOptions(PatientOptions):
    """Options of ``boost``."""

    gamma: float = Field(0.2, gt=0)
    """γ, in 1/s: how fast the tail of response times falls. Small: shortest first; great: first come, first served."""
    size: Size = Size.PROMPT
    """What a request's size is read from."""
    s_per_token: float = Field(0.0002, gt=0)
    """Seconds of a busy worker that one output token stands for: one over its throughput."""


class Boost(EnginePriority):
    """Arrival, moved back by a boost that shrinks with size (Yu and Scully, SIGMETRICS'24; for LLMs: UniBoost, arXiv
    2606.18431).

    A request of ``s`` seconds of service counts as come b(s) = ln(1 / (1 − e^(−γs))) / γ earlier, at most
    ``patience_s``. Among all orders by sizes alone this one makes the far tail of response times lightest, for light
    tails of sizes: unlike shortest-first, it lets a request be overtaken for a bounded time.
    """

    name = "boost"

    def __init__(self, options: BoostOptions, prompt_work: float) -> None:
        super().__init__()
        self._step_s, self._patience_s, self._gamma = options.priority_step_s, options.patience_s, options.gamma
        self._predicted = options.size is Size.PREDICTED
        self._s_per_token, self._prompt_work = options.s_per_token, prompt_work

    @property
    def needs(self) -> frozenset[Signal]:
        """Scores, if sizes are predicted."""
        return _LENGTH if self._predicted else frozenset()

    @classmethod
    def create(cls, options: BoostOptions, resources: Resources) -> Boost:
        return cls(options, resources.settings.prompt_work)

    def key(self, context: OrderContext) -> float:
        return counted_from(context, self._step_s) - self.boost_s(self._size_s(context))

    def boost_s(self, size_s: float) -> float:
        """b(s) in seconds, at most the patience; s > 0."""
        shortfall = -math.expm1(-self._gamma * size_s)
        return min(self._patience_s, -math.log(shortfall) / self._gamma) if shortfall > 0 else self._patience_s

    def _size_s(self, context: OrderContext) -> float:
        answer = context.expected_output if self._predicted else context.ticket.max_tokens or 0
        return self._s_per_token * (self._prompt_work * context.prompt_tokens + answer)
