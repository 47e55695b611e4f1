"""The runner for long traces: simple policies in compiled loops, which decide what the control plane would."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from cli.simulate.gauges import MOST_SAMPLES, Gauges
from cli.simulate.machines import Machines
from cli.simulate.policies import Policy, build_stages
from cli.simulate.runner import COMPLETED, REJECTED, Limits, Outcome, control_settings, worker_specs
from cli.simulate.workload import Workload

if TYPE_CHECKING:
    from controller.place import PrefixOptions
    from controller.types import WorkerSpec
    from envs.engines.sim import SimEngine
    from envs.long_replay import Replayed, Requests

__all__ = ["CompiledRunner"]

_PLAIN: Final = {
    "admit": "bounded",
    "tier": "pinned",
    "order": "fcfs",
    "fairness": "none",
    "rebalance": "none",
    "scale": "none",
}
"""The only implementations it has, besides those of ``place``."""


class CompiledRunner:
    """``fcfs`` with the simple placements over one pool, without deadlines.

    It counts no preemptions, and reads the KV use of all workers together.
    """

    def __init__(self, machines: Machines, *, limits: Limits | None = None, prefix_caching: bool = True) -> None:
        self._machines = machines
        self._limits = limits or Limits()
        self._prefix_caching = prefix_caching

    def check(self, policy: Policy) -> None:
        """See :meth:`Runner.check`."""
        from envs.long_replay import PLACES

        build_stages(policy, self._machines, control_settings(self._machines, self._limits, policy))
        for stage, name in _PLAIN.items():
            if policy.chosen(stage) != name or (stage in policy.stages and policy.stages[stage][1]):
                raise ValueError(f"--policy {policy.name}: --engine compiled has {stage}={name} alone, without options")
        if policy.chosen("place") not in PLACES:
            raise ValueError(f"--policy {policy.name}: --engine compiled has place={', place='.join(PLACES)}")
        if policy.chosen("place") == "prefix" and _prefix_options(policy).homes:
            raise ValueError(f"--policy {policy.name}: --engine compiled has prefix only with place.homes=false")
        if policy.scheduling != "fcfs":
            raise ValueError(f"--policy {policy.name}: --engine compiled has scheduling=fcfs alone")
        if len(self._machines.pools) > 1:
            raise ValueError("--engine compiled simulates one pool; these profiles are of several models")

    def run(self, workload: Workload, policy: Policy, progress: Callable[[int], None]) -> Outcome:
        """See :meth:`Runner.run`."""
        from envs.long_replay import replay

        self.check(policy)
        if np.isfinite(workload.deadline_s).any():
            raise ValueError("--engine compiled knows no deadlines; use --engine full")
        started = time.perf_counter()
        found = replay(
            self._requests(workload),
            self._workers(workload, policy),
            policy.chosen("place"),
            settings=control_settings(self._machines, self._limits, policy),
            prefix=_prefix_options(policy),
            samples=MOST_SAMPLES,
        )
        wall = time.perf_counter() - started
        progress(len(workload))
        return _outcome(workload, found, wall, self._prefix_block(workload) is not None)

    def _prefix_block(self, workload: Workload) -> int | None:
        """Tokens that one hash stands for in the engines' prefix caches; ``None`` where they have none."""
        return workload.prefix_block if self._prefix_caching else None

    def _requests(self, workload: Workload) -> Requests:
        """An answer ends where the context does."""
        from envs.long_replay import Requests

        room = self._machines.longest_context - workload.prompt_tokens
        return Requests(
            at=workload.at,
            prompt_tokens=workload.prompt_tokens,
            output_tokens=np.maximum(1, np.minimum(workload.output_tokens, room)),
            max_tokens=workload.max_tokens,
            starts=workload.prefix_start,
            hashes=workload.prefix,
            prompt_hashes=workload.prompt_hashes,
        )

    def _workers(self, workload: Workload, policy: Policy) -> list[tuple[WorkerSpec, SimEngine]]:
        from envs.engines.sim import SimEngine

        block = self._prefix_block(workload)
        specs = worker_specs(self._machines, self._limits, policy)
        return [
            (spec, SimEngine(machine.profile, prefix_tokens=block))
            for spec, machine in zip(specs, self._machines.workers, strict=True)
        ]


def _prefix_options(policy: Policy) -> PrefixOptions:
    from controller.place import PrefixOptions

    name, options = policy.stages.get("place", ("", {}))
    return PrefixOptions.model_validate(options if name == "prefix" else {})


def _outcome(workload: Workload, found: Replayed, wall_s: float, caching: bool) -> Outcome:
    completed = found.completed
    at, queued, running, waiting, kv = found.samples.T
    never: npt.NDArray[np.bool_] = np.isnan(found.ended_at)
    columns: dict[str, Any] = {
        "result": np.where(completed, COMPLETED, REJECTED).astype(np.int8),
        "e2e": np.where(completed, found.ended_at - workload.at, np.nan),
        "ttft": found.first_token_at - workload.at,
        "output_tokens": found.output_tokens,
    }
    return Outcome(
        **columns,
        gauges=Gauges(at, queued + waiting, running, kv, None),
        preemptions=None,
        prefix_hit_rate=_hit_rate(workload, found) if caching else None,
        duration_s=float(np.where(never, workload.at, found.ended_at).max(initial=0.0)),
        wall_s=wall_s,
    )


def _hit_rate(workload: Workload, found: Replayed) -> float | None:
    """Over the requests whose answer began; a prompt that is computed again after a preemption counts once."""
    begun = np.isfinite(found.first_token_at)
    asked = int(workload.prompt_tokens[begun].sum())
    return int(found.cached_tokens[begun].sum()) / asked if asked else None
