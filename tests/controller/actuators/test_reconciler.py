from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller import stages
from controller.actuators import Exit
from controller.actuators.process import ProcessActuator
from controller.actuators.reconciler import EventKind, Reconciler, ReplicaEvent
from controller.errors import ActuatorError, NoFreePort, StartFailed
from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.types import Admitted, PoolName, PoolSpec, Scale, Ticket, WorkerName, WorkerPhase, WorkerSpec
from tests.controller.actuators.servers import options, probe, server

POOLS = (PoolSpec("small", "m-small", 0), PoolSpec("large", "m-large", 1))


class Machines:
    """An actuator whose workers are ready when the test says so."""

    def __init__(self, *, hold: bool = False) -> None:
        self.pools: frozenset[PoolName] = frozenset({"small"})
        self.alive: list[WorkerName] = []
        self.fail: ActuatorError | None = None
        self.gate = asyncio.Event()
        if not hold:
            self.gate.set()
        self.crashed: list[Exit] = []
        self._count = 0

    async def launch(self, pool: PoolName) -> WorkerSpec:
        await asyncio.sleep(0)
        if isinstance(self.fail, NoFreePort):
            raise self.fail
        self._count += 1
        name = f"{pool}:{self._count}"
        self.alive.append(name)
        return WorkerSpec(name, pool, f"http://127.0.0.1:{self._count}", max_inflight=4)

    async def ready(self, worker: WorkerName) -> None:
        await self.gate.wait()
        if worker not in self.alive or self.fail is not None:
            await self.stop(worker)
            raise self.fail or StartFailed(f"worker {worker} was stopped")

    async def stop(self, worker: WorkerName) -> None:
        await asyncio.sleep(0)
        if worker in self.alive:
            self.alive.remove(worker)

    def crash(self, worker: WorkerName) -> None:
        self.alive.remove(worker)
        self.crashed.append(Exit(worker, "small", -9, "out of memory"))

    def exits(self) -> tuple[Exit, ...]:
        found, self.crashed = tuple(self.crashed), []
        return found

    async def close(self) -> None:
        self.gate.set()
        for worker in tuple(self.alive):
            await self.stop(worker)


class Bench:
    """A control plane, machines, a reconciler between them, and a clock that the test turns."""

    def __init__(self, *, hold: bool = False) -> None:
        self.at = 0.0
        self.plane = ControlPlane(POOLS, stages.build({}, Resources(POOLS)), aliases={}, settings=ControlSettings())
        self.machines = Machines(hold=hold)
        self.events: list[ReplicaEvent] = []
        self.reconciler = Reconciler(
            self.plane, self.machines, now=lambda: self.at, on_event=self.events.append, poll_s=0.001
        )

    def want(self, replicas: int, pool: str = "small") -> None:
        self.reconciler.want([Scale(pool, replicas, "test")])

    def phases(self) -> dict[WorkerName, WorkerPhase]:
        workers = self.plane.view(self.at).pool("small").workers
        return {worker.name: worker.phase for worker in workers if not worker.removed}

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]

    async def settled(self) -> None:
        await self.until(lambda: self.reconciler.settled)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.001)

    def settles_while_time_passes(self) -> bool:
        self.at += 10.0
        return self.reconciler.settled and not self.machines.crashed

    def occupy(self, ticket: str) -> WorkerName:
        """Have the pool serve a request; returns where it runs."""
        admitted = self.plane.submit(Ticket(ticket, "small", prompt_chars=10), self.at)
        assert isinstance(admitted, Admitted)
        self.plane.on_scores(ticket, None, self.at)
        (dispatch,) = self.plane.dispatch(self.at)
        return dispatch.worker


@contextlib.asynccontextmanager
async def bench(*, hold: bool = False) -> AsyncIterator[Bench]:
    made = Bench(hold=hold)
    loop = asyncio.create_task(made.reconciler.run())
    try:
        yield made
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        await made.reconciler.close()


def run(work: Coroutine[None, None, None]) -> None:
    asyncio.run(work)


def test_a_worker_serves_only_once_it_is_healthy() -> None:
    async def work() -> None:
        async with bench(hold=True) as b:
            b.want(2)
            await b.until(lambda: len(b.phases()) == 2)
            assert set(b.phases().values()) == {WorkerPhase.STARTING}
            assert not b.reconciler.settled
            b.machines.gate.set()
            await b.settled()
            assert b.phases() == {"small:1": WorkerPhase.READY, "small:2": WorkerPhase.READY}
            assert sorted(b.kinds()) == [EventKind.LAUNCHED] * 2 + [EventKind.READY] * 2

    run(work())


