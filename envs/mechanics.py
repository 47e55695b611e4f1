"""Who starts, stops, wakes and puts to sleep: a simulated fleet's engines, or live servers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from controller.types import WorkerName, WorkerPhase, WorkerSpec
from controller.view import FleetView
from envs.engines.base import EnginePhase
from envs.engines.sequence import SchedulingPolicy
from envs.engines.sim import SimEngine
from envs.episode import Episode
from envs.fleet import SimFleet
from envs.hardship import Machine

if TYPE_CHECKING:
    from envs.live_fleet import LiveFleet

__all__ = ["LiveMechanic", "SimMechanic"]


class SimMechanic:
    """Simulated engines, which take the times that their profiles say; implements :class:`envs.replicas.Mechanic`."""

    def __init__(self, episode: Episode, fleet: SimFleet) -> None:
        self._episode = episode
        self._fleet = fleet
        self._machines: dict[WorkerName, Machine] = {}
        self._asleep_at: dict[WorkerName, float] = {}

    def join(self, worker: WorkerSpec) -> None:
        """A worker that is ready from the start."""
        self._add(worker, cold=False)

    def start(self, worker: WorkerSpec, now: float) -> float:
        """See :class:`Mechanic`: a cold start."""
        machine = self._machines.get(worker.name)
        if machine is None:
            machine = self._add(worker, cold=True)
        else:
            machine.engine.reset(now, cold=True)
            machine.back_at = None
        return now + machine.engine.profile.cold_start_s

    def stop(self, worker: WorkerSpec, now: float) -> None:
        """See :class:`Mechanic`. The engine is kept, and started afresh when the worker is wanted again."""

    def sleep(self, worker: WorkerSpec, now: float) -> float:
        """See :class:`Mechanic`: level 1."""
        engine = self._idle(worker, now)
        engine.sleep()
        at = self._asleep_at[worker.name] = now + engine.profile.sleep_s
        return at

    def wake(self, worker: WorkerSpec, now: float) -> float:
        """See :class:`Mechanic`; one that is falling asleep wakes up after it has."""
        engine = self._idle(worker, now)
        engine.wake()
        return max(now, self._asleep_at[worker.name]) + engine.profile.wake_s

    def back_at(self, worker: WorkerSpec, now: float) -> float | None:
        """See :class:`Mechanic`."""
        machine = self._machines[worker.name]
        if machine.engine.phase is EnginePhase.FAILED:
            return math.inf
        back = machine.back_at
        return back if back is not None and back > now else None

    def tell(self, worker: WorkerName, phase: WorkerPhase, now: float) -> None:
        """See :class:`Mechanic`."""
        self._fleet.control.set_phase(worker, phase, now)

    def look(self, now: float) -> FleetView:
        """See :class:`Mechanic`."""
        return self._fleet.control.view(now)

    def _add(self, worker: WorkerSpec, *, cold: bool) -> Machine:
        policy = SchedulingPolicy.PRIORITY if worker.priority_scheduling else SchedulingPolicy.FCFS
        engine = SimEngine(self._episode.profiles[worker.pool], policy=policy, now=self._fleet.now, cold=cold)
        machine = self._machines[worker.name] = Machine(engine, self._episode.hardship.fate(worker.name))
        self._fleet.add_worker(worker, machine)
        return machine

    def _idle(self, worker: WorkerSpec, now: float) -> SimEngine:
        """The engine, with its clock at ``now``; it has nothing to do, so nothing happens on the way."""
        engine = self._machines[worker.name].engine
        engine.advance(max(now, engine.now))
        return engine


class LiveMechanic:
    """Live servers; implements :class:`envs.replicas.Mechanic`.

    Every server runs all the time: starting and stopping one means that it is given requests or not. ``sleeps`` has
    servers that can do so really fall asleep; that and waking up are waited for.
    """

    def __init__(self, fleet: LiveFleet, *, sleeps: bool = False) -> None:
        self._fleet = fleet
        self._sleeps = sleeps

    def start(self, worker: WorkerSpec, now: float) -> float:
        """See :class:`Mechanic`: at once."""
        return now

    def stop(self, worker: WorkerSpec, now: float) -> None:
        """See :class:`Mechanic`: nothing is done."""

    def sleep(self, worker: WorkerSpec, now: float) -> float:
        """See :class:`Mechanic`."""
        if self._sleeps:
            self._fleet.sleep(worker.name)
        return now

    def wake(self, worker: WorkerSpec, now: float) -> float:
        """See :class:`Mechanic`."""
        if self._sleeps:
            self._fleet.wake(worker.name)
        return now

    def back_at(self, worker: WorkerSpec, now: float) -> float | None:
        """See :class:`Mechanic`; the fleet itself looks after servers that fail."""
        return None

    def tell(self, worker: WorkerName, phase: WorkerPhase, now: float) -> None:
        """See :class:`Mechanic`."""
        self._fleet.set_phase(worker, phase)

    def look(self, now: float) -> FleetView:
        """See :class:`Mechanic`."""
        return self._fleet.consult(lambda control, at: control.view(at))
