"""One request and its answer, whatever carries them: what the relay reads, and where it writes.

    request    method, path, query, headers, header(name), await body(limit)
    answer     start(status, headers, length) → write(data)* → end(data), or answer(status, headers, body) at once
    the client left, whether it is gone; feed(source), so that a slow one slows its source down

Nothing but :meth:`Exchange.body` and :meth:`Exchange.drain` waits. Writes go out with the present turn of the event
loop; memory stays bounded because the source of a long answer is paused while the client does not keep up. Whoever runs
an exchange cancels the task that serves it when the client leaves, with :attr:`Exchange.left` set before: an end of the
client's stream is its leaving, because a half-closed connection cannot be told from a process that is gone (nginx and
Go's net/http take it the same way).

:class:`gateway.direct.DirectExchange` is the one on a connection of the gateway's own server;
:class:`gateway.mounted.MountedExchange` speaks ASGI, for tests and for mounting the gateway under any other server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol

from gateway.errors import ApiError
from upstream.types import Header

__all__ = ["Exchange", "Handler", "Source", "body_too_large", "status_line"]


class Source(Protocol):
    """Where a long answer comes from."""

    def pause(self) -> None:
        """Give nothing until :meth:`resume`."""

    def resume(self) -> None:
        """Go on."""


class Exchange(ABC):
    """One request, and at most one answer to it."""

    __slots__ = ("fields", "headers", "left", "method", "path", "query", "sent", "started", "status")

    def __init__(self, method: str, path: str, query: bytes, headers: Sequence[Header]) -> None:
        self.method = method
        self.path = path
        """Without the query, percent-decoded."""
        self.query = query
        self.headers = headers
        """Names in lower case, in the order of the request."""
        self.fields: Mapping[bytes, bytes] = dict(headers)
        """The same by name; of repeated headers the last."""
        self.left = False
        """The client has gone; whatever is written from now on goes nowhere."""
        self.started = False
        """The head of the answer is decided; from here on nothing can be taken back."""
        self.status = 0
        """The answer's, once it has started."""
        self.sent = 0
        """Bytes of the answer's body so far."""

    def header(self, name: bytes) -> bytes | None:
        """The header of that (lower-case) name."""
        return self.fields.get(name)

    @abstractmethod
    async def body(self, limit: int) -> bytes:
        """The whole body; call it once.

        Raises: ApiError (413) if it has more than ``limit`` bytes, as soon as that is known; ApiError (408) if it does
        not arrive in time; ClientLeft.
        """

    @abstractmethod
    def start(self, status: int, headers: Iterable[Header], length: int | None = None) -> None:
        """The head of the answer; it goes out with the first piece. ``length`` is the body's where it is known."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """A piece of the body, not empty."""

    @abstractmethod
    def end(self, data: bytes = b"") -> None:
        """The last piece. The client may go from now on."""

    def answer(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """A whole answer at once."""
        self.start(status, headers, len(body))
        self.end(body)

    @abstractmethod
    def feed(self, source: Source | None) -> None:
        """Pause this source while the client does not keep up; ``None`` when it has nothing more to give."""

    @abstractmethod
    async def drain(self) -> None:
        """Wait until the client has caught up, where it has not."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the last piece of the answer is on its way."""


Handler = Callable[[Exchange], Awaitable[None]]
"""Answers one exchange."""


def body_too_large(limit: int) -> ApiError:
    """What a client is told whose body is larger than ``limit`` bytes; the connection ends with it."""
    return ApiError(413, "request_too_large", f"the body is larger than {limit} bytes", close=True)


def status_line(status: int) -> bytes:
    """The first line of an answer, with its line break."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
