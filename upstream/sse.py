"""Server-sent events, byte for byte.

An event is any number of non-empty lines and the empty line that ends it; a line ends with LF, CRLF or CR. Nothing here
decodes or normalises: the concatenation of what comes out is what went in.
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re

__all__ = ["DONE", "EventBuffer", "data", "split"]

DONE = b"[DONE]"

_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_EVENT = re.compile(rb"(?>[^\r\n]+(?>\r\n|\n|\r))*+(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LOOK_BACK = 3
"""A blank line is at most four bytes, so at most three of them can have come with the bytes before."""


class EventBuffer:
    """Holds back the incomplete event at the end of a stream, so that what passes is whole events.

    ``limit`` bounds memory, in bytes: of a longer event, what has arrived passes at once.
    """

    __slots__ = ("_limit", "tail")

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit
        self.tail = bytearray()
        """The incomplete event."""

    def feed(self, chunk: bytes) -> bytes:
        """The events that are complete with this chunk, verbatim and joined; empty if none is."""
        if not self.tail and chunk.endswith(b"\n\n"):
            return chunk
        start = max(0, len(self.tail) - _LOOK_BACK)
        self.tail += chunk
        end = _last_end(self.tail, start)
        if len(self.tail) - end > self._limit:
            end = len(self.tail)
        head = bytes(self.tail[:end])
        del self.tail[:end]
        return head

    def flush(self) -> bytes:
        """What is left when the stream has ended: an event without its empty line, or nothing."""
        rest = bytes(self.tail)
        self.tail.clear()
        return rest


def _last_end(buffer: bytearray, start: int) -> int:
    """Where the last complete event in ``buffer`` ends; 0 if none does. Nothing ends before ``start``.

    A CR at the very end is left alone: an LF may follow that belongs to it.
    """
    if b"\r" not in buffer:
        return buffer.rfind(b"\n\n", start) + 2 if buffer.find(b"\n\n", start) >= 0 else 0
    end = 0
    limit = len(buffer) - 1 if buffer.endswith(b"\r") else len(buffer)
    for match in _BLANK.finditer(buffer, 0, limit):
        end = match.end()
    return end


def split(events: bytes) -> list[bytes]:
    """The single events of ``events``, each with its empty line; the last may lack it."""
    found: list[bytes] = []
    at = 0
    while match := _EVENT.match(events, at):
        found.append(match.group())
        at = match.end()
    return [*found, events[at:]] if at < len(events) else found


def data(event: bytes) -> bytes | None:
    """The event's data: its ``data`` fields joined by LF; ``None`` if it has none (a comment, a keep-alive)."""
    lines = [line for line in _LINE_END.split(event) if line.startswith(b"data")]
    fields = [line.partition(b":") for line in lines]
    values = [value.removeprefix(b" ") for name, _, value in fields if name == b"data"]
    return b"\n".join(values) if values else None
