"""Stage ``place``, ``d2lpm``: where most of the prompt is cached, with a bound to how much of a tenant goes there."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from controller.caches.map import CacheMap
from controller.caches.view import CacheView
from controller.prefix import PrefixIndex
from controller.protocols import HomeContext, Options, Outcome, PlaceContext, Resources
from controller.types import Alternative, Choice, PoolName, Tenant, Ticket, TicketId, WorkerName
from controller.view import WorkerView

__all__ = ["D2lpm", "D2lpmOptions"]

_SHOWN = 8
_CHARS_PER_TOKEN = 4.0
"""Of a prompt whose tokens nobody has counted."""
_PLANNED = 100_000
"""Tickets that wait for a worker whose charge is remembered, to be moved if another takes them."""


class D2lpmOptions(Options):
    """Options of ``d2lpm``."""

    quantum: float = Field(500_000.0, gt=0)
    """Service that each tenant is granted at each worker at a time. A small one spreads a tenant over the workers, a
    large one leaves it where its prompts are cached."""
    prompt_weight: float = Field(1.0, ge=0)
    """Service that one prompt token counts as which the worker does not have cached."""
    output_weight: float = Field(2.0, ge=0)
    """Service that one output token counts as that is expected."""
    homes: bool = True
    """Give a request that has to wait a worker to wait for."""
    home_s: float = Field(30.0, ge=0)
    """Seconds that it may be overtaken for that worker's sake, by requests of the same tenant that others serve. With
    orders that rank in another unit, as ``length_rank`` without ageing, these are that unit."""
    capacity_blocks: int = Field(200_000, ge=1)
    """Blocks of prompt text that the index remembers, over all workers."""
    worker_blocks: int | None = Field(None, ge=1)
    """Blocks of prompt text that one worker's cache holds; unset, only the index's own size bounds it."""
    remembered: int = Field(10_000, ge=1)
    """Tenants per pool whose accounts are kept; the one that was seen least recently is forgotten first."""


class _Ledger:
    """What a tenant was charged at each worker of a pool, and the level up to which it has been granted service."""

    __slots__ = ("charged", "level")

    def __init__(self) -> None:
        self.charged: dict[WorkerName, float] = {}
        self.level = 0.0

    def deficit(self, worker: WorkerName, quantum: float) -> float:
        """What is left of the grants, one quantum at most."""
        return min(quantum, self.level - self.charged.get(worker, -math.inf))

    def charge(self, worker: WorkerName, service: float, quantum: float) -> None:
        """Service that the worker computes for the tenant; fewer than none for what another computes instead."""
        self.charged[worker] = self.level - self.deficit(worker, quantum) + service


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where a ticket is to go, and what it is charged there; nothing yet where ``worker`` is ``None``."""

    ledger: _Ledger
    prompt_tokens: int
    output_tokens: int
    worker: WorkerName | None = None
    service: float = 0.0


