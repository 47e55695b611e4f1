"""The seams of the control plane: what each stage is asked, and what it must answer.

A stage is pure but for its own state; time and randomness come in with the question. Implementations live in the module
named after the stage and are listed in :mod:`controller.stages`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict

from controller.leases import Served
from controller.settings import ControlSettings, ReplicaRange
from controller.types import (
    Alternative,
    Choice,
    Move,
    PoolName,
    PoolSpec,
    Rejected,
    Scale,
    Scores,
    Tenant,
    Ticket,
    TicketId,
    Usage,
    WorkerName,
)
from controller.values import swift
from controller.view import FleetView, PoolView, TicketView, WorkerView


class Signal(StrEnum):
    """What a predictor can say of a request, and a stage may want to know."""

    LENGTH = "length"
    QUALITY = "quality"


class Options(BaseModel):
    """Options of one implementation of a stage: immutable, no keys but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ArtifactResolver(Protocol):
    """Finds the folder of an artifact, for example of ``policy/best-effort``."""

    def resolve(self, ref: str) -> Path: ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What a stage may need when it is built, besides its options."""

    pools: tuple[PoolSpec, ...] = ()
    settings: ControlSettings = field(default_factory=ControlSettings)
    replicas: Mapping[PoolName, ReplicaRange] = field(default_factory=dict)
    """Bounds of the pools that can be scaled; the others are left alone."""
    artifacts: ArtifactResolver | None = None


@swift
@dataclass(frozen=True, slots=True)
class AdmitContext:
    """A request at the door."""

    ticket: Ticket
    pools: tuple[PoolName, ...]
    """Pools that could serve it."""
    queued: int
    """Tickets that wait already, those with an open tier included."""
    queued_by_tenant: int
    """Tickets of the same tenant that wait already."""
    max_queue: int
    queued_bytes: int
    """Bytes of the bodies that wait."""
    max_queue_bytes: int
    now: float
    look: Callable[[float], FleetView] = field(repr=False, compare=False)
    """The fleet at a moment."""

    @property
    def view(self) -> FleetView:
        """The fleet at this moment; only to be asked while admitting. It is taken when it is asked for: most requests
        are admitted without a look at it."""
        return self.look(self.now)


class AdmitStage(Protocol):
    """Admit, or reject with a reason and a time to come back."""

    @property
    def name(self) -> str: ...

    def admit(self, context: AdmitContext) -> Rejected | None:
        """``None`` admits."""
        ...


@swift
@dataclass(frozen=True, slots=True)
class TierContext:
    """A ticket whose tier is open, with more than one pool to choose from."""

    ticket: Ticket
    prompt_tokens: int
    scores: Scores | None
    why: str | None
    """Why there are no scores, where there are none."""
    view: FleetView
    ladder: tuple[PoolName, ...]
    """Every pool that the requested model stands for, lowest tier first."""
    pools: tuple[PoolName, ...]
    """Those of them that can serve this ticket now, in the order of the alias. Never empty."""
    now: float
    random: np.random.Generator
    recorded: bool = True
    """Whether the choice is written down. Where it is not, alternatives and features may be left out of it."""


class TierStage(Protocol):
    """Choose the pool that answers."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[Signal]:
        """Signals worth waiting for; empty if the stage decides at once, without scores."""
        ...

    def choose(self, context: TierContext) -> Choice:
        """``chosen`` is one of ``context.pools``; ``fallback`` says why another implementation stood in."""
        ...


@swift
@dataclass(frozen=True, slots=True)
class OrderContext:
    """A ticket on its way into a queue."""

    ticket: Ticket
    submitted_at: float
    scores: Scores | None
    prompt_tokens: int = 0
    """Exact, or estimated."""
    expected_output: int = 1
    """Output tokens to expect of this pool's model: predicted where there are scores, else typical."""


