"""Stage ``rebalance``: whether a running request should move to another worker."""

from __future__ import annotations

from controller.protocols import Move, Options, Resources
from controller.view import FleetView


class NoRebalance:
    """A request stays where it was placed."""

    name = "none"

    @classmethod
    def create(cls, options: Options, resources: Resources) -> NoRebalance:
        return cls()

    def plan(self, view: FleetView, now: float) -> tuple[Move, ...]:
        return ()
