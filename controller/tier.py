"""Stage ``tier``: which pool answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator

from controller.errors import StageOptionsError, suggestion
from controller.protocols import Options, Resources, Signal, TierContext
from controller.types import Alternative, Choice, PoolName
from controller.view import PoolView

_NOTHING: frozenset[Signal] = frozenset()


class Pinned:
    """The pool that the client named; of an alias, the first that can serve."""

    name = "pinned"
    needs = _NOTHING

    @classmethod
    def create(cls, options: Options, resources: Resources) -> Pinned:
        return cls()

    def choose(self, context: TierContext) -> Choice:
        return Choice("tier", self.name, context.pools[0], _unscored(context))


class StaticOptions(Options):
    """Options of ``static``: one pool, or weights; by default the highest tier."""

    pool: PoolName | None = None
    """Every request goes to this pool."""
    weights: Mapping[PoolName, float] | None = None
    """Requests are drawn at random with these weights, which need not add up to 1."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if self.pool is not None and self.weights is not None:
            raise ValueError("give either a pool or weights, not both")
        if self.weights is not None and (min(self.weights.values(), default=0) < 0 or not sum(self.weights.values())):
            raise ValueError("weights must not be negative, and one of them must be positive")
        return self


class Static:
    """The same choice for every request, whatever the load. Where that pool cannot serve, the nearest tier below it
    can, else the nearest above."""

    name = "static"
    needs = _NOTHING

    def __init__(self, options: StaticOptions) -> None:
        self._options = options

    @classmethod
    def create(cls, options: StaticOptions, resources: Resources) -> Static:
        known = [pool.name for pool in resources.pools]
        for wanted in (*(options.weights or ()), *([options.pool] if options.pool else ())):
            if known and wanted not in known:
                raise StageOptionsError(f"tier static: no pool is called {wanted!r}{suggestion(wanted, known)}")
        return cls(options)

    def choose(self, context: TierContext) -> Choice:
        if self._options.weights is not None:
            return self._draw(context, self._options.weights)
        wanted = self._options.pool or max(context.ladder, key=lambda name: context.view.pool(name).tier)
        chosen = wanted if wanted in context.pools else _nearest(context, wanted)
        fallback = None if chosen == wanted else "not_eligible"
        return Choice("tier", self.name, chosen, _unscored(context), fallback=fallback)

    def _draw(self, context: TierContext, weights: Mapping[PoolName, float]) -> Choice:
        shares = [max(0.0, weights.get(pool, 0.0)) for pool in context.pools]
        total = sum(shares)
        fallback = None
        if not total:
            shares, total, fallback = [1.0] * len(shares), float(len(shares)), "not_eligible"
        weighed = [share / total for share in shares]
        position = int(context.random.choice(len(shares), p=weighed))
        return Choice(
            "tier",
            self.name,
            context.pools[position],
            _scored(context, weighed),
            propensity=shares[position] / total,
            fallback=fallback,
        )


class ThresholdOptions(Options):
    """Options of ``threshold``."""

    wait_s: float = Field(2.0, gt=0)
    """A tier is left when the work in front of it exceeds so many seconds."""
    waits_s: Mapping[PoolName, float] = Field(default_factory=dict)
    """The same for single pools."""
    reopen: float = Field(0.7, gt=0, le=1)
    """Share of that limit below which a tier that was left is entered again."""


class Threshold:
    """The highest tier whose expected wait stays under its limit, with hysteresis; if none does, the shortest wait.

    The expected wait is the pool's token-work, queued and in flight, over the rate at which its workers complete it.
    """

    name = "threshold"
    needs = _NOTHING

    def __init__(self, options: ThresholdOptions) -> None:
        self._options = options
        self._left: set[PoolName] = set()

    @classmethod
    def create(cls, options: ThresholdOptions, resources: Resources) -> Threshold:
        return cls(options)

    def choose(self, context: TierContext) -> Choice:
        chosen, shortest, best_tier, best_wait = "", "", -1, math.inf
        alternatives: list[Alternative] = []
        view, pools, options, recorded = context.view, context.pools, self._options, context.recorded
        for name in context.ladder:
            pool = view.pool(name)
            wait = pool.expected_wait_s
            self._cross(name, wait, options.waits_s.get(name, options.wait_s))
            able, left = name in pools, name in self._left
            if recorded:
                why = "" if able and not left else "over its limit" if able else "not eligible"
                alternatives.append(Alternative(name, -wait, able, why))
            if able and not left and pool.spec.tier > best_tier:
                chosen, best_tier = name, pool.spec.tier
            if able and (wait < best_wait or not shortest):
                shortest, best_wait = name, wait
        return Choice("tier", self.name, chosen or shortest, tuple(alternatives))

    def _cross(self, pool: PoolName, wait: float, limit: float) -> None:
        if wait > limit:
            self._left.add(pool)
        elif wait <= limit * self._options.reopen:
            self._left.discard(pool)


