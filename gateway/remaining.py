"""What is left of the answers that run, by their visible text: read on a thread, and never waited for.

    Passage ── hear(events, total) ──▶ Listener ── every 48 tokens ──▶ RemainingDesk ── thread: text, countdown
                                                                            │
                                                     ControlPlane.on_remaining ◀── in the event loop, a batch at a time

A stream's events are kept until its next look, within bounds, and understood on the thread alone. What cannot be done
in time is left out, and counted: the control plane then goes on by what it expected before.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from controller.types import TicketId
from gateway.events import shown

__all__ = ["EVERY", "OUTCOMES", "Listener", "RemainingDesk"]

EVERY: Final = 48
"""Tokens between two looks at a stream."""
OUTCOMES: Final = ("told", "behind", "unread", "failed")
"""What became of a look: it was told; left out, because an earlier one of the same stream, or too many others, were
still under way (or of a whole stream, because too many are followed already); there was no text, or more than is kept,
so that the stream is left alone; the predictor failed."""
_MOST_BYTES: Final = 1 << 16
"""Of one stream's events that are kept for its next look."""
_MOST_IN_ALL: Final = 1 << 26
"""Of the events of all streams."""
_MOST_STREAMS: Final = 2048
"""That are followed at once; each holds some 12 kB more."""
_LARGEST_BATCH: Final = 8
_MOST_WAITING: Final = 64
"""Looks that wait for the thread."""
_SHARE: Final = 0.02
"""Of one processor's time that looks may take. Between two of them the thread lets go of the interpreter, so that the
event loop waits for one look at most."""
_log = logging.getLogger("headway.scoring")


class Says(Protocol):
    """What is left of an answer, in tokens, after so many."""

    @property
    def tokens(self) -> int: ...
    @property
    def expected(self) -> float: ...


class Follows(Protocol):
    """One running answer; :class:`predictors.length.remaining.model.Track`."""

    def feed(self, text: str, total_tokens: int, /) -> Says | None: ...


class Reads(Protocol):
    """:class:`predictors.length.remaining.model.RemainingLength`."""

    def begin(
        self, prompt_rank: float | None, expected_tokens: float | None, max_tokens: int | None, every: int, /
    ) -> Follows: ...


@dataclass(slots=True)
class _Look:
    listener: Listener
    events: bytes
    total: int


class Listener:
    """One stream, from its first event to its last, wherever it goes on."""

    __slots__ = ("_desk", "_held", "_looked", "_size", "busy", "over", "prior", "ticket", "track")

    def __init__(self, desk: RemainingDesk, ticket: TicketId, prior: tuple[float | None, float, int | None]) -> None:
        self._desk = desk
        self._held: list[bytes] = []
        self._size = 0
        self._looked = 0
        self.ticket = ticket
        self.prior = prior
        """Rank of the prompt, tokens expected in all, and the limit on them."""
        self.track: Follows | None = None
        """The thread's."""
        self.busy = False
        """A look is under way."""
        self.over = False
        """Nobody listens any more."""

    def hear(self, events: bytes, total: int) -> None:
        """Whole events have come; with them the answer has ``total`` tokens."""
        if self.over:
            return
        self._held.append(events)
        size = len(events)
        self._size += size
        self._desk.held += size
        if total - self._looked >= EVERY:
            self._looked = total
            self._desk.due(self, total)
        elif self._size > _MOST_BYTES or self._desk.held > _MOST_IN_ALL:
            self._desk.give_up(self)

    def take(self) -> bytes:
        """For the desk: all that was kept."""
        events = b"".join(self._held)
        self._held.clear()
        self._desk.held -= self._size
        self._size = 0
        return events

    def close(self) -> None:
        """The stream is over, or read no further."""
        if not self.over:
            self.over = True
            self._desk.streams -= 1
            self._desk.held -= self._size
            self._size = 0
            self._held.clear()


class RemainingDesk:
    """Has streams read, and says through ``tell(ticket, tokens, left)`` what is left of them, in the event loop.

    ``count`` has a function for each of :data:`OUTCOMES`, which is called when it happens.
    """

    def __init__(
        self,
        model: Reads,
        *,
        tell: Callable[[TicketId, int, float], None],
        count: Mapping[str, Callable[[], None]],
    ) -> None:
        self._model = model
        self._tell = tell
        self._count = count
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="headway-remaining")
        self._waiting: list[_Look] = []
        self._closing = threading.Event()
        self._busy = False
        self._warned = False
        self.held = 0
        """Bytes of events that are kept."""
        self.streams = 0
        """That are followed."""

    def listen(self, ticket: TicketId, rank: float | None, expected: float, max_tokens: int | None) -> Listener | None:
        """Follow a stream that is about to begin: its prompt's rank by length, where it is known, the tokens that are
        expected in all, and the limit on them. ``None`` where too many are followed already."""
        if self.streams >= _MOST_STREAMS:
            self._count["behind"]()
            return None
        self.streams += 1
        return Listener(self, ticket, (rank, expected, max_tokens))

    def due(self, listener: Listener, total: int) -> None:
        """For a listener: it is time for a look."""
        if self._closing.is_set() or listener.busy or len(self._waiting) >= _MOST_WAITING:
            self._count["behind"]()
            return
        listener.busy = True
        self._waiting.append(_Look(listener, listener.take(), total))
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._next)

    def give_up(self, listener: Listener) -> None:
        """For a listener: there is more than it may keep."""
        listener.close()
        self._count["unread"]()

    def close(self) -> None:
        """Look no more; a batch under way is left to itself."""
        self._closing.set()
        self._waiting.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        batch, self._waiting = self._waiting[:_LARGEST_BATCH], self._waiting[_LARGEST_BATCH:]
        self._busy = bool(batch)
        if batch:
            work = asyncio.get_running_loop().run_in_executor(self._executor, self._read, batch)
            work.add_done_callback(lambda done: self._told(batch, done))

    def _told(self, batch: list[_Look], done: asyncio.Future[list[Says | str]]) -> None:
        if done.cancelled():
            return
        self._next()
        for look, said in zip(batch, done.result(), strict=True):
            look.listener.busy = False
            if not isinstance(said, str):
                self._tell(look.listener.ticket, said.tokens, said.expected)
                said = "told"
            elif said:
                look.listener.close()
            if said:
                self._count[said]()

    def _read(self, batch: list[_Look]) -> list[Says | str]:
        """On the thread: what is left of each, or why there is nothing to say; empty for one that has ended."""
        found: list[Says | str] = []
        for look in batch:
            started = time.thread_time()
            found.append("" if look.listener.over or self._closing.is_set() else self._look(look))
            self._closing.wait((1.0 / _SHARE - 1.0) * (time.thread_time() - started))
        return found

    def _look(self, look: _Look) -> Says | str:
        listener = look.listener
        try:
            text = shown(look.events)
            if listener.track is None:
                if not text:
                    return "unread"
                listener.track = self._model.begin(*listener.prior, EVERY)
            return listener.track.feed(text, look.total) or ""
        except Exception:
            if not self._warned:  # once: it may fail of every stream
                self._warned = True
                _log.exception("what is left of an answer could not be predicted; it goes on as expected")
            return "failed"
