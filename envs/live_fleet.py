"""A fleet of live servers under the control plane, in real time: the same thing to an environment as a simulated one.

The control plane and every connection live in one event loop in a thread of their own, and everything asked here is
done there. Requests are dispatched, and answers arrive, while whoever drives the fleet thinks or learns. Nothing waits
for that: a request that is submitted late keeps the time it was due, and its lateness counts into its latency.

Three differences from the simulated fleet, all due to time being real:

- A request whose tier is open waits for :meth:`LiveFleet.score` as long as it takes. The scoring budget, 5 ms by
  default, is for predictors; an agent that learns needs longer. ``keep_scoring_budget`` keeps it all the same: then the
  control plane's fallback chooses when it is over.
- Reports are as late as the network makes them; ``FleetClock.report_delay`` adds nothing.
- An episode has bounds, and ends clean: :meth:`LiveFleet.close` aborts what is open and waits until the servers' own
  gauges say that nothing runs or waits there.

Several hundred requests at once need as many file descriptors; where the limit is 1,024, raise it before going higher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from controller.pipeline import ControlPlane
from controller.protocols import TierContext
from controller.types import TicketId, WorkerName, WorkerPhase, WorkerSpec
from envs.engines.live_errors import LoopFailed
from envs.engines.live_loop import LoopThread, WallClock
from envs.engines.live_server import LiveServer
from envs.fleet import Ended, FleetClock, FleetRequest
from envs.live_driver import LiveDriver, unhurried
from envs.live_types import OVER, Bodies, Bounds, LiveEnded
from upstream.types import Header, Timeouts

__all__ = ["OVER", "Bodies", "Bounds", "LiveEnded", "LiveFleet"]

T = TypeVar("T")


class LiveFleet:
    """Drives ``control`` over the servers of ``workers``; implements :class:`envs.fleet.Fleet`. To be closed.

    What a request asks is, in this order: what ``bodies`` says; a chat with its ``prompt``, answered up to its ticket's
    ``max_tokens``; else a completion of as many tokens of the server's own as it is said to have, in and out. The text
    of answers is in :attr:`Ended.text`, but for the last kind. What ends is a :class:`LiveEnded`.

    The clock starts at 0 when all servers have been found ready. ``idle_within`` is how long, in seconds, servers may
    take to become idle at the end; ``None`` does not wait for it (where others use the servers as well).

    Raises:
        ServerUnusable: a server does not answer, or does not serve its pool's model.
    """

    def __init__(
        self,
        control: ControlPlane,
        workers: Sequence[WorkerSpec],
        clock: FleetClock | None = None,
        *,
        bodies: Bodies | None = None,
        bounds: Bounds | None = None,
        keep_scoring_budget: bool = False,
        idle_within: float | None = 10.0,
        timeouts: Timeouts | None = None,
        headers: Sequence[Header] = (),
    ) -> None:
        self._idle_within = idle_within
        self._sample = bodies is None
        self._timeouts = timeouts
        self._headers = tuple(headers)
        self._asleep: set[WorkerName] = set()
        """Put to sleep by this fleet."""
        self._clock = WallClock()
        self._closed = False
        self._loop = LoopThread("headway-fleet")
        try:
            self._driver = self._loop.call(
                lambda: LiveDriver(control, self._clock, clock or FleetClock(), bounds or Bounds(), bodies)
            )
            servers = [self._connected(control, spec) for spec in workers]
            self._clock.restart()
            if not keep_scoring_budget:
                self._loop.call(lambda: unhurried(control, self.now))
            for spec, server in zip(workers, servers, strict=True):
                self._add(spec, server)
            self._loop.call(self._driver.start)
        except BaseException:
            self._loop.close()
            raise

    # ------------------------------------------------------------------ the Fleet protocol

    @property
    def now(self) -> float:
        """The clock: real time, in seconds."""
        return self._clock()

    @property
    def open(self) -> int:
        """Requests that have not ended."""
        return len(self._driver.open)

    def submit(self, request: FleetRequest) -> bool:
        """See :meth:`Fleet.submit`. A request may come late (see :attr:`LiveEnded.late_by`); once the episode is
        :attr:`over`, it is turned away with the code ``episode_over``.

        Raises:
            ValueError: it comes before its time, or its id is still open.
        """
        return self._loop.call(lambda: self._driver.submit(request))

    def tier_context(self, ticket: TicketId) -> TierContext | None:
        """See :meth:`Fleet.tier_context`."""

        def context() -> TierContext | None:
            state = self._driver.open.get(ticket)
            if state is None:
                return None
            return self._driver.control.tier_context(ticket, state.request.scores, self.now)

        return self._loop.call(context)

    def score(self, ticket: TicketId) -> None:
        """See :meth:`Fleet.score`."""
        self._loop.call(lambda: self._driver.score(ticket))

    def abort(self, ticket: TicketId) -> None:
        """See :meth:`Fleet.abort`."""
        self._loop.call(lambda: self._driver.abort(ticket))

    def advance(self, until: float) -> None:
        """See :meth:`Fleet.advance`: waits for that moment, or not at all if it has passed.

        Raises:
            ValueError: ``until`` is not finite.
            LoopFailed: something failed behind the scenes, such as ``bodies``.
        """
        if not math.isfinite(until):
            raise ValueError(f"a live fleet waits in real time, so it cannot advance to {until}; drain() waits for all")
        self._loop.wait(until - self.now)

    def drain(self, limit: float = math.inf) -> None:
        """See :meth:`Fleet.drain`."""
        self._loop.run(self._driver.idle(limit))

    def take_ended(self) -> list[Ended]:
        """See :meth:`Fleet.take_ended`; may be asked once more after :meth:`close`."""
        return self._driver.take_ended() if self._closed else self._loop.call(self._driver.take_ended)

    def close(self) -> None:
        """End the episode: abort what is open, wait until the servers are idle, wake those that were put to sleep, let
        go of connections. Idempotent.

        Raises:
            NotIdle: a server still shows requests after ``idle_within`` seconds. Everything has been let go of then.
            ServerUnusable: a server did not wake up. Likewise.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._end()
            for worker in sorted(self._asleep):
                self._loop.run(self._driver.watch.server(worker).wake())
        finally:
            self._loop.close()

    # ------------------------------------------------------------------ beyond the protocol

    @property
    def over(self) -> bool:
        """Whether the episode has reached its bounds, and takes no more requests."""
        return self._driver.over

    def add_worker(self, spec: WorkerSpec) -> None:
        """Let another server join. Raises ServerUnusable as the constructor does."""
        self._add(spec, self._connected(self._driver.control, spec))

    def replay(self, requests: Sequence[FleetRequest]) -> list[Ended]:
        """Run requests, in order of arrival, to their ends, open loop; each is scored as it arrives. All of it goes on
        in the event loop, so that no request is late because of the caller."""
        self._loop.run(self._driver.replay(requests))
        return self.take_ended()

    def consult(self, question: Callable[[ControlPlane, float], T]) -> T:
        """Call ``question(control, now)`` in the thread that owns the control plane; what it returns."""
        return self._loop.call(lambda: question(self._driver.control, self.now))

    def set_phase(self, worker: WorkerName, phase: WorkerPhase) -> None:
        """Have the control plane take a worker as draining, sleeping or ready; its server is not told. While a worker
        fails, the control plane is told so, and this afterwards."""
        self._loop.call(lambda: self._driver.watch.set_phase(worker, phase))

    def sleep(self, worker: WorkerName, level: int = 1) -> None:
        """Take a worker out and have its server fall asleep; what runs there is aborted, and tried again elsewhere.

        Raises:
            ServerUnusable: the server was not started with a sleep mode.
        """
        self.set_phase(worker, WorkerPhase.SLEEPING)
        try:
            self._loop.run(self._driver.watch.server(worker).sleep(level))
        except BaseException:
            self.set_phase(worker, WorkerPhase.READY)
            raise
        self._asleep.add(worker)

    def wake(self, worker: WorkerName) -> None:
        """Wake a worker's server up, wait for that, and let it serve again. Raises ServerUnusable."""
        self._loop.run(self._driver.watch.server(worker).wake())
        self._asleep.discard(worker)
        self.set_phase(worker, WorkerPhase.READY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        try:
            self._loop.run(self._driver.close(self._idle_within))
        except LoopFailed:  # before: it is told, but not at the cost of leaving servers at work
            self._loop.run(self._driver.close(self._idle_within))
            raise

    def _connected(self, control: ControlPlane, spec: WorkerSpec) -> LiveServer:
        model = self._loop.call(lambda: control.view(0.0).pool(spec.pool).spec.model)
        server = LiveServer(
            self._loop.client, spec.url, model, self._clock, timeouts=self._timeouts, headers=self._headers
        )
        self._loop.run(server.connect(sample=self._sample))
        return server

    def _add(self, spec: WorkerSpec, server: LiveServer) -> None:
        self._loop.call(lambda: self._driver.watch.add(spec, server))
