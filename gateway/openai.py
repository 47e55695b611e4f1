"""OpenAI's requests: read once, described to the controller, and sent on with as few changes as there can be.

What the gateway changes in a body: ``model`` (the chosen pool's), ``priority`` (the controller's, where the worker
schedules by it; a client's own is only ever a wish), and ``stream_options.include_usage`` where a stream would not say
what it cost. Everything else is the client's, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from controller.prefix import block_hashes
from controller.types import Dispatch, Needs, Tenant, Ticket, TicketId
from gateway.document import Document, Malformed, read
from gateway.errors import ApiError
from predictors.types import Prompt

__all__ = ["Call", "Endpoint", "Wish", "body_for", "parse"]

_COMPLETION_MAX_TOKENS = 16
"""What OpenAI and vLLM take for ``/v1/completions`` without ``max_tokens``."""
_GRAMMARS = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structural_tag",
)
_LONGEST_MODEL = 1024
"""Characters. A name outlives its request, in records, so a client must not choose how much memory it takes."""
_LARGEST = 2**63 - 1
"""Beyond it neither a float nor the decision log's columns hold an integer for sure."""
_MODALITIES = {
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
}


class Endpoint(StrEnum):
    """The paths that the relay serves."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Wish:
    """Who asks, and what the headers and the tenant's settings say. Times are absolute, on the controller's clock."""

    id: TicketId
    tenant: Tenant
    lowest_priority: int
    highest_priority: int
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Call:
    """A request that can be decided about and sent."""

    endpoint: Endpoint
    document: Document
    ticket: Ticket
    prompt: Prompt
    streams: bool
    adds_usage: bool
    """The gateway asks the worker for the stream's usage, which the client did not, and takes it out again."""


def parse(endpoint: Endpoint, body: bytes, wish: Wish) -> Call:
    """Raises ApiError (400) for what is not JSON or where a field that the gateway reads has the wrong type."""
    document = _document(body)
    fields = document.fields
    model = _model(fields)
    streams = _boolean(fields, "stream")
    max_tokens = _max_tokens(endpoint, fields)
    text, turns, tokens, modalities = _messages(fields) if endpoint is Endpoint.CHAT else _prompt(fields)
    ticket = Ticket(
        id=wish.id,
        model=model,
        tenant=wish.tenant,
        prompt_chars=len(text) + _tool_chars(document),
        prompt_tokens=tokens,
        max_tokens=max_tokens,
        needs=Needs(_needs_tools(fields), _needs_structure(fields), modalities),
        prefix=block_hashes(text, salt=_text(fields, "cache_salt")),
        deadline=wish.deadline,
        priority=min(max(_integer(fields, "priority") or 0, wish.lowest_priority), wish.highest_priority),
    )
    adds_usage = streams and not _usage_asked(fields)
    return Call(endpoint, document, ticket, Prompt(text, max_tokens, turns), streams, adds_usage)


def body_for(call: Call, dispatch: Dispatch) -> bytes:
    """The body to send to the worker that was chosen."""
    document = call.document
    values: dict[str, str] = {}
    add: dict[str, str] = {}
    if dispatch.model != call.ticket.model:
        values["model"] = json.dumps(dispatch.model)
    if call.adds_usage:
        (values if "stream_options" in document.fields else add)["stream_options"] = _with_usage(document)
    if dispatch.priority is not None:
        add["priority"] = str(dispatch.priority)
    if not values and not add and "priority" not in document.fields:
        return document.text.encode()
    return document.rewritten(values=values, drop=("priority",), add=add).encode()


