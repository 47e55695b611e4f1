"""What a stream has said so far: kept cheaply while it runs, understood only when it has to go on elsewhere.

Events are kept as they came and read a few dozen at a time, off the path of the single event; what is left of them is
four bytes a token and the text.
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Mapping
from typing import Any

from gateway.events import parsed, payloads
from upstream import sse

__all__ = ["Journal", "Ledger", "Produced", "stripped"]

_READ_AT = 8192
"""Bytes of events kept unread."""
_IDS = b'token_ids":'
_PLAIN = b'"token_ids":['
_BEFORE = (b'"', b'"prompt_')
_PROMPT_IDS = re.compile(rb'("prompt_token_ids": ?)\[([0-9, ]*)\]')
_NULL = rb"\1null"
_SILENT = re.compile(rb'"delta": ?\{\}')
_UNFINISHED = re.compile(rb'"finish_reason": ?null')
_END = sse.DONE + b"\n\n"
_TOKEN_BYTES = 4
_HEAD = ("id", "object", "created", "model")


def stripped(events: bytes) -> bytes:
    """The events as the worker would have sent them had nobody asked for token ids.

    vLLM writes ``null`` where it was not asked, and leaves out events in which its parsers found nothing to show. The
    bytes ``"token_ids":[`` can only be a member of the event itself: inside a JSON string its quotes are escaped.
    """
    at = events.find(_IDS)
    if at < 0:
        return events
    value = at + len(_IDS)
    if events[at - 1 : value + 1] == _PLAIN:  # one list, as in most events
        end = events.find(b"]", value)
        if end >= 0 and events.find(_IDS, end) < 0:
            events = events[:value] + b"null" + events[end + 1 :]
            return _without_silent(events) if b"{}" in events else events
    return _stripped(events, at)


def _stripped(events: bytes, at: int) -> bytes:
    parts, start = [], 0
    while at >= 0:
        value = at + len(_IDS)
        value += events[value : value + 1] == b" "
        end = events.find(b"]", value)
        if events[value : value + 1] == b"[" and end >= 0 and events[max(0, at - 8) : at].endswith(_BEFORE):
            parts.append(events[start:value])
            start = value = end + 1
        at = events.find(_IDS, value)
    if parts:
        parts.append(events[start:])
        events = b"null".join(parts)
    return _without_silent(events) if b"{}" in events else events


def _without_silent(events: bytes) -> bytes:
    return b"".join([event for event in sse.split(events) if not (_SILENT.search(event) and _UNFINISHED.search(event))])


class Ledger:
    """Bytes that all journals of a process may hold together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Produced:
    """A stream so far. ``prompt`` is the text of a JSON list's inside; ``text`` is what the client has been sent."""

    __slots__ = (
        "_lag",
        "boundaries",
        "done",
        "finish_reason",
        "forgotten",
        "has_ids",
        "head",
        "ids",
        "kind",
        "parts",
        "prompt",
        "shown",
        "usage",
        "worded",
    )

    def __init__(self, lag: int) -> None:
        self._lag = lag
        self.prompt: bytes | None = None
        self.ids = array("I")
        self.parts: list[str] = []
        self.shown = 0
        """Characters of text."""
        self.worded = 0
        """Events that had text: about as many as tokens, where token ids are not told."""
        self.boundaries: deque[tuple[int, int]] = deque([(0, 0)])
        """(token ids, characters) after events that had text; as many as lie within ``lag`` characters of the end."""
        self.has_ids = True
        """Every event with text had its token ids."""
        self.kind: str | None = None
        """What the last delta was: ``content``, or the name of a member that cannot be continued."""
        self.finish_reason: str | None = None
        self.usage: Mapping[str, Any] | None = None
        self.done = False
        self.forgotten = False
        self.head: Mapping[str, Any] = {}
        """The members that every event of the stream has in common: ``id``, ``object``, ``created``, ``model``."""

    @property
    def text(self) -> str:
        """All of it."""
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""

    @property
    def tokens(self) -> int:
        """Tokens produced, as far as is known."""
        return len(self.ids) if self.has_ids else self.worded

    @property
    def size(self) -> int:
        """Bytes held, about."""
        return len(self.prompt or b"") + _TOKEN_BYTES * len(self.ids) + self.shown

    def read(self, events: bytes) -> None:
        """Take account of events as the worker sent them."""
        found = [payload for payload in payloads(events) if payload is not None]
        if found and found[-1] == sse.DONE:
            self.done = True
            del found[-1]
        for content in parsed(found):
            if isinstance(content, dict):
                self.usage = content.get("usage") or self.usage
                choices = content.get("choices")
                if isinstance(choices, list) and choices and isinstance(choices[0], dict):
                    self._choice(content, choices[0])

    def _choice(self, content: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        if not self.head:
            self.head = {name: content[name] for name in _HEAD if name in content}
        ids = choice.get("token_ids")
        delta = choice.get("delta")
        if isinstance(delta, dict):
            text = delta.get("content")
            if not text or len(delta) > 1:
                self.kind = next((name for name, value in delta.items() if value and name != "role"), self.kind)
            else:
                self.kind = "content"
        else:
            text = choice.get("text")
        self.add(text if isinstance(text, str) else "", ids if isinstance(ids, list) else None)
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def add(self, text: str, ids: list[int] | None) -> None:
        """So much more was produced and sent."""
        if self.forgotten:
            return
        if ids is not None:
            self.ids.extend(ids)
        elif text:
            self.has_ids = False
        if text:
            self.worded += 1
            self.parts.append(text)
            self.shown += len(text)
            boundaries = self.boundaries
            boundaries.append((len(self.ids), self.shown))
            while len(boundaries) > 1 and boundaries[1][1] + self._lag <= self.shown:
                boundaries.popleft()

    def forget(self) -> None:
        """Hold nothing any more, but for how the stream's events begin."""
        self.forgotten = True
        self.prompt, self.ids, self.parts, self.shown = None, array("I"), [], 0

    def cut(self, kept: int) -> None:
        """The tokens after so many come again."""
        del self.ids[kept:]
        while self.boundaries and self.boundaries[-1][0] > kept:
            self.boundaries.pop()
        if not self.boundaries:
            self.boundaries.append((0, 0))

    def back(self, shown: int) -> tuple[int, int]:
        """The last boundary with at most so many characters."""
        return next((known for known in reversed(self.boundaries) if known[1] <= shown), (0, 0))


class Journal:
    """Keeps a running stream within bounds: ``limit`` bytes of its own, and what is left of the ledger."""

    __slots__ = (
        "_first",
        "_lag",
        "_ledger",
        "_limit",
        "_raw",
        "_raw_size",
        "_strips",
        "booked",
        "ended",
        "full",
        "produced",
    )

    def __init__(self, ledger: Ledger, limit: int, lag: int, *, strips: bool) -> None:
        self._ledger = ledger
        self._limit = limit
        self._lag = lag
        self._strips = strips
        self.booked = 0
        self.restart()

    def restart(self) -> None:
        """Nothing of the stream has been sent."""
        self._first = True
        self._raw: list[bytes] = []
        self._raw_size = 0
        self.ended = False
        """``[DONE]`` has come."""
        self.full = False
        """It outgrew its bounds, and was forgotten."""
        self.produced = Produced(self._lag)

    def take(self, events: bytes) -> bytes:
        """Keep whole events; gives them back for the client, without the token ids if the gateway asked for them."""
        if self._first and b'"choices"' in events:
            self._first = False
            events = self._begin(events)
        if events.endswith(_END):
            self.ended = True
        if not self.full:
            self._raw.append(events)
            self._raw_size += len(events)
            if self._raw_size > _READ_AT:
                self.read()
        return stripped(events) if self._strips else events

    def read(self) -> Produced:
        """Understand what was kept unread."""
        raw, self._raw, self._raw_size = self._raw, [], 0
        if raw:
            self.produced.read(b"".join(raw))
            self.book()
        return self.produced

    def book(self) -> None:
        """Account for what is held; forget it where it is too much."""
        size = 0 if self.full else self.produced.size
        self._ledger.used += size - self.booked
        self.booked = size
        if size > self._limit or self._ledger.used > self._ledger.limit:
            self.full = True
            self.produced.forget()
            self.close()

    def close(self) -> None:
        """The stream is over: nothing is held any more."""
        self._ledger.used -= self.booked
        self.booked = 0
        self._raw, self._raw_size = [], 0

    def _begin(self, events: bytes) -> bytes:
        """The prompt's token ids are cut out unread; they may be many."""
        found = _PROMPT_IDS.search(events)
        if found is None:
            return events
        self.produced.prompt = found.group(2)
        return _PROMPT_IDS.sub(_NULL, events, count=1) if self._strips else events
