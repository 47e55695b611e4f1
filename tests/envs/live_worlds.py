"""A small world whose servers are simulated workers on real sockets; they answer as their profiles have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from envs.answers import TaskAnswerer, TaskBook
from envs.engines.worker import SimWorker
from envs.episode import EpisodeSource
from envs.scenarios import Scenario, ScenarioPool
from envs.scored import ScoredPrompts
from predictors.latency.model import Profile
from tests.envs.engines.serving import Served
from tests.envs.worlds import PROFILES, NoisyScorer, prompts

POOLS = ("small", "medium")
TWO = Scenario(
    name="two-servers",
    pools=(
        ScenarioPool("small", "test-small", tier=0, max_inflight=4),
        ScenarioPool("medium", "test-medium", tier=1, max_inflight=4),
    ),
    base_rate=20.0,
    burst_rate=40.0,
    bursts=((0.2, 0.6),),
    duration_s=2.0,
    deadline_s=5.0,
    max_tokens=400,
)
"""Two seconds, some forty requests."""


def source(scenario: Scenario = TWO, count: int = 60) -> EpisodeSource:
    """Episodes of two pools whose engines take a millisecond a step or two."""
    profiles = quick(scenario)
    tasks = prompts(count).tasks
    scored = ScoredPrompts.build(tasks, profiles, NoisyScorer(tasks))
    return EpisodeSource(scenario, profiles, scored)


def quick(scenario: Scenario) -> Mapping[str, Profile]:
    """The test profiles of a scenario's pools, faster."""
    return {
        pool.name: replace(PROFILES[pool.name], a=0.001 * (1 + pool.tier), sleep_s=0.02, wake_s=0.02)
        for pool in scenario.pools
    }


@contextmanager
def servers(world: EpisodeSource, each: int = 1) -> Iterator[dict[str, list[str]]]:
    """Pool → URLs of ``each`` servers of it."""
    book = TaskBook(world.prompts.tasks)
    with ExitStack() as stack:
        urls: dict[str, list[str]] = {}
        for pool, profile in world.profiles.items():
            answerer = TaskAnswerer(book, profile.name, profile.skill, profile.verbosity)
            running = [Served(SimWorker(profile, answerer, sleep_mode=True)) for _ in range(each)]
            for server in running:
                stack.callback(server.stop)
            urls[pool] = [server.url for server in running]
        yield urls
