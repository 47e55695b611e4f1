"""A model that can be followed: the next token depends on all before it and on nothing else. Its events are vLLM's.

A stream that was continued from anything but the right tokens ends differently, and so do its usage and its stop.
"""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PIECES = (b"alpha", b" beta", b"\n", b"</s", b"top", b">", b" \xe2", b"\x82", b"\xac", b"\xf0\x9f", b"\x98\x80", b'"x"')
"""Tokens from 256 on; those below are single bytes. Some are parts of a character."""
EOS = 256 + len(PIECES)


@dataclass(frozen=True, slots=True)
class Step:
    """One event's worth of an answer."""

    ids: list[int]
    text: str
    finish_reason: str | None
    stop_reason: str | None


class Model:
    """``every`` is how many tokens an answer has on average; ``batch`` how many come in one event at most."""

    def __init__(self, every: int = 25, batch: int = 1) -> None:
        self.every = every
        self.batch = batch

    def prompt(self, body: Mapping[str, Any]) -> list[int]:
        """The prompt's token ids."""
        if "messages" not in body:
            prompt = body["prompt"]
            return list(prompt.encode()) if isinstance(prompt, str) else list(prompt)
        text = "".join(f"<{message['role']}>{message['content']}" for message in body["messages"])
        return list((text if body.get("continue_final_message") else text + "<assistant>").encode())

    def next(self, ids: Sequence[int]) -> int:
        """The token after these."""
        code = zlib.crc32(",".join(map(str, ids)).encode())
        return EOS if code % self.every == 0 else 256 + code // 64 % len(PIECES)

    def answer(self, body: Mapping[str, Any]) -> Iterator[Step]:
        """Steps as vLLM's detokeniser shows them: parts of characters wait, and what may begin a stop string."""
        ids = self.prompt(body)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(_bytes(ids))
        stop = body.get("stop") or []
        stops = [stop] if isinstance(stop, str) else stop
        keeps = bool(body.get("include_stop_str_in_output"))
        lag = max(map(len, stops)) - 1 if stops and not keeps else 0
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or (400 if "messages" in body else 16)
        text, shown, count, batch = "", 0, 0, []
        while True:
            token = self.next(ids)
            ids.append(token)
            count += 1
            batch.append(token)
            before = len(text)
            text += "" if token == EOS else decoder.decode(_bytes([token]))
            finish = "stop" if token == EOS and count > (body.get("min_tokens") or 0) else None
            reason: str | None = None
            found = None if count <= (body.get("min_tokens") or 0) else _stop(text, before, stops)
            if found is not None and finish is None:
                at, reason = found
                text, finish = text[: at + len(found[1])] if keeps else text[:at], "stop"
            if finish is None and count == limit:
                finish = "length"
            if finish is None and len(batch) < self.batch and zlib.crc32(b"%d" % token) % 2:
                continue
            end = len(text) if finish else max(shown, len(text) - lag)
            yield Step(batch, text[shown:end], finish, reason)
            shown, batch = end, []
            if finish is not None:
                return

    def events(self, path: str, body: Mapping[str, Any], name: str = "one") -> list[bytes]:
        """The answer's events, ``[DONE]`` included; ``name`` tells servers apart."""
        chat = path.endswith("/chat/completions")
        prompt, asked = self.prompt(body), bool(body.get("return_token_ids"))
        options = body.get("stream_options") or {}
        always = options.get("include_usage") and options.get("continuous_usage_stats")
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{name}", "object": kind, "created": len(name)}
        found, count = [], 0

        def say(choice: dict[str, Any] | None, usage: bool, **more: Any) -> None:
            content: dict[str, Any] = {**head, "model": body["model"], "choices": [] if choice is None else [choice]}
            if usage:
                total = len(prompt) + count
                content["usage"] = {"prompt_tokens": len(prompt), "total_tokens": total, "completion_tokens": count}
            found.append(_event({**content, **more}))

        if chat:
            role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            say(role, bool(always), prompt_token_ids=prompt if asked else None, prompt_text=None)
        for number, step in enumerate(self.answer(body)):
            count += len(step.ids)
            said: dict[str, Any] = {"delta": {"content": step.text}} if chat else {"text": step.text}
            choice = {"index": 0, **said, "logprobs": None, "finish_reason": step.finish_reason}
            if step.finish_reason is not None or not chat:
                choice["stop_reason"] = step.stop_reason
            if not chat:
                choice["prompt_token_ids"] = prompt if asked and number == 0 else None
            choice["token_ids"] = step.ids if asked else None
            say(choice, bool(always))
        if options.get("include_usage"):
            say(None, True)
        return [*found, b"data: [DONE]\n\n"]


def _bytes(ids: Sequence[int]) -> bytes:
    return b"".join([bytes([token]) if token < 256 else b"" if token == EOS else PIECES[token - 256] for token in ids])


def _stop(text: str, before: int, stops: Sequence[str]) -> tuple[int, str] | None:
    for stop in stops:
        at = text.find(stop, max(0, before - len(stop) + 1))
        if at >= 0:
            return at, stop
    return None


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
