"""Playing episodes under a policy, and what each request got out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from controller.best_effort import BestEffort
from controller.objectives import Served
from controller.observation import Codec
from controller.policy import Policy, TrainedPolicy
from controller.protocols import Resources, Stages
from controller.settings import ControlSettings
from controller.stages import build
from controller.tier import Threshold, ThresholdOptions
from controller.types import PoolSpec
from envs.episode import Episode, StageFactory
from envs.fleet import Ended

__all__ = ["Play", "named_tier", "play", "policy_tier"]


class Play:
    """One episode under one policy: how each request was ``served``, in order of arrival, and how it ``ended``."""

    def __init__(self, episode: Episode, ended: Sequence[Ended]) -> None:
        self.episode = episode
        self.ended = tuple(sorted(ended, key=lambda end: end.request.index))
        if len(self.ended) != len(episode.requests):
            raise RuntimeError(f"{len(episode.requests)} requests came, {len(self.ended)} ended")
        quality, pools = episode.quality, episode.prompts.pools
        peaks = quality.max(axis=1).tolist()
        self.served = tuple(
            Served(
                latency=end.latency,
                deadline=episode.scenario.deadline_s,
                quality=0.0 if end.pool is None else float(quality[i, pools.index(end.pool)]),
                peak=peaks[i],
                ttft=None if end.first_token_at is None else end.first_token_at - end.request.at,
                output_tokens=end.output_tokens,
            )
            for i, end in enumerate(self.ended)
        )


def play(episode: Episode, stages: StageFactory) -> Play:
    """Run an episode's requests to their ends."""
    return Play(episode, episode.fleet(stages).replay(episode.requests))


def named_tier(
    tier: str, options: Mapping[str, Any], order: str = "fcfs", order_options: Mapping[str, Any] | None = None
) -> StageFactory:
    """Stages with a tier and an order stage that ship, by their names in a configuration."""

    def stages(pools: Sequence[PoolSpec], settings: ControlSettings) -> Stages:
        chosen = {"tier": (tier, options), "order": (order, order_options or {})}
        return build(chosen, Resources(tuple(pools), settings))

    return stages


def policy_tier(policy: Policy | TrainedPolicy, order: str = "fcfs") -> StageFactory:
    """Stages whose tier stage is ``best_effort`` with this policy."""

    def stages(pools: Sequence[PoolSpec], settings: ControlSettings) -> Stages:
        plain = build({"order": (order, {})}, Resources(tuple(pools), settings))
        return replace(plain, tier=BestEffort(policy, Threshold(ThresholdOptions()), codec=Codec(len(pools))))

    return stages
