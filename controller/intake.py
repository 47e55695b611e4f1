"""From a request to a ticket that waits: what it may mean, who can serve it, whether it is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from controller.eligibility import Verdict, eligible, refusal
from controller.errors import UnknownPool, suggestion
from controller.fleet import Fleet
from controller.limits import Limits
from controller.members import PoolState
from controller.protocols import AdmitContext, AdmitStage, ScaleStage
from controller.records import RecordLog
from controller.settings import ControlSettings
from controller.tickets import TicketState
from controller.types import PLAIN, Alternative, Choice, PoolName, Rejected, Task, Ticket
from controller.view import FleetView
from controller.waiting import WaitingRoom

_GENERATE = Task.GENERATE


@dataclass(frozen=True, slots=True)
class _Target:
    """What one model name stands for."""

    pools: tuple[PoolState, ...]
    """In the order of the alias."""
    ladder: tuple[PoolName, ...]
    """Those of them that generate, lowest tier first."""
    names: tuple[PoolName, ...]
    """Of ``pools``."""
    whole: Verdict
    """That every pool can serve."""
    shortest: int
    """The least context length, if all of them generate; else 0."""
    adapter: str | None = None
    """The LoRA adapter that has this name."""

    def surely(self, ticket: Ticket) -> bool:
        """Whether it is seen at once that every pool can serve the ticket, its tenant's ceiling apart. False decides
        nothing."""
        if ticket.needs is not PLAIN:
            return False
        left = self.shortest - (ticket.max_tokens or 1)
        if ticket.prompt_tokens is not None:
            return ticket.prompt_tokens <= left
        for pool in self.pools:  # noqa: SIM110  (a generator takes twice as long, for every request)
            if pool.prompt.count(ticket) > left:
                return False
        return True


class Intake:
    """Turns requests into tickets, or refuses them."""

    def __init__(
        self,
        fleet: Fleet,
        waiting: WaitingRoom,
        admit: AdmitStage,
        scale: ScaleStage,
        aliases: Mapping[str, Sequence[PoolName]],
        settings: ControlSettings,
        records: RecordLog,
    ) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._admit = admit
        self._scale = scale
        self._settings = settings
        self._records = records
        self.limits = Limits({name: spec.quota for name, spec in settings.tenants.items()}, settings.quota)
        self._targets = _targets(fleet, aliases)
        self._backlog, self._look = waiting.backlog, self._view
        self._admitted = Choice("admit", admit.name, "admitted")
        self._pins: dict[PoolName, Choice] = {}
        """Of requests that name a pool; they are all the same."""
        self._serial = 0

    def reconfigure(self, settings: ControlSettings, aliases: Mapping[str, Sequence[PoolName]], now: float) -> None:
        """Go by these from now on; raises UnknownPool, with nothing changed, for an alias of no pool."""
        self._targets = _targets(self._fleet, aliases)
        self._settings = settings
        self.limits.reconfigure({name: spec.quota for name, spec in settings.tenants.items()}, settings.quota, now)

    def models(self) -> Mapping[str, tuple[PoolName, ...]]:
        """Every model name that a client may ask for, and the pools it stands for."""
        return {name: target.names for name, target in self._targets.items()}

    def receive(self, ticket: Ticket, now: float) -> TicketState | Rejected:
        """A ticket that may wait now, or the refusal."""
        target = self._targets.get(ticket.model)
        if target is None:
            hint = suggestion(ticket.model, self._targets)
            return Rejected(ticket.id, 404, "model_not_found", f"no model is called {ticket.model!r}{hint}")
        if target.adapter is not None:
            ticket = replace(ticket, needs=replace(ticket.needs, adapter=target.adapter))
        tenant = self._settings.tenant(ticket.tenant)
        if tenant.tier_ceiling is None and target.surely(ticket):
            verdict = target.whole
        else:
            verdict = eligible(ticket, tenant, target.pools)
        if not verdict.pools:
            return refusal(ticket, target.pools, verdict.dropped, self._fleet.pools.values())
        generates = ticket.needs.task is _GENERATE
        candidates = verdict.pools if generates else _of_one_model(verdict.pools)
        if candidates[0].unavailable_since is not None and not any(self.reachable(pool, now) for pool in candidates):
            return no_worker(ticket, candidates)
        settings, deadline = self._settings, ticket.deadline
        expires_at = now + settings.max_queue_s
        if deadline is not None and deadline < expires_at and settings.drop_late:
            expires_at = deadline
        if expires_at <= now:
            return Rejected(ticket.id, 504, "deadline_exceeded", "its deadline had passed when it arrived")
        names = target.names if candidates is target.pools else tuple([pool.name for pool in candidates])
        prompt_tokens = candidates[0].prompt.count(ticket)
        rejected = self._admit.admit(self._context(ticket, names, now))
        if rejected is None and self.limits.limits(ticket.tenant):
            tokens = prompt_tokens + (_expected_output(ticket, candidates[0]) if generates else 0)
            rejected = self.limits.admit(ticket, tokens, self._backlog, now)
        if rejected is not None:
            return rejected
        self._serial += 1
        ladder = target.ladder if generates else names
        recorded = self._records.wants(ticket.id)
        state = TicketState(ticket, self._serial, now, ladder, candidates, prompt_tokens, recorded=recorded)
        state.expires_at = expires_at
        if recorded:
            state.choices.append(self._admitted)
            if len(candidates) == 1:
                state.choices.append(self._pinned(candidates[0], verdict.dropped))
        return state

    def reachable(self, pool: PoolState, now: float) -> bool:
        """Whether waiting for this pool makes sense: a worker is alive, was a moment ago, or may be started."""
        since = pool.unavailable_since
        return since is None or now - since < self._settings.no_worker_s or self._scale.starts(pool.name)

    def _view(self, now: float) -> FleetView:
        return self._fleet.view(now, len(self._waiting.held))

    def _context(self, ticket: Ticket, pools: tuple[PoolName, ...], now: float) -> AdmitContext:
        backlog, settings = self._backlog, self._settings
        return AdmitContext(
            ticket,
            pools,
            backlog.count,
            backlog.of(ticket.tenant)[0],
            settings.max_queue,
            backlog.bytes,
            settings.max_queue_bytes,
            now,
            self._look,
        )

    def _pinned(self, pool: PoolState, dropped: tuple[Alternative, ...]) -> Choice:
        if dropped:
            return Choice("tier", "pinned", pool.name, dropped)
        known = self._pins.get(pool.name)
        if known is None:
            known = self._pins[pool.name] = Choice("tier", "pinned", pool.name)
        return known


def no_worker(ticket: Ticket, pools: Sequence[PoolState]) -> Rejected:
    """No worker can serve the ticket now, and none is on its way."""
    names = ", ".join(pool.name for pool in pools)
    message = f"no worker of {names} is available" if names else "no worker is available"
    return Rejected(ticket.id, 503, "no_worker", message, retry_after=5.0)


def _expected_output(ticket: Ticket, pool: PoolState) -> int:
    """Tokens of the answers, as far as can be told when the request comes."""
    return pool.output.expect(None, ticket.max_tokens) * ticket.answers


def _of_one_model(pools: tuple[PoolState, ...]) -> tuple[PoolState, ...]:
    """The first pool, and others of its model: vectors, scores and token ids of different models do not mix."""
    return tuple([pool for pool in pools if pool.spec.model == pools[0].spec.model])


def _targets(fleet: Fleet, aliases: Mapping[str, Sequence[PoolName]]) -> dict[str, _Target]:
    named: dict[str, list[PoolState]] = {}
    for pool in fleet.pools.values():
        named.setdefault(pool.spec.model, []).append(pool)
    for pool in fleet.pools.values():
        named[pool.name] = [pool]
    for alias, pools in aliases.items():
        if not pools:
            raise UnknownPool(f"alias {alias!r} stands for no pool")
        for name in pools:
            if name not in fleet.pools:
                raise UnknownPool(
                    f"alias {alias!r} stands for {name!r}, which is no pool{suggestion(name, fleet.pools)}"
                )
        named[alias] = [fleet.pools[name] for name in pools]
    targets = {name: _target(pools) for name, pools in named.items()}
    for adapter in sorted({adapter for pool in fleet.pools.values() for adapter in pool.spec.adapters}):
        having = [pool for pool in fleet.pools.values() if adapter in pool.spec.adapters]
        targets.setdefault(adapter, _target(having, adapter))
    return targets


def _target(pools: Sequence[PoolState], adapter: str | None = None) -> _Target:
    generate = [pool for pool in pools if Task.GENERATE in pool.spec.tasks]
    names = tuple([pool.name for pool in pools])
    shortest = min(pool.spec.context_length for pool in pools) if len(generate) == len(pools) else 0
    ladder, pools = tuple([pool.name for pool in sorted(generate, key=_rank)]), tuple(pools)
    return _Target(pools, ladder, names, Verdict(pools, ()), shortest, adapter)


def _rank(pool: PoolState) -> tuple[int, str]:
    return pool.spec.tier, pool.spec.name
