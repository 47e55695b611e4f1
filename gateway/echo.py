"""``X-Request-Id`` on every answer, whoever gives it: the client's own, or one that is made here."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, MutableMapping
from typing import Any

from gateway.headers import request_id
from gateway.mounted import Scope, Send
from upstream.types import Header

__all__ = ["echoing", "id_for"]

_NAME = b"x-request-id"


def id_for(headers: Iterable[Header]) -> bytes:
    """The id of a request with these headers."""
    given = next((value for name, value in headers if name == _NAME), None)
    return request_id(given, secrets.token_hex(8))


def echoing(scope: Scope, send: Send) -> Send:
    """``send`` of an ASGI application, which then need not care for the id."""
    id_ = id_for(scope["headers"])

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", ()) if header[0].lower() != _NAME]
            message = {**message, "headers": [*headers, (_NAME, id_)]}
        await send(message)

    return sent
