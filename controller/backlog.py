"""How much waits, in requests and in bytes, altogether and by tenant."""

from __future__ import annotations

from controller.types import Tenant, Ticket

__all__ = ["Backlog"]


class Backlog:
    """Counts of what waits. Tenants that have nothing waiting take no memory."""

    __slots__ = ("_tenants", "bytes", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        """Of the bodies of those requests."""
        self._tenants: dict[Tenant, list[int]] = {}

    def add(self, ticket: Ticket) -> None:
        """It waits from now on."""
        size = ticket.body_bytes
        self.count += 1
        self.bytes += size
        mine = self._tenants.get(ticket.tenant)
        if mine is None:
            self._tenants[ticket.tenant] = [1, size]
        else:
            mine[0] += 1
            mine[1] += size

    def remove(self, ticket: Ticket) -> None:
        """It waits no longer."""
        size = ticket.body_bytes
        self.count -= 1
        self.bytes -= size
        mine = self._tenants[ticket.tenant]
        if mine[0] == 1:
            del self._tenants[ticket.tenant]
        else:
            mine[0] -= 1
            mine[1] -= size

    def of(self, tenant: Tenant) -> tuple[int, int]:
        """Requests of this tenant that wait, and their bytes."""
        mine = self._tenants.get(tenant)
        return (0, 0) if mine is None else (mine[0], mine[1])
