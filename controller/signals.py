"""What the predictors are asked about each ticket, and what becomes of it."""

from __future__ import annotations

from controller.protocols import Informed, OrderStage, PlaceStage, Signal, TierStage
from controller.tally import Outcome, Tally
from controller.tickets import NO_SIGNALS, TicketState
from controller.types import Scores

__all__ = ["Signals"]

_NAMES = {signal: signal.value for signal in Signal}
_QUALITY = Signal.QUALITY


class Signals:
    """Keeps count of the signals that some stage needs: each ticket has each of them, goes without it, or is spared."""

    def __init__(self, tier: TierStage, order: OrderStage, tally: Tally, place: PlaceStage | None = None) -> None:
        self._tally = tally
        self.waiting = order.needs | place.needs if isinstance(place, Informed) else order.needs
        """What is asked about a ticket whose tier is given, if it has to wait."""
        self.needs = tier.needs | self.waiting
        needs = sorted(self.needs)
        for signal in needs:
            tally.expect("score", signal.value)
        self._scored = {signal: tally.counter("score", signal.value, Outcome.SCORED) for signal in needs}
        self._skipped = {signal: tally.counter("score", signal.value, Outcome.SKIPPED) for signal in needs}

    def want(self, state: TicketState, wanted: frozenset[Signal]) -> None:
        """These are asked for; the others are not worth it."""
        state.wanted = wanted
        for signal, skipped in self._skipped.items():
            if signal not in wanted:
                skipped.times += 1

    def came(self, state: TicketState, scores: Scores | None, why: str) -> None:
        """The scores, or ``None`` and why there will be none."""
        for signal in state.wanted:
            if scores is not None and _has(scores, signal):
                self._scored[signal].times += 1
            else:
                lacks = why if scores is None else "no_prediction"
                self._tally.count("score", _NAMES[signal], Outcome.FALLBACK, lacks)
        state.wanted = NO_SIGNALS
        if scores is not None:
            state.scores = scores
            state.unranked = "no_prediction" if scores.length_rank is None else None
        elif state.scores is None:
            state.unranked = why

    def spare(self, state: TicketState) -> None:
        """The ticket is sent before they came."""
        for signal in state.wanted:
            self._skipped[signal].times += 1
        state.wanted = NO_SIGNALS


def _has(scores: Scores, signal: Signal) -> bool:
    if signal is _QUALITY:
        return scores.quality is not None
    return scores.length_rank is not None or scores.output_tokens is not None
