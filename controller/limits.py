"""What each tenant may take: requests and tokens a minute, requests at once, and room in the queue.

A request is admitted against an estimate of its tokens and settled with the true count when it ends, so that a tenant's
bucket may go below zero; it is paid back before the next request is taken. What never reached a worker, or failed there
before anything came back, is not charged.

Several processes share a tenant's limits by leases: each is given a share in [0, 1] (:meth:`Limits.lease`), according
to what was asked of it (:meth:`Limits.demand`). As long as the shares add up to at most 1, so does what they admit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from controller.backlog import Backlog
from controller.buckets import Bucket
from controller.types import Rejected, Tenant, Ticket, TicketId

__all__ = ["UNLIMITED", "Allowance", "Demand", "Limits", "Quota", "Standing"]

_MINUTE = 60.0
_ACCOUNTS = 10_000
"""Unlisted tenants told apart at most; further ones share one account."""
_SWEEP_S = 5.0
"""Between two searches for accounts that need not be kept."""
_RETRY_S = 1.0
"""When to come back where only the end of another request, or another lease, can help."""
_SHARED: Tenant = ""
"""Whose account the tenants share that are too many; no tenant has this name."""


@dataclass(frozen=True, slots=True)
class Quota:
    """One tenant's limits; ``None`` is none. Rates are a second; ``burst_s`` is how much of them may be saved up."""

    requests_per_s: float | None = None
    tokens_per_s: float | None = None
    burst_s: float = _MINUTE
    concurrency: int | None = None
    max_queue: int | None = None
    max_queue_bytes: int | None = None

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to keep account of."""
        limits = (self.requests_per_s, self.tokens_per_s, self.concurrency, self.max_queue, self.max_queue_bytes)
        return all(limit is None for limit in limits)


UNLIMITED = Quota()


class Allowance(NamedTuple):
    """What is left of one rate: of ``limit`` in all, ``remaining`` now, all of it again in ``reset_s``."""

    limit: int
    remaining: int
    reset_s: float


class Standing(NamedTuple):
    """Where a tenant stands; ``None`` where it has no such limit."""

    requests: Allowance | None
    tokens: Allowance | None


class Demand(NamedTuple):
    """What a tenant asked for, admitted or not."""

    requests: int
    tokens: int
    concurrency: int
    """Requests at once at this moment."""
    unmet: int = 0
    """Times that a request was :meth:`Limits.cramped`."""


class _Account:
    """One tenant's buckets."""

    __slots__ = (
        "asked_requests",
        "asked_tokens",
        "bounded",
        "quota",
        "requests",
        "running",
        "seats",
        "share",
        "tokens",
        "unmet",
    )

    def __init__(self, quota: Quota, share: float, now: float) -> None:
        self.share = share
        self.running = 0
        self.asked_requests = 0
        self.asked_tokens = 0
        self.unmet = 0
        self.requests = _bucket(quota.requests_per_s, quota.burst_s, 1.0, now, share)
        self.tokens = _bucket(quota.tokens_per_s, quota.burst_s, 0.0, now, share)
        self._stand(quota)

    def has(self, tokens: int, now: float) -> bool:
        """Whether a request of about so many tokens may surely be taken; where not, the reason has to be looked for."""
        if self.running >= self.seats or self.bounded:
            return False
        bucket = self.tokens
        if bucket is not None and (tokens > bucket.capacity or bucket.wait(tokens, now)):
            return False
        return self.requests is None or not self.requests.wait(1.0, now)

    def buckets(self) -> tuple[Bucket, ...]:
        return tuple(bucket for bucket in (self.requests, self.tokens) if bucket is not None)

    def idle(self, now: float) -> bool:
        """Whether a new account would be the same."""
        return not self.running and all(bucket.full_in(now) <= 0 for bucket in self.buckets())

    def lease(self, share: float, now: float) -> None:
        self.share = share
        for bucket in self.buckets():
            bucket.lease(share, now)
        self._stand(self.quota)

    def change(self, quota: Quota, now: float) -> None:
        self.requests = _changed(self.requests, quota.requests_per_s, quota.burst_s, 1.0, now, self.share)
        self.tokens = _changed(self.tokens, quota.tokens_per_s, quota.burst_s, 0.0, now, self.share)
        self._stand(quota)

    def _stand(self, quota: Quota) -> None:
        self.quota = quota
        self.bounded = quota.max_queue is not None or quota.max_queue_bytes is not None
        """Whether its room in the queue is."""
        self.seats = math.inf if quota.concurrency is None else _whole(quota.concurrency, self.share)
        """Requests at once, in its share."""


