"""From the number of replicas that was decided to the workers that run.

A worker is shown to the control plane as ``STARTING`` from its launch, and becomes ``READY`` only once it is healthy.
It is ``DRAINING`` until nothing is in flight on it, and only then stopped. One that ends unasked is taken out, reported
and replaced, after a pause that doubles while failures follow one another; so is one of which the driver says that it
lives and does not answer, once it is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from controller.actuators import Actuator
from controller.errors import ActuatorError
from controller.types import PoolName, Scale, WorkerName, WorkerPhase, WorkerSpec
from controller.view import FleetView

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_FORGIVEN_AFTER_S = 300.0


class Plane(Protocol):
    """What the reconciler needs of :class:`controller.pipeline.ControlPlane`."""

    def add_worker(self, spec: WorkerSpec, now: float, phase: WorkerPhase = ...) -> None: ...
    def set_phase(self, name: WorkerName, phase: WorkerPhase, now: float) -> None: ...
    def remove_worker(self, name: WorkerName, now: float) -> None: ...
    def view(self, now: float) -> FleetView: ...


class EventKind(StrEnum):
    """What happened to a replica."""

    LAUNCHED = "launched"
    READY = "ready"
    START_FAILED = "start_failed"
    DRAINING = "draining"
    REVIVED = "revived"
    STOPPED = "stopped"
    CRASHED = "crashed"
    UNRESPONSIVE = "unresponsive"


@dataclass(frozen=True, slots=True)
class ReplicaEvent:
    """One step in a replica's life, for the operator."""

    at: float
    kind: EventKind
    pool: PoolName
    worker: WorkerName | None
    """``None`` where it never got a name."""
    detail: str = ""


@dataclass(slots=True, eq=False)
class _Member:
    pool: PoolName
    spec: WorkerSpec | None = None
    phase: WorkerPhase = WorkerPhase.STARTING
    stopping: bool = False
    """Past recall: its process is being ended."""


@dataclass(slots=True)
class _Setbacks:
    """Failures of one pool that follow one another."""

    count: int = 0
    last_at: float = 0.0
    not_before: float = float("-inf")

    def add(self, now: float) -> float:
        """Count one more; returns the pause that follows."""
        self.count = 1 if now - self.last_at > _FORGIVEN_AFTER_S else self.count + 1
        pause = min(_FIRST_PAUSE_S * 2.0 ** (self.count - 1), _LONGEST_PAUSE_S)
        self.last_at, self.not_before = now, now + pause
        return pause


