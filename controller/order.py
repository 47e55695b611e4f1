"""Stage ``order``: a ticket's place in its queue. Keys are in seconds on the caller's clock, so that waiting counts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque

from pydantic import Field

from controller.protocols import Options, OrderContext, Resources, Signal

_ENGINE_STEPS_PER_S = 10.0
_ENGINE_MAX = 2**31 - 1


class FcfsOptions(Options):
    """Options of ``fcfs``."""

    priority_step_s: float = Field(30.0, ge=0)
    """Seconds of waiting that one step of the client's priority is worth."""


class LengthRankOptions(FcfsOptions):
    """Options of ``length_rank``."""

    patience_s: float = Field(60.0, gt=0)
    """Seconds of waiting that outweigh the whole range from the shortest expected answer to the longest."""
    window: int = Field(512, ge=8)
    """Scored requests that a new one is ranked among."""


class EnginePriority:
    """Keys as small integers, a tenth of a second a step, counted from the first key seen.

    Absolute, not relative to the moment of dispatch: a worker compares requests that were sent at different times.
    """

    def __init__(self) -> None:
        self._epoch: float | None = None

    def engine_priority(self, key: float) -> int:
        """As :meth:`~controller.protocols.OrderStage.engine_priority`."""
        if self._epoch is None:
            self._epoch = key
        steps = round((key - self._epoch) * _ENGINE_STEPS_PER_S)
        return steps if -_ENGINE_MAX <= steps <= _ENGINE_MAX else _ENGINE_MAX if steps > 0 else -_ENGINE_MAX


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
        return context.submitted_at + context.ticket.priority * self._step_s


class LengthRank(EnginePriority):
    """Short answers first, with ageing.

    The key is the moment of arrival plus ``patience_s`` times the request's rank among those scored lately, as a
    quantile in [0, 1] (so the predictor's unit does not matter, and its drift little). It is a virtual deadline: a
    request can be overtaken only by those that arrive within ``patience_s`` after it, so none starves; the shorter one
    is expected to be, the sooner its wait counts for more than another's length (ageing relative to expected service,
    after Fu et al., NeurIPS'24, §4.2, and the virtual deadlines of earliest-deadline-first). A request without a rank
    stands in the middle.
    """

    name = "length_rank"
    needs = frozenset({Signal.LENGTH})

    def __init__(self, options: LengthRankOptions) -> None:
        super().__init__()
        self._step_s, self._patience_s, self._window = options.priority_step_s, options.patience_s, options.window
        self._sorted: list[float] = []
        self._recent: deque[float] = deque()

    @classmethod
    def create(cls, options: LengthRankOptions, resources: Resources) -> LengthRank:
        return cls(options)

    def key(self, context: OrderContext) -> float:
        rank = None if context.scores is None else context.scores.length_rank
        quantile = 0.5 if rank is None else self._quantile(rank)
        first = context.submitted_at + context.ticket.priority * self._step_s
        return first + self._patience_s * quantile

    def _quantile(self, rank: float) -> float:
        """Its quantile among those before it, which it joins."""
        ranks, recent = self._sorted, self._recent
        below = bisect_left(ranks, rank)
        after = bisect_right(ranks, rank, below)
        quantile = (below + (after - below + 1) / 2) / (len(ranks) + 1)
        ranks.insert(after, rank)
        recent.append(rank)
        if len(recent) > self._window:
            del ranks[bisect_left(ranks, recent.popleft())]
        return quantile
