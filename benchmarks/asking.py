"""A streamed answer and when its tokens came, for benchmarks that ask vLLM servers, directly or through a gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from upstream.client import Client
from upstream.errors import UpstreamError
from upstream.types import Header, Timeouts

__all__ = ["Answer", "ask", "ending_after", "usage"]

_LAST_TOKEN: Final = 5
"""The token that ends an answer, where its length is set."""
_END: Final = 8192
"""Bytes of a stream's end, in which the usage stands."""
_SAID: Final = 160
"""Characters of an error that are kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """When its first token and its last came, by the monotonic clock; one that failed has an ``error``."""

    first: float
    ended: float
    prompt_tokens: int
    output_tokens: int
    status: int
    error: str | None


def ending_after(tokens: int) -> dict[str, Any]:
    """Fields of a request whose answer has so many tokens, whatever the weights; no gateway reads them."""
    return {"min_tokens": tokens, "stop_token_ids": [_LAST_TOKEN], "logit_bias": {str(_LAST_TOKEN): 100}}


async def ask(client: Client, url: str, headers: Sequence[Header], body: bytes, patience_s: float) -> Answer:
    """Post a request for a stream with usage, and read it to its end; nothing is raised."""
    patience = Timeouts(first_byte=patience_s, idle=patience_s)
    first, end, status = 0.0, b"", 0
    try:
        async with client.stream(b"POST", url, headers=headers, body=body, timeouts=patience) as answer:
            status = answer.status
            if status != 200:
                return _failed(status, (await answer.body())[:_SAID].decode(errors="replace"))
            async for chunk in answer.chunks():
                if not first and b"data: {" in chunk:  # a comment that keeps the connection alive is no token
                    first = time.monotonic()
                end = (end + chunk)[-_END:]
    except (UpstreamError, OSError) as error:
        return _failed(status, f"{type(error).__name__}: {error}"[:_SAID])
    used = usage(end)
    if used is None:
        return _failed(status, f"no usage: {end[-_SAID:].decode(errors='replace')}")
    return Answer(first, time.monotonic(), used["prompt_tokens"], used["completion_tokens"], status, None)


def _failed(status: int, why: str) -> Answer:
    now = time.monotonic()
    return Answer(now, now, 0, 0, status, why or f"status {status}")


def usage(end: bytes) -> Mapping[str, int] | None:
    """The last usage in the end of a stream of server-sent events; ``None`` where there is none."""
    for line in reversed(end.split(b"\n")):
        if line.startswith(b"data: {") and b'"completion_tokens"' in line:
            found: Mapping[str, int] | None = json.loads(line[len(b"data: ") :]).get("usage")
            if found:
                return found
    return None
