"""Which pools can serve a request at all. A hard filter: what it drops, no stage can choose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from controller.members import PoolState
from controller.settings import TenantSpec
from controller.types import Alternative, Rejected, Task, Ticket
from controller.values import swift

_SURELY = 0.6
"""Share of an estimated prompt length that the real one will not fall below."""

_GENERATE = Task.GENERATE


class Obstacle(StrEnum):
    """Why a pool cannot serve a request."""

    TASK = "task"
    CONTEXT = "context_length"
    TOOLS = "tools"
    STRUCTURED_OUTPUT = "structured_output"
    MODALITY = "modality"
    ADAPTER = "adapter"
    CEILING = "tenant_ceiling"


@swift
@dataclass(frozen=True, slots=True)
class Verdict:
    """Pools that can serve the request, and why the others cannot."""

    pools: tuple[PoolState, ...]
    dropped: tuple[Alternative, ...]


def eligible(ticket: Ticket, tenant: TenantSpec, pools: tuple[PoolState, ...]) -> Verdict:
    """Sort the pools into those that can serve the request and those that cannot.

    A prompt's length may be an estimate. It keeps a request away from pools that are probably too short for it, but it
    refuses one altogether only where no plausible tokenizer would make it fit.
    """
    for pool in pools:
        if _obstacle(ticket, tenant, pool, 1.0) is not None:
            break
    else:
        return Verdict(pools, ())
    verdict = _sort(ticket, tenant, pools, 1.0)
    if verdict.pools or ticket.prompt_tokens is not None:
        return verdict
    return _sort(ticket, tenant, pools, _SURELY)


def _sort(ticket: Ticket, tenant: TenantSpec, pools: tuple[PoolState, ...], share: float) -> Verdict:
    able = []
    dropped = []
    for pool in pools:
        obstacle = _obstacle(ticket, tenant, pool, share)
        if obstacle is None:
            able.append(pool)
        else:
            dropped.append(Alternative(pool.spec.name, None, eligible=False, why=obstacle.value))
    return Verdict(tuple(able), tuple(dropped))


def refusal(
    ticket: Ticket, pools: Sequence[PoolState], dropped: Sequence[Alternative], fleet: Iterable[PoolState] = ()
) -> Rejected:
    """What to tell the client when no pool is left: the obstacle that the most capable pools met.

    ``fleet`` is every pool there is, to name those that could do what is asked.
    """
    obstacles = {pool.why for pool in dropped}
    if obstacles == {Obstacle.TASK}:
        return _not_its_task(ticket, fleet)
    obstacles.discard(Obstacle.TASK)
    pools = [pool for pool, drop in zip(pools, dropped, strict=True) if drop.why != Obstacle.TASK]
    dropped = [drop for drop in dropped if drop.why != Obstacle.TASK]
    if obstacles == {Obstacle.CONTEXT}:
        longest = max(pool.spec.context_length for pool in pools)
        prompt = min(pool.prompt.count(ticket) for pool in pools)
        wanted = math.ceil(prompt * ticket.needs.share) + _room(ticket)
        message = f"the prompt and max_tokens need {wanted} tokens; {ticket.model!r} has room for {longest}"
        return Rejected(ticket.id, 400, "context_length_exceeded", message)
    if obstacles == {Obstacle.CEILING}:
        message = f"tenant {ticket.tenant!r} may not use the tiers of {ticket.model!r}"
        return Rejected(ticket.id, 403, "tenant_ceiling", message)
    reasons = ", ".join(f"{pool.name} ({pool.why})" for pool in dropped)
    return Rejected(ticket.id, 400, "no_capable_pool", f"no pool can serve this request: {reasons}")


def _not_its_task(ticket: Ticket, fleet: Iterable[PoolState]) -> Rejected:
    able = sorted({pool.spec.model for pool in fleet if ticket.needs.task in pool.spec.tasks})
    others = f"; these do: {', '.join(able)}" if able else ", and no pool of this gateway does"
    message = f"{ticket.model!r} does not serve the task {ticket.needs.task}{others}"
    return Rejected(ticket.id, 404, "task_not_supported", message)


def _room(ticket: Ticket) -> int:
    """Tokens that must be left for the answer."""
    return ticket.max_tokens or 1 if ticket.needs.generates else 0


def _obstacle(ticket: Ticket, tenant: TenantSpec, pool: PoolState, share: float) -> Obstacle | None:
    spec, needs = pool.spec, ticket.needs
    if needs.task not in spec.tasks and needs.task is not None:
        return Obstacle.TASK
    if tenant.tier_ceiling is not None and spec.tier > tenant.tier_ceiling:
        return Obstacle.CEILING
    if needs.tools and not spec.tools:
        return Obstacle.TOOLS
    if needs.structured_output and not spec.structured_output:
        return Obstacle.STRUCTURED_OUTPUT
    if needs.modalities and not needs.modalities <= spec.modalities:
        return Obstacle.MODALITY
    if needs.adapter is not None and needs.adapter not in spec.adapters:
        return Obstacle.ADAPTER
    room = ticket.max_tokens or 1 if needs.task is _GENERATE else 0
    return Obstacle.CONTEXT if pool.prompt.count(ticket) * share * needs.share + room > spec.context_length else None
