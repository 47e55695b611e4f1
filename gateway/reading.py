"""What a request's members say of its prompt: the text for the predictors, and how much of it there is.

One reader an endpoint's shape; each takes the parsed members and raises ApiError (400) where those that it needs are
missing or of the wrong type. Members that it does not need are the worker's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.errors import ApiError

__all__ = [
    "Reader",
    "Reading",
    "anything",
    "chat",
    "chats",
    "completion",
    "embedding",
    "input_items",
    "messages",
    "missing",
    "nothing",
    "pairs",
    "ranking",
    "texts",
    "wrong",
]

Fields = Mapping[str, Any]
_SHOWN = 20
"""Members of a wrong value that are shown at most."""
_CHARS_PER_TOKEN = 4
"""Of a body whose shape is not known."""
_MODALITIES = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "image_embeds": "image",
    "image_pil": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "audio_embeds": "audio",
    "video_url": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
}


class Reading(NamedTuple):
    """A prompt. Several inputs in one request are taken together."""

    text: str
    """For the predictors; empty where nothing is predicted."""
    chars: int
    turns: int = 1
    """How many of its messages are the user's."""
    tokens: int | None = None
    """Exact count, where token ids were given or nothing is read by the model."""
    modalities: frozenset[str] = frozenset()
    share: float = 1.0
    """Of the longest input in the whole."""
    asked: str = ""
    """Of a conversation, what the user said last, which the answer's length depends on most; empty where that
    has no text, or nothing is a conversation."""


Reader = Callable[[Fields], Reading]


def chat(fields: Fields) -> Reading:
    """``messages`` of a chat."""
    parts: list[str] = []
    modalities: set[str] = set()
    turns, asked = _conversation(_listed(fields, "messages"), "messages", parts, modalities)
    text = "\n".join(parts)
    return Reading(text, len(text), max(1, turns), None, frozenset(modalities), asked=asked)


def chats(fields: Fields) -> Reading:
    """``messages`` of several chats in one request."""
    sizes: list[int] = []
    modalities: set[str] = set()
    everything: list[str] = []
    for index, one in enumerate(_listed(fields, "messages")):
        parts: list[str] = []
        if not isinstance(one, list):
            raise wrong(f"messages[{index}]", "a list of messages", one)
        _conversation(one, f"messages[{index}]", parts, modalities)
        sizes.append(sum(map(len, parts)))
        everything += parts
    text = "\n".join(everything)
    return Reading(text, len(text), 1, None, frozenset(modalities), _share(sizes))


def messages(fields: Fields) -> Reading:
    """``system`` and ``messages`` in Anthropic's shape."""
    parts: list[str] = []
    modalities: set[str] = set()
    _content(fields.get("system"), "system", parts, modalities)
    turns, asked = _conversation(_listed(fields, "messages"), "messages", parts, modalities)
    text = "\n".join(parts)
    return Reading(text, len(text), max(1, turns), None, frozenset(modalities), asked=asked)


def input_items(fields: Fields) -> Reading:
    """``instructions`` and ``input`` of the Responses API: a text, or messages and what tools gave back."""
    parts: list[str] = []
    modalities: set[str] = set()
    _content(fields.get("instructions"), "instructions", parts, modalities)
    given = fields.get("input")
    if given is None:
        raise missing("input")
    turns = 1
    if isinstance(given, str):
        parts.append(given)
        asked = given
    elif isinstance(given, list):
        turns, asked = _conversation(given, "input", parts, modalities)
    else:
        raise wrong("input", "a string or a list of items", given)
    text = "\n".join(parts)
    return Reading(text, len(text), max(1, turns), None, frozenset(modalities), asked=asked)


def completion(fields: Fields) -> Reading:
    """``prompt``: its text, or the number of its token ids."""
    prompt = fields.get("prompt")
    if prompt is None:
        if fields.get("prompt_embeds") is not None:
            return Reading("", 0)
        raise missing("prompt")
    return _inputs("prompt", prompt)


def embedding(fields: Fields) -> Reading:
    """``input`` (texts, token ids, or chats), or ``messages``."""
    given = fields.get("input")
    if given is None:
        return _pooled(fields, "input")
    if isinstance(given, list) and given and not isinstance(given[0], str | int):
        if all(isinstance(one, dict) for one in given):
            return _unread(chat({"messages": given}))
        if all(isinstance(one, list) and one and isinstance(one[0], dict) for one in given):
            return _unread(chats({"messages": given}))
    return _cut(fields, _unread(_inputs("input", given)))


def texts(fields: Fields) -> Reading:
    """Cohere's ``texts``, ``images`` or ``inputs``, which the worker cuts to what fits."""
    given = next((fields[name] for name in ("texts", "inputs", "images") if fields.get(name) is not None), None)
    if given is None:
        raise missing("texts")
    sizes = [_size(one) for one in given] if isinstance(given, list) else [_size(given)]
    return Reading("", 0 if fields.get("images") is not None else sum(sizes), share=0.0)


def ranking(fields: Fields) -> Reading:
    """``query`` and ``documents``, each of which is read together with the query."""
    for name in ("query", "documents"):
        if fields.get(name) is None:
            raise missing(name)
    return _crossed(fields, fields["query"], fields["documents"])


