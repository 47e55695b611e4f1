"""Writing a trained policy as an artifact that the tier stage ``best_effort`` loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from controller.observation import Codec
from controller.policy import WEIGHTS
from envs.episode import Randomisation
from envs.scenarios import Scenario
from predictors import artifact
from predictors.artifact import DataSource, Manifest
from predictors.types import Interval
from rl.export import q_network_to_onnx
from rl.train import Checkpoint, TrainArguments, Trained

__all__ = ["KIND", "NAME", "TrainingRecord", "card", "write_policy"]

KIND = "policy"
NAME = "best-effort"


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How a policy came about: what is written beside it.

    ``inputs`` maps the artifacts that shaped its observations (profiles, predictors) to the hash of their manifests.
    """

    arguments: TrainArguments
    scenario: Scenario
    inputs: Mapping[str, str]
    data: Sequence[DataSource]
    metrics: Mapping[str, Interval | None]
    created: str
    randomisation: Randomisation = field(default_factory=Randomisation.training)
    """How training episodes strayed from the scenario."""


def write_policy(
    models: Path, trained: Trained, record: TrainingRecord, version: int, *, overwrite: bool = False
) -> Manifest:
    """Write ``models/policy/best-effort/VERSION``.

    Raises:
        ArtifactExists: the version exists and ``overwrite`` is false.
        ExportMismatch: the exported graph does not compute what the network computes.
    """
    codec = Codec(len(record.scenario.pools))
    files = {
        WEIGHTS: q_network_to_onnx(trained.network, trained.samples[:2000]),
        "card.md": card(trained, record, version).encode(),
    }
    return artifact.write(
        models / KIND / NAME / str(version),
        kind=KIND,
        name=NAME,
        version=version,
        features=codec.names,
        data=record.data,
        metrics=record.metrics,
        files=files,
        created=record.created,
        held_out={"seeds": "every episode seed of validation and evaluation", "tasks": "split test"},
        settings=_settings(trained, record),
        overwrite=overwrite,
    )


def _settings(trained: Trained, record: TrainingRecord) -> dict[str, Any]:
    return {
        "arguments": asdict(record.arguments),
        "scenario": asdict(record.scenario),
        "randomisation": asdict(record.randomisation),
        "inputs": dict(record.inputs),
        "best": asdict(trained.best),
        "history": [asdict(checkpoint) for checkpoint in trained.history],
        "ranges": [[float(low), float(high)] for low, high in trained.ranges],
    }


def card(trained: Trained, record: TrainingRecord, version: int) -> str:
    """The model card, in Markdown."""
    scenario, arguments = record.scenario, record.arguments
    pools = "\n".join(
        f"| {pool.name} | `{pool.profile}` | {pool.workers} | {pool.max_inflight} |" for pool in scenario.pools
    )
    figures = "\n".join(f"| {name} | {_shown(value)} |" for name, value in record.metrics.items())
    inputs = "\n".join(f"- `{ref}` (manifest {digest[:12]}…)" for ref, digest in record.inputs.items())
    return _CARD.format(
        version=version,
        pools=pools,
        scenario=scenario,
        by=record.randomisation,
        arguments=arguments,
        figures=figures,
        inputs=inputs,
        best=trained.best,
        history=_history(trained.history),
        units=arguments.hidden,
        deadline="hard" if arguments.kappa is None else f"soft (κ = {arguments.kappa})",
        sources="\n".join(f"- {d.name}: {d.rows} rows, {d.licence}" for d in record.data),
    )


def _history(history: Sequence[Checkpoint]) -> str:
    return "\n".join(f"| {point.steps:,} | {point.share_of_peak:.4f} |" for point in history)


def _shown(value: Interval | None) -> str:
    return "–" if value is None else f"{value.value:.4f} [{value.lo:.4f}, {value.hi:.4f}]"


_CARD = """\
# Best-effort policy, version {version}

Chooses the pool (tier) that answers a request, from predicted quality and length, the fleet's load and the deadline.
A value network with two hidden layers of {units} units, its input normalisation inside the graph (`policy.onnx`),
trained with Double DQN (van Hasselt et al. 2016; Learned Best-Effort LLM Serving, Jha et al. 2024) in
`headway/BestEffort-v0`.

## Meant for

Three pools, lowest tier first, whose load and speed resemble those below; outside the ranges of training (in the
manifest, `ranges`) the tier stage falls back to `threshold`. Everything it learned comes from **simulated** engines
with an **assumed** skill table; on other fleets train it again: `headway train best-effort`.

| pool | profile | workers | in flight at most, each |
|---|---|---|---|
{pools}

Requests per second {scenario.base_rate:g}, in bursts {scenario.burst_rate:g}; deadline {scenario.deadline_s:g} s.
Training varied rates, deadlines, speeds, task mix, bursts and the staleness of gauges around that, and the
workload's kind (stable, bursty, unpredictable). Prompts to come are worded in ways that the predictors know less well
than those of training: so {by.unknown:.0%} of its requests had no predicted quality, and predicted lengths were off by
another {by.length:.0%} at most.

## Objective

{deadline} deadline: the expected quality of an answer that is complete by its deadline, nothing otherwise; rejected and
failed requests earn nothing. The reward is credited to the request's own decision.

## Figures

On episodes and prompts that training, checkpoint selection and tuning have not seen; 95 % intervals over episodes.
`over_threshold`, `over_static_mix` and `over_feasible_best` (the best pool predicted to be in time, which nobody has
trained) are differences, on the same episodes, to those baselines tuned on validation.

| figure | value |
|---|---|
{figures}

Validation share of peak by decisions learned from (the best, at {best.steps:,}, is kept):

| decisions | share of peak |
|---|---|
{history}

## Made from

{sources}

Artifacts that shaped its observations:

{inputs}

Arguments: `{arguments}`
"""