def test_a_worker_is_stopped_only_when_nothing_is_in_flight_on_it() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(1)
            await b.settled()
            assert b.occupy("t") == "small:1"
            b.want(0)
            await b.until(lambda: b.phases() == {"small:1": WorkerPhase.DRAINING})
            await asyncio.sleep(0.01)
            assert b.machines.alive == ["small:1"]
            b.plane.on_finish("t", None, b.at)
            await b.settled()
            assert (b.machines.alive, b.phases()) == ([], {})
            assert b.kinds()[-2:] == [EventKind.DRAINING, EventKind.STOPPED]

    run(work())


def test_a_drain_ends_at_its_time_limit_and_says_what_was_lost() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(1)
            await b.settled()
            b.occupy("t")
            b.want(0)
            await b.until(lambda: EventKind.DRAINING in b.kinds())
            b.at = 601.0
            await b.settled()
            assert b.events[-1].detail == "with 1 requests in flight"

    run(work())


def test_the_emptiest_worker_goes_first() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(3)
            await b.settled()
            busy = {b.occupy("t-1"), b.occupy("t-2")}
            assert len(busy) == 2
            b.want(2)
            await b.settled()
            assert set(b.phases()) == busy

    run(work())


def test_a_draining_worker_is_wanted_again_before_a_new_one_is_started() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(1)
            await b.settled()
            b.occupy("t")
            b.want(0)
            await b.until(lambda: b.phases() == {"small:1": WorkerPhase.DRAINING})
            b.want(1)
            await b.settled()
            assert b.phases() == {"small:1": WorkerPhase.READY}
            assert b.kinds()[-1] is EventKind.REVIVED
            await asyncio.sleep(0.01)
            assert b.machines.alive == ["small:1"]

    run(work())


def test_one_that_is_still_starting_is_given_up_first() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(1)
            await b.settled()
            b.machines.gate.clear()
            b.want(2)
            await b.until(lambda: len(b.phases()) == 2)
            b.want(1)
            await b.until(lambda: b.machines.alive == ["small:1"])
            b.machines.gate.set()
            await b.settled()
            assert b.phases() == {"small:1": WorkerPhase.READY}
            assert EventKind.START_FAILED not in b.kinds()

    run(work())


def test_a_decision_that_changes_before_the_process_exists_is_kept() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(3)
            b.reconciler.step()
            b.want(0)
            b.reconciler.step()
            await b.settled()
            assert (b.machines.alive, b.phases()) == ([], {})

    run(work())


def test_a_crash_is_reported_and_replaced_after_a_pause() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(1)
            await b.settled()
            b.machines.crash("small:1")
            await b.until(lambda: EventKind.CRASHED in b.kinds())
            crashed = b.events[-1]
            assert (crashed.worker, crashed.pool) == ("small:1", "small")
            assert "status -9" in crashed.detail
            assert "out of memory" in crashed.detail
            await asyncio.sleep(0.01)
            assert (b.phases(), b.machines.alive) == ({}, [])
            b.at += 1.0
            await b.until(lambda: b.phases() == {"small:2": WorkerPhase.READY})

    run(work())


@pytest.mark.parametrize("failure", [NoFreePort("every port is taken"), StartFailed("ended with status 1", "no GPU")])
def test_failed_starts_are_reported_and_tried_again_ever_more_slowly(failure: ActuatorError) -> None:
    async def work() -> None:
        async with bench() as b:
            b.machines.fail = failure
            b.want(1)
            for tries, pause in enumerate((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0), start=1):
                await b.until(lambda tries=tries: b.kinds().count(EventKind.START_FAILED) == tries)  # type: ignore[misc]
                assert str(failure) in b.events[-1].detail
                assert f"{pause:g} s" in b.events[-1].detail
                assert b.phases() == {}
                b.at += pause - 0.01
                b.reconciler.step()
                assert all(task.done() for task in b.reconciler._tasks)
                b.at += 0.02
            b.machines.fail = None
            await b.settled()
            assert list(b.phases().values()) == [WorkerPhase.READY]

    run(work())