def _document(body: bytes) -> Document:
    try:
        return read(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8: {error.reason} at byte {error.start}"
        raise ApiError(400, "invalid_json", message) from error
    except Malformed as error:
        raise ApiError(400, "invalid_json", f"the body is not a JSON object: {error}") from error


def _model(fields: Mapping[str, Any]) -> str:
    model = fields.get("model")
    if model is None:
        raise _missing("model")
    if not isinstance(model, str):
        raise _wrong("model", "a string", model)
    if len(model) > _LONGEST_MODEL:
        raise _wrong("model", f"at most {_LONGEST_MODEL} characters long", model)
    if any("\ud800" <= character <= "\udfff" for character in model):
        raise _wrong("model", "a string without lone surrogates, which no name has", model)
    return model


def _max_tokens(endpoint: Endpoint, fields: Mapping[str, Any]) -> int | None:
    if endpoint is Endpoint.COMPLETIONS:
        limit = _integer(fields, "max_tokens") if "max_tokens" in fields else _COMPLETION_MAX_TOKENS
    else:
        newer, older = _integer(fields, "max_completion_tokens"), _integer(fields, "max_tokens")
        limit = newer if newer is not None else older
    return limit if limit is not None and limit > 0 else None


def _messages(fields: Mapping[str, Any]) -> tuple[str, int, int | None, frozenset[str]]:
    """The messages' text, how many of them are the user's, and what they hold besides text."""
    messages = fields.get("messages")
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of at least one message", messages)
    parts: list[str] = []
    modalities: set[str] = set()
    turns = 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong(f"messages[{index}]", "an object", message)
        turns += message.get("role") == "user"
        _content(message.get("content"), f"messages[{index}].content", parts, modalities)
    return "\n".join(parts), max(1, turns), None, frozenset(modalities)


def _content(content: object, where: str, parts: list[str], modalities: set[str]) -> None:
    if isinstance(content, str):
        parts.append(content)
        return
    if content is None:
        return
    if not isinstance(content, list):
        raise _wrong(where, "a string or a list of parts", content)
    for index, part in enumerate(content):
        if isinstance(part, str):
            parts.append(part)
        elif not isinstance(part, dict):
            raise _wrong(f"{where}[{index}]", "an object", part)
        elif isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif isinstance(kind := part.get("type"), str) and kind in _MODALITIES:
            modalities.add(_MODALITIES[kind])


def _prompt(fields: Mapping[str, Any]) -> tuple[str, int, int | None, frozenset[str]]:
    """The prompt's text, or the number of its token ids. Several prompts in one request are taken together."""
    prompt = fields.get("prompt")
    if prompt is None:
        if fields.get("prompt_embeds") is not None:
            return "", 1, None, frozenset()
        raise _missing("prompt")
    if isinstance(prompt, str):
        return prompt, 1, None, frozenset()
    prompts = prompt if isinstance(prompt, list) else []
    if prompts and all(isinstance(one, str) for one in prompts):
        return "\n".join(prompts), 1, None, frozenset()
    if prompts and _are_tokens(prompts):
        return "", 1, len(prompts), frozenset()
    if prompts and all(isinstance(one, list) and one and _are_tokens(one) for one in prompts):
        return "", 1, sum(map(len, prompts)), frozenset()
    raise _wrong("prompt", "a string, token ids, or a list of them", prompt)


def _are_tokens(values: Sequence[object]) -> bool:
    return all(type(value) is int for value in values)


def _needs_tools(fields: Mapping[str, Any]) -> bool:
    return bool(_list(fields, "tools") or _list(fields, "functions")) and fields.get("tool_choice") != "none"


def _needs_structure(fields: Mapping[str, Any]) -> bool:
    wanted = fields.get("response_format")
    if wanted is not None and not isinstance(wanted, dict):
        raise _wrong("response_format", "an object", wanted)
    if wanted and wanted.get("type") not in (None, "text"):
        return True
    return any(fields.get(name) is not None for name in _GRAMMARS)


def _tool_chars(document: Document) -> int:
    """Tools become part of the prompt, at about the length of their JSON."""
    return sum(len(document.raw(name)) for name in ("tools", "functions") if document.fields.get(name))


def _usage_asked(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "an object", options)
    return bool(options and options.get("include_usage"))


def _with_usage(document: Document) -> str:
    if not document.fields.get("stream_options"):
        return '{"include_usage":true}'
    options = read(document.raw("stream_options"))
    return options.rewritten(values={}, drop=("include_usage",), add={"include_usage": "true"})


def _boolean(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "a boolean", value)
    return bool(value)


def _integer(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and type(value) is not int:
        raise _wrong(name, "an integer", value)
    if value is not None and abs(value) > _LARGEST:
        raise _wrong(name, "an integer of 64 bits", value)
    return value


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if value is not None and not isinstance(value, list):
        raise _wrong(name, "a list", value)
    return value or []


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "a string", value)
    return value or ""


def _missing(param: str) -> ApiError:
    return ApiError(400, "missing_required_parameter", f"{param!r} is required", param=param)


def _wrong(param: str, right: str, value: object) -> ApiError:
    shown = json.dumps(value, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ApiError(400, "invalid_type", f"{param!r} must be {right}, not {shown}", param=param)
