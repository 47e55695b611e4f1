"""No rebalancing."""

from __future__ import annotations

from collections.abc import Sequence

from controller.protocols import Options, Resources
from controller.types import Move
from controller.view import FleetView, TicketView


class NoRebalance:
    """A request stays where it was placed."""

    name = "none"
    interval_s: float | None = None

    @classmethod
    def create(cls, options: Options, resources: Resources) -> NoRebalance:
        return cls()

    def plan(self, view: FleetView, running: Sequence[TicketView], now: float) -> tuple[Move, ...]:
        return ()