class Limits:
    """Admits requests within their tenants' quotas. ``accounts`` bounds the unlisted tenants that are told apart."""

    def __init__(self, quotas: Mapping[Tenant, Quota], default: Quota, *, accounts: int = _ACCOUNTS) -> None:
        self._quotas = dict(quotas)
        self._default = default
        self._bound = accounts
        self._accounts: dict[Tenant, _Account] = {}
        self._pledges: dict[TicketId, tuple[_Account, int]] = {}
        self._share_of: Callable[[Tenant], float] | None = None
        self._first = 1.0
        self._sweep_at = -math.inf
        self._free = _unlimited(self._quotas)
        self._others = not default.unlimited
        """Whether the tenants that are not listed are limited."""

    def limits(self, tenant: Tenant) -> bool:
        """Whether this tenant is limited at all."""
        return tenant not in self._free if tenant in self._quotas else self._others

    def admit(self, ticket: Ticket, tokens: int, backlog: Backlog, now: float) -> Rejected | None:
        """Take a request of about so many tokens into the account; or say why not, and take nothing."""
        if not self.limits(ticket.tenant):
            return None
        account = self._accounts.get(ticket.tenant) or self._account(ticket.tenant, now)
        account.asked_requests += 1
        account.asked_tokens += tokens
        if not account.has(tokens, now):
            refusal = (
                _too_many(account, ticket)
                or _no_room(account, ticket, backlog)
                or _too_fast(account, ticket, tokens, now)
            )
            if refusal is not None:
                return refusal
        account.running += 1
        if account.requests is not None:
            account.requests.take(1.0, now)
        if account.tokens is not None:
            account.tokens.take(tokens, now)
        self._pledges[ticket.id] = (account, tokens)
        return None

    def pledged(self, ticket: TicketId) -> bool:
        """Whether an admitted request is in the account, so that :meth:`end` settles something."""
        return ticket in self._pledges

    def end(self, ticket: TicketId, spent: int | None, now: float) -> None:
        """An admitted request is over. ``spent`` tokens are charged instead of the estimate; ``None`` charges nothing,
        not even the request. Does nothing for a request that is not in the account."""
        pledge = self._pledges.pop(ticket, None)
        if pledge is None:
            return
        account, tokens = pledge
        account.running -= 1
        if account.tokens is not None:
            account.tokens.take((spent or 0) - tokens, now)
        if spent is None and account.requests is not None:
            account.requests.take(-1.0, now)

    def standing(self, tenant: Tenant, now: float) -> Standing | None:
        """What the tenant has left; ``None`` if neither its requests nor its tokens are limited."""
        account = self._accounts.get(tenant)
        if account is None:
            if not self.limits(tenant):
                return None
            account = self._account(tenant, now)
        if account.requests is None and account.tokens is None:
            return None
        return Standing(_allowance(account.requests, now), _allowance(account.tokens, now))

    # Sharing between processes, and changing

    def lease(self, share_of: Callable[[Tenant], float], processes: int, now: float) -> None:
        """This process, one of so many, may use ``share_of`` (0 to 1) of each tenant's rates and concurrency from now
        on; of concurrency, the whole requests in the share. A tenant that is new here has saved up its even part at
        most: one that goes from process to process must not find more than one burst."""
        self._share_of, self._first = share_of, 1.0 / processes
        for name, account in self._accounts.items():
            share = share_of(name)
            if share != account.share:
                account.lease(share, now)

    def cramped(self, tenant: Tenant, now: float) -> bool:
        """Whether a further request of this tenant would be refused only for want of a larger share: of its
        concurrency, or any share at all. The request counts as unmet."""
        if self._share_of is None or not self.limits(tenant):
            return False
        account = self._account(tenant, now)
        limit = account.quota.concurrency
        tight = limit is not None and account.seats <= account.running < limit
        if account.share and not tight:
            return False
        account.unmet += 1
        return True

    def demand(self) -> Mapping[Tenant, Demand]:
        """What was asked for since the last call, by the tenants that are limited and asked or run something."""
        found = {
            name: Demand(account.asked_requests, account.asked_tokens, account.running, account.unmet)
            for name, account in self._accounts.items()
            if account.asked_requests or account.running or account.unmet
        }
        for name in found:
            account = self._accounts[name]
            account.asked_requests = account.asked_tokens = account.unmet = 0
        return found

    def reconfigure(self, quotas: Mapping[Tenant, Quota], default: Quota, now: float) -> None:
        """Other quotas from now on. What is under way stays admitted, and what was taken stays taken."""
        self._quotas, self._default = dict(quotas), default
        self._free = _unlimited(self._quotas)
        self._others = not default.unlimited
        for name, account in self._accounts.items():
            account.change(self._quotas.get(name, default), now)

    def _account(self, tenant: Tenant, now: float) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            if tenant not in self._quotas and len(self._accounts) >= self._bound + len(self._quotas):
                self._sweep(now)
                if len(self._accounts) >= self._bound + len(self._quotas):
                    tenant = _SHARED
            quota = self._quotas.get(tenant, self._default)
            account = self._accounts.get(tenant) or self._opened(tenant, quota, now)
            self._accounts[tenant] = account
        return account

    def _opened(self, tenant: Tenant, quota: Quota, now: float) -> _Account:
        if self._share_of is None:
            return _Account(quota, 1.0, now)
        share = self._share_of(tenant)
        account = _Account(quota, min(share, self._first), now)
        account.lease(share, now)
        return account

    def _sweep(self, now: float) -> None:
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_S
            for name in [one for one, account in self._accounts.items() if account.idle(now)]:
                del self._accounts[name]


