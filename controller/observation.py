"""What a best-effort policy sees of one decision: a fixed row of numbers, the same in training and in production.

Only what a gateway can know: predictions, its own accounts, its workers' reports. Raw units; normalisation is part of
the policy. For each of the codec's slots (pools of the requested model, lowest tier first; slots left over are zero):

    quality        expected quality of the pool's answer, 0 to 1: predicted, else the pool's prior
    inflight       requests in flight over the pool's in-flight limit, 0 to 2
    queued         tickets queued over the same limit, 0 to 10
    wait_s         seconds of work in front of the pool's ready workers, 0 to 60
    kv_usage       share of the KV cache in use, 0 to 1

and for the request and the moment:

    output_tokens  ln(1 + output tokens expected)
    prompt_tokens  ln(1 + prompt tokens)
    slack_s        seconds to the deadline, −10 to 120; 120 without one
    arrivals_fast  requests per second arriving, averaged over seconds
    arrivals_slow  the same, averaged over half a minute

A pool without a ready worker shows as full.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from controller.protocols import TierContext
from controller.types import PoolName
from predictors.artifact import feature_hash

_POOL: Final = (("quality", 0.0, 1.0), ("inflight", 0.0, 2.0), ("queued", 0.0, 10.0), ("wait_s", 0.0, 60.0),
                ("kv_usage", 0.0, 1.0))  # fmt: skip
_REQUEST: Final = (("output_tokens", 0.0, 14.0), ("prompt_tokens", 0.0, 14.0), ("slack_s", -10.0, 120.0),
                   ("arrivals_fast", 0.0, 1e4), ("arrivals_slow", 0.0, 1e4))  # fmt: skip

Observation = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Codec:
    """Encodes decisions between up to ``slots`` pools; action i means the pool of slot i."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"a codec needs at least one slot, not {slots}")
        self.slots = slots
        self._masks: dict[tuple[tuple[PoolName, ...], tuple[PoolName, ...]], Mask] = {}
        """By the pools of the model and those that can serve: there are not many of either."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Feature names in order; the artifact's feature schema."""
        pools = [f"pool{slot}.{name}" for slot in range(self.slots) for name, _, _ in _POOL]
        return (*pools, *(name for name, _, _ in _REQUEST))

    @cached_property
    def hash(self) -> str:
        """Identifies the schema; an artifact's ``feature_hash`` must equal it."""
        return feature_hash(self.names)

    @property
    def size(self) -> int:
        """Numbers in an observation."""
        return self.slots * len(_POOL) + len(_REQUEST)

    @cached_property
    def low(self) -> Observation:
        """The least value of each feature."""
        return np.array([low for _, low, _ in (*_POOL * self.slots, *_REQUEST)], np.float32)

    @cached_property
    def high(self) -> Observation:
        """The greatest value of each feature."""
        return np.array([high for _, _, high in (*_POOL * self.slots, *_REQUEST)], np.float32)

    def fits(self, context: TierContext) -> bool:
        """Whether there is a slot for every pool of the requested model."""
        return len(context.ladder) <= self.slots

    def values(self, context: TierContext) -> list[float]:
        """The observation before it is clipped; :class:`ValueError` where pools do not fit."""
        left = self.slots - len(context.ladder)
        if left < 0:
            raise ValueError(f"{len(context.ladder)} pools do not fit into {self.slots} slots")
        view, scores = context.view, context.scores
        pools, index = view.pools, view.index
        quality = None if scores is None else scores.quality
        values: list[float] = []
        for name in context.ladder:
            pool = pools[index[name]]
            limit = pool.limit
            expected = None if quality is None else quality.get(name)
            if expected is None:
                expected = pool.spec.prior_quality
            if limit:
                values += (expected, pool.inflight / limit, pool.queued / limit, pool.expected_wait_s, pool.kv_usage)
            else:
                values += (expected, 2.0, 10.0, 60.0, pool.kv_usage)
        if left:
            values += [0.0] * (len(_POOL) * left)
        values += _request(context)
        return values

    def encode(self, context: TierContext) -> Observation:
        """The observation (size,), clipped to ``low`` and ``high``; :class:`ValueError` where pools do not fit."""
        values: Observation = np.array(self.values(context), np.float32)
        np.maximum(values, self.low, values)
        return np.minimum(values, self.high, values)

    def allowed(self, context: TierContext) -> list[bool]:
        """Which actions (slots,) are allowed."""
        allowed = [name in context.pools for name in context.ladder[: self.slots]]
        return allowed + [False] * (self.slots - len(allowed))

    def mask(self, context: TierContext) -> Mask:
        """The same as an array."""
        known = self._masks.get((context.ladder, context.pools))
        if known is None:
            known = self._masks[context.ladder, context.pools] = np.array(self.allowed(context), np.bool_)
        return known.copy()

    def unused(self, pools: int) -> slice:
        """The features of slots that are left over where there are so many pools."""
        return slice(pools * len(_POOL), self.slots * len(_POOL))

    def used(self, context: TierContext) -> Mask:
        """Which features (size,) belong to a pool that exists, or to the request."""
        used = np.ones(self.size, np.bool_)
        used[self.unused(len(context.ladder))] = False
        return used


def _request(context: TierContext) -> tuple[float, float, float, float, float]:
    deadline, view = context.ticket.deadline, context.view
    return (
        math.log1p(_output_tokens(context)),
        math.log1p(context.prompt_tokens),
        120.0 if deadline is None else deadline - context.now,
        view.arrivals_fast,
        view.arrivals_slow,
    )


def _output_tokens(context: TierContext) -> float:
    tokens = None if context.scores is None else context.scores.output_tokens
    if tokens is None:
        tokens = sum(context.view.pool(name).typical_output for name in context.ladder) / len(context.ladder)
    limit = context.ticket.max_tokens
    return limit if limit is not None and limit < tokens else tokens
