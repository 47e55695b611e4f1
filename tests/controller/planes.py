"""Small control planes for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controller.pipeline import ControlPlane
from controller.protocols import Resources, Stages
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import (
    Admitted,
    DecisionRecord,
    Dispatch,
    PoolSpec,
    Rejected,
    Scores,
    Ticket,
    Usage,
    WorkerSpec,
)

SMALL = PoolSpec("small", "org/small", 0, prior_quality=0.4, input_usd_per_mtok=0.1, output_usd_per_mtok=0.2)
MEDIUM = PoolSpec("medium", "org/medium", 1, prior_quality=0.6, input_usd_per_mtok=0.5, output_usd_per_mtok=1.0)
LARGE = PoolSpec("large", "org/large", 2, prior_quality=0.8, input_usd_per_mtok=2.0, output_usd_per_mtok=8.0)
LADDER = (SMALL, MEDIUM, LARGE)

Choices = Mapping[str, str | tuple[str, Mapping[str, Any]]]


def stages(choices: Choices, resources: Resources | None = None) -> Stages:
    """Stages by name, or by name and options."""
    full = {stage: (choice, {}) if isinstance(choice, str) else choice for stage, choice in choices.items()}
    return build(full, resources or Resources())


def plane(
    choices: Choices | Stages | None = None,
    *,
    pools: Sequence[PoolSpec] = (SMALL,),
    workers: int = 1,
    max_inflight: int = 2,
    settings: ControlSettings | None = None,
    priority_scheduling: bool = False,
    aliases: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> ControlPlane:
    """A control plane whose pools each have ``workers`` ready workers, called POOL-0, POOL-1, …"""
    made = choices if isinstance(choices, Stages) else stages(choices or {}, Resources(pools=tuple(pools)))
    names = [pool.name for pool in pools]
    found = ControlPlane(pools, made, aliases=aliases or {"auto": names}, settings=settings, seed=seed)
    for pool in pools:
        for index in range(workers):
            name = f"{pool.name}-{index}"
            found.add_worker(WorkerSpec(name, pool.name, f"http://{name}", max_inflight, priority_scheduling), 0.0)
    return found


def ticket(name: str, model: str = "auto", **fields: Any) -> Ticket:
    """A ticket of 100 prompt tokens."""
    return Ticket(name, model, **{"prompt_tokens": 100, **fields})


def submit(plane: ControlPlane, name: str, now: float, scores: Scores | None = None, **fields: Any) -> Admitted:
    """Submit a ticket that must be admitted, and bring its scores at once where there are any."""
    answer = plane.submit(ticket(name, **fields), now)
    assert isinstance(answer, Admitted), answer
    if scores is not None and answer.wants_scores:
        plane.on_scores(name, scores, now)
    return answer


def refused(plane: ControlPlane, name: str, now: float, **fields: Any) -> Rejected:
    """Submit a ticket that must be refused."""
    answer = plane.submit(ticket(name, **fields), now)
    assert isinstance(answer, Rejected), answer
    return answer


def finish(plane: ControlPlane, name: str, now: float, output_tokens: int = 10) -> None:
    """A worker answers completely."""
    plane.on_first_token(name, now)
    plane.on_finish(name, Usage(100, output_tokens), now)


def sent(dispatches: Sequence[Dispatch]) -> list[str]:
    """Ids in the order in which they were dispatched."""
    return [dispatch.ticket for dispatch in dispatches]


def serve_all(plane: ControlPlane, now: float, step: float = 1.0, output_tokens: int = 10) -> list[str]:
    """Dispatch and finish until nothing waits; the ids in order of dispatch."""
    order = []
    while batch := plane.dispatch(now):
        for dispatch in batch:
            order.append(dispatch.ticket)
            finish(plane, dispatch.ticket, now, output_tokens)
        now += step
    return order


def record_of(plane: ControlPlane, name: str) -> DecisionRecord:
    """The record of a ticket that has ended."""
    record = plane.records.find(name)
    assert record is not None
    return record
