"""The relay's part of the OpenAPI document: FastAPI cannot see its endpoints, so their table is written out here."""

from __future__ import annotations

from typing import Any

from gateway.endpoints import LISTED, OTHER, Endpoint
from gateway.errors import Dialect

__all__ = ["with_relay"]

_OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


def _header(description: str, kind: str = "string", *, always: bool = True) -> dict[str, Any]:
    return {"description": description, "required": always, "schema": {"type": kind}}


_SCHEMA_OF = {Dialect.OPENAI: "Error", Dialect.ANTHROPIC: "AnthropicError"}
_MODEL = {"type": "string", "description": "A pool's name, its model's, an adapter's, or an alias such as `auto`."}
_GENERATION = {
    "priority": {
        "type": ["integer", "null"],
        "description": "A wish, clamped to the tenant's range; lower is earlier. The worker gets the gateway's own.",
    },
    "cache_salt": {"type": ["string", "null"]},
}
_ERRORS = {
    "400": "Malformed, or no pool can serve it",
    "401": "The API key is missing or wrong",
    "403": "The tenant may not use these tiers",
    "404": "No such model, or it does not serve this task",
    "405": "Not POST",
    "408": "The body did not arrive in time",
    "413": "The body is too large",
    "415": "The body is compressed, or a form where none is taken",
    "429": "The queue is full, or the tenant is over its limits",
    "501": "The worker does not serve it",
    "502": "Every attempt failed",
    "503": "No worker, or none had room in time",
    "504": "The deadline passed while it waited",
}
_ASKED = (
    ("X-Request-Id", "string", "Returned, and passed on to the worker; made where it is missing."),
    (
        "X-Headway-Deadline-Ms",
        "number",
        "Milliseconds after which an answer is of no use; it is dropped while it waits.",
    ),
    ("X-Headway-Tenant", "string", "Who asks."),
)
_REQUEST_ID = {"X-Request-Id": _header("The request's id.")}
_LIMITED = {
    f"X-RateLimit-{what}-{unit}": _header(f"{text} Only where the tenant has a limit of {unit.lower()}.", always=False)
    for unit in ("Requests", "Tokens")
    for what, text in (
        ("Limit", "The limit of a minute."),
        ("Remaining", "What is left of it."),
        ("Reset", "Time until all of it is there again."),
    )
}
_ANSWERED = {
    **_REQUEST_ID,
    "X-Headway-Ticket": _header("Its ticket; `/admin/decisions/TICKET` explains it."),
    "X-Headway-Pool": _header("The pool that answered."),
    "X-Headway-Worker": _header("The worker that answered."),
    **_LIMITED,
}
_RETRY_AFTER = {"Retry-After": _header("Seconds to wait.", "integer", always=False)}
_ALLOW = {"Allow": _header("`POST`.")}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Where tenants have keys."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
}
_SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]
_STATEFUL = "Stored responses live in one worker's memory; the gateway keeps no state between requests."
_VALIDATION = "HTTPValidationError"
"""FastAPI's own schema."""


def with_relay(document: dict[str, Any]) -> dict[str, Any]:
    """Add the relay's endpoints to FastAPI's document."""
    document["components"] = document.get("components", {})
    schemas = document["components"].setdefault("schemas", {})
    schemas["Error"], schemas["AnthropicError"] = _OPENAI_ERROR, _ANTHROPIC_ERROR
    document["components"]["securitySchemes"] = {**document["components"].get("securitySchemes", {}), **_SCHEMES}
    for operations in document["paths"].values():
        for operation in operations.values():
            _as_answered(operation["responses"])
    for name in (_VALIDATION, "ValidationError"):
        schemas.pop(name, None)
    for endpoint in LISTED:
        document["paths"][endpoint.path] = {"post": _operation(endpoint)}
    other = _operation(OTHER)
    path = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
    document["paths"][OTHER.path] = {"post": {**other, "parameters": [path, *other["parameters"]]}}
    return document


def _as_answered(responses: dict[str, Any]) -> None:
    """What FastAPI describes as 422 is answered with 400, in the shape of every other error."""
    if _VALIDATION in str(responses.get("422")):
        del responses["422"]
        schema = {"$ref": "#/components/schemas/Error"}
        content = {"application/json": {"schema": schema}}
        responses["400"] = {"description": "A parameter or the body is wrong", "content": content}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    properties = {"model": _MODEL, **(_GENERATION if endpoint.takes_priority else {}), **endpoint.members}
    schema = {"type": "object", "required": [*endpoint.required], "properties": properties}
    types = [
        kind for kind in ("application/json", "multipart/form-data") if kind == "application/json" or endpoint.form
    ]
    answers: dict[str, Any] = {"application/json": {}}
    if endpoint.streams:
        answers["text/event-stream"] = {}
    return {
        "summary": endpoint.summary,
        "description": "Members that are not listed pass to the worker untouched.",
        "tags": [endpoint.dialect.value],
        "security": _SECURITY,
        "parameters": [
            {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": kind}}
            for name, kind, text in _ASKED
        ],
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": {**schema, "additionalProperties": True}} for kind in types},
        },
        "responses": {
            "200": {
                "description": f"The worker's answer, unaltered{'; events if `stream` is true' * endpoint.streams}.",
                "headers": _ANSWERED,
                "content": answers,
            },
            **{code: _error(endpoint, code, text) for code, text in _ERRORS.items()},
        },
    }


def _error(endpoint: Endpoint, code: str, text: str) -> dict[str, Any]:
    more = _ALLOW if code == "405" else _RETRY_AFTER if code in ("429", "503") else {}
    more = {**more, **_LIMITED} if code == "429" else more
    schema = {"$ref": f"#/components/schemas/{_SCHEMA_OF[endpoint.dialect]}"}
    if code == "501" and endpoint.stateful:
        text = f"{text}, or needs what another one stored. {_STATEFUL}"
    return {
        "description": text,
        "headers": {**_REQUEST_ID, **more},
        "content": {"application/json": {"schema": schema}},
    }