class OrderStage(Protocol):
    """Give each ticket a key; the smallest is served first. Keys of different moments are compared with each other, so
    ageing has to be in the key itself."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[Signal]:
        """Signals that improve the key."""
        ...

    def key(self, context: OrderContext) -> float: ...

    def engine_priority(self, key: float) -> int:
        """The same order for vLLM's own scheduler: a small integer, lower is earlier."""
        ...

    def count_from(self, moment: float) -> None:
        """Count those integers from this moment on the caller's clock, which other control planes with the same workers
        know by theirs; called before the first is asked for, or not at all."""
        ...


class FairnessStage(Protocol):
    """Say whose turn it is, per pool. Tickets of one *group* share one ordered queue."""

    @property
    def name(self) -> str: ...

    def group(self, tenant: Tenant) -> str: ...

    def arrived(self, pool: PoolName, group: str) -> None:
        """The group, which had nothing waiting for this pool, has now."""
        ...

    def emptied(self, pool: PoolName, group: str) -> None:
        """The group has nothing waiting for this pool any more."""
        ...

    def returned(self, pool: PoolName, group: str) -> None:
        """The group's last ticket, taken a moment ago, could not be sent and waits again: everything is as before it
        ``emptied``."""
        ...

    @property
    def prepays(self) -> bool:
        """Whether a request's expected output is charged when it is sent, and corrected when its length is known."""
        ...

    @property
    def spares_cached(self) -> bool:
        """Whether prompt tokens that the worker has cached are not charged."""
        ...

    def pick(self, pool: PoolName, among: Mapping[str, float] | None = None) -> str | None:
        """The waiting group whose turn it is; only asked while one is waiting.

        ``among`` are the groups that wait for the worker that has room, each with the share of its first request's
        prompt that the worker has cached. ``None`` says that others must go first, which wait for other workers; then
        the question is asked again without ``among``, and is answered.
        """
        ...

    def standing(self, pool: PoolName) -> tuple[Alternative, ...]:
        """Groups that were weighed, for the record; a few are enough."""
        ...

    def admitted(self, pool: PoolName, group: str, prompt_tokens: int) -> None:
        """A ticket of the group was sent to a worker for the first time, which has so many prompt tokens to read. Fewer
        than none correct what was said before."""
        ...

    def decoded(self, pool: PoolName, group: str, tokens: int) -> None:
        """The group was given so many output tokens, or is to be charged for them. Fewer than none are given back."""
        ...

    def reconfigure(self, settings: ControlSettings) -> None:
        """The tenants' settings are others from now on."""
        ...

    def share(self) -> None:
        """Several control planes serve the same pools from now on; called before anything else."""
        ...

    def served(self) -> Mapping[PoolName, Mapping[str, Served]]:
        """What each group was charged here; for control planes that share."""
        ...

    def adopt(self, counters: Mapping[PoolName, Mapping[str, float]], floors: Mapping[PoolName, float]) -> None:
        """What each group was charged by all of them, and by pool the least of those who wait anywhere."""
        ...


@swift
@dataclass(frozen=True, slots=True)
class PlaceContext:
    """A ticket whose turn it is, and the workers that have room."""

    ticket: Ticket
    workers: tuple[WorkerView, ...]
    """Never empty."""
    now: float
    random: np.random.Generator
    look: Callable[[], PoolView] = field(repr=False, compare=False)
    recorded: bool = True
    """Whether the choice is written down. Where it is not, alternatives may be left out of it."""
    prompt_tokens: int = 0
    """To be read: those of the prompt, and in the middle of an answer those that it has already."""
    expected_output: int = 1
    """Output tokens that are still to come, as expected."""

    @property
    def pool(self) -> PoolView:
        """The workers' pool at this moment; only to be asked while placing. It is taken when it is asked for."""
        return self.look()


class PlaceStage(Protocol):
    """Choose the worker."""

    @property
    def name(self) -> str: ...

    def choose(self, context: PlaceContext) -> Choice:
        """``chosen`` is the name of one of ``context.workers``."""
        ...

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        """The ticket was sent there."""
        ...

    def forget(self, worker: WorkerName) -> None:
        """The worker is gone, or starts afresh."""
        ...


@swift
@dataclass(frozen=True, slots=True)
class HomeContext:
    """A ticket that has to wait, and the workers that could serve it."""

    ticket: Ticket
    workers: tuple[WorkerView, ...]
    """Those of its pool that serve. Never empty."""
    prompt_tokens: int
    expected_output: int
    now: float


