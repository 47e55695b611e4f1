"""The keys that a request shows: ``Authorization: Bearer KEY`` as OpenAI's clients send it, ``x-api-key`` as
Anthropic's."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from gateway.errors import ApiError

__all__ = ["bearer", "presented", "same", "unauthorized"]


def bearer(value: bytes | str | None) -> str | None:
    """The token of an ``Authorization`` header; the scheme's name in any case. ``None`` for anything else."""
    if not value:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    scheme, _, token = text.lstrip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def presented(headers: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """Every key that the request shows, with header names in lower case."""
    token = bearer(headers.get(b"authorization"))
    key = headers.get(b"x-api-key")
    if not key:
        return () if token is None else (token,)
    also = key.decode("latin-1").strip()
    return (also,) if token is None else (token, also)


def same(given: str | None, expected: str) -> bool:
    """Whether a token is the expected one; takes the same time however much of it is right."""
    return given is not None and hmac.compare_digest(given.encode(), expected.encode())


def unauthorized(message: str, *, code: str = "invalid_api_key", close: bool = False) -> ApiError:
    """401; the answer asks for a bearer token. ``close`` where the request's body was not read."""
    return ApiError(401, code, message, close=close)
