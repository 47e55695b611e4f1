"""What a request asks for besides its body: its path, its headers, and what its tenant may have."""

from __future__ import annotations

from contextlib import suppress

from controller.types import TicketId
from gateway.endpoints import Endpoint, find
from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.headers import session
from gateway.openai import Wish
from gateway.tenants import Caller

__all__ = ["endpoint_of", "wish_of"]


def endpoint_of(exchange: Exchange) -> Endpoint:
    """The endpoint that is asked. Raises ApiError for another method, or a body that is encoded."""
    endpoint = find(exchange.method, exchange.path)
    if endpoint is None or exchange.method != "POST":
        message = f"{exchange.path} takes POST, not {exchange.method}"
        raise ApiError(405, "method_not_allowed", message, close=True, more=((b"allow", b"POST"),))
    encoding = exchange.fields.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        message = f"the body has the encoding {encoding.lower().decode('latin-1')!r}; send it as it is"
        raise ApiError(415, "unsupported_encoding", message, close=True)
    return endpoint


def wish_of(
    exchange: Exchange, ticket: TicketId, caller: Caller, now: float, deadline_s: float | None, max_depth: int
) -> Wish:
    """Who asks, and what the headers say; ``deadline_s`` is for requests that bring no deadline. Raises ApiError."""
    allowed = caller.settings.priority
    return Wish(
        ticket,
        caller.name,
        allowed.min,
        allowed.max,
        _deadline(exchange, now, deadline_s),
        caller.longest_answer,
        caller.cache_key,
        max_depth,
        _session(exchange),
    )


def _session(exchange: Exchange) -> str | None:
    given = exchange.fields.get(b"x-headway-session")
    if given is None:
        return None
    try:
        return session(given)
    except ValueError as error:
        raise ApiError(400, "invalid_session", str(error), param="X-Headway-Session") from error


def _deadline(exchange: Exchange, now: float, default: float | None) -> float | None:
    given = exchange.fields.get(b"x-headway-deadline-ms")
    if given is None:
        return None if default is None else now + default
    with suppress(ValueError):
        milliseconds = float(given)
        if 0 < milliseconds < float("inf"):
            return now + milliseconds / 1000
    shown = given[:40].decode("latin-1")
    message = f"X-Headway-Deadline-Ms must be a positive number of milliseconds, not {shown!r}"
    raise ApiError(400, "invalid_deadline", message, param="X-Headway-Deadline-Ms")
