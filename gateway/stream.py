"""What passes through a stream of events: counted cheaply, and unchanged but for what the gateway itself asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from controller.types import Usage
from gateway.usage import usage_in
from upstream import sse

__all__ = ["StreamMeter", "usage_in"]

_TELLING = re.compile(rb'"usage"[ \t]*:[ \t]*[^n \t]|"error"')
"""In events that say something of cost or failure. Inside a string of theirs the quotes would be escaped."""
_TOLD = (b'"usage"', b'"error"')
_ENDING = (*_TOLD, b'"finish_reason":"', b'"finish_reason": "')
"""What events hold that must be looked at; the others pass unseen."""
_STAMP = "system_fingerprint"
_LONGEST_SCREENED = 1 << 24
"""Bytes. An event that is screened may hold the token ids of a long prompt."""


class StreamMeter:
    """Feed it the worker's chunks; what comes out is for the client, in whole events.

    With ``drop_usage`` the event that only says what the stream cost is taken out again, because the gateway asked for
    it and the client did not. vLLM writes ``system_fingerprint`` on the last event of a stream only, which is the one
    with the usage where there is one, and otherwise the one with the finish reason. So that one is kept back until the
    next event shows whether it has to be given the fingerprint of an event that is taken out.

    Nothing is parsed but events that hold a usage or an error. ``screen`` is shown all events before that, and gives
    back those that are to pass.
    """

    __slots__ = ("_buffer", "_drop_usage", "_held", "_screen", "error", "tokens", "usage")

    def __init__(self, *, drop_usage: bool, screen: Callable[[bytes], bytes] | None = None) -> None:
        self._buffer = sse.EventBuffer() if screen is None else sse.EventBuffer(_LONGEST_SCREENED)
        self._screen = screen
        self._drop_usage = drop_usage
        self._held = b""
        self.tokens = 0
        """Events so far: about one a token."""
        self.usage: Usage | None = None
        self.error: int | None = None
        """HTTP status of an error that the worker reported inside the stream."""

    def feed(self, chunk: bytes) -> bytes:
        """The events that are complete by now."""
        buffer = self._buffer
        events = chunk if not buffer.tail and chunk.endswith(b"\n\n") else buffer.feed(chunk)
        if not events:
            return b""
        self.tokens += events.count(b"\n\n") or events.count(b"\n\r\n")
        if self._screen is not None:
            events = self._screen(events)
        if self._held or self._drop_usage or b'"usage"' in events or b'"error"' in events:
            return self._inspected(events)
        return events

    def end(self) -> bytes:
        """What is left at the end of the stream."""
        rest = self._buffer.flush()
        if rest and self._screen is not None:
            rest = self._screen(rest)
        events = self._inspected(rest) if rest else b""
        held, self._held = self._held, b""
        return held + events if held else events

    def cut(self) -> bytes:
        """The whole event that was kept back of a stream that has broken off."""
        held, self._held = self._held, b""
        return held

    def _inspected(self, events: bytes) -> bytes:
        quiet = not self._held and b'"usage"' not in events and b'"error"' not in events
        if quiet and not (self._drop_usage and _finishes(events)):
            return events
        start = 0 if self._held else _start(events, _first(events, _ENDING if self._drop_usage else _TOLD))
        return events[:start] + b"".join([self._passed(event) for event in sse.split(events[start:])])

    def _passed(self, event: bytes) -> bytes:
        """What goes to the client now that this event has come."""
        held, self._held = self._held, b""
        content = _content(event) if _TELLING.search(event) is not None else {}
        if content and self._is_ours(content):
            stamp = content.get(_STAMP)
            return held if stamp is None else _stamped(held, stamp)
        if self._drop_usage and _finishes(event):
            self._held = event
            return held
        return held + event if held else event

    def _is_ours(self, content: dict[str, Any]) -> bool:
        """Take note of what an event says; true if the client is not to see it."""
        if isinstance(content.get("error"), dict):
            code = content["error"].get("code")
            self.error = code if type(code) is int else 500
        usage = usage_in(content, self.usage)
        if usage is None:
            return False
        self.usage = usage
        return self._drop_usage and content.get("choices") == []


def _first(events: bytes, marks: tuple[bytes, ...]) -> int:
    """Where the first of these marks is; 0 if there is none."""
    return min([at for mark in marks if (at := events.find(mark)) >= 0], default=0)


def _start(events: bytes, at: int) -> int:
    """Where the event begins that goes on at ``at``, or an earlier one."""
    ends = [events.rfind(end, 0, at) + len(end) for end in (b"\n\n", b"\n\r\n") if events.rfind(end, 0, at) >= 0]
    return max(ends, default=0)


def _finishes(events: bytes) -> bool:
    """Whether a choice ends in one of these. Workers write JSON with or without a blank after the colon."""
    return b'"finish_reason":"' in events or b'"finish_reason": "' in events


def _stamped(event: bytes, stamp: object) -> bytes:
    """The event with the fingerprint that it would have had."""
    end = event.rfind(b"}")
    if end < 0 or b'"system_fingerprint"' in event:
        return event
    return b'%b,"system_fingerprint":%b%b' % (event[:end], orjson.dumps(stamp), event[end:])


def _content(event: bytes) -> dict[str, Any]:
    data = sse.data(event)
    if data is None:
        return {}
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}
