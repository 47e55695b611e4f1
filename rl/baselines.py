"""Policies that nobody trained, over the same observations: what a learned one has to beat.

``FeasibleBest`` is the one-step lookahead that Learned Best-Effort LLM Serving leaves out of its comparison: the pool
of the best predicted quality among those that are expected to answer in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from controller.observation import Codec, Mask, Observation
from controller.policy import PolicyDecision
from controller.types import PoolName
from envs.scenarios import Scenario
from predictors.latency.model import Profile

__all__ = ["FeasibleBest"]


@dataclass(frozen=True)
class FeasibleBest:
    """Of the pools whose expected latency is within ``margin`` of the time left, the one of the best quality.

    ``step_s`` is each pool's time per output token when it is full, lowest tier first. The expected latency is that
    times the predicted output, after the wait for a free place: none while there is one, else the pool's work shared
    out by ticket. If no pool is fast enough, the fastest.
    """

    step_s: tuple[float, ...]
    limits: tuple[int, ...]
    margin: float = 0.5

    @classmethod
    def of(cls, scenario: Scenario, profiles: Mapping[PoolName, Profile], margin: float = 0.5) -> FeasibleBest:
        """With the rates that the scenario's profiles give."""
        rates = scenario.service_rates(profiles)
        limits = tuple(pool.max_inflight * pool.workers for pool in scenario.pools)
        steps = tuple(pool.max_inflight / rates[pool.name] for pool in scenario.pools)
        return cls(steps, limits, margin)

    def __call__(self, observation: Observation, mask: Mask) -> PolicyDecision:
        slots = len(self.step_s)
        feature = dict(zip(Codec(slots).names[5 * slots :], observation[5 * slots :].tolist(), strict=True))
        quality, inflight, queued, wait, _ = observation[: 5 * slots].reshape(slots, 5).T
        limits = np.array(self.limits)
        before = wait * (queued * limits + 1) / np.maximum((queued + inflight) * limits, 1)
        expected = np.where(inflight < 1, 0.0, before) + np.expm1(feature["output_tokens"]) * np.array(self.step_s)
        feasible = expected <= self.margin * feature["slack_s"]
        scores = np.where(mask, np.where(feasible, quality, -1.0 - expected), -np.inf)
        return PolicyDecision(int(scores.argmax()), tuple(scores.tolist()))
