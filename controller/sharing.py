"""What one control plane shows and takes where it shares workers, limits and fairness with others (see
:mod:`controller.leases`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from controller.fleet import Fleet
from controller.leases import GroupUse, Served, WorkerUse
from controller.limits import Limits
from controller.members import WorkerState
from controller.protocols import FairnessStage
from controller.settings import ControlSettings
from controller.tickets import Stand, TicketState
from controller.types import PoolName, TicketId, WorkerName
from controller.view import FleetView, PoolView

__all__ = ["Sharing"]


class Sharing:
    """The shared side of a control plane. Until :meth:`begin` it is alone, and nothing here costs anything."""

    def __init__(
        self,
        fleet: Fleet,
        tickets: Mapping[TicketId, TicketState],
        fairness: FairnessStage,
        limits: Limits,
        settings: ControlSettings,
    ) -> None:
        self._fleet = fleet
        self._tickets = tickets
        self._fairness = fairness
        self.limits = limits
        self.settings = settings
        self._others: Mapping[PoolName, tuple[int, int]] = {}
        self._busy: Mapping[WorkerName, int] = {}
        self.scales = True
        """Whether this control plane runs ``scale``."""

    def begin(self, now: float) -> None:
        """Share from now on; until the first lease, nothing may be used."""
        self._fairness.share()
        self.scales = False
        self._fleet.lease({}, now)

    def lease(self, workers: Mapping[WorkerName, int], now: float) -> None:
        """Use so many slots of each worker at most; none of one that is not named. What runs there may end."""
        self._fleet.lease(workers, now)

    def lend(self, others: Mapping[PoolName, tuple[int, int]], busy: Mapping[WorkerName, int], scales: bool) -> None:
        """Others have so many requests in flight and queued in each pool, and in flight on each worker; this one runs
        ``scale``, or not."""
        self._others, self._busy = others, busy
        self.scales = scales

    def uses(self) -> dict[WorkerName, WorkerUse]:
        """Every worker, with what may be used and is used here."""
        found: dict[WorkerName, WorkerUse] = {}
        for pool in self._fleet.pools.values():
            for name, worker in pool.workers.items():
                found[name] = _use(worker)
        return found

    def demand(self) -> dict[PoolName, dict[str, GroupUse]]:
        """What runs and waits here, by pool and by who takes turns there. What may go to several pools counts for the
        first."""
        counts: dict[tuple[PoolName, str], list[int]] = {}
        for state in self._tickets.values():
            pool = (state.pool or state.candidates[0]).name
            count = counts.setdefault((pool, self._fairness.group(state.ticket.tenant)), [0, 0])
            count[state.stand is not Stand.RUNNING] += 1
        demand: dict[PoolName, dict[str, GroupUse]] = {}
        for (pool, group), (inflight, queued) in counts.items():
            weight = self.settings.tenant(group).weight
            demand.setdefault(pool, {})[group] = GroupUse(inflight, queued, weight)
        return demand

    def served(self) -> Mapping[PoolName, Mapping[str, Served]]:
        """The fairness stage's counters, as charged here."""
        return self._fairness.served()

    def adopt(self, counters: Mapping[PoolName, Mapping[str, float]], floors: Mapping[PoolName, float]) -> None:
        """The counters of all together; and the least of those who wait anywhere, to which newcomers are lifted."""
        self._fairness.adopt(counters, floors)

    def waits(self) -> bool:
        """Whether any request waits for a worker."""
        return any(pool.queued for pool in self._fleet.pools.values())

    def oversteps(self) -> bool:
        """Whether more runs somewhere than may be used by now, because a lease became smaller."""
        return any(worker.lease is not None and len(worker.running) > worker.lease for worker in self._fleet)

    def whole(self, view: FleetView, busy: Collection[WorkerName] = ()) -> FleetView:
        """The fleet with what others have in it, and with the workers' whole limits: what ``scale`` goes by. Workers
        that are ``busy`` are shown with at least one request."""
        if all(worker.lease is None for worker in self._fleet):
            return view
        return replace(view, pools=tuple(self._whole(pool, busy) for pool in view.pools))

    def _whole(self, pool: PoolView, busy: Collection[WorkerName]) -> PoolView:
        inflight, queued = self._others.get(pool.name, (0, 0))
        limits = {worker.name: worker.limit for worker in self._fleet}
        workers = tuple(
            replace(
                w,
                limit=max(1, limits.get(w.name, w.limit)),
                inflight=max(w.inflight + self._busy.get(w.name, 0), int(w.name in busy)),
            )
            for w in pool.workers
        )
        return replace(
            pool,
            workers=workers,
            inflight=pool.inflight + inflight,
            queued=pool.queued + queued,
            limit=sum(limits.get(w.name, 0) for w in workers if w.serves),
        )


def _use(worker: WorkerState) -> WorkerUse:
    capacity = 0 if worker.removed else worker.spec.max_inflight
    lease = 0 if worker.removed else worker.lease
    limit = capacity if lease is None else lease
    return WorkerUse(worker.spec.pool, capacity, limit, len(worker.running), worker.serves)