@dataclass(slots=True)
class Reconciler:
    """Keeps as many replicas as wanted. Everything happens in the loop that runs :meth:`run`.

    A pool's replicas are its workers that start or serve, those the configuration lists included; only the workers
    launched here are ever stopped. ``now`` is the control plane's clock; ``on_event`` is told each step, after the
    control plane knows of it.
    """

    plane: Plane
    actuator: Actuator
    now: Callable[[], float]
    on_event: Callable[[ReplicaEvent], None]
    poll_s: float = 0.2
    """Between two looks at exits and draining workers."""
    drain_timeout_s: float = 600.0
    """A draining worker is stopped by then, whatever is in flight on it."""
    _wanted: dict[PoolName, int] = field(default_factory=dict, init=False)
    _members: list[_Member] = field(default_factory=list, init=False)
    _setbacks: dict[PoolName, _Setbacks] = field(default_factory=dict, init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _woken: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def want(self, decisions: Iterable[Scale]) -> None:
        """Take the control plane's decisions; returns at once. Pools that the actuator cannot serve are left alone."""
        for decision in decisions:
            if decision.pool in self.actuator.pools:
                self._wanted[decision.pool] = decision.replicas
                self._woken.set()

    def unresponsive(self, worker: WorkerName, why: str) -> None:
        """Stop this worker, which does not answer any more; :meth:`step` then starts another one in its place.

        Says nothing twice, and nothing of workers that are not ready members.
        """
        for member in self._in_any(WorkerPhase.READY):
            if member.spec is not None and member.spec.name == worker and not member.stopping:
                member.stopping = True
                pause = self._setback(member.pool).add(self.now())
                self.plane.set_phase(worker, WorkerPhase.DRAINING, self.now())
                self._tell(EventKind.UNRESPONSIVE, member, f"{why}\nnext start in {pause:g} s at the earliest")
                # It counts as a replica until it is gone: what it holds, a GPU's memory above all, is not free before.
                self._begin(self._end(member, "did not answer"))

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            self._woken.clear()
            self.step()
            # Not wait_for: Python 3.11's loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.poll_s):
                    await self._woken.wait()

    def step(self) -> None:
        """Notice exits, then begin what brings each pool to its number."""
        self._bury()
        for pool, wanted in self._wanted.items():
            missing = wanted - self._replicas(pool)
            if missing > 0:
                self._grow(pool, missing)
            elif missing < 0:
                self._shrink(pool, -missing)

    @property
    def settled(self) -> bool:
        """Whether every pool has its number, with nothing starting or stopping."""
        at_rest = all(member.phase is WorkerPhase.READY for member in self._members)
        return at_rest and not self._tasks and all(self._replicas(pool) == n for pool, n in self._wanted.items())

    async def close(self) -> None:
        """Stop every worker that was launched here, without draining; call it once ``run`` is cancelled."""
        self._wanted.clear()
        for member in self._members:
            member.phase, member.stopping = WorkerPhase.DRAINING, True
        await self.actuator.close()
        await asyncio.gather(*self._tasks)
        for member in tuple(self._members):
            self._drop(member, EventKind.STOPPED, "shut down")

    def _replicas(self, pool: PoolName) -> int:
        ours = {member.spec.name for member in self._members if member.spec is not None}
        listed = (worker for worker in self.plane.view(self.now()).pool(pool).workers if worker.name not in ours)
        gone = (WorkerPhase.DRAINING, WorkerPhase.SLEEPING)
        others = sum(1 for worker in listed if worker.phase not in gone and not worker.removed)
        return others + sum(1 for m in self._members if m.pool == pool and m.phase is not WorkerPhase.DRAINING)

    def _grow(self, pool: PoolName, missing: int) -> None:
        for member in self._in(pool, WorkerPhase.DRAINING):
            if missing and not member.stopping and member.spec is not None:
                member.phase = WorkerPhase.READY
                self.plane.set_phase(member.spec.name, WorkerPhase.READY, self.now())
                self._tell(EventKind.REVIVED, member)
                missing -= 1
        if self.now() >= self._setback(pool).not_before:
            for _ in range(missing):
                member = _Member(pool)
                self._members.append(member)
                self._begin(self._bring_up(member))

    def _shrink(self, pool: PoolName, excess: int) -> None:
        """Starting ones go first, the newest before the others; then those with the least in flight."""
        starting = reversed(self._in(pool, WorkerPhase.STARTING))
        ready = sorted(
            self._in(pool, WorkerPhase.READY), key=lambda member: (not member.stopping, self._inflight(member))
        )
        for member in (*starting, *ready)[:excess]:
            if member.phase is WorkerPhase.READY and not member.stopping:
                self._begin(self._drain(member))
            elif member.spec is not None and not member.stopping:
                member.stopping = True
                self._begin(self._end(member, "no longer wanted"))
            member.phase = WorkerPhase.DRAINING  # what has no process yet is ended as soon as it has

    async def _bring_up(self, member: _Member) -> None:
        try:
            spec = member.spec = await self.actuator.launch(member.pool)
            self.plane.add_worker(spec, self.now(), WorkerPhase.STARTING)
            self._tell(EventKind.LAUNCHED, member)
            if member.phase is WorkerPhase.DRAINING:
                await self._end(member, "no longer wanted")
                return
            await self.actuator.ready(spec.name)
        except ActuatorError as error:
            if not member.stopping:
                self._fail(member, EventKind.START_FAILED, str(error))
            return
        if member.phase is WorkerPhase.STARTING:
            member.phase = WorkerPhase.READY
            self.plane.set_phase(spec.name, WorkerPhase.READY, self.now())
            self._tell(EventKind.READY, member)

    async def _drain(self, member: _Member) -> None:
        assert member.spec is not None
        self.plane.set_phase(member.spec.name, WorkerPhase.DRAINING, self.now())
        self._tell(EventKind.DRAINING, member)
        until = self.now() + self.drain_timeout_s
        while (inflight := self._inflight(member)) and self.now() < until:
            await asyncio.sleep(self.poll_s)
            if member.stopping or member.phase is not WorkerPhase.DRAINING or member not in self._members:
                return  # already being ended, wanted again, or crashed
        await self._end(member, f"with {inflight} requests in flight" if inflight else "")

    async def _end(self, member: _Member, detail: str) -> None:
        assert member.spec is not None
        member.stopping = True
        await self.actuator.stop(member.spec.name)
        if member in self._members:
            self._drop(member, EventKind.STOPPED, detail)

    def _bury(self) -> None:
        for ended in self.actuator.exits():
            for member in self._members:
                if member.spec is not None and member.spec.name == ended.worker:
                    status = "unknown" if ended.code is None else str(ended.code)
                    self._fail(member, EventKind.CRASHED, f"ended with status {status}; its last lines:\n{ended.log}")
                    break

    def _fail(self, member: _Member, kind: EventKind, detail: str) -> None:
        pause = self._setback(member.pool).add(self.now())
        self._drop(member, kind, f"{detail}\nnext start in {pause:g} s at the earliest")

    def _drop(self, member: _Member, kind: EventKind, detail: str) -> None:
        self._members.remove(member)
        if member.spec is not None:
            self.plane.remove_worker(member.spec.name, self.now())
        self._tell(kind, member, detail)

    def _in(self, pool: PoolName, phase: WorkerPhase) -> list[_Member]:
        return [member for member in self._in_any(phase) if member.pool == pool]

    def _in_any(self, phase: WorkerPhase) -> list[_Member]:
        return [member for member in self._members if member.phase is phase]

    def _inflight(self, member: _Member) -> int:
        workers = self.plane.view(self.now()).pool(member.pool).workers
        return sum(w.inflight for w in workers if member.spec is not None and w.name == member.spec.name)

    def _setback(self, pool: PoolName) -> _Setbacks:
        return self._setbacks.setdefault(pool, _Setbacks())

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, kind: EventKind, member: _Member, detail: str = "") -> None:
        name = member.spec.name if member.spec is not None else None
        self.on_event(ReplicaEvent(self.now(), kind, member.pool, name, detail))
