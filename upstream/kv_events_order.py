"""Keeping a publisher's messages in order: gaps, replays, restarts. No sockets and no clock here.

A publisher numbers its messages from 0, and keeps the last few for replay. A subscriber sees gaps when it comes late or
falls behind, and numbers that begin anew when the engine was restarted. A restarted engine may also have gone past the
old numbers while the connection was down, so a replay always begins with the last message that was seen: if it comes
back different, or not at all while others do, what follows is another life's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Forget", "Order", "OrderCounts"]

_FRUITLESS = 3
"""Replays without a new message until a gap is given up."""


@dataclass(frozen=True, slots=True)
class Forget:
    """What was learned of the engine's cache holds no more. ``whole``: all that it holds now is going to follow."""

    whole: bool


@dataclass(slots=True)
class OrderCounts:
    """What happened so far."""

    messages: int = 0
    """Delivered, in order and once."""
    gaps: int = 0
    """Times that messages were missing."""
    replays: int = 0
    """That came, in whole or in part."""
    resets: int = 0
    """Times that knowledge was lost: restarts, and gaps that no replay filled."""


@dataclass(slots=True)
class Order:
    """One publisher's messages. Each method returns what to do, in order: payloads to apply, or to forget first.

    While :attr:`missing` is a number, ask for a replay from there before anything else is taken: :meth:`replayed` for
    each of its messages, then :meth:`replay_ended`, or :meth:`replay_failed` where there is no replay.
    """

    counts: OrderCounts = field(default_factory=OrderCounts)
    missing: int | None = None
    """Where a replay has to begin; ``None`` if none is wanted."""
    _last: tuple[int, bytes] | None = None
    """The last message delivered; ``None`` at the start of a life."""
    _newest: int | None = None
    """The highest number that came live."""
    _held: tuple[int, bytes] | None = None
    """The message behind the gap."""
    _begun: bool = False
    """Whether the replay has brought a message."""
    _broken: bool = False
    """Whether the replay lacks messages, so that the rest of it is of no use."""
    _foreign: bool = False
    """Whether the replay is another life's."""
    _progress: bool = False
    _fruitless: int = 0
    _told: bool = False
    """Whether there is anything to forget, or a ``Forget`` was given for this life."""

    @property
    def _next(self) -> int:
        return 0 if self._last is None else self._last[0] + 1

    def connected(self) -> None:
        """A connection was made: something may have been missed, or the engine be another."""
        self._ask()

    def live(self, number: int, payload: bytes) -> list[Forget | bytes]:
        """A message as it was published."""
        done: list[Forget | bytes] = []
        if self._newest is not None and number <= self._newest:
            done += self._restarted()
        self._newest = number
        if number < self._next:
            return done  # came by a replay already
        if number == self._next:
            return done + self._deliver(number, payload)
        self.counts.gaps += 1
        self._held = number, payload
        self._ask()
        return done

    def replayed(self, number: int, payload: bytes) -> list[Forget | bytes]:
        """A message of the replay."""
        first, self._begun = not self._begun, True
        if self._broken or self._foreign:
            return []
        if first and self._last is not None and number == self._last[0]:
            self._foreign = payload != self._last[1]
            return []
        if number < self._next:
            return []
        if number > self._next:
            if not first:
                self._broken = True  # the publisher drops what its socket cannot take
                return []
            done = self._lost()  # its memory does not reach back that far
            return done + self._deliver(number, payload)
        return self._deliver(number, payload)

    def replay_ended(self, *, cut: bool = False) -> list[Forget | bytes]:
        """The replay is over; ``cut`` if its end did not come."""
        self.counts.replays += 1
        known, silent = self._last is not None, not self._begun
        again = cut or self._broken
        self._fruitless = 0 if self._progress else self._fruitless + 1
        if self._foreign or (known and silent and not cut):
            done = self._restarted()
            self._ask()
            return done
        if again and self._fruitless < _FRUITLESS:
            self._ask()
            return []
        if again:
            return self.replay_failed()
        done = []
        if not self._told:
            done = self._begin(whole=True)  # nothing has been published yet
        return done + self._release()

    def replay_failed(self) -> list[Forget | bytes]:
        """There is no replay to be had: go on with what is there."""
        self.missing, self._fruitless = None, 0
        if self._held is not None:
            return self._release()
        if self._last is None:
            return []  # the first message will tell
        done = self._restarted()
        self._newest = None
        return done

    def _ask(self) -> None:
        self.missing = 0 if self._last is None else self._last[0]
        self._begun = self._broken = self._foreign = self._progress = False

    def _deliver(self, number: int, payload: bytes) -> list[Forget | bytes]:
        done = self._begin(whole=number == 0) if not self._told else []
        self._last = number, payload
        self._progress = True
        self.counts.messages += 1
        return [*done, payload]

    def _release(self) -> list[Forget | bytes]:
        """The replay has done what it could; take up the message that was held."""
        self.missing, self._fruitless = None, 0
        held, self._held = self._held, None
        if held is None or held[0] < self._next:
            return []
        done = self._lost() if held[0] > self._next else []
        return done + self._deliver(*held)

    def _begin(self, *, whole: bool) -> list[Forget | bytes]:
        self._told = True
        return [Forget(whole)]

    def _lost(self) -> list[Forget | bytes]:
        """Messages are gone for good."""
        if self._told:
            self.counts.resets += 1
        return self._begin(whole=False)

    def _restarted(self) -> list[Forget | bytes]:
        """All that is known is of an engine that is no more. What follows begins a new life."""
        had = self._told
        self._last = self._newest = self._held = None
        self._told = False
        if not had:
            return []
        self.counts.resets += 1
        return [Forget(False)]