@runtime_checkable
class Homing(Protocol):
    """A place stage that says while a ticket waits which worker it had better wait for. When that worker has room, its
    own tickets go first; a worker for which nothing waits takes over what waits for others."""

    @property
    def homes(self) -> bool:
        """Whether it does so, as configured."""
        ...

    @property
    def home_s(self) -> float:
        """How far a waiting ticket may fall behind for its home, in the seconds of the order's keys: no ticket of its
        group with a key so much later is sent before it; it goes instead, to whichever worker has room."""
        ...

    def home(self, context: HomeContext) -> WorkerName | None:
        """``None`` for any."""
        ...

    def unhomed(self, ticket: TicketId) -> None:
        """A ticket that was given a home waits no longer, and was not sent anywhere."""
        ...

    def cached(self, ticket: Ticket, worker: WorkerName) -> float:
        """Share of the ticket's prompt, in [0, 1], that the worker is believed to have cached."""
        ...


@swift
@dataclass(frozen=True, slots=True)
class Outcome:
    """How long a worker took over a whole answer."""

    dispatched_at: float
    first_token_at: float
    ended_at: float
    usage: Usage
    cached_tokens: int | None = None
    """Prompt tokens that the worker had cached, by its own count; ``None`` where it gives none."""


@runtime_checkable
class LearnsFromOutcomes(Protocol):
    """A place stage that wants to know what came of its choices."""

    def left(self, ticket: TicketId, worker: WorkerName, outcome: Outcome | None) -> None:
        """A ticket that was ``placed`` has left its worker; ``None`` for one without a complete answer there."""
        ...


@runtime_checkable
class Informed(Protocol):
    """A place stage that chooses better with signals: what waits is asked about them, as for the order stage."""

    @property
    def needs(self) -> frozenset[Signal]: ...


@runtime_checkable
class CountsTokens(Protocol):
    """A place stage that goes by the tokens that workers hold in their KV caches, or have to read: by the fields of
    :class:`~controller.view.WorkerView` from ``kv_tokens`` on, which are kept for such a one, and under admission by KV
    budget."""

    @property
    def counts_tokens(self) -> bool: ...


@runtime_checkable
class ByLoad(Protocol):
    """A place stage that goes by the workers' loads alone. Where nothing is written down it is asked by these, and no
    views have to be made."""

    def lightest(self, loads: Sequence[float]) -> int | None:
        """The position of the worker that ``choose`` would take; ``None`` where more than the loads decides. Never
        asked without loads, which are as :attr:`WorkerView.load` has them."""
        ...


class RebalanceStage(Protocol):
    """Say which running requests should move."""

    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float | None:
        """Seconds between two plans; ``None`` if there never is one."""
        ...

    def plan(self, view: FleetView, running: Sequence[TicketView], now: float) -> Sequence[Move]:
        """``running`` is every request on a worker. Moves that cannot be made are left out."""
        ...


@runtime_checkable
class MakesRoom(Protocol):
    """A rebalance stage that has running requests give their seats up to more urgent ones that wait."""

    def make_room(
        self, view: FleetView, running: Sequence[TicketView], waiting: Sequence[TicketView], now: float
    ) -> Sequence[Move]:
        """Moves to no worker in particular. ``waiting`` is the first ticket of every group that waits for a pool."""
        ...


class ScaleStage(Protocol):
    """Say how many replicas there should be."""

    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float | None:
        """Seconds between two plans; ``None`` if there never is one."""
        ...

    def starts(self, pool: PoolName) -> bool:
        """Whether a pool without workers may be given one, so that waiting for it makes sense."""
        ...

    def plan(self, view: FleetView, now: float) -> Sequence[Scale]: ...


@dataclass(frozen=True, slots=True)
class Stages:
    """One implementation of each stage. Stages keep state: give each control plane its own."""

    admit: AdmitStage
    tier: TierStage
    order: OrderStage
    fairness: FairnessStage
    place: PlaceStage
    rebalance: RebalanceStage
    scale: ScaleStage
