"""Tokens of KV cache that a worker's requests hold, and will hold: our own account, kept true by its reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Booking", "KvLimits", "TokenAccount"]

_LEAST_USAGE: Final = 0.05
"""A report below this says too little of the capacity."""
_WEIGHT: Final = 0.1
"""Of a report, in the running estimate of the capacity."""


@dataclass(frozen=True, slots=True)
class KvLimits:
    """How much of the workers' KV caches is given away, and how long a request may be passed over."""

    share: float = 2.0
    """Of a worker's capacity; more than 1 counts on it that answers do not all reach their full length at once."""
    high: bool = False
    """Reserve the 0.9 quantile of the answer's length where it is known, not the expected length."""
    passes: int = 32
    """Requests that may pass one that does not fit …"""
    hold_s: float = 10.0
    """… and seconds in which they may, before a worker is kept for it."""
    lookahead: int = 16
    """Requests that do not fit that are looked past, at one moment; for each worker, where requests wait for one."""

    def __post_init__(self) -> None:
        for name, value, right in (
            ("share", self.share, self.share > 0.0),
            ("passes", self.passes, self.passes >= 0),
            ("hold_s", self.hold_s, self.hold_s >= 0.0),
            ("lookahead", self.lookahead, self.lookahead >= 1),
        ):
            if not right:
                raise ValueError(f"kv {name} is too small: {value}")


class TokenAccount:
    """What one worker holds. ``capacity`` is its KV cache in tokens where that is configured.

    Where it is not, it is learned: a report that shows ``usage`` of the cache used while we know of ``held`` tokens
    tells of ``held / usage`` (prompts that share cached blocks count each: it is what the cache is worth, not its
    size).
    """

    __slots__ = ("_configured", "_learned", "expected", "foreign", "held", "outgrown", "reading", "reserved", "unread")

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"a KV cache holds at least 1 token, not {capacity}")
        self._configured = capacity
        self._learned: float | None = None
        self.held = 0
        """Prompts and what has been produced so far."""
        self.expected = 0
        """Prompts and whole answers, as expected."""
        self.reserved = 0
        """Prompts and whole answers, as admitted; see :mod:`controller.kv.admission`."""
        self.unread = 0
        """Prompt tokens of requests that have not had a first token."""
        self.reading = 0
        """How many requests those are."""
        self.foreign = 0
        """Tokens of others, by the last report."""
        self.outgrown = 0
        """Answers that outgrew what was reserved for them, each as often as it did."""

    @property
    def capacity(self) -> int | None:
        """Tokens that fit; ``None`` where nobody knows yet."""
        if self._configured is not None or self._learned is None:
            return self._configured
        return int(self._learned)

    def book(self, prompt: int, expected: int, reserved: int = 0) -> Booking:
        """A request with so many prompt tokens is sent there, and so many more are expected, and reserved."""
        return Booking(self, prompt, expected, max(expected, reserved))

    def reported(self, usage: float, others: int) -> None:
        """The worker says that this share of its cache is used; ``others`` of the requests there are not ours."""
        if not others and not self.held:
            self.foreign = 0
            return
        capacity = self.capacity
        self.foreign = max(0, round(usage * capacity) - self.held) if others and capacity is not None else 0
        if self._configured is not None or others or usage < _LEAST_USAGE or not self.held:
            return
        shown = self.held / min(usage, 1.0)
        self._learned = shown if self._learned is None else self._learned + _WEIGHT * (shown - self._learned)

    def has_room(self, tokens: int, share: float) -> bool:
        """Whether a request of so many tokens fits into this share of the capacity; anything fits where nothing is."""
        capacity = self.capacity
        if capacity is None or not self.held:
            return True
        return self.reserved + self.foreign + tokens <= share * capacity

    def lacking(self, tokens: int, share: float) -> float:
        """Reserved tokens that have to be given back before a request of so many has room; 0 where it has. One that is
        too large for this share of the capacity has room when none are left."""
        if self.has_room(tokens, share):
            return 0.0
        over = self.reserved + self.foreign + tokens - share * (self.capacity or 0)
        return min(over, float(self.reserved))


class Booking:
    """One request's part of a worker's account, from its dispatch until it leaves."""

    __slots__ = ("_account", "_expected", "_held", "_prompt", "_reserved", "_unread")

    def __init__(self, account: TokenAccount, prompt: int, expected: int, reserved: int) -> None:
        self._account = account
        self._prompt = self._held = self._unread = prompt
        self._expected = prompt + expected
        self._reserved = prompt + reserved
        account.held += prompt
        account.expected += self._expected
        account.reserved += self._reserved
        account.unread += prompt
        account.reading += 1

    def read(self) -> None:
        """Its first token has come."""
        account = self._account
        if self._unread >= 0:
            account.unread -= self._unread
            account.reading -= 1
            self._unread = -1

    def produced(self, tokens: int, left: int) -> None:
        """So many more tokens of it have come; ``left`` are expected still.

        An answer that outgrows its reservation has what is expected of it now, which is then twice what it has (S³).
        """
        account = self._account
        held = self._held = self._held + tokens
        account.held += tokens
        account.expected += held + left - self._expected
        self._expected = held + left
        if held > self._reserved:
            account.reserved += self._expected - self._reserved
            self._reserved = self._expected
            account.outgrown += 1

    def release(self) -> None:
        """It has left the worker."""
        account = self._account
        self.read()
        account.held -= self._held
        account.expected -= self._expected
        account.reserved -= self._reserved
        self._held = self._expected = self._reserved = 0
