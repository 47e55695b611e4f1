"""Requests: read once, described to the controller, and sent on with as few changes as there can be.

What the gateway changes in a body: ``model`` (the chosen pool's), ``priority`` (the controller's, where the endpoint
takes one and the worker schedules by it; a client's own is only ever a wish), and ``stream_options.include_usage``
where a stream would not say what it cost. Everything else is the client's, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from controller.prefix import block_hashes
from controller.types import Dispatch, Needs, Task, Tenant, Ticket, TicketId
from gateway.document import Document, Malformed, read
from gateway.endpoints import Endpoint, Stateful
from gateway.errors import ApiError
from gateway.form import Form, MalformedForm, is_form, read_form
from gateway.isolation import CacheKey
from gateway.nesting import deeper_than
from gateway.reading import Reading, missing, wrong
from gateway.reserved import RESERVED, answers, impose, with_imposed
from predictors.types import Prompt

__all__ = ["Call", "Endpoint", "Wish", "body_for", "parse"]

_GRAMMARS = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structural_tag",
)
_TELLING = frozenset({"tools", "functions", "response_format", "text", "output_config", *_GRAMMARS})
"""Members that say what a pool must be able to do."""
_UNUSUAL = _TELLING | RESERVED | {"vllm_xargs", "cache_salt", "n", *Stateful}
"""Members that have to be looked at where they are. Most requests have none of them, which is told at once."""
_LONGEST_MODEL = 1024
"""Characters. A name outlives its request, in records, so a client must not choose how much memory it takes."""
_LARGEST = 2**63 - 1
"""Beyond it neither a float nor the decision log's columns hold an integer for sure."""
_NO_DOCUMENT = Document(b"", {})
_PLAIN: Mapping[Task | None, Needs] = {task: Needs(task=task) for task in (None, *Task)}
_STATEFUL = {
    Stateful.PREVIOUS_RESPONSE: "send the whole conversation as 'input'",
    Stateful.BACKGROUND: "send it without 'background', as a stream for example",
}


class Wish(NamedTuple):
    """Who asks, and what the headers and the tenant's settings say. Times are absolute, on the controller's clock."""

    id: TicketId
    tenant: Tenant
    lowest_priority: int
    highest_priority: int
    deadline: float | None
    longest_answer: int | None = None
    """Tokens that may be asked for at most."""
    cache_key: CacheKey | None = None
    """Of a tenant whose cache is kept apart."""
    max_depth: int = 100
    """Brackets inside each other at most."""
    session: str | None = None
    """What the request has in common with others of the client's."""


class Call(NamedTuple):
    """A request that can be decided about and sent."""

    endpoint: Endpoint
    document: Document
    """Without what is not the client's to choose; of a form, an empty one."""
    ticket: Ticket
    prompt: Prompt
    streams: bool
    adds_usage: bool
    """The gateway asks the worker for the stream's usage, which the client did not, and takes it out again."""
    form: Form | None = None


