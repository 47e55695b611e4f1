"""Where the endpoints' answers say what they cost.

==================  =======================================================================
chat, completions   ``usage.prompt_tokens``, ``usage.completion_tokens``
embeddings, rerank  ``usage.prompt_tokens``
responses           ``usage.input_tokens``, ``usage.output_tokens``; in a stream inside ``response``
messages            the same, cached tokens not among ``input_tokens``; a stream's first event has it inside ``message``
embed (Cohere)      ``meta.billed_units.input_tokens``
==================  =======================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeGuard

import orjson

from controller.types import Usage

__all__ = ["TAIL", "usage_at_end", "usage_in", "usage_of"]

_DECODER = json.JSONDecoder()
TAIL: Final = 4096
"""Bytes at the end of a long answer that its usage is looked for in."""
_LONG: Final = 1 << 16
"""Bytes of an answer whose usage is looked for at its end instead of reading it."""
_WRAPPED = ("response", "message")


def usage_in(answer: Mapping[str, Any], before: Usage | None = None) -> Usage | None:
    """The usage of an answer or an event, where there is one.

    ``before`` is what an earlier event of the stream said, for a later one that only tells the output.
    """
    usage = answer.get("usage")
    if usage is None:
        for name in _WRAPPED:
            wrapped = answer.get(name)
            if isinstance(wrapped, dict) and "usage" in wrapped:
                return _usage(wrapped["usage"])
        meta = answer.get("meta")
        return _usage(meta.get("billed_units")) if isinstance(meta, dict) else None
    found = _usage(usage)
    if found is None and before is not None and isinstance(usage, dict) and _is_count(usage.get("output_tokens")):
        return replace(before, output_tokens=usage["output_tokens"])
    return found


def usage_of(body: bytes) -> Usage | None:
    """The usage of a whole answer, where it says one."""
    if len(body) > _LONG:
        return usage_at_end(body)
    with suppress(orjson.JSONDecodeError):
        answer = orjson.loads(body)
        return usage_in(answer) if isinstance(answer, dict) else None
    return None


def usage_at_end(body: bytes) -> Usage | None:
    """The usage of a long answer, vectors for example, without reading all of it: vLLM writes it last."""
    for key in (b'"usage":', b'"billed_units":'):
        at = body.rfind(key, max(0, len(body) - TAIL))
        if at >= 0:
            with suppress(ValueError):
                value, _ = _DECODER.raw_decode(body[at + len(key) :].decode().lstrip())
                return _usage(value)
    return None


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    if "prompt_tokens" in usage:
        details, cached = usage.get("prompt_tokens_details"), None
        prompt, output, apart = usage["prompt_tokens"], usage.get("completion_tokens") or 0, 0
    else:
        details, cached = usage.get("input_tokens_details"), usage.get("cache_read_input_tokens")
        prompt, output = usage.get("input_tokens"), usage.get("output_tokens") or 0
        apart = usage.get("cache_creation_input_tokens") or 0
    told = details.get("cached_tokens") if isinstance(details, dict) else None
    beside = 0 if cached is None else cached
    if told is None:
        told = cached
    if not all(map(_is_count, (prompt, output, beside, apart, 0 if told is None else told))):
        return None
    return Usage(prompt + beside + apart, output, told)


def _is_count(value: object) -> TypeGuard[int]:
    """Whether counters can be raised by it, and the decision log can hold it."""
    return type(value) is int and 0 <= value < 2**62
