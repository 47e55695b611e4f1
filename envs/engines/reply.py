"""What the simulated worker answers, and the bytes in which vLLM would send it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Protocol

import orjson

from envs.engines.generation import Generation

DONE = b"data: [DONE]\n\n"
_NOTHING_TO_SAY = " …"


class Answerer(Protocol):
    """Who knows the answers; :class:`envs.answers.TaskAnswerer` is one."""

    def answer(self, prompt: str, max_tokens: int | None = None, /) -> Sequence[str]:
        """The answer to a prompt as token texts, at most ``max_tokens`` of them; the same prompt, the same answer."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, token by token, and why it ends: ``stop`` or ``length``."""

    tokens: tuple[str, ...]
    finish_reason: str
    stop_reason: str | None = None


def compose(request: Generation, answerer: Answerer) -> Reply:
    """The answer to a request within its limits; it has at least one token."""
    tokens = list(answerer.answer(request.prompt, request.max_tokens + 1))
    least = max(1, request.max_tokens if request.ignore_eos else request.min_tokens)
    if len(tokens) < least:
        tokens = list(islice(cycle(tokens or [_NOTHING_TO_SAY]), least))
    stopped = _cut_at(tokens[: request.max_tokens], request.stop)
    if stopped is not None:
        return stopped
    if request.ignore_eos or len(tokens) > request.max_tokens:
        return Reply(tuple(tokens[: request.max_tokens]), "length")
    return Reply(tuple(tokens), "stop")


def _cut_at(tokens: list[str], stops: Sequence[str]) -> Reply | None:
    """The answer up to the first stop string; its token is spent, its text is not shown."""
    text = "".join(tokens)
    found = [(at, stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
    if not found:
        return None
    at, stop = min(found)
    kept: list[str] = []
    shown = 0
    for token in tokens:
        kept.append(token[: max(0, at - shown)])
        shown += len(token)
        if shown >= at + len(stop):
            break
    return Reply(tuple(kept), "stop", stop)


def usage(request: Generation, produced: int) -> dict[str, int]:
    """vLLM's ``usage`` object."""
    return {
        "prompt_tokens": request.prompt_tokens,
        "total_tokens": request.prompt_tokens + produced,
        "completion_tokens": produced,
    }


def whole(request: Generation, reply: Reply, created: int) -> bytes:
    """The body of an answer that is not streamed."""
    text = "".join(reply.tokens)
    choice: dict[str, Any] = {"index": 0}
    if request.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
    else:
        choice["text"] = text
    choice |= {"logprobs": None, "finish_reason": reply.finish_reason, "stop_reason": reply.stop_reason}
    return orjson.dumps(
        {
            "id": request.id,
            "object": "chat.completion" if request.chat else "text_completion",
            "created": created,
            "model": request.model,
            "choices": [choice],
            "usage": usage(request, len(reply.tokens)),
        }
    )


class Chunks:
    """The server-sent events of one streamed answer; each token is an event of its own."""

    def __init__(self, request: Generation, reply: Reply, created: int) -> None:
        self._request = request
        self._reply = reply
        kind = "chat.completion.chunk" if request.chat else "text_completion"
        head = {"id": request.id, "object": kind, "created": created, "model": request.model}
        self._head = b"data: " + orjson.dumps(head)[:-1]
        self._delta = (
            b',"choices":[{"index":0,"delta":{"content":' if request.chat else b',"choices":[{"index":0,"text":'
        )
        middle = b"}" if request.chat else b""
        rest = (
            b',"token_ids":null}]'
            if request.chat
            else b',"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]'
        )
        self._running = middle + b',"logprobs":null,"finish_reason":null' + rest
        reason = orjson.dumps(reply.finish_reason)
        stop = orjson.dumps(reply.stop_reason)
        ids = b',"token_ids":null}]' if request.chat else b',"prompt_token_ids":null,"token_ids":null}]'
        self._last = middle + b',"logprobs":null,"finish_reason":' + reason + b',"stop_reason":' + stop + ids

    def opening(self) -> bytes:
        """A chat begins with its role."""
        if not self._request.chat:
            return b""
        choice = (
            b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        )
        return self._head + choice + self._usage(0) + b"}\n\n"

    def tokens(self, seen: int, produced: int) -> bytes:
        """The events of the tokens after the first ``seen``, up to ``produced``."""
        return b"".join(self._events(seen, produced))

    def closing(self) -> bytes:
        """Usage, where it was asked for, and the end mark."""
        if not self._request.include_usage:
            return DONE
        total = orjson.dumps(usage(self._request, len(self._reply.tokens)))
        return self._head + b',"choices":[],"usage":' + total + b"}\n\n" + DONE

    def _events(self, seen: int, produced: int) -> Iterator[bytes]:
        tokens = self._reply.tokens
        for i in range(seen, produced):
            rest = self._last if i == len(tokens) - 1 else self._running
            yield self._head + self._delta + orjson.dumps(tokens[i]) + rest + self._usage(i + 1) + b"}\n\n"

    def _usage(self, produced: int) -> bytes:
        if not self._request.continuous_usage:
            return b""
        return b',"usage":' + orjson.dumps(usage(self._request, produced))
