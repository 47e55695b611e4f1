"""Asks the tier stage, and keeps count of how it decided."""

from __future__ import annotations

import numpy as np

from controller.errors import ControlError
from controller.members import PoolState
from controller.protocols import TierContext, TierStage
from controller.tally import Outcome, Tally
from controller.tickets import TicketState
from controller.types import Choice, PoolName, Scores
from controller.view import FleetView


class Tiering:
    """The choice of a pool for tickets that have one."""

    def __init__(self, stage: TierStage, tally: Tally, seed: int) -> None:
        self._stage = stage
        self._tally = tally
        self._random = np.random.default_rng(seed)
        tally.expect("tier", stage.name)
        self._scored = tally.counter("tier", stage.name, Outcome.SCORED)
        self._skipped = tally.counter("tier", stage.name, Outcome.SKIPPED)
        self._asked: tuple[TicketState, TierContext] | None = None
        """The last question, and of whom: mostly it is looked at before it is decided."""

    def context(
        self, state: TicketState, scores: Scores | None, why: str | None, view: FleetView, now: float
    ) -> TierContext:
        """What the stage is asked for this ticket. As long as the fleet stands as it did, the same as before."""
        lacks = why if scores is None else None
        if self._asked is not None:
            asked, known = self._asked
            if asked is state and known.view is view and known.scores is scores and known.why == lacks:
                return known
        context = TierContext(
            state.ticket,
            state.prompt_tokens,
            scores,
            lacks,
            view,
            state.ladder,
            _able(state),
            now,
            self._random,
            state.recorded,
        )
        self._asked = state, context
        return context

    def choose(self, state: TicketState, why: str | None, view: FleetView, now: float) -> PoolState:
        """Decide, count, and note the choice on the ticket."""
        context = self.context(state, state.scores, why, view, now)
        if len(context.pools) == 1:
            self.skip()
            choice = Choice("tier", "pinned", context.pools[0])
        else:
            choice = self._stage.choose(context)
            if choice.fallback is None:
                self._scored.times += 1
            else:
                self._tally.count("tier", self._stage.name, Outcome.FALLBACK, choice.fallback)
        if state.recorded:
            state.choices.append(choice)
        for pool in state.candidates:
            if pool.name == choice.chosen:
                return pool
        raise ControlError(f"tier {self._stage.name} chose {choice.chosen!r}, which cannot serve {state.ticket.id!r}")

    def skip(self) -> None:
        """There was nothing to choose."""
        self._skipped.times += 1


def _able(state: TicketState) -> tuple[PoolName, ...]:
    """Candidates with a ready worker; else with one alive; else with any at all; else all."""
    ready = tuple([pool.name for pool in state.candidates if pool.ready])
    if ready:
        return ready
    alive = [pool for pool in state.candidates if pool.alive]
    able = alive or [pool for pool in state.candidates if pool.workers] or state.candidates
    return tuple([pool.spec.name for pool in able])
