"""The demo on simulated workers: the scenario, as processes and requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cli.demo.policies import DemoPolicy, best_effort, compared
from cli.demo.runner import DemoRequest, DemoWorkers, headway

_MAX_TOKENS = 512
_SPARE_TASKS = 64
"""Distinct prompts are drawn from the stream; the workers' books hold a few more than are asked."""


def build(
    *, seed: int | None, scale: float
) -> tuple[DemoWorkers, tuple[DemoPolicy, ...], tuple[DemoRequest, ...], Mapping[str, Any]]:
    """Workers, policies, requests and settings of the demo, from the one scenario that training and evaluation use."""
    import os

    from controller.store import ArtifactStore, home_in, shipped_models
    from envs.scenarios import DEMO
    from envs.tasks import grade
    from envs.workloads import bursty
    from predictors.latency.model import Profile

    scenario = replace(
        DEMO,
        seed=DEMO.seed if seed is None else seed,
        bursts=tuple((start * scale, end * scale) for start, end in DEMO.bursts),
        duration_s=DEMO.duration_s * scale,
    )
    store = ArtifactStore(shipped_models(), home_in(os.environ))
    profiles = {pool.name: Profile.load(store.resolve(f"profile/{pool.profile}")) for pool in scenario.pools}
    arrivals = bursty(scenario.seed, scenario.duration_s, scenario.base_rate, scenario.burst_rate, scenario.bursts)
    tasks = [arrival.task for arrival in arrivals if arrival.task is not None]
    requests = tuple(
        DemoRequest(
            at=arrival.at,
            prompt=task.prompt,
            max_tokens=_MAX_TOKENS,
            deadline_s=scenario.deadline_s,
            in_burst=any(start <= arrival.at < end for start, end in scenario.bursts),
            peak=max(profile.accuracy(task.family, task.level) or 0.0 for profile in profiles.values()),
            grade=lambda text, task=task: grade(task, text),  # type: ignore[misc]
        )
        for arrival, task in zip(arrivals, tasks, strict=True)
    )
    pools = [
        {
            "name": pool.name,
            "model": profiles[pool.name].model,
            "tier": pool.tier,
            "context_length": profiles[pool.name].max_model_len,
            "prior_quality": spec.prior_quality,
            "quality_model": pool.profile,
            "profile": pool.profile,
            "max_inflight": pool.max_inflight,
            "priority_scheduling": True,
        }
        for pool, spec in zip(scenario.pools, scenario.pool_specs(profiles), strict=True)
    ]
    book = ("--tasks-seed", str(scenario.seed), "--tasks-count", str(len(tasks) + _SPARE_TASKS))
    commands = {
        pool.name: headway(
            *("worker", "sim", "--profile", pool.profile, "--port", "{port}"),
            *("--scheduling-policy", "priority", *book),
        )
        for pool in scenario.pools
    }
    about = {
        "engine": "sim",
        "seed": scenario.seed,
        "scale": scale,
        "base_rate": scenario.base_rate,
        "burst_rate": scenario.burst_rate,
        "bursts": scenario.bursts,
        "duration_s": scenario.duration_s,
        "deadline_s": scenario.deadline_s,
        "max_queue": scenario.max_queue,
    }
    learned = best_effort(scenario.best_effort, quality="quality/ladder")
    policies = compared(scenario.static_pool, scenario.threshold, learned)
    return DemoWorkers(pools, commands), policies, requests, about