def pairs(fields: Fields) -> Reading:
    """``text_1`` and ``text_2``, or the newer names of the two."""
    for first, second in (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")):
        if fields.get(first) is not None and fields.get(second) is not None:
            return _crossed(fields, fields[first], fields[second])
    raise missing("queries")


def anything(fields: Fields) -> Reading:
    """A body whose shape is not known: only about how much of it there is."""
    return Reading("", 0, tokens=_size(fields) // _CHARS_PER_TOKEN, share=0.0)


def nothing(fields: Fields) -> Reading:
    """What no model reads."""
    return Reading("", 0, tokens=0, share=0.0)


def missing(param: str) -> ApiError:
    """A member that has to be there."""
    return ApiError(400, "missing_required_parameter", f"{param!r} is required", param=param)


def wrong(param: str, right: str, value: object) -> ApiError:
    """A member of the wrong type; ``right`` says what it must be."""
    if isinstance(value, str):
        value = value[:61]
    elif isinstance(value, list | dict) and len(value) > _SHOWN:  # a body may be large, and this is the event loop
        value = f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    shown = json.dumps(value, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ApiError(400, "invalid_type", f"{param!r} must be {right}, not {shown}", param=param)


def _listed(fields: Fields, name: str) -> list[Any]:
    given = fields.get(name)
    if given is None:
        raise missing(name)
    if not isinstance(given, list) or not given:
        raise wrong(name, "a list of at least one message", given)
    return given


def _conversation(items: list[Any], where: str, parts: list[str], modalities: set[str]) -> tuple[int, str]:
    """Collect the texts; answers how many of the messages are the user's, and what the last of them says."""
    turns, first, end = 0, 0, 0
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise wrong(f"{where}[{index}]", "an object", item)
        before = len(parts)
        _content(item.get("content"), f"{where}[{index}].content", parts, modalities)
        if item.get("role") == "user" and not _only_results(item.get("content")):
            turns, first, end = turns + 1, before, len(parts)
        if isinstance(output := item.get("output"), str):  # of a tool, in the Responses API
            parts.append(output)
    return turns, "\n".join(parts[first:end])


def _only_results(content: object) -> bool:
    """Whether a message only brings what tools gave back, which Anthropic's shape has the user say."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(part, dict) and part.get("type") == "tool_result" for part in content)
    )


def _content(content: object, where: str, parts: list[str], modalities: set[str]) -> None:
    if isinstance(content, str):
        parts.append(content)
        return
    if content is None:
        return
    if not isinstance(content, list):
        raise wrong(where, "a string or a list of parts", content)
    for index, part in enumerate(content):
        if isinstance(part, str):
            parts.append(part)
        elif not isinstance(part, dict):
            raise wrong(f"{where}[{index}]", "an object", part)
        elif isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif isinstance(kind := part.get("type"), str) and kind in _MODALITIES:
            modalities.add(_MODALITIES[kind])
        elif kind == "tool_result":
            _content(part.get("content"), f"{where}[{index}].content", parts, modalities)


def _inputs(name: str, given: object) -> Reading:
    """A text, token ids, or a list of one of them."""
    if isinstance(given, str):
        return Reading(given, len(given))
    several = given if isinstance(given, list) else []
    if several and all(isinstance(one, str) for one in several):
        text = "\n".join(several)
        return Reading(text, len(text), share=_share([len(one) for one in several]))
    if several and _are_tokens(several):
        return Reading("", 0, tokens=len(several))
    if several and all(isinstance(one, list) and one and _are_tokens(one) for one in several):
        sizes = [len(one) for one in several]
        return Reading("", 0, tokens=sum(sizes), share=_share(sizes))
    raise wrong(name, "a string, token ids, or a list of them", given)


def _pooled(fields: Fields, name: str) -> Reading:
    """``messages`` in place of ``input``."""
    if fields.get("messages") is None:
        raise missing(name)
    given = fields["messages"]
    batched = isinstance(given, list) and bool(given) and isinstance(given[0], list)
    return _cut(fields, _unread(chats(fields) if batched else chat(fields)))


def _crossed(fields: Fields, first: object, second: object) -> Reading:
    """Sizes of the pairs: one with each, or each with its own."""
    ones, others = _sizes(first), _sizes(second)
    if len(ones) == 1:
        ones = ones * len(others)
    both = [a + b for a, b in zip(ones, others, strict=False)]
    return _cut(fields, Reading("", sum(both), share=_share(both)))


def _cut(fields: Fields, reading: Reading) -> Reading:
    """Where the worker was asked to cut what is too long, nothing is too long."""
    if fields.get("truncate_prompt_tokens") is None:
        return reading
    return reading._replace(share=0.0)


def _unread(reading: Reading) -> Reading:
    """Without the text, which nothing is predicted from."""
    return reading._replace(text="", asked="")


def _sizes(given: object) -> list[int]:
    return [_size(one) for one in given] if isinstance(given, list) and given else [_size(given)]


def _size(value: object) -> int:
    """Characters of all the texts in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


def _share(sizes: Sequence[int]) -> float:
    total = sum(sizes)
    return max(sizes) / total if total else 1.0


def _are_tokens(values: Sequence[object]) -> bool:
    return all(type(value) is int for value in values)
