"""The demo on real vLLM servers on this machine's CPU: the ladder, a pool for each of its three trained models."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.demo.policies import DemoPolicy, compared, routed
from cli.demo.runner import DemoError, DemoRequest, DemoWorkers

if TYPE_CHECKING:
    from controller.store import ArtifactStore

_SEED = 7
_BASE_RATE, _BURST_RATE = 2.0, 20.0
_BURSTS = ((6.0, 16.0),)
_DURATION_S = 28.0
_DEADLINE_S = 6.0
_MAX_TOKENS = 512
_MAX_QUEUE = 512
_SEATS = {"small": 16, "medium": 16, "large": 16}
"""Requests that run at once in each pool: beyond these, steps of the large model take longer in proportion."""
_THRESHOLD: Mapping[str, Any] = {"wait_s": 1.0, "waits_s": {"medium": 2.0, "large": 3.0}, "reopen": 0.9}
_ROUTER: Mapping[str, Any] = {"quality_usd": 1.0, "wait_usd_per_s": 0.1, "fallback": _THRESHOLD}
"""A right answer is worth ten seconds of waiting."""
_ACCURACY = "accuracy_validation"
_QUALITY = "quality/suite"
"""Predicts how well each model of the ladder answers a prompt."""


def build(
    *, seed: int | None, scale: float
) -> tuple[DemoWorkers, tuple[DemoPolicy, ...], tuple[DemoRequest, ...], Mapping[str, Any]]:
    """Workers, policies, requests and settings.

    How well the best pool would answer is not known beforehand: the workers are asked.
    """
    import os

    from controller.store import ArtifactStore, home_in, shipped_models
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
        "max_queue": _MAX_QUEUE,
    }
    # The shipped best-effort policy was trained for three pools of other engines, so the router decides here.
    learned = routed(_ROUTER, quality=_quality(ArtifactStore(shipped_models(), home_in(os.environ))))
    return _workers(os.environ), compared("large", _THRESHOLD, learned), requests, about


def _quality(store: ArtifactStore) -> str | None:
    """The predictor of the ladder's quality, where the store has one that is sound."""
    from controller.errors import HeadwayError

    try:
        store.resolve(_QUALITY)
    except HeadwayError:
        return None
    return _QUALITY


def _prior(checkpoint: Path) -> dict[str, float]:
    """The share of validation prompts that the model answers rightly, as its manifest says; nothing without one."""
    from predictors.artifact import ArtifactError, load_manifest

    try:
        found = load_manifest(checkpoint).metrics.get(_ACCURACY)
    except ArtifactError:
        return {}
    return {} if found is None else {"prior_quality": round(found.value, 4)}


def _workers(environ: Mapping[str, str]) -> DemoWorkers:
    from envs.engines.vllm_process import VllmOptions, command, environment
    from envs.ladder.shapes import NAMES, shipped

    if find_spec("vllm") is None:
        raise ModuleNotFoundError("No module named 'vllm'", name="vllm")
    pools: list[Mapping[str, Any]] = []
    commands: dict[str, tuple[str, ...]] = {}
    surroundings = dict(environ)
    for tier, name in enumerate(NAMES):
        try:
            folder = shipped(name)
        except FileNotFoundError as error:
            raise DemoError(str(error)) from error
        # Every policy asks the same prompts: what one has left in a prefix cache must not serve the next.
        options = VllmOptions(
            folder, name, 0, max_num_seqs=_SEATS[name], threads=1, extra=("--no-enable-prefix-caching",)
        )
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
                "quality_model": name,
                **_prior(folder),
                "max_inflight": _SEATS[name],
                "priority_scheduling": True,
            }
        )
    no_gpu = dict.fromkeys(NAMES, 0.0)
    return DemoWorkers(pools, commands, surroundings, start_timeout_s=300.0, gpus=no_gpu, ask_unloaded=True)
