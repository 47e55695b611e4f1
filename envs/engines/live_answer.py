"""One streamed answer as it comes from a live server: its tokens are counted, its times are those of its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from upstream.errors import ProtocolError
from upstream.sse import DONE, EventBuffer, data, split

__all__ = ["LiveAnswer"]


class LiveAnswer:
    """What one stream of server-sent events has said so far; chat or plain completion. Times are the caller's.

    Tokens are counted by the ``usage`` that vLLM writes into every event when asked for ``continuous_usage_stats``;
    where a server does not, an event with text counts as one token until the last event's usage says better.
    """

    __slots__ = (
        "_events", "_parts", "cached_tokens", "done", "error", "finish_reason", "first_token_at", "last_token_at",
        "produced", "prompt_tokens",
    )  # fmt: skip

    def __init__(self, *, keep_text: bool = True) -> None:
        self._events = EventBuffer()
        self._parts: list[str] | None = [] if keep_text else None
        self.produced = 0
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        """Of the prompt's; told by servers started with ``--enable-prompt-tokens-details``, at the end."""
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        """What the server says went wrong in the middle."""
        self.done = False

    @property
    def text(self) -> str | None:
        """The answer so far; ``None`` if it is not kept."""
        return None if self._parts is None else "".join(self._parts)

    def take(self, chunk: bytes, at: float) -> None:
        """Read bytes that arrived at ``at``.

        Raises:
            ProtocolError: they are no events as OpenAI's API has them.
        """
        try:
            for payload in _payloads(self._events.feed(chunk)):
                if payload == DONE:
                    self.done = True
                else:
                    self._read(orjson.loads(payload), at)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ProtocolError(f"an event of the stream is not of OpenAI's form: {error}") from error

    def _read(self, event: dict[str, Any], at: float) -> None:
        if "error" in event:
            error = event["error"]
            self.error = str(error.get("message", error) if isinstance(error, dict) else error)
            return
        spoken = 0
        for choice in event["choices"]:
            text = choice.get("text") or (choice.get("delta") or {}).get("content")
            if text:
                spoken += 1
                if self._parts is not None:
                    self._parts.append(text)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        usage = event.get("usage")
        if usage:
            self.prompt_tokens = usage["prompt_tokens"]
            told = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            self.cached_tokens = self.cached_tokens if told is None else told
            self._count(usage["completion_tokens"] or 0, at)
        elif spoken:
            self._count(self.produced + spoken, at)

    def _count(self, produced: int, at: float) -> None:
        if produced == self.produced:
            return
        if self.first_token_at is None:
            self.first_token_at = at
        self.produced, self.last_token_at = produced, at


def _payloads(events: bytes) -> Iterator[bytes]:
    """The data of each whole event: of those that are one line, as nearly all are, without looking at it closely."""
    if b"\r" in events:
        yield from filter(None, map(data, split(events)))
        return
    for event in events.split(b"\n\n"):
        payload = event[6:] if event.startswith(b"data: ") and b"\n" not in event else data(event)
        if payload:
            yield payload
