"""The next worker's events as the rest of the stream that the client is reading: same id, same form, one role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.continuation_journal import Produced
from gateway.continuation_requests import Request
from upstream import sse

__all__ = ["SeamMismatch", "Splice", "ending"]

_DONE = b"data: " + sse.DONE + b"\n\n"


class SeamMismatch(Exception):
    """What was to come again did not: the two parts would not be one answer."""


class Splice:
    """Feed it whole events of the next worker; what comes out is for the client, and is entered in ``produced``.

    ``shows_ids`` says that the client asked for token ids itself.
    """

    def __init__(self, produced: Produced, request: Request, *, chat: bool, shows_ids: bool) -> None:
        self._produced = produced
        self._kept = request.kept
        self._overlap = request.overlap
        self._same = request.chat is chat
        self._shows_ids = shows_ids
        self._prompt = len(produced.prompt.split(b",")) if produced.prompt else None
        produced.cut(request.kept)

    def take(self, events: bytes) -> bytes:
        """Raises SeamMismatch."""
        return b"".join([self._event(event) for event in sse.split(events)])

    def _event(self, event: bytes) -> bytes:
        payload = sse.data(event)
        if payload is None:
            return event
        if payload == sse.DONE:
            self._produced.done = True
            return _DONE
        try:
            content = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return event
        if not isinstance(content, dict) or "error" in content:
            return event
        return self._content(content)

    def _content(self, content: dict[str, Any]) -> bytes:
        choices = content.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        shown = None if choice is None else self._choice(choice)
        if choice is not None and shown is None:
            return b""
        content |= self._produced.head
        content["choices"] = [] if shown is None else [shown]
        content.pop("prompt_token_ids", None)
        if isinstance(content.get("usage"), dict):
            content["usage"] = self._produced.usage = self._usage(content["usage"])
        return b"data: " + orjson.dumps(content) + b"\n\n"

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any] | None:
        """The choice in the client's form; ``None`` if it says nothing new."""
        delta = choice.get("delta")
        text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        text = self._fresh(text if isinstance(text, str) else "")
        ids, finish = choice.get("token_ids"), choice.get("finish_reason")
        ids = ids if isinstance(ids, list) else None
        others = {name: value for name, value in delta.items() if name not in ("role", "content")} if delta else {}
        self._enter(choice, text, ids, others)
        if not (text or finish or any(others.values()) or (ids and self._shows_ids)):
            return None
        shown = {name: value for name, value in choice.items() if name != "prompt_token_ids"}
        if "token_ids" in shown:
            shown["token_ids"] = ids if self._shows_ids else None
        if isinstance(delta, dict):
            shown["delta"] = others | ({"content": text} if text or not others else {})
        elif self._same:
            shown["text"] = text
        else:
            shown = _as_chat(shown, text)
        return shown

    def _enter(self, choice: Mapping[str, Any], text: str, ids: list[int] | None, others: Mapping[str, Any]) -> None:
        produced = self._produced
        prompt = choice.get("prompt_token_ids")
        if produced.prompt is None and isinstance(prompt, list):
            produced.prompt = b",".join([b"%d" % token for token in prompt])
        produced.add(text, ids)
        produced.kind = "content" if text else next((name for name, value in others.items() if value), produced.kind)
        produced.finish_reason = choice.get("finish_reason") or produced.finish_reason

    def _fresh(self, text: str) -> str:
        """What of the text the client does not have yet."""
        overlap = self._overlap
        if not overlap or not text:
            return text
        if not (overlap.startswith(text) or text.startswith(overlap)):
            raise SeamMismatch
        self._overlap = overlap[len(text) :]
        return text[len(overlap) :]

    def _usage(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Both parts together: the prompt as the client sent it, the answer as the client has it."""
        output = (usage.get("completion_tokens") or 0) + self._kept
        given = usage.get("prompt_tokens") or 0
        prompt = given - self._kept if self._prompt is None else self._prompt
        whole = {**usage, "prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            whole["prompt_tokens_details"] = {**details, "cached_tokens": min(details["cached_tokens"], prompt)}
        return whole


def ending(produced: Produced, *, shows_usage: bool) -> tuple[bytes, Mapping[str, Any] | None]:
    """What is missing of a stream that was cut after its ``finish_reason``, and its usage where that is known."""
    events = b""
    usage = produced.usage
    if usage is None and produced.has_ids and produced.prompt is not None:
        prompt, output = len(produced.prompt.split(b",")), len(produced.ids)
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}
        if shows_usage:
            events = b"data: " + orjson.dumps({**produced.head, "choices": [], "usage": usage}) + b"\n\n"
    return events + (b"" if produced.done else _DONE), usage


def _as_chat(choice: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A completion's choice as a chat's, its members in the order in which vLLM writes them."""
    shown: dict[str, Any] = {}
    for name, value in choice.items():
        if name == "text":
            shown["delta"] = {"content": text}
        elif name != "stop_reason" or choice.get("finish_reason") is not None:
            shown[name] = value
    return shown
