"""Tickets that wait in vain: their pool has lost its workers, or their time is up."""

from __future__ import annotations

from controller.endings import Endings
from controller.fleet import Fleet
from controller.intake import Intake, no_worker
from controller.protocols import FairnessStage
from controller.settings import ControlSettings
from controller.tickets import TicketState, pool_of
from controller.tiering import Tiering
from controller.types import Rejected, Result
from controller.waiting import WaitingRoom

__all__ = ["Stranded"]


class Stranded:
    """Has them choose another pool where one can serve them, and gives up the others."""

    def __init__(
        self,
        fleet: Fleet,
        waiting: WaitingRoom,
        intake: Intake,
        tiering: Tiering,
        endings: Endings,
        fairness: FairnessStage,
        settings: ControlSettings,
    ) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._intake = intake
        self._tiering = tiering
        self._endings = endings
        self._fairness = fairness
        self._settings = settings
        self.given_up: list[Rejected] = []
        """What the driver has not been told yet."""

    def reconfigure(self, settings: ControlSettings) -> None:
        """Go by these settings from now on."""
        self._settings = settings

    def rehome(self, now: float) -> None:
        """Tickets whose pool has lost its last ready worker choose again, where another pool can serve them."""
        for pool in self._fleet.pools.values():
            if pool.queued and not pool.ready:
                for state in self._waiting.of_pool(pool):
                    if any(other.ready for other in state.candidates):
                        self._choose_again(state, now)

    def strand(self, now: float) -> None:
        """Reject what waits for pools that have no worker and will get none."""
        for pool in self._fleet.pools.values():
            if pool.queued and not self._intake.reachable(pool, now):
                for state in self._waiting.of_pool(pool):
                    if any(other.alive for other in state.candidates):
                        self._choose_again(state, now)
                    else:
                        self._reject(state, no_worker(state.ticket, [pool]), now)

    def expire(self, now: float) -> None:
        """Reject what has waited for as long as it may."""
        for state in self._waiting.expired(now):
            since = state.submitted_at if state.requeued_at is None else state.requeued_at
            ticket, waited = state.ticket, f"after {now - since:.1f} s in the queue"
            if ticket.deadline is not None and self._settings.drop_late and ticket.deadline <= now:
                late = Rejected(ticket.id, 504, "deadline_exceeded", f"its deadline passed {waited}")
            else:
                late = Rejected(ticket.id, 503, "queue_timeout", f"no worker had room {waited}", retry_after=5.0)
            self._reject(state, late, now)

    def tell(self) -> tuple[Rejected, ...]:
        """What was given up since the last call."""
        told, self.given_up = tuple(self.given_up), []
        return told

    def _choose_again(self, state: TicketState, now: float) -> None:
        before = pool_of(state)
        self._waiting.discard(state, now)
        pool = self._tiering.choose(state, "no_scores", self._fleet.view(now, len(self._waiting.held)), now)
        self._waiting.enqueue(state, pool, now, keep_key=True)
        if state.prepaid and pool is not before:  # what was charged in advance goes with it
            self._fairness.decoded(before.name, state.group, -state.prepaid)
            self._fairness.decoded(pool.name, state.group, state.prepaid)

    def _reject(self, state: TicketState, rejected: Rejected, now: float) -> None:
        self._waiting.discard(state, now)
        self.given_up.append(rejected)
        self._endings.end(state, Result.FAILED if state.continued else Result.REJECTED, rejected.code, None, now)
