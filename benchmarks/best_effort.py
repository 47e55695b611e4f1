"""How far a fleet can be loaded: availability and share of peak by arrival rate, for each kind of policy.

Learned Best-Effort LLM Serving (arXiv 2401.07886) claims availability at over ten times the client rates of static
serving. This study sweeps a stable load over the demo's fleet and reports the whole curve, and the highest rate at
which each policy still answers a given share of requests by their deadline. It also measures how fast the environment
steps.

    python benchmarks/best_effort.py --json FILE
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli.report import Report
from controller.policy import load_policy
from controller.store import ArtifactStore, home_in, shipped_models
from envs.best_effort import BestEffortEnv
from envs.episode import EpisodeSource, Randomisation
from envs.scenarios import WorkloadKind
from envs.sources import default_source
from envs.tasks import Split
from predictors.types import Interval
from rl.evaluate import Contender, contenders
from rl.measures import figures, intervals
from rl.play import play
from rl.train import validation_episodes
from rl.tune import tune

_SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_LEVELS = (0.9, 0.95, 0.99)
_SEEDS = 3_000_000
_SHOWN = ("availability", "share_of_peak", "goodput_rps", "e2e_p99")


def main(
    episodes: Annotated[int, typer.Option(min=1, help="Episodes at each rate.")] = 6,
    validation: Annotated[int, typer.Option(min=1, help="Episodes of each kind to tune the heuristics on.")] = 2,
    prompts: Annotated[int, typer.Option(min=50)] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE")] = None,
) -> None:
    """Sweep the arrival rate and print what each policy makes of it."""
    store = ArtifactStore(shipped_models(), home_in(os.environ))
    source = default_source(split=Split.TEST, seed=seed + 2, prompts=prompts, artifacts=store)
    worse = Randomisation.validation()
    tuning = default_source(
        split=Split.VALIDATION, seed=seed + 1, prompts=prompts, randomisation=worse, artifacts=store
    )
    tuned = tune(validation_episodes(tuning, validation))
    learned = {"shipped": load_policy(store.resolve("policy/best-effort"))}
    report = Report("benchmarks best_effort", seed, {"episodes": episodes, "prompts": prompts, "scales": list(_SCALES)})
    policies = contenders(source, tuned, learned)
    curves: dict[str, list[tuple[float, float]]] = {policy.policy: [] for policy in policies}
    for scale in _SCALES:
        scaled = _scaled(source, scale)
        for policy in policies:
            metrics = _measure(scaled, policy, episodes, seed)
            rate = scaled.scenario.mean_rate
            report.row({"policy": policy.policy, "rate_rps": round(rate, 2)}, metrics)
            availability = metrics["availability"]
            curves[policy.policy].append((rate, availability.value if availability else 0.0))
    for level in _LEVELS:
        for name, curve in curves.items():
            report.row({"policy": name, "availability_at_least": level}, {"rate_rps_max": highest_rate(curve, level)})
    report.row({"policy": "random", "case": "environment"}, {"steps_per_s": steps_per_second(source)})
    report.write(json_path)
    report.show(Console(), "Best effort by arrival rate (stable load)", (*_SHOWN, "rate_rps_max", "steps_per_s"))


def highest_rate(curve: Sequence[tuple[float, float]], level: float) -> float:
    """The rate up to which availability stays at ``level``, linear between the rates measured; 0 if it never does."""
    reached = 0.0
    for (rate, value), following in zip(curve, [*curve[1:], None], strict=True):
        if value < level:
            return reached
        reached = rate
        if following is not None and following[1] < level:
            return rate + (following[0] - rate) * (value - level) / (value - following[1])
    return reached


def steps_per_second(source: EpisodeSource, least: int = 5000) -> float:
    """Environment steps a second on one core under random actions."""
    env, rng, steps = BestEffortEnv(source), np.random.default_rng(0), 0
    begun = time.process_time()
    while steps < least:
        env.reset(seed=steps)
        ended = False
        while not ended:
            _, _, ended, _, _ = env.step(int(rng.integers(env.codec.slots)))
            steps += 1
    return steps / (time.process_time() - begun)


def _scaled(source: EpisodeSource, scale: float) -> EpisodeSource:
    scenario = source.scenario
    scaled = replace(scenario, base_rate=scenario.base_rate * scale, burst_rate=scenario.burst_rate * scale)
    return replace(source, scenario=scaled)


def _measure(source: EpisodeSource, policy: Contender, episodes: int, seed: int) -> Mapping[str, Interval | None]:
    drawn = [source.draw(_SEEDS + i, WorkloadKind.STABLE) for i in range(episodes)]
    return intervals([figures(play(episode, policy.stages)) for episode in drawn], seed)


if __name__ == "__main__":
    typer.run(main)