def _unlimited(quotas: Mapping[Tenant, Quota]) -> frozenset[Tenant]:
    return frozenset(name for name, quota in quotas.items() if quota.unlimited)


def _bucket(rate: float | None, burst_s: float, least: float, now: float, share: float) -> Bucket | None:
    return None if rate is None else Bucket(rate, max(least, rate * burst_s), now, share)


def _changed(
    bucket: Bucket | None, rate: float | None, burst_s: float, least: float, now: float, share: float
) -> Bucket | None:
    if bucket is None or rate is None:
        return _bucket(rate, burst_s, least, now, share)
    bucket.resize(rate, max(least, rate * burst_s), now)
    return bucket


def _whole(limit: int, share: float) -> int:
    """Requests that a share of the limit is."""
    return math.floor(limit * share + 1e-9)


def _too_many(account: _Account, ticket: Ticket) -> Rejected | None:
    limit = account.quota.concurrency
    if account.running < account.seats:
        return None
    message = f"tenant {ticket.tenant!r} has {account.running} requests under way; its concurrency is {limit}"
    return Rejected(ticket.id, 429, "concurrency_limit_exceeded", message, _RETRY_S)


def _no_room(account: _Account, ticket: Ticket, backlog: Backlog) -> Rejected | None:
    most, most_bytes = account.quota.max_queue, account.quota.max_queue_bytes
    if most is None and most_bytes is None:
        return None
    waiting, waiting_bytes = backlog.of(ticket.tenant)
    if most is not None and waiting >= most:
        message = f"tenant {ticket.tenant!r} has {waiting} requests waiting; its max_queue is {most}"
        return Rejected(ticket.id, 429, "queue_full", message, _RETRY_S)
    if most_bytes is not None and waiting and waiting_bytes + ticket.body_bytes > most_bytes:
        message = f"tenant {ticket.tenant!r} has {waiting_bytes} bytes waiting; its max_queue_bytes is {most_bytes}"
        return Rejected(ticket.id, 429, "queue_full", message, _RETRY_S)
    return None


def _too_fast(account: _Account, ticket: Ticket, tokens: int, now: float) -> Rejected | None:
    for_tokens = for_request = 0.0
    bucket = account.tokens
    if bucket is not None:
        if tokens > bucket.capacity and tokens > bucket.rate * _MINUTE:
            return _too_large(bucket, ticket, tokens)
        for_tokens = bucket.wait(tokens, now)
    if account.requests is not None:
        for_request = account.requests.wait(1.0, now)
        if for_request >= for_tokens:
            bucket = account.requests
    if bucket is None or not (for_request or for_tokens):
        return None
    wait = max(for_request, for_tokens)
    wait = wait if math.isfinite(wait) else _RETRY_S
    what = "requests" if bucket is account.requests else "tokens"
    message = (
        f"tenant {ticket.tenant!r} has used up its {bucket.rate * _MINUTE:.10g} {what} a minute; "
        f"come back in {wait:.1f} s"
    )
    return Rejected(ticket.id, 429, "rate_limit_exceeded", message, wait)


def _too_large(bucket: Bucket, ticket: Ticket, tokens: int) -> Rejected:
    most = max(bucket.capacity, bucket.rate * _MINUTE)
    message = f"this request needs about {tokens} tokens; tenant {ticket.tenant!r} may use {most:.10g} a minute"
    return Rejected(ticket.id, 429, "rate_limit_exceeded", message)


def _allowance(bucket: Bucket | None, now: float) -> Allowance | None:
    """Of a share, what the whole would be."""
    if bucket is None:
        return None
    remaining, reset_s = bucket.whole(now)
    return Allowance(int(bucket.capacity), remaining, reset_s if reset_s < math.inf else _RETRY_S)
