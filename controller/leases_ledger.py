"""What each member may be using at this moment, in the worst case, and what may therefore still be granted.

A member uses of a resource what it last reported, or what any grant since then allowed, whichever is most: reports and
grants may be lost, late or in the wrong order. A raise is granted only out of what all of them together cannot be
using. So the sum of what they really use is within the capacity at any time, by induction over every grant.

A member that has gone silent goes on counting like that. It is released when it is known to be dead, or, where nobody
can know (``half_life_s``), by halves: without a leader a member itself halves its leases every ``half_life_s``
(:func:`controller.leases.decayed`); here it is believed one period later, which is the time its requests have to end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.leases import HALVINGS, MemberName, Stamp, decayed

__all__ = ["Ledger"]

_NEVER: Stamp = (-1, -1)


@dataclass(slots=True)
class _Account:
    number: int = -1
    applied: Stamp = _NEVER
    used: dict[str, int] = field(default_factory=dict)
    sent: list[tuple[Stamp, Mapping[str, int]]] = field(default_factory=list)
    heard_at: float = 0.0
    release_at: float | None = None

    def bound(self, resource: str) -> int:
        most = self.used.get(resource, 0)
        for _, amounts in self.sent:
            most = max(most, amounts.get(resource, 0))
        return most


class Ledger:
    """``release_s`` after a member's death its slots are free: so long a worker may take to notice that its
    connections are closed. Of the ``brief`` resources a member uses nothing any more once it halves the others."""

    def __init__(
        self, *, release_s: float = 0.5, half_life_s: float | None = None, brief: frozenset[str] = frozenset()
    ) -> None:
        self._release_s = release_s
        self._half_life_s = half_life_s
        self._brief = brief
        self._accounts: dict[MemberName, _Account] = {}

    def __contains__(self, member: MemberName) -> bool:
        return member in self._accounts

    def members(self) -> tuple[MemberName, ...]:
        """All whose use still counts."""
        return tuple(self._accounts)

    def heard(self, member: MemberName, number: int, applied: Stamp, used: Mapping[str, int], now: float) -> bool:
        """A report says what the member uses, and which grant it goes by. False if it is older than the last one, or
        its member is known to be dead."""
        account = self._accounts.setdefault(member, _Account())
        if number <= account.number or account.release_at is not None:
            return False
        account.number, account.applied, account.heard_at = number, applied, now
        account.used = dict(used)
        account.sent = [entry for entry in account.sent if entry[0] > applied]
        return True

    def restore(self, member: MemberName, stamp: Stamp, held: Mapping[str, int], now: float) -> None:
        """The leader before this one granted this, and until the member applies it, it may be using so much."""
        account = self._accounts.setdefault(member, _Account(heard_at=now))
        if stamp > account.applied:
            account.sent.append((stamp, dict(held)))

    def granted(self, member: MemberName, stamp: Stamp, amounts: Mapping[str, int]) -> None:
        """So much is granted now, by a message that may or may not arrive."""
        sent = self._accounts[member].sent
        if sent and sent[-1][1] == amounts:
            sent[-1] = (stamp, amounts)  # one that is like the one before, which may be in force already
        else:
            sent.append((stamp, dict(amounts)))

    def gone(self, member: MemberName, now: float) -> None:
        """The member is known to be dead."""
        account = self._accounts.get(member)
        if account is not None and account.release_at is None:
            account.release_at = now + self._release_s

    def forget_gone(self, now: float) -> None:
        """Release what the dead have used."""
        for member, account in tuple(self._accounts.items()):
            released = account.release_at is not None and account.release_at <= now
            if released or self._halvings(account, now) >= HALVINGS:
                del self._accounts[member]

    def alive(self, member: MemberName, now: float, silent_s: float) -> bool:
        """Whether it has reported lately and is not known to be dead."""
        account = self._accounts.get(member)
        return account is not None and account.release_at is None and now - account.heard_at <= silent_s

    def number(self, member: MemberName) -> int:
        """Of its last report."""
        return self._accounts[member].number

    def bound(self, member: MemberName, resource: str, now: float) -> int:
        """The most that the member may be using."""
        account = self._accounts[member]
        halvings = self._halvings(account, now)
        if not halvings:
            return account.bound(resource)
        return 0 if resource in self._brief else decayed(account.bound(resource), halvings)

    def total(self, resource: str, now: float) -> int:
        """The most that all may be using together."""
        return sum(self.bound(member, resource, now) for member in self._accounts)

    def held(self, member: MemberName) -> dict[str, int]:
        """The most that the member may be using of everything."""
        account = self._accounts[member]
        names = set(account.used).union(*(amounts for _, amounts in account.sent))
        return {name: account.bound(name) for name in names}

    def allow(self, resource: str, capacity: int, targets: Mapping[MemberName, int], now: float) -> dict[str, int]:
        """What may be granted to each now on the way to its target: a cut at once, a raise as far as there is room,
        the farthest from its target first."""
        bounds = {member: self.bound(member, resource, now) for member in targets}
        free = capacity - self.total(resource, now)
        given = {member: min(target, bounds[member]) for member, target in targets.items()}
        for member in sorted(targets, key=lambda member: (bounds[member] - targets[member], member)):
            more = min(max(0, free), targets[member] - given[member])
            given[member] += more
            free -= more
        return given

    def _halvings(self, account: _Account, now: float) -> int:
        if self._half_life_s is None:
            return 0
        return max(0, int((now - account.heard_at) / self._half_life_s) - 1)