class D2lpm:
    """Distributed deficit longest prefix match (Cao et al., 2025, arXiv 2501.14312): the dispatcher's half.

    Each tenant has a deficit at each worker of a pool. A request goes to the worker that has the most of its prompt
    cached, of those where its tenant's deficit is above zero (ties: the least loaded, with what waits for it); there,
    what has to be computed is charged. Where there is none, the tenant is granted another quantum at every worker. Thus
    locality decides until a tenant has taken a quantum more from one worker than from another.

    Fairness between tenants is the matter of the fairness stage (``dlpm``), which has all workers in one account.
    """

    name = "d2lpm"

    def __init__(self, options: D2lpmOptions) -> None:
        self.homes, self.home_s = options.homes, options.home_s
        self._options = options
        self._index = CacheView(options.capacity_blocks, options.worker_blocks)
        self._awaited = PrefixIndex(options.capacity_blocks, options.worker_blocks)
        """Prompts that wait for a worker, which will have them cached."""
        self._ledgers: OrderedDict[tuple[PoolName, Tenant], _Ledger] = OrderedDict()
        self._plans: OrderedDict[TicketId, _Plan] = OrderedDict()

    @classmethod
    def create(cls, options: D2lpmOptions, resources: Resources) -> D2lpm:
        return cls(options)

    def choose(self, context: PlaceContext) -> Choice:
        ticket, workers = context.ticket, context.workers
        matches = self._index.matches(ticket, workers[0].pool)
        plan = self._plans.get(ticket.id)
        if plan is None:
            ledger = self._ledger(workers[0].pool, ticket.tenant)
            plan = _Plan(ledger, _prompt_tokens(ticket), round(context.pool.typical_output))
            self._plan(ticket.id, plan)
        chosen = self._nearest(workers, matches, plan.ledger)
        shown = _matched(workers, matches, len(ticket.prefix)) if context.recorded else ()
        return Choice("place", self.name, chosen, shown)

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        plan = self._plans.pop(ticket.id, None)
        if plan is not None and plan.worker != worker:
            quantum = self._options.quantum
            if plan.worker in plan.ledger.charged:
                plan.ledger.charge(plan.worker, -plan.service, quantum)
            plan.ledger.charge(worker, self._service(ticket, worker, plan), quantum)
        self._index.placed(ticket, worker)

    def left(self, ticket: TicketId, worker: WorkerName, outcome: Outcome | None) -> None:
        """See :class:`~controller.protocols.LearnsFromOutcomes`."""
        self._index.left(ticket, worker)

    def home(self, context: HomeContext) -> WorkerName | None:
        ticket = context.ticket
        self.unhomed(ticket.id)
        ledger = self._ledger(context.workers[0].pool, ticket.tenant)
        matches = self._index.matches(ticket, context.workers[0].pool)
        for name, blocks in self._awaited.matches(ticket.prefix).items():
            matches[name] = max(blocks, matches.get(name, 0))
        worker = self._nearest(context.workers, matches, ledger)
        plan = _Plan(ledger, context.prompt_tokens, context.expected_output)
        service = self._service(ticket, worker, plan)
        ledger.charge(worker, service, self._options.quantum)
        self._plan(ticket.id, _Plan(ledger, plan.prompt_tokens, plan.output_tokens, worker, service))
        self._awaited.add(ticket.prefix, worker)
        return worker

    def unhomed(self, ticket: TicketId) -> None:
        """See :class:`~controller.protocols.Homing`."""
        plan = self._plans.pop(ticket, None)
        if plan is not None and plan.worker in plan.ledger.charged:
            plan.ledger.charge(plan.worker, -plan.service, self._options.quantum)

    def cached(self, ticket: Ticket, worker: WorkerName) -> float:
        return self._index.cached(ticket, worker) / len(ticket.prefix) if ticket.prefix else 0.0

    def forget(self, worker: WorkerName) -> None:
        self._index.forget(worker)
        self._awaited.forget(worker)
        for ledger in self._ledgers.values():
            ledger.charged.pop(worker, None)

    def use(self, pool: PoolName, cached: CacheMap) -> None:
        """See :class:`~controller.caches.view.UsesCacheMaps`."""
        self._index.use(pool, cached)

    def deficit(self, pool: PoolName, tenant: Tenant, worker: WorkerName) -> float:
        """What the tenant may still be charged at a worker before it has to go elsewhere."""
        ledger = self._ledgers.get((pool, tenant))
        return 0.0 if ledger is None else ledger.deficit(worker, self._options.quantum)

    def _nearest(self, workers: Sequence[WorkerView], matches: Mapping[WorkerName, int], ledger: _Ledger) -> WorkerName:
        """The worker with the longest match of those that the tenant may still charge; grants until there is one."""
        if len(workers) == 1:
            return workers[0].name
        quantum = self._options.quantum
        deficits = [ledger.deficit(worker.name, quantum) for worker in workers]
        most = max(deficits)
        if most <= 0:
            granted = quantum * (math.floor(-most / quantum) + 1)
            ledger.level += granted
            deficits = [deficit + granted for deficit in deficits]
        able = [worker for worker, deficit in zip(workers, deficits, strict=True) if deficit > 0]
        return min(able, key=lambda worker: (-matches.get(worker.name, 0), *_load(worker))).name

    def _service(self, ticket: Ticket, worker: WorkerName, plan: _Plan) -> float:
        """What the worker has to compute for a ticket, in weighted tokens."""
        options = self._options
        read = plan.prompt_tokens * (1.0 - self.cached(ticket, worker))
        return options.prompt_weight * read + options.output_weight * plan.output_tokens

    def _ledger(self, pool: PoolName, tenant: Tenant) -> _Ledger:
        key = pool, tenant
        ledger = self._ledgers.get(key)
        if ledger is None:
            ledger = self._ledgers[key] = _Ledger()
            if len(self._ledgers) > self._options.remembered:
                self._ledgers.popitem(last=False)
        else:
            self._ledgers.move_to_end(key)
        return ledger

    def _plan(self, ticket: TicketId, plan: _Plan) -> None:
        self._plans[ticket] = plan
        if len(self._plans) > _PLANNED:
            self._plans.popitem(last=False)


def _prompt_tokens(ticket: Ticket) -> int:
    return round(ticket.prompt_chars / _CHARS_PER_TOKEN) if ticket.prompt_tokens is None else ticket.prompt_tokens


def _load(worker: WorkerView) -> tuple[float, float, int, str]:
    waits = worker.load + worker.homed / worker.limit
    return waits, worker.inflight / worker.limit, worker.dispatched, worker.name


def _matched(workers: Sequence[WorkerView], matches: Mapping[WorkerName, int], blocks: int) -> tuple[Alternative, ...]:
    shown = workers[:_SHOWN]
    return tuple([Alternative(w.name, -w.load, True, f"{matches.get(w.name, 0)} of {blocks} blocks") for w in shown])
