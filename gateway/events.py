"""What a stream's events hold, read many at a time: their JSON, and the text that they show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from upstream import sse

__all__ = ["parsed", "payloads", "shown"]

_OBJECT: Final = re.compile(rb"^data: ?(\{.*)$", re.MULTILINE)
_THOUGHT: Final = ("reasoning_content", "reasoning")
"""Members of a chat's delta beside its content that are read by people."""


def payloads(events: bytes) -> Iterator[bytes | None]:
    """What stands after ``data:`` in each of whole events; ``None`` where nothing does."""
    if b"\r" in events:
        yield from map(sse.data, sse.split(events))
        return
    for event in events.split(b"\n\n"):
        plain = event.startswith(b"data: ") and b"\n" not in event
        yield event[6:] if plain else sse.data(event)


def parsed(found: Sequence[bytes]) -> list[Any]:
    """Payloads as JSON: all at once where they are sound; else those that are."""
    with suppress(orjson.JSONDecodeError):
        whole: list[Any] = orjson.loads(b"[" + b",".join(found) + b"]")
        return whole
    each = []
    for payload in found:
        with suppress(orjson.JSONDecodeError):
            each.append(orjson.loads(payload))
    return each


def shown(events: bytes) -> str:
    """The text of the first answer that whole events show, what the model thinks aloud included: of chats, completions,
    responses and messages. Tools' arguments and all else that is no text is left out, and what is no JSON on one line.
    """
    texts = []
    for content in parsed(_OBJECT.findall(events)):
        try:
            text = content["choices"][0]["delta"]["content"]  # nearly always
        except (KeyError, IndexError, TypeError):
            text = None
        text = text or _text(content)
        if isinstance(text, str):
            texts.append(text)
    return "".join(texts)


def _text(content: Any) -> object:
    choices = content.get("choices")
    if isinstance(choices, list):
        choice = choices[0] if choices else None
        if not isinstance(choice, dict):
            return None
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return choice.get("text")
        return next((delta[name] for name in _THOUGHT if delta.get(name)), None)
    delta, kind = content.get("delta"), content.get("type")
    if isinstance(delta, dict):  # a message's
        return delta.get("text") or delta.get("thinking")
    return delta if isinstance(kind, str) and kind.endswith("text.delta") else None  # a response's