def parse(endpoint: Endpoint, body: bytes, wish: Wish, content_type: bytes = b"") -> Call:
    """Raises ApiError: 400 for what is not JSON or where a field that the gateway reads has the wrong type, 415 for a
    form where none can be, 501 for what only one certain worker could serve."""
    if is_form(content_type):
        return _parse_form(endpoint, body, wish, content_type)
    document = _document(body)
    fields = document.fields
    if deeper_than(wish.max_depth, body, fields):
        raise _too_deep(wish.max_depth)
    generates, plain = endpoint.generates, _UNUSUAL.isdisjoint(fields)
    model = _model(fields.get("model"))
    streams = endpoint.streams and _boolean(fields, "stream")
    max_tokens = _max_tokens(endpoint, fields)
    imposed: dict[str, str | int] = {}
    if not plain or wish.longest_answer is not None:
        max_tokens, imposed = impose(endpoint, fields, wish.longest_answer, max_tokens)
    salt = ""
    if not plain or wish.cache_key is not None:
        salt = _salt(endpoint, fields, wish.cache_key, imposed)
        _check_unusual(endpoint, fields)
    reading = endpoint.read(fields)
    ticket = Ticket(
        id=wish.id,
        model=model,
        tenant=wish.tenant,
        prompt_chars=reading.chars if plain or not generates else reading.chars + _tool_chars(document),
        prompt_tokens=reading.tokens,
        max_tokens=max_tokens,
        needs=_needs(endpoint, reading, fields),
        prefix=block_hashes(reading.text, salt=salt) if generates else (),
        deadline=wish.deadline,
        priority=_priority(wish, 0 if plain else _wished(endpoint, fields)),
        body_bytes=len(body),
        answers=answers(endpoint, fields),
        streams=streams or not generates,
        session=wish.session,
    )
    adds_usage = streams and endpoint.usage_option and not _usage_asked(fields)
    prompt = Prompt(reading.asked or reading.text, max_tokens, reading.turns)
    if imposed or not plain:
        document = with_imposed(document, imposed)
    return Call(endpoint, document, ticket, prompt, streams, adds_usage)


def body_for(call: Call, dispatch: Dispatch) -> bytes:
    """The body to send to the worker that was chosen."""
    if call.form is not None:
        same = dispatch.model == call.ticket.model
        return call.form.body if same else call.form.rewritten("model", dispatch.model)
    document = call.document
    values: dict[str, str] = {}
    add: dict[str, str] = {}
    if dispatch.model != call.ticket.model:
        values["model"] = json.dumps(dispatch.model)
    if call.adds_usage:
        (values if "stream_options" in document.fields else add)["stream_options"] = _with_usage(document)
    if dispatch.priority is not None and call.endpoint.takes_priority:
        add["priority"] = str(dispatch.priority)
    return document.rewritten(values=values, add=add)


def _parse_form(endpoint: Endpoint, body: bytes, wish: Wish, content_type: bytes) -> Call:
    if not endpoint.form:
        raise ApiError(415, "unsupported_media_type", f"{endpoint.path} takes application/json, not a form")
    try:
        form = read_form(body, content_type)
    except MalformedForm as error:
        raise ApiError(400, "invalid_form", f"the body is not a form: {error}") from error
    reading = endpoint.read(form.fields)
    ticket = Ticket(
        id=wish.id,
        model=_model(form.fields.get("model")),
        tenant=wish.tenant,
        prompt_chars=reading.chars,
        prompt_tokens=reading.tokens,
        max_tokens=1,
        needs=_needs(endpoint, reading, form.fields),
        deadline=wish.deadline,
        priority=_priority(wish, 0),
        body_bytes=len(body),
    )
    streams = endpoint.streams and form.fields.get("stream", "").lower() in ("true", "1")
    return Call(endpoint, _NO_DOCUMENT, ticket, Prompt("", 1), streams, adds_usage=False, form=form)


def _salt(endpoint: Endpoint, fields: Mapping[str, Any], key: CacheKey | None, imposed: dict[str, str | int]) -> str:
    """Of the prompt's cache: the client's own, or the tenant's, which is then imposed."""
    salt = _text(fields, "cache_salt") if endpoint.generates or key is not None else ""
    if key is not None:
        salt = imposed["cache_salt"] = key.salt(salt)
    return salt


def _check_unusual(endpoint: Endpoint, fields: Mapping[str, Any]) -> None:
    if endpoint.usage_option:
        _integer(fields, "n")
    for name in endpoint.stateful:
        if fields.get(name):
            raise _only_there(name)


def _only_there(name: Stateful) -> ApiError:
    message = f"{name.value!r} needs the one worker that stores responses, and the gateway keeps no state between"
    return ApiError(501, "stateful_responses", f"{message} requests; {_STATEFUL[name]}", param=name.value)


def _too_deep(limit: int) -> ApiError:
    return ApiError(400, "invalid_json", f"the body has more than {limit} brackets inside each other, the limit here")


