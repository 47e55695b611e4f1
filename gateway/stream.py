"""What passes through a stream of events: counted cheaply, and unchanged but for what the gateway itself asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import orjson

from controller.types import Usage
from upstream import sse

__all__ = ["StreamMeter", "usage_in"]


class StreamMeter:
    """Feed it the worker's chunks; what comes out is for the client, in whole events.

    With ``drop_usage`` the event that only says what the stream cost is taken out again, because the gateway asked for
    it and the client did not. Nothing is parsed but events that hold a usage or an error.
    """

    __slots__ = ("_buffer", "_drop_usage", "error", "tokens", "usage")

    def __init__(self, *, drop_usage: bool) -> None:
        self._buffer = sse.EventBuffer()
        self._drop_usage = drop_usage
        self.tokens = 0
        """Events so far: about one a token."""
        self.usage: Usage | None = None
        self.error: int | None = None
        """HTTP status of an error that the worker reported inside the stream."""

    def feed(self, chunk: bytes) -> bytes:
        """The events that are complete by now."""
        events = self._buffer.feed(chunk)
        if not events:
            return b""
        self.tokens += events.count(b"\n\n") or events.count(b"\n\r\n")
        return self._inspected(events)

    def end(self) -> bytes:
        """What is left at the end of the stream."""
        rest = self._buffer.flush()
        return self._inspected(rest) if rest else b""

    def _inspected(self, events: bytes) -> bytes:
        if b'"usage"' not in events and b'"error"' not in events:
            return events
        return b"".join(event for event in sse.split(events) if not self._is_ours(event))

    def _is_ours(self, event: bytes) -> bool:
        if b'"usage"' not in event and b'"error"' not in event:
            return False
        content = _object(sse.data(event))
        if isinstance(content.get("error"), dict):
            code = content["error"].get("code")
            self.error = code if type(code) is int else 500
        usage = usage_in(content)
        if usage is None:
            return False
        self.usage = usage
        return self._drop_usage and content.get("choices") == []


def usage_in(answer: Mapping[str, Any]) -> Usage | None:
    """The usage of an answer or a chunk, where there is one."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    prompt, output, cached = usage.get("prompt_tokens"), usage.get("completion_tokens") or 0, cached or 0
    if not (_is_count(prompt) and _is_count(output) and _is_count(cached)):
        return None
    return Usage(prompt, output, cached)


def _is_count(value: object) -> TypeGuard[int]:
    """Whether counters can be raised by it, and the decision log can hold it."""
    return type(value) is int and 0 <= value < 2**63


def _object(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}
