"""Stages that do what they are handed: an agent's actions take the place of a trained policy's decisions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from controller.best_effort import BestEffort
from controller.observation import Codec, Mask, Observation
from controller.order import EnginePriority
from controller.policy import Policy, PolicyDecision
from controller.protocols import OrderContext, Signal, TierContext
from controller.tier import Threshold, ThresholdOptions
from controller.types import Choice, PoolName, Scale, TicketId
from controller.view import FleetView

__all__ = ["HandedOrder", "HandedScale", "HandedTier", "nearest_allowed"]


class HandedTier(BestEffort):
    """The tier stage ``best_effort`` whose policy is an agent: it is asked where the trained one is asked.

    A ticket that has to choose again, because its pool has lost its last worker, goes to the allowed pool nearest to
    the agent's choice. A ticket of which nothing was predicted is decided by the fallback, as in production.
    """

    def __init__(self, codec: Codec) -> None:
        self._hand = _Hand(codec.slots)
        super().__init__(self._hand, Threshold(ThresholdOptions()), codec=codec)
        self._actions: dict[TicketId, int] = {}
        self._unrecorded: dict[PoolName, Choice] = {}
        """Of tickets whose choice is not written down; they are all the same."""
        self._seen: tuple[TicketId, float] | None = None
        self._sight: tuple[Observation, Mask]

    def hand(self, ticket: TicketId, action: int) -> None:
        """This is what the agent decides about the ticket."""
        self._actions[ticket] = action

    def forget(self, ticket: TicketId) -> None:
        """The ticket has ended."""
        self._actions.pop(ticket, None)

    def observe(self, context: TierContext) -> tuple[Observation, Mask]:
        """As :meth:`BestEffort.observe`; what the agent was shown of a ticket is what is decided by at that moment."""
        seen = context.ticket.id, context.now
        if seen == self._seen:
            return self._sight
        sight = self._sight = super().observe(context)
        self._seen = seen
        return sight

    def choose(self, context: TierContext) -> Choice:
        """See :class:`controller.protocols.TierStage`."""
        self._hand.action = self._actions.get(context.ticket.id, 0)
        choice = super().choose(context)
        self._seen = None
        return choice

    def _ask(self, context: TierContext, policy: Policy) -> Choice | str:
        if context.recorded:
            return super()._ask(context, policy)
        ladder, action = context.ladder, self._hand.action
        if action >= len(ladder) or ladder[action] not in context.pools:
            action = nearest_allowed(action, self.codec.allowed(context))
        pool = ladder[action]
        known = self._unrecorded.get(pool)
        if known is None:
            known = self._unrecorded[pool] = Choice("tier", self.name, pool)
        return known


class _Hand:
    """The policy that takes the action it is handed."""

    def __init__(self, slots: int) -> None:
        self.action = 0
        self._decisions = [
            PolicyDecision(chosen, tuple(float(slot == chosen) for slot in range(slots))) for chosen in range(slots)
        ]

    def __call__(self, observation: Observation, mask: Mask) -> PolicyDecision:
        action = self.action
        return self._decisions[action if mask[action] else nearest_allowed(action, mask)]


class HandedOrder(EnginePriority):
    """An order stage whose keys come from outside: ``keys`` of the tickets that are known, else their arrival."""

    name = "handed"
    needs = frozenset({Signal.LENGTH})

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[TicketId, float] = {}

    def key(self, context: OrderContext) -> float:
        """See :class:`controller.protocols.OrderStage`."""
        return self.keys.get(context.ticket.id, context.submitted_at)


class HandedScale:
    """A scale stage that plans nothing: replicas come and go from outside, so waiting for one makes sense."""

    name = "handed"
    interval_s: float | None = None

    def starts(self, pool: PoolName) -> bool:
        """See :class:`controller.protocols.ScaleStage`."""
        return True

    def plan(self, view: FleetView, now: float) -> tuple[Scale, ...]:
        """See :class:`controller.protocols.ScaleStage`."""
        return ()


def nearest_allowed(action: int, mask: npt.NDArray[np.bool_] | Sequence[bool]) -> int:
    """The allowed action nearest to ``action``, the lower one of two; ``mask`` allows at least one."""
    allowed = [slot for slot, may in enumerate(mask) if may]
    return min(allowed, key=lambda other: (abs(other - action), other))
