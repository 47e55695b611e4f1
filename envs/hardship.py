"""What goes wrong in a fleet: workers that crash and come back, workers that are slow, readings that never arrive.

Everything is drawn from a seed before the episode begins, worker by worker, and does not depend on what is decided.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from controller.pipeline import ControlPlane
from controller.protocols import Stages
from controller.settings import ControlSettings
from controller.types import PoolName, PoolSpec, WorkerName, WorkerReport
from envs.engines.base import EngineEvent, EnginePhase, EngineRequest, EngineState, EventKind
from envs.engines.sim import SimEngine

__all__ = ["Act", "HardOfHearing", "Hardship", "Machine", "Mishap"]

_HOUR = 3600.0
_READINGS = 4096


class Act(StrEnum):
    """What happens to a worker."""

    CRASH = "crash"
    RESTART = "restart"
    """It is started again, and is ready after its cold start."""
    PACE = "pace"
    """From now on, everything there takes ``factor`` times as long."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """One thing that happens to a worker at ``at`` seconds."""

    at: float
    act: Act
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Hardship:
    """What befalls the workers of one episode of ``horizon_s`` seconds; by default nothing.

    Crashes and slow spells are Poisson processes; spells last ``spell_s`` on average, and slow a worker down by a
    factor that is uniform up to 1 + ``slowness``. ``lost`` is the share of readings that never arrive.
    """

    seed: int = 0
    horizon_s: float = 0.0
    crashes_per_hour: float = 0.0
    stragglers_per_hour: float = 0.0
    slowness: float = 2.0
    lost: float = 0.0
    restart_s: float = 2.0
    """After a crash, until somebody starts the worker again."""
    spell_s: float = 20.0

    @property
    def machines(self) -> bool:
        """Whether anything may befall workers themselves."""
        return self.crashes_per_hour > 0 or self.stragglers_per_hour > 0

    def fate(self, worker: WorkerName) -> tuple[Mishap, ...]:
        """What happens to this worker, in order of time."""
        rng = np.random.default_rng((self.seed, zlib.crc32(worker.encode())))
        hours = self.horizon_s / _HOUR
        crashes, spells = rng.poisson(self.crashes_per_hour * hours), rng.poisson(self.stragglers_per_hour * hours)
        mishaps = []
        for at in rng.uniform(0.0, self.horizon_s, crashes).tolist():
            mishaps += [Mishap(at, Act.CRASH), Mishap(at + self.restart_s, Act.RESTART)]
        for at in rng.uniform(0.0, self.horizon_s, spells).tolist():
            factor = 1.0 + float(rng.uniform(0.0, self.slowness))
            mishaps += [Mishap(at, Act.PACE, factor), Mishap(at + float(rng.exponential(self.spell_s)), Act.PACE)]
        return tuple(sorted(mishaps, key=lambda mishap: mishap.at))

    def control(
        self,
        pools: Sequence[PoolSpec],
        stages: Stages,
        aliases: Mapping[str, Sequence[PoolName]],
        settings: ControlSettings,
        seed: int,
    ) -> ControlPlane:
        """A control plane that hears of its workers what is not lost."""
        if not self.lost:
            return ControlPlane(pools, stages, aliases=aliases, settings=settings, seed=seed)
        heard = np.random.default_rng((self.seed, _READINGS)).random(_READINGS) >= self.lost
        return HardOfHearing(pools, stages, aliases, settings, seed, tuple(heard.tolist()))


class HardOfHearing(ControlPlane):
    """A control plane some of whose workers' readings get lost on their way.

    Which ones depends on the worker and on the tenth of a second in which they were taken, not on what was decided.
    """

    def __init__(
        self,
        pools: Sequence[PoolSpec],
        stages: Stages,
        aliases: Mapping[str, Sequence[PoolName]],
        settings: ControlSettings,
        seed: int,
        heard: tuple[bool, ...],
    ) -> None:
        super().__init__(pools, stages, aliases=aliases, settings=settings, seed=seed)
        self._heard = heard

    def on_worker_report(self, name: WorkerName, report: WorkerReport, now: float) -> None:
        """A reading came, unless it got lost."""
        place = zlib.crc32(name.encode()) + int(report.at * 10.0) * 31
        if self._heard[place % len(self._heard)]:
            super().on_worker_report(name, report, now)


class Machine:
    """An engine to which things happen; implements :class:`envs.engines.base.Engine` around a simulated one.

    A crash aborts what is in flight; until the engine is up again, requests are aborted as soon as they come, as a
    connection that is refused would be. A worker that does not run (asleep, stopped or already down) cannot crash.
    """

    def __init__(self, engine: SimEngine, fate: Sequence[Mishap] = ()) -> None:
        self.engine = engine
        self._fate = deque(fate)
        self._refused: list[EngineEvent] = []
        self.back_at: float | None = None
        """After a crash, when it will serve again; ``None`` while nobody has started it."""

    @property
    def now(self) -> float:
        """See :class:`Engine`."""
        return self.engine.now

    @property
    def stream(self) -> bool:
        """Whether :meth:`advance` reports progress."""
        return self.engine.stream

    @stream.setter
    def stream(self, stream: bool) -> None:
        self.engine.stream = stream

    @property
    def phase(self) -> EnginePhase:
        """Where the engine stands at its clock."""
        return self.engine.state().phase

    def submit(self, request: EngineRequest) -> None:
        """See :class:`Engine`."""
        if self.engine.phase is EnginePhase.FAILED:
            self._refused.append(EngineEvent(EventKind.ABORTED, request.id, request.arrival))
        else:
            self.engine.submit(request)

    def cancel(self, request_id: str) -> bool:
        """See :class:`Engine`."""
        return self.engine.cancel(request_id)

    def advance(self, until: float) -> list[EngineEvent]:
        """See :class:`Engine`; what is due to happen happens on the way."""
        events: list[EngineEvent] = []
        while self._fate and self._fate[0].at <= until:
            mishap = self._fate.popleft()
            if mishap.at > self.engine.now:
                events += self.engine.advance(mishap.at)
            self._happen(mishap)
        events += self.engine.advance(until)
        if self._refused:
            refused, self._refused = self._refused, []
            events = sorted(events + refused, key=lambda event: event.at)
        return events

    def next_event_at(self) -> float | None:
        """See :class:`Engine`."""
        if self._refused:
            return self._refused[0].at
        due = self.engine.next_event_at()
        if not self._fate:
            return due
        return self._fate[0].at if due is None else min(due, self._fate[0].at)

    def state(self) -> EngineState:
        """See :class:`Engine`."""
        return self.engine.state()

    def _happen(self, mishap: Mishap) -> None:
        phase = self.phase
        if mishap.act is Act.PACE:
            self.engine.slow_down(mishap.factor)
        elif mishap.act is Act.CRASH and phase is EnginePhase.READY:
            self.engine.fail()
            self.back_at = None
        elif mishap.act is Act.RESTART and phase is EnginePhase.FAILED:
            self.engine.start()
            self.back_at = mishap.at + self.engine.profile.cold_start_s