def _document(body: bytes) -> Document:
    try:
        return read(body)
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8: {error.reason} at byte {error.start}"
        raise ApiError(400, "invalid_json", message) from error
    except Malformed as error:
        raise ApiError(400, "invalid_json", f"the body is not a JSON object: {error}") from error


def _model(model: object) -> str:
    if model is None:
        raise missing("model")
    if not isinstance(model, str):
        raise wrong("model", "a string", model)
    if len(model) > _LONGEST_MODEL:
        raise wrong("model", f"at most {_LONGEST_MODEL} characters long", model)
    if not model.isascii() and any("\ud800" <= character <= "\udfff" for character in model):
        raise wrong("model", "a string without lone surrogates, which no name has", model)
    return model


def _priority(wish: Wish, asked: int) -> int:
    return min(max(asked, wish.lowest_priority), wish.highest_priority)


def _wished(endpoint: Endpoint, fields: Mapping[str, Any]) -> int:
    if endpoint.takes_priority:
        return _integer(fields, "priority") or 0
    asked = fields.get("priority")
    return asked if type(asked) is int else 0


def _max_tokens(endpoint: Endpoint, fields: Mapping[str, Any]) -> int | None:
    """Of what does not generate, the one unit of work that its answer is."""
    if not endpoint.generates:
        return 1
    limit, given = None, False
    for name in endpoint.limits:
        if name in fields:
            given = True
            value = _integer(fields, name)
            limit = value if limit is None else limit
    if not given:
        limit = endpoint.default_limit
    return limit if limit is not None and limit > 0 else None


def _needs(endpoint: Endpoint, reading: Reading, fields: Mapping[str, Any]) -> Needs:
    if not endpoint.generates:
        return Needs(modalities=reading.modalities, task=endpoint.task, share=reading.share)
    if _TELLING.isdisjoint(fields) and not reading.modalities and reading.share == 1.0:
        return _PLAIN[endpoint.task]
    tools, structure = _needs_tools(fields), _needs_structure(fields)
    return Needs(tools, structure, reading.modalities, None, endpoint.task, reading.share)


def _needs_tools(fields: Mapping[str, Any]) -> bool:
    if not (_list(fields, "tools") or _list(fields, "functions")):
        return False
    choice = fields.get("tool_choice")
    return choice != "none" and not (isinstance(choice, dict) and choice.get("type") == "none")


def _needs_structure(fields: Mapping[str, Any]) -> bool:
    wanted = fields.get("response_format")
    if wanted is not None and not isinstance(wanted, dict):
        raise wrong("response_format", "an object", wanted)
    if wanted and wanted.get("type") not in (None, "text"):
        return True
    for name in ("text", "output_config"):  # of the Responses and the Messages API
        inside = fields.get(name)
        shape = inside.get("format") if isinstance(inside, dict) else None
        if isinstance(shape, dict) and shape.get("type") not in (None, "text"):
            return True
    return any(fields.get(name) is not None for name in _GRAMMARS)


def _tool_chars(document: Document) -> int:
    """Tools become part of the prompt, at about the length of their JSON."""
    if _TELLING.isdisjoint(document.fields):
        return 0
    return sum(len(document.raw(name)) for name in ("tools", "functions") if document.fields.get(name))


def _usage_asked(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise wrong("stream_options", "an object", options)
    return bool(options and options.get("include_usage"))


def _with_usage(document: Document) -> str:
    if not document.fields.get("stream_options"):
        return '{"include_usage":true}'
    options = read(document.raw("stream_options"))
    return options.rewritten(values={}, drop=("include_usage",), add={"include_usage": "true"}).decode()


def _boolean(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(name, "a boolean", value)
    return bool(value)


def _integer(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and type(value) is not int:
        raise wrong(name, "an integer", value)
    if value is not None and abs(value) > _LARGEST:
        raise wrong(name, "an integer of 64 bits", value)
    return value


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if value is not None and not isinstance(value, list):
        raise wrong(name, "a list", value)
    return value or []


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(name, "a string", value)
    return value or ""