class RouterOptions(Options):
    """Options of ``router``."""

    quality_usd: float = Field(0.002, ge=0)
    """λ: what one more right answer is worth, in US dollars. 0 always takes the cheapest pool."""
    wait_usd_per_s: float = Field(0.0, ge=0)
    """What a second of expected wait costs, in US dollars; 0 ignores load."""
    fallback: ThresholdOptions = ThresholdOptions()
    """Stands in where there is no quality prediction."""


class Router:
    """argmax λ·quality − cost (RouterBench, Hu et al. 2024), over the pools that can serve.

    The cost of an answer is its expected tokens at the pool's prices. Pools that the predictor does not know count with
    their prior quality; without any prediction ``threshold`` decides.
    """

    name = "router"
    needs = frozenset({Signal.QUALITY, Signal.LENGTH})

    def __init__(self, options: RouterOptions) -> None:
        self._options = options
        self._fallback = Threshold(options.fallback)

    @classmethod
    def create(cls, options: RouterOptions, resources: Resources) -> Router:
        return cls(options)

    def choose(self, context: TierContext) -> Choice:
        if context.scores is None or context.scores.quality is None:
            reason = (context.why or "no_scores") if context.scores is None else "no_quality"
            return stand_in(self._fallback.choose(context), reason)
        quality, view = context.scores.quality, context.view
        values = [self._value(context, view.pool(name), quality) for name in context.pools]
        chosen = context.pools[values.index(max(values))]
        return Choice("tier", self.name, chosen, _scored(context, values))

    def _value(self, context: TierContext, pool: PoolView, quality: Mapping[PoolName, float]) -> float:
        spec, output = pool.spec, expected_output(context, pool)
        cost = (context.prompt_tokens * spec.input_usd_per_mtok + output * spec.output_usd_per_mtok) / 1e6
        value = self._options.quality_usd * quality.get(spec.name, spec.prior_quality) - cost
        if self._options.wait_usd_per_s:
            value -= self._options.wait_usd_per_s * min(pool.expected_wait_s, 1e6)
        return value


def _unscored(context: TierContext) -> tuple[Alternative, ...]:
    """The pools that could serve, for the record."""
    return tuple([Alternative(pool, None) for pool in context.pools]) if context.recorded else ()


def _scored(context: TierContext, scores: Sequence[float]) -> tuple[Alternative, ...]:
    """The same with what each is worth to the stage."""
    if not context.recorded:
        return ()
    return tuple([Alternative(pool, score) for pool, score in zip(context.pools, scores, strict=True)])


def stand_in(choice: Choice, reason: str) -> Choice:
    """A fallback's choice, marked as one."""
    return Choice(
        choice.stage, choice.by, choice.chosen, choice.alternatives, choice.propensity, reason, choice.features
    )


def expected_output(context: TierContext, pool: PoolView) -> float:
    """Output tokens to expect: as predicted, else as is typical of the pool; at most the client's own limit."""
    predicted = None if context.scores is None else context.scores.output_tokens
    tokens = pool.typical_output if predicted is None else predicted
    limit = context.ticket.max_tokens
    return tokens if limit is None else min(tokens, limit)


def _nearest(context: TierContext, wanted: PoolName) -> PoolName:
    pools = context.view
    tier = pools.pool(wanted).tier if wanted in pools.index else math.inf
    below = [name for name in context.pools if pools.pool(name).tier <= tier]
    if below:
        return max(below, key=lambda name: pools.pool(name).tier)
    return min(context.pools, key=lambda name: pools.pool(name).tier)
