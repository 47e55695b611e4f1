"""Orders that go by the expected length of the answer: what predictors say, or in simulation the truth."""

from __future__ import annotations

import math

from pydantic import Field

from controller.order.ageing import Ageing, Quantiles, exponential_s, relative_s
from controller.order.base import EnginePriority, PatientOptions, counted_from
from controller.order.cost import expected_cost
from controller.protocols import OrderContext, Resources, Signal
from controller.types import Scores

_LAST = 0.999
"""The greatest quantile that is turned into a length."""


class LengthRankOptions(PatientOptions):
    """Options of ``length_rank``."""

    ageing: Ageing = Ageing.QUANTILE
    """How waiting is weighed against length."""
    ageing_s_per_token: float = Field(0.1, gt=0)
    """With relative ageing: seconds of waiting that one expected token is worth."""
    tail_weight: float = Field(0.3, ge=0)
    """What an expected token of the worst tenth of answers counts as, beside one of the mean."""
    window: int = Field(512, ge=8)
    """Scored requests that a new one is ranked among, where only ranks are known, or with ageing by quantile."""


class LengthRank(EnginePriority):
    """Short answers first, with ageing.

    The key is a virtual deadline: the moment of arrival plus what the request's expected cost is worth in seconds, from
    0 to ``patience_s``; the option ``ageing`` says how that is reckoned. **Bound**: among requests of one client
    priority, none is overtaken by any that arrives more than ``patience_s`` after it (a step of priority shifts that by
    ``priority_step_s``; ``ageing: none`` has no bound). The shorter a request is expected to be, the sooner its wait
    counts for more than another's length: ageing relative to expected service, in place of a count of steps (Fu et al.,
    NeurIPS'24, §4.2), which a heap that compares keys of different moments cannot keep.

    The cost is :func:`~controller.order.cost.expected_cost`. Where a predictor gives ranks alone, a request at quantile
    q of the last ``window`` is taken for the q-quantile of exponential lengths with the pool's mean; a request that
    nobody scored, for a typical one.
    """

    name = "length_rank"
    needs = frozenset({Signal.LENGTH})

    def __init__(self, options: LengthRankOptions) -> None:
        super().__init__()
        self._options = options
        self._step_s, self._patience_s = options.priority_step_s, options.patience_s
        self._ageing, self._pace, self._tail_weight = options.ageing, options.ageing_s_per_token, options.tail_weight
        self._by_quantile = options.ageing is Ageing.QUANTILE
        self._quantiles = Quantiles(options.window)

    @classmethod
    def create(cls, options: LengthRankOptions, resources: Resources) -> LengthRank:
        return cls(options)

    def count_from(self, moment: float) -> None:
        super().count_from(0.0 if self._ageing is Ageing.NONE else moment)  # without ageing keys are no moments

    def key(self, context: OrderContext) -> float:
        arrival = counted_from(context, self._step_s)
        if self._by_quantile:
            return arrival + self._patience_s * (0.5 if context.scores is None else self._quantile(context.scores))
        cost = self._cost(context)
        if self._ageing is Ageing.RELATIVE:
            return arrival + relative_s(cost, self._pace, self._patience_s)
        if self._ageing is Ageing.EXPONENTIAL:
            return arrival + exponential_s(cost, self._patience_s)
        return cost + context.ticket.priority * self._step_s

    def _quantile(self, scores: Scores) -> float:
        value = scores.output_tokens if scores.length_rank is None else scores.length_rank
        return 0.5 if value is None else self._quantiles.place(value)

    def _cost(self, context: OrderContext) -> float:
        cost = expected_cost(context, self._tail_weight)
        scores = context.scores
        if scores is None or scores.length_rank is None or scores.output_tokens is not None:
            return cost
        return -cost * math.log(1.0 - min(_LAST, self._quantiles.place(scores.length_rank)))


class OracleOptions(LengthRankOptions):
    """Options of ``oracle``: those of ``length_rank``."""

    ageing: Ageing = Ageing.NONE
    """How waiting is weighed against length; not at all by default."""


class Oracle(LengthRank):
    """Shortest job first by the true length, which simulations hand in as ``Scores.output_tokens``: what ranking could
    gain at most. No gateway can know it."""

    name = "oracle"

    @classmethod
    def create(cls, options: LengthRankOptions, resources: Resources) -> Oracle:
        return cls(options)

    def _cost(self, context: OrderContext) -> float:
        scores = context.scores
        truth = None if scores is None else scores.output_tokens
        return float(context.expected_output) if truth is None else truth
