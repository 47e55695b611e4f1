"""The demo on real vLLM servers on this machine's CPU: two pools of SmolLM2-135M, the upper one with fewer seats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.demo.policies import DemoPolicy, compared
from cli.demo.runner import DemoRequest, DemoWorkers

_SEED = 7
_BASE_RATE, _BURST_RATE = 1.0, 8.0
_BURSTS = ((8.0, 20.0),)
_DURATION_S = 32.0
_DEADLINE_S = 8.0
_MAX_TOKENS = 48
_SEATS = {"small": 8, "large": 4}
"""Requests that run at once in each pool."""


def build(
    *, seed: int | None, scale: float
) -> tuple[DemoWorkers, tuple[DemoPolicy, ...], tuple[DemoRequest, ...], Mapping[str, Any]]:
    """Workers, policies, requests and settings. Both pools serve the same weights, so quality hardly differs here."""
    from controller.store import home_in
    from envs.tasks import grade
    from envs.workloads import bursty

    chosen = _SEED if seed is None else seed
    bursts = tuple((start * scale, end * scale) for start, end in _BURSTS)
    requests = tuple(
        DemoRequest(
            at=arrival.at,
            prompt=task.prompt,
            max_tokens=_MAX_TOKENS,
            deadline_s=_DEADLINE_S,
            in_burst=any(start <= arrival.at < end for start, end in bursts),
            peak=None,
            grade=lambda text, task=task: grade(task, text),  # type: ignore[misc]
        )
        for arrival in bursty(chosen, _DURATION_S * scale, _BASE_RATE, _BURST_RATE, bursts)
        if (task := arrival.task) is not None
    )
    about = {
        "engine": "vllm",
        "seed": chosen,
        "scale": scale,
        "base_rate": _BASE_RATE,
        "burst_rate": _BURST_RATE,
        "bursts": bursts,
        "duration_s": _DURATION_S * scale,
        "deadline_s": _DEADLINE_S,
        "max_queue": 256,
    }
    # The shipped policy was trained for three pools of other engines: here its stage falls back, and counts that.
    policies = compared("large", {"wait_s": 2.0}, {}, quality=None)
    return _workers(home_in), policies, requests, about


def _workers(home_in: Any) -> DemoWorkers:
    import os

    from envs.checkpoints import SMOLLM2, smollm2_checkpoint
    from envs.engines.vllm_process import VllmOptions, command, environment

    checkpoint = smollm2_checkpoint(Path(home_in(os.environ)) / "checkpoints" / SMOLLM2)
    pools: list[Mapping[str, Any]] = []
    commands: dict[str, tuple[str, ...]] = {}
    surroundings: dict[str, str] = dict(os.environ)
    for tier, (name, seats) in enumerate(_SEATS.items()):
        options = VllmOptions(checkpoint, f"smollm2-{name}", 0, max_num_seqs=seats, threads=1)
        words = command(options)
        words[words.index("--port") + 1] = "{port}"
        commands[name] = tuple(words)
        surroundings = environment(surroundings, options)
        pools.append(
            {
                "name": name,
                "model": options.served_name,
                "tier": tier,
                "context_length": options.max_model_len,
                "max_inflight": seats,
                "priority_scheduling": True,
            }
        )
    return DemoWorkers(pools, commands, surroundings, start_timeout_s=300.0)
