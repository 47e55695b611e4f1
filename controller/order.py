"""Stage ``order``: a ticket's place in its queue. Keys are in seconds on the caller's clock, so that waiting counts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
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

    __slots__ = ("_epoch",)

    def __init__(self) -> None:
        self._epoch: float | None = None

    def of(self, key: float) -> int:
        if self._epoch is None:
            self._epoch = key
        steps = round((key - self._epoch) * _ENGINE_STEPS_PER_S)
        return max(-_ENGINE_MAX, min(_ENGINE_MAX, steps))


class Fcfs:
    """First come, first served, after the client's own priority."""

    name = "fcfs"
    needs: frozenset[Signal] = frozenset()

    def __init__(self, options: FcfsOptions) -> None:
        self._options = options
        self._priority = EnginePriority()

    @classmethod
    def create(cls, options: FcfsOptions, resources: Resources) -> Fcfs:
        return cls(options)

    def key(self, context: OrderContext) -> float:
        return context.submitted_at + context.ticket.priority * self._options.priority_step_s

    def engine_priority(self, key: float) -> int:
        return self._priority.of(key)


class LengthRank:
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
        self._options = options
        self._priority = EnginePriority()
        self._sorted: list[float] = []
        self._recent: deque[float] = deque()

    @classmethod
    def create(cls, options: LengthRankOptions, resources: Resources) -> LengthRank:
        return cls(options)

    def key(self, context: OrderContext) -> float:
        rank = None if context.scores is None else context.scores.length_rank
        quantile = 0.5 if rank is None else self._quantile(rank)
        first = context.submitted_at + context.ticket.priority * self._options.priority_step_s
        return first + self._options.patience_s * quantile

    def engine_priority(self, key: float) -> int:
        return self._priority.of(key)

    def _quantile(self, rank: float) -> float:
        below = bisect_left(self._sorted, rank)
        equal = bisect_right(self._sorted, rank) - below
        quantile = (below + (equal + 1) / 2) / (len(self._sorted) + 1)
        self._remember(rank)
        return quantile

    def _remember(self, rank: float) -> None:
        insort(self._sorted, rank)
        self._recent.append(rank)
        if len(self._recent) > self._options.window:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
