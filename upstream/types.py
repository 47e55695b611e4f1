"""The client's small vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Header", "Origin", "Target", "Timeouts"]

Header = tuple[bytes, bytes]
"""Name (lower case in what is received) and value, as bytes on the wire."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one exchange, in seconds; ``float("inf")`` switches one off.

    ``first_byte`` counts from sending the request to the head of the answer, and again from there to the first byte of
    its body; ``idle`` between two pieces of the body, and only while somebody waits for them; ``total`` from sending
    the request.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 120.0
    total: float = float("inf")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads to."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart. ``path`` includes the query; ``host`` is the value of the Host header."""

    origin: Origin
    path: bytes
    host: bytes
