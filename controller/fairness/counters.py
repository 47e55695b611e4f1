"""What each tenant of a pool was charged, and who of those waiting was charged the least."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from controller.leases import Served
from controller.settings import ControlSettings, TenantSpec
from controller.types import Alternative

__all__ = ["UNLISTED", "Counters", "weights_of"]

UNLISTED = TenantSpec().weight
"""Weight of a tenant that the settings do not name."""
_SHOWN = 8


def weights_of(settings: ControlSettings) -> dict[str, float]:
    """Tenant → weight, of those that the settings name."""
    return {name: tenant.weight for name, tenant in settings.tenants.items()}


class Counters:
    """One pool's counters, and a heap in which each group that waits has one live entry.

    A live entry may be too small, never too large: where something is given back, a new entry takes its place. One that
    surfaces with an old value is put back with the right one; dead ones are thrown away when they surface, or swept out
    when they are many. The entry of a group that has left stays until it surfaces, and serves again if it returns.
    """

    __slots__ = (
        "_bound",
        "_charged",
        "_credit",
        "_entry",
        "_heap",
        "_last_left",
        "_lifted",
        "_remembered",
        "_waiting",
        "floor",
        "values",
    )

    def __init__(self, remembered: int, *, shared: bool = False) -> None:
        self.values: dict[str, float] = {}
        """Group → service charged, divided by its weight."""
        self.floor = 0.0
        """The least counter among those who wait for the same pool at other control planes."""
        self._waiting: set[str] = set()
        self._heap: list[tuple[float, str]] = []
        self._entry: dict[str, float] = {}
        """Group → value of its live entry."""
        self._last_left = 0.0
        self._charged: dict[str, float] | None = {} if shared else None
        """All that was ever charged here; ``None`` where nobody asks."""
        self._credit: dict[str, float] = {}
        """What is to be given back, where counters are shared: those may only grow, so the next charges pay for it."""
        self._lifted: dict[str, float] = {}
        self._remembered = remembered
        self._bound = remembered

    def resting(self) -> float:
        """The least counter among those waiting, or else that of the last that left."""
        floor = self.least()[0] if self._waiting else self._last_left
        return self.floor if self.floor > floor else floor

    def arrived(self, group: str, floor: float) -> None:
        """The group waits now; a counter below ``floor`` is lifted to it."""
        value = self.values.get(group, 0.0)
        if floor >= value:
            value = floor
            if self._charged is not None:
                self._lifted[group] = floor
        self.values[group] = value
        self._waiting.add(group)
        if group not in self._entry:
            self._enter(group, value)
        if len(self.values) > self._bound:
            self._forget(floor)

    def emptied(self, group: str) -> None:
        """The group does not wait any more."""
        self._waiting.discard(group)
        self._last_left = self.values.get(group, 0.0)

    def returned(self, group: str) -> None:
        """The group waits after all: it is as before it was said to have ``emptied``, and is not lifted."""
        self._waiting.add(group)
        if group not in self._entry:
            self._enter(group, self.values[group])

    def charge(self, group: str, service: float) -> None:
        """More service, or less: what is given back moves the group forward at once, where counters are not shared."""
        if self._charged is not None:
            service = self._net(group, service)
            self._charged[group] = self._charged.get(group, 0.0) + service
        value = self.values[group] = self.values.get(group, 0.0) + service
        if service < 0 and group in self._entry:
            self._enter(group, value)

    def served(self) -> dict[str, Served]:
        """What was charged here, and the lifts, of every group that is known."""
        charged = self._charged or {}
        known = charged.keys() | self._lifted.keys()
        return {group: Served(charged.get(group, 0.0), self._lifted.get(group, 0.0)) for group in known}

    def adopt(self, values: Mapping[str, float], floor: float) -> None:
        """Counters of all control planes together; here, too, they only grow."""
        self.floor = floor
        for group, value in values.items():
            if value > self.values.get(group, 0.0):
                self.values[group] = value

    def least(self) -> tuple[float, str]:
        """The smallest counter among those waiting, and whose it is; ties by name. Only asked while one waits."""
        heap, entry, values = self._heap, self._entry, self.values
        while True:
            value, group = heap[0]
            if entry.get(group) != value:
                heapq.heappop(heap)
            elif group not in self._waiting:
                heapq.heappop(heap)
                del entry[group]
            elif value < values[group]:
                entry[group] = values[group]
                heapq.heapreplace(heap, (values[group], group))
            else:
                return value, group

    def least_of(self, groups: Iterable[str]) -> str:
        """The one of these groups with the smallest counter; ties by name."""
        return min(groups, key=lambda group: (self.values.get(group, 0.0), group))

    def standing(self, level: float = 0.0) -> tuple[Alternative, ...]:
        """Some of those waiting, each with how far its counter is below ``level``."""
        waiting, values, heap = self._waiting, self.values, self._heap
        if len(heap) == 1:
            group = heap[0][1]
            return (Alternative(group, level - values[group]),) if group in waiting else ()
        shown = dict.fromkeys(group for _, group in heap[:_SHOWN] if group in waiting)
        return tuple([Alternative(group, level - values[group]) for group in shown])

    def _enter(self, group: str, value: float) -> None:
        self._entry[group] = value
        heapq.heappush(self._heap, (value, group))
        if len(self._heap) > 2 * len(self._entry) + 16:
            self._heap = [(value, group) for group, value in self._entry.items()]
            heapq.heapify(self._heap)

    def _net(self, group: str, service: float) -> float:
        """What is left to charge once all that is to be given back is."""
        owed = service - self._credit.pop(group, 0.0)
        if owed < 0:
            self._credit[group] = -owed
            return 0.0
        return owed

    def _forget(self, floor: float) -> None:
        """Drop idle groups that a lift would bring to the same value anyway."""
        for group in [g for g, value in self.values.items() if value <= floor and g not in self._waiting]:
            del self.values[group]
            self._lifted.pop(group, None)
            self._credit.pop(group, None)
            if self._charged is not None:
                self._charged.pop(group, None)
        self._entry = {group: self.values[group] for group in sorted(self._waiting)}
        self._heap = [(value, group) for group, value in self._entry.items()]
        heapq.heapify(self._heap)
        self._bound = max(self._remembered, 2 * len(self.values))
