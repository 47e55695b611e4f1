"""The relay's part of the OpenAPI document: its endpoints are raw ASGI, so FastAPI cannot see them."""

from __future__ import annotations

from typing import Any

__all__ = ["with_relay"]

_ERROR = {
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
_COMMON = {
    "model": {"type": "string", "description": "A pool's name, its model's name, or an alias such as `auto`."},
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"]},
    "max_tokens": {"type": ["integer", "null"]},
    "priority": {
        "type": ["integer", "null"],
        "description": "A wish, clamped to the tenant's range; lower is earlier. The worker gets the gateway's own.",
    },
    "cache_salt": {"type": ["string", "null"]},
}
_CHAT = {
    **_COMMON,
    "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
    "max_completion_tokens": {"type": ["integer", "null"]},
    "tools": {"type": ["array", "null"]},
    "response_format": {"type": ["object", "null"]},
}
_COMPLETIONS = {**_COMMON, "prompt": {"type": ["string", "array", "null"]}, "prompt_embeds": {}}
_ERRORS = {
    "400": "Malformed, or no pool can serve it",
    "403": "The tenant may not use these tiers",
    "404": "No such model",
    "405": "Not POST",
    "413": "The body is too large",
    "415": "The body is compressed",
    "429": "The queue is full",
    "502": "Every attempt failed",
    "503": "No worker, or none had room in time",
    "504": "The deadline passed while it waited",
}
_HEADERS = (
    ("X-Request-Id", "string", "Returned, and passed on to the worker; made where it is missing."),
    (
        "X-Headway-Deadline-Ms",
        "number",
        "Milliseconds after which an answer is of no use; it is dropped while it waits.",
    ),
    ("X-Headway-Tenant", "string", "Who asks."),
)


def with_relay(document: dict[str, Any]) -> dict[str, Any]:
    """Add the relay's endpoints to FastAPI's document."""
    document["components"] = document.get("components", {})
    document["components"].setdefault("schemas", {})["Error"] = _ERROR
    document["paths"]["/v1/chat/completions"] = _path("Chat completion", _CHAT, ["model", "messages"])
    document["paths"]["/v1/completions"] = _path("Text completion", _COMPLETIONS, ["model"])
    return document


def _path(summary: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties, "additionalProperties": True}
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    answer = {
        "description": "The worker's answer, unaltered; events if `stream` is true.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
    return {
        "post": {
            "summary": summary,
            "description": "Fields that are not listed pass to the worker untouched.",
            "tags": ["openai"],
            "parameters": [
                {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": kind}}
                for name, kind, text in _HEADERS
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {"200": answer, **{code: {"description": text, **error} for code, text in _ERRORS.items()}},
        }
    }
