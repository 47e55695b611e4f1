"""What can go wrong between headway and a worker.

::

    UpstreamError
    ├── ConnectError            refused, unreachable, unknown host, TLS failure: no request was sent
    │   └── ConnectTimeout      no connection within ``Timeouts.connect``
    ├── FirstByteTimeout        no response headers (or no first body byte) within ``Timeouts.first_byte``
    ├── IdleTimeout             the body stopped arriving for ``Timeouts.idle``
    ├── TotalTimeout            the whole exchange took longer than ``Timeouts.total``
    ├── ConnectionLost          the worker closed or reset the connection before the response was complete
    ├── ProtocolError           what arrived is not HTTP/1.1, or not what the endpoint promises
    │   ├── BodyTooLong         the answer is longer than its caller would hold
    │   └── MetricsError        a metrics page without a series that headway needs
    └── UnexpectedStatus        an endpoint answered with a status that its caller cannot use
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BodyTooLong",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "FirstByteTimeout",
    "IdleTimeout",
    "MetricsError",
    "ProtocolError",
    "TotalTimeout",
    "UnexpectedStatus",
    "UpstreamError",
]


class UpstreamError(Exception):
    """Root of this package's errors. ``code`` names the kind, for decision records and metric labels."""

    code: ClassVar[str] = "upstream_error"


class ConnectError(UpstreamError):
    """No connection could be made; the worker saw nothing of the request."""

    code = "connect_error"


class ConnectTimeout(ConnectError):
    """The worker did not accept a connection in time."""

    code = "connect_timeout"


class FirstByteTimeout(UpstreamError):
    """The worker took the request and did not begin to answer in time."""

    code = "first_byte_timeout"


class IdleTimeout(UpstreamError):
    """The worker stopped sending in the middle of its answer."""

    code = "idle_timeout"


class TotalTimeout(UpstreamError):
    """The exchange as a whole took too long."""

    code = "total_timeout"


class ConnectionLost(UpstreamError):
    """The worker closed or reset the connection before its answer was complete."""

    code = "connection_lost"


class ProtocolError(UpstreamError):
    """The worker's bytes are not HTTP/1.1, or its answer is not of the promised form."""

    code = "protocol_error"


class BodyTooLong(ProtocolError):
    """The answer is longer than whoever asked for it would hold; nothing is wrong with the worker."""

    code = "body_too_long"


class MetricsError(ProtocolError):
    """A metrics page lacks a series that headway needs, under every name known for it."""

    code = "metrics_error"


class UnexpectedStatus(UpstreamError):
    """The endpoint answered, but not with a status that the caller can use. ``body`` is cut to its first 500 bytes."""

    code = "unexpected_status"

    def __init__(self, url: str, status: int, body: bytes) -> None:
        super().__init__(f"{url} answered {status}: {body[:500].decode(errors='replace')}")
        self.url = url
        self.status = status
        self.body = body[:500]
