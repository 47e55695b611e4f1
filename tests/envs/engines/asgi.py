"""Calling an ASGI application without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from envs.engines.worker import SimWorker


@dataclass
class Answer:
    """What came back, message by message."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The documents of a stream's events, the end mark as ``None``."""
        pieces = self.body.decode().split("\n\n")
        assert pieces.pop() == ""
        assert all(piece.startswith("data: ") for piece in pieces)
        return [None if piece == "data: [DONE]" else orjson.loads(piece[6:]) for piece in pieces]


async def call(
    app: SimWorker,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    leave_after: float | None = None,
) -> Answer:
    """One request. ``body`` is sent as JSON unless it is bytes; the client leaves ``leave_after`` seconds later."""
    raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    sent = {"content-type": "application/json", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
    }
    pending = [{"type": "http.request", "body": raw, "more_body": False}]
    answer = Answer()

    async def receive() -> dict[str, Any]:
        if pending:
            return pending.pop()
        await asyncio.sleep(3600 if leave_after is None else leave_after)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            answer.bodies.append(message.get("body", b""))

    await app(scope, receive, send)
    return answer
