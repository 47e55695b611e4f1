"""Errors as clients expect them: ``{"error": {"message", "type", "param", "code"}}``, which is OpenAI's shape, or
``{"type": "error", "error": {"type", "message"}}``, which is Anthropic's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import orjson

from controller.types import Rejected

__all__ = ["ApiError", "ClientLeft", "Dialect", "from_rejected"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    502: "upstream_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Dialect(StrEnum):
    """Whose API a path belongs to, and so the shape of its errors."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class ClientLeft(Exception):
    """The client closed its connection; there is nobody to answer."""


class ApiError(Exception):
    """What the client is told. ``param`` names the field at fault; ``retry_after`` is in seconds."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.close = close
        """End the connection after the answer, because the request was not read to its end."""
        self.more = tuple(more)
        """Further headers of the answer."""

    @property
    def type(self) -> str:
        """OpenAI's word for this class of errors."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self, dialect: Dialect = Dialect.OPENAI) -> bytes:
        """The JSON object. A lone surrogate, which a client's own words may hold, is written out: UTF-8 has none."""
        message = self.message.encode("utf-8", "backslashreplace").decode("utf-8")
        if dialect is Dialect.ANTHROPIC:
            return orjson.dumps({"type": "error", "error": {"type": self._anthropic_type, "message": message}})
        error = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def event(self, dialect: Dialect = Dialect.OPENAI) -> bytes:
        """The same as the last event of a stream that has begun."""
        name = b"event: error\n" if dialect is Dialect.ANTHROPIC else b""
        return name + b"data: " + self.body(dialect) + b"\n\n"

    @property
    def _anthropic_type(self) -> str:
        return _ANTHROPIC_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer, as bytes."""
        headers = [(b"content-type", b"application/json"), *self.more]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after))))
        if self.status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="headway"'))
        if self.close:
            headers.append((b"connection", b"close"))
        return headers


def from_rejected(rejected: Rejected) -> ApiError:
    """What the control plane's refusal is to the client."""
    param = "model" if rejected.code in ("model_not_found", "task_not_supported") else None
    return ApiError(rejected.status, rejected.code, rejected.message, param=param, retry_after=rejected.retry_after)
