"""Errors as OpenAI's clients expect them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math

import orjson

from controller.types import Rejected

__all__ = ["ApiError", "ClientLeft", "from_rejected"]

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
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.close = close
        """End the connection after the answer, because the request was not read to its end."""

    @property
    def type(self) -> str:
        """OpenAI's word for this class of errors."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> bytes:
        """The JSON object. A lone surrogate, which a client's own words may hold, is written out: UTF-8 has none."""
        message = self.message.encode("utf-8", "backslashreplace").decode("utf-8")
        error = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def event(self) -> bytes:
        """The same as the last event of a stream that has begun."""
        return b"data: " + self.body() + b"\n\n"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer, as bytes."""
        headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after))))
        if self.close:
            headers.append((b"connection", b"close"))
        return headers


def from_rejected(rejected: Rejected) -> ApiError:
    """What the control plane's refusal is to the client."""
    param = "model" if rejected.code == "model_not_found" else None
    return ApiError(rejected.status, rejected.code, rejected.message, param=param, retry_after=rejected.retry_after)