def test_listed_workers_count_and_are_never_stopped() -> None:
    async def work() -> None:
        async with bench() as b:
            b.plane.add_worker(WorkerSpec("listed", "small", "http://a:1"), b.at)
            b.want(2)
            await b.settled()
            assert set(b.phases()) == {"listed", "small:1"}
            b.want(0)
            await b.until(lambda: set(b.phases()) == {"listed"})
            await asyncio.sleep(0.01)
            assert b.phases() == {"listed": WorkerPhase.READY}

    run(work())


def test_pools_without_an_actuator_are_left_alone() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(3, pool="large")
            await b.settled()
            assert b.machines.alive == []

    run(work())


def test_close_ends_what_is_starting_running_and_draining() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(2)
            await b.settled()
            b.occupy("t")
            b.want(0)
            await b.until(lambda: len(b.phases()) == 1)
            b.machines.gate.clear()
            b.want(3)
            b.reconciler.step()
        assert b.machines.alive == []
        assert b.phases() == {}

    run(work())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4) | st.sampled_from(["crash", "busy", "time"]), max_size=10))
def test_whatever_happens_the_wanted_number_is_reached_and_nothing_leaks(steps: list[int | str]) -> None:
    async def work() -> None:
        async with bench() as b:
            wanted = 0
            for number, step in enumerate(steps):
                ready = [name for name in b.machines.alive if b.phases().get(name) is WorkerPhase.READY]
                if isinstance(step, int):
                    wanted = step
                    b.want(step)
                elif step == "crash" and ready:
                    b.machines.crash(ready[0])
                elif step == "busy" and ready:
                    b.occupy(f"t-{number}")
                elif step == "time":
                    b.at += 10.0
                await asyncio.sleep(0)
            await b.until(b.settles_while_time_passes)
            assert list(b.phases().values()) == [WorkerPhase.READY] * wanted
            assert sorted(b.machines.alive) == sorted(b.phases())

    run(work())


def test_real_processes_come_and_go(tmp_path: Path) -> None:
    async def work() -> None:
        plane = ControlPlane(POOLS, stages.build({}, Resources(POOLS)), aliases={}, settings=ControlSettings())
        processes = ProcessActuator({"small": options(server())}, logs=tmp_path, environ=os.environ, probe=probe)
        clock = asyncio.get_running_loop().time
        reconciler = Reconciler(plane, processes, now=clock, on_event=lambda _: None, poll_s=0.01)
        loop = asyncio.create_task(reconciler.run())
        try:
            for replicas in (2, 0):
                reconciler.want([Scale("small", replicas, "test")])
                async with asyncio.timeout(20):
                    while not reconciler.settled:
                        await asyncio.sleep(0.01)
                workers = [worker for worker in plane.view(clock()).pool("small").workers if not worker.removed]
                assert [worker.phase for worker in workers] == [WorkerPhase.READY] * replicas
        finally:
            loop.cancel()
            await reconciler.close()

    run(work())


def test_one_that_lives_and_does_not_answer_is_ended_and_then_replaced_after_a_pause() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(1)
            await b.settled()
            b.reconciler.unresponsive("small:1", "30 looks in a row failed")
            b.reconciler.unresponsive("small:1", "31 looks in a row failed")
            b.reconciler.unresponsive("listed", "not one of ours")
            assert b.phases() == {"small:1": WorkerPhase.DRAINING}
            b.reconciler.step()
            assert b.machines.alive == ["small:1"]  # what it holds is not free yet
            await b.until(lambda: b.phases() == {})
            assert b.kinds()[2:] == [EventKind.UNRESPONSIVE, EventKind.STOPPED]
            assert "30 looks" in b.events[2].detail
            await asyncio.sleep(0.01)
            assert b.machines.alive == []
            b.at += 1.0
            await b.until(lambda: b.phases() == {"small:2": WorkerPhase.READY})

    run(work())


def test_one_that_is_ended_already_is_the_first_to_be_given_up() -> None:
    async def work() -> None:
        async with bench() as b:
            b.want(2)
            await b.settled()
            b.reconciler.unresponsive("small:2", "silent")
            b.want(1)
            await b.settled()
            assert b.phases() == {"small:1": WorkerPhase.READY}
            assert b.machines.alive == ["small:1"]
            assert b.kinds().count(EventKind.STOPPED) == 1

    run(work())
