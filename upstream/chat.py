"""One chat or completion request, streamed and timed: what a load generator or a collector wants to know of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from upstream.client import Client, Response
from upstream.errors import UpstreamError
from upstream.sse import DONE, EventBuffer, data, split
from upstream.types import Header, Timeouts

__all__ = ["Exchange", "ask"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """How one request went. Times are seconds from sending; ``status`` is 0 where no answer came.

    ``error`` is ``None`` if the answer is whole: status 200, ``[DONE]`` seen, no error event.
    """

    status: int
    text: str
    ttft: float | None
    e2e: float
    finish_reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    model: str | None
    error: str | None
    headers: Mapping[str, str]


class _Reading:
    """What the events of one stream have said so far."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.first_at: float | None = None
        self.finish_reason: str | None = None
        self.usage: Mapping[str, Any] = {}
        self.model: str | None = None
        self.done = False
        self.error: str | None = None

    def take(self, event: bytes, now: float) -> None:
        payload = data(event)
        if payload is None:
            return
        if payload == DONE:
            self.done = True
            return
        body = json.loads(payload)
        if "error" in body:
            self.error = str(body["error"].get("message", body["error"]))
            return
        self.model = body.get("model") or self.model
        self.usage = body.get("usage") or self.usage
        for choice in body.get("choices", ()):
            self._choice(choice, now)

    def _choice(self, choice: Mapping[str, Any], now: float) -> None:
        text = choice.get("text") or (choice.get("delta") or {}).get("content")
        if text:
            self.parts.append(text)
            if self.first_at is None:
                self.first_at = now
        self.finish_reason = choice.get("finish_reason") or self.finish_reason


async def ask(
    client: Client,
    url: str,
    body: Mapping[str, Any],
    *,
    headers: Iterable[Header] = (),
    timeouts: Timeouts | None = None,
) -> Exchange:
    """POST ``body`` to ``url`` (…/v1/chat/completions or …/v1/completions) as a stream, and read it to its end.

    Failures are in the result, not raised: they are data to whoever measures. Cancelling closes the socket at once.
    """
    payload = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = [(b"content-type", b"application/json"), *headers]
    reading = _Reading()
    started = time.perf_counter()
    status = 0
    answered: Mapping[str, str] = {}
    try:
        async with client.stream(b"POST", url, headers=head, body=payload, timeouts=timeouts) as response:
            status = response.status
            answered = {key.decode("latin-1"): value.decode("latin-1") for key, value in response.headers}
            if status == 200:
                await _read(response, reading)
            else:
                reading.error = _error_message(await response.body())
    except UpstreamError as error:
        reading.error = f"{error.code}: {error}"
    except ValueError as error:
        reading.error = f"malformed_event: {error}"
    elapsed = time.perf_counter() - started
    if reading.error is None and not reading.done:
        reading.error = "the stream ended without [DONE]"
    return Exchange(
        status=status,
        text="".join(reading.parts),
        ttft=None if reading.first_at is None else reading.first_at - started,
        e2e=elapsed,
        finish_reason=reading.finish_reason,
        prompt_tokens=reading.usage.get("prompt_tokens"),
        output_tokens=reading.usage.get("completion_tokens"),
        model=reading.model,
        error=reading.error,
        headers=answered,
    )


async def _read(response: Response, reading: _Reading) -> None:
    events = EventBuffer()
    async for chunk in response.chunks():
        now = time.perf_counter()
        for event in split(events.feed(chunk)):
            reading.take(event, now)
    for event in split(events.flush()):
        reading.take(event, time.perf_counter())


def _error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:500].decode(errors="replace") or "no body"
